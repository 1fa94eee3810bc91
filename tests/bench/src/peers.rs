//! The peers: their names, and how each is started as L1 and as L2 with one worker thread; nothing is run here.

mod envoy;
mod haproxy;
mod nginx;
mod vicino;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::net::{CALLEE_NODE, CALLEE_POD, CALLER_NODE};
use crate::options::{PeerList, Target};
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
            _ => Leg::l1().listen,
        };
        Target { address, host: HOST.to_owned() }
    }

    /// Writes the configuration of one proxy into `folder` and gives its command line; `None` for `direct`.
    pub fn proxy(self, leg: &Leg, tools: &Tools, folder: &Path) -> Result<Option<CommandLine>, PeerError> {
        let program = |found: &'_ Result<PathBuf, String>| found.clone().map_err(PeerError::Missing);
        let line = match self {
            Self::Vicino => vicino::proxy(&program(&tools.vicino)?, leg, folder)?,
            Self::HaproxyH2 => haproxy::proxy(&program(&tools.haproxy)?, leg, haproxy::Wire::Http2, folder)?,
            Self::HaproxyH1 => haproxy::proxy(&program(&tools.haproxy)?, leg, haproxy::Wire::Http1, folder)?,
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

/// One of the two proxies: what it listens on, and where it sends to.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// Which one.
    pub role: Role,
    /// Its own node's address.
    pub node: Ipv4Addr,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it sends to.
    pub next: SocketAddr,
}

impl Leg {
    /// The caller's proxy.
    pub fn l1() -> Self {
        let next = Self::l2().listen;
        Self { role: Role::L1, node: CALLER_NODE, listen: (CALLER_NODE, L1_PORT).into(), next }
    }

    /// The callee's proxy.
    pub fn l2() -> Self {
        let next = (CALLEE_POD, BACKEND_PORT).into();
        Self { role: Role::L2, node: CALLEE_NODE, listen: (CALLEE_NODE, L2_PORT).into(), next }
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
}
