//! The peers: their names, and how each is started as L1 and as L2 with one worker thread; nothing is run here.

mod envoy;
mod haproxy;
mod nginx;
mod vicino;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use crate::certificates::Certificates;
use crate::net::{CALLEE_NODE, CALLEE_POD, CALLER_NODE};
use crate::options::{ModeList, PeerList, Target};
use crate::prepare::Tools;
use crate::process::CommandLine;

pub use nginx::backend;

/// Port of L1, whichever proxy it is.
pub const L1_PORT: u16 = 4140;
/// Port of L2.
pub const L2_PORT: u16 = 4141;
/// Port of the backend.
pub const BACKEND_PORT: u16 = 8080;
/// Bytes of a response's body.
pub const BODY_BYTES: usize = 1024;
/// Host header of all requests: Service `web` in namespace `bench`.
pub const HOST: &str = "web.bench";
/// Cipher suites of TLS 1.3 as OpenSSL names them, in the order that our proxy has; Envoy's cannot be set, it takes AES-128-GCM first.
const SUITES: &str = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";

/// What lies between the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Plain TCP.
    Clear,
    /// TLS 1.3 with certificates of ECDSA P-256 that both sides ask for and verify.
    Mtls,
}

impl Mode {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Mtls => "mtls",
        }
    }

    /// In a sentence.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Clear => "in the clear",
            Self::Mtls => "with mutual TLS",
        }
    }

    /// Reads a list such as `clear,mtls`.
    pub fn parse_list(text: &str) -> Result<ModeList, String> {
        let mut modes = Vec::new();
        for name in text.split(',') {
            let mode = match name.trim() {
                "clear" => Self::Clear,
                "mtls" => Self::Mtls,
                other => return Err(format!("`{other}` is no mode; known are clear, mtls")),
            };
            if !modes.contains(&mode) {
                modes.push(mode);
            }
        }
        Ok(ModeList(modes))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is spoken between the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// `vicino-hop/1`.
    Vicino,
    /// HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Ours, with its own hop.
    Vicino,
    /// HAProxy with HTTP/2 between the proxies.
    HaproxyH2,
    /// HAProxy with HTTP/1.1 between the proxies.
    HaproxyH1,
    /// Envoy with HTTP/2 between the proxies, its cheaper wire.
    Envoy,
    /// nginx with HTTP/1.1 between the proxies, the only wire that it has.
    Nginx,
    /// No proxy: the caller calls the backend.
    Direct,
}

impl Peer {
    /// Name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vicino => "vicino",
            Self::HaproxyH2 => "haproxy-h2",
            Self::HaproxyH1 => "haproxy-h1",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        }
    }

    /// What its proxies speak with each other; none without proxies.
    pub fn wire(self) -> Option<Wire> {
        match self {
            Self::Vicino => Some(Wire::Vicino),
            Self::HaproxyH2 | Self::Envoy => Some(Wire::Http2),
            Self::HaproxyH1 | Self::Nginx => Some(Wire::Http1),
            Self::Direct => None,
        }
    }

    /// Whether it differs from what it is in the clear: without proxies there is nothing between them.
    pub fn has(self, mode: Mode) -> bool {
        mode == Mode::Clear || self != Self::Direct
    }

    /// Whether its listener takes HTTP/2 with prior knowledge as well; nginx needs one of its own for it.
    pub fn speaks_http2(self) -> bool {
        !matches!(self, Self::Nginx | Self::Direct)
    }

    /// Reads a list such as `vicino,haproxy,direct`; `haproxy` is both of its wires.
    pub fn parse_list(text: &str) -> Result<PeerList, String> {
        let mut peers: Vec<Self> = Vec::new();
        for name in text.split(',') {
            let named: &[Self] = match name.trim() {
                "vicino" => &[Self::Vicino],
                "haproxy" => &[Self::HaproxyH2, Self::HaproxyH1],
                "haproxy-h2" => &[Self::HaproxyH2],
                "haproxy-h1" => &[Self::HaproxyH1],
                "envoy" => &[Self::Envoy],
                "nginx" => &[Self::Nginx],
                "direct" => &[Self::Direct],
                other => {
                    let known = "vicino, haproxy, haproxy-h2, haproxy-h1, envoy, nginx, direct";
                    return Err(format!("`{other}` is no peer; known are {known}"));
                }
            };
            peers.extend(named.iter().filter(|p| !peers.contains(p)).copied().collect::<Vec<_>>());
        }
        Ok(PeerList(peers))
    }

    /// Whom the load generators call.
    pub fn target(self) -> Target {
        let address = match self {
            Self::Direct => SocketAddr::from((CALLEE_POD, BACKEND_PORT)),
            _ => SocketAddr::from((CALLER_NODE, L1_PORT)),
        };
        Target { address, host: HOST.to_owned() }
    }

    /// Writes the configuration of one proxy into `folder` and gives its command line; `None` for `direct`.
    pub fn proxy(
        self,
        leg: &Leg<'_>,
        tools: &Tools,
        folder: &Path,
    ) -> Result<Option<CommandLine>, PeerError> {
        let program = |found: &'_ Result<PathBuf, String>| found.clone().map_err(PeerError::Missing);
        let line = match self {
            Self::Vicino => vicino::proxy(&program(&tools.vicino)?, leg, folder)?,
            Self::HaproxyH2 => haproxy::proxy(&program(&tools.haproxy)?, leg, Wire::Http2, folder)?,
            Self::HaproxyH1 => haproxy::proxy(&program(&tools.haproxy)?, leg, Wire::Http1, folder)?,
            Self::Envoy => envoy::proxy(&program(&tools.envoy)?, leg, folder)?,
            Self::Nginx => nginx::proxy(&program(&tools.nginx)?, leg, folder)?,
            Self::Direct => return Ok(None),
        };
        Ok(Some(line))
    }

    /// Why the peer cannot be measured here.
    pub fn missing(self, tools: &Tools) -> Option<String> {
        let found = match self {
            Self::Vicino => &tools.vicino,
            Self::HaproxyH2 | Self::HaproxyH1 => &tools.haproxy,
            Self::Envoy => &tools.envoy,
            Self::Nginx => &tools.nginx,
            Self::Direct => return None,
        };
        found.clone().err()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where one of the two proxies stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// On the caller's node.
    L1,
    /// On the callee's node.
    L2,
}

impl Role {
    /// Name of the node, in certificates as well.
    pub fn node(self) -> &'static str {
        match self {
            Self::L1 => "caller",
            Self::L2 => "callee",
        }
    }
}

/// One of the two proxies: what it listens on, and where it sends to.
#[derive(Clone, Copy, Debug)]
pub struct Leg<'a> {
    /// Which one.
    pub role: Role,
    /// Its own node's address.
    pub node: Ipv4Addr,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it sends to.
    pub next: SocketAddr,
    /// What the two know each other by; none in the clear.
    pub certificates: Option<&'a Certificates>,
}

impl<'a> Leg<'a> {
    /// The caller's proxy.
    pub fn l1(certificates: Option<&'a Certificates>) -> Self {
        let (listen, next) = ((CALLER_NODE, L1_PORT).into(), (CALLEE_NODE, L2_PORT).into());
        Self { role: Role::L1, node: CALLER_NODE, listen, next, certificates }
    }

    /// The callee's proxy.
    pub fn l2(certificates: Option<&'a Certificates>) -> Self {
        let (listen, next) = ((CALLEE_NODE, L2_PORT).into(), (CALLEE_POD, BACKEND_PORT).into());
        Self { role: Role::L2, node: CALLEE_NODE, listen, next, certificates }
    }

    /// `l1` or `l2`, for names of files.
    pub fn label(&self) -> &'static str {
        match self.role {
            Role::L1 => "l1",
            Role::L2 => "l2",
        }
    }
}

/// Why a peer cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its program is not there.
    #[error("{0}")]
    Missing(String),
    /// Its configuration cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
}

/// Writes a file of a configuration, and the folders above it.
fn write(path: &Path, text: &str) -> Result<(), PeerError> {
    let failed = |e| PeerError::Write(path.to_owned(), e);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_means_both_wires_and_nobody_is_measured_twice() {
        let peers = Peer::parse_list("haproxy-h1,vicino, haproxy,vicino").unwrap();
        assert_eq!(peers.0, [Peer::HaproxyH1, Peer::Vicino, Peer::HaproxyH2]);
        assert!(Peer::parse_list("vicino,traefik").unwrap_err().contains("`traefik` is no peer"));
    }

    #[test]
    fn modes_keep_their_order_and_come_once() {
        assert_eq!(Mode::parse_list("mtls, clear,mtls").unwrap().0, [Mode::Mtls, Mode::Clear]);
        assert!(Mode::parse_list("tls").unwrap_err().contains("`tls` is no mode"));
    }
}
