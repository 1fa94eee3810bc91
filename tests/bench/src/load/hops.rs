//! Opens connections to an L2 as an L1 would, with a full handshake, by a session that is remembered, or in the clear; what L2 and this program spend on it. Blocking sockets.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use serde::{Deserialize, Serialize};
use vicino_wire::hop::{self, Frame, Hello, encode_hello};

use super::LoadError;
use crate::certificates::Certificates;
use crate::options::HopsOptions;
use crate::peers::{Role, Wire};
use crate::{clock, procfs};

/// Hops that are opened at a time.
const THREADS: u32 = 8;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long L2 may take to begin.
const READY: Duration = Duration::from_secs(15);
/// What L2 still has to do when the last hop is closed is done within this time.
const SETTLE: Duration = Duration::from_millis(300);

/// How hops are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handshake {
    /// No TLS.
    None,
    /// With certificates and signatures of both sides.
    Full,
    /// By a ticket of an earlier one.
    Resumed,
}

/// What opening hops costs one after the other, and what open ones do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Resident KiB of L2 before.
    pub start_kib: u64,
    /// With the open hops.
    pub open_kib: u64,
    /// So many.
    pub open: u32,
    /// Opened and closed again; none where it cannot be seen that L2 has taken a connection.
    pub openings: Vec<Opening>,
}

/// Hops that were opened and closed again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// How.
    pub handshake: Handshake,
    /// So many a second, several at a time.
    pub per_second: f64,
    /// CPU seconds of L2 per 1,000.
    pub listener_cpu: f64,
    /// CPU seconds of this program per 1,000.
    pub dialler_cpu: f64,
}

/// Measures one L2.
pub fn run(options: &HopsOptions) -> Result<Opened, LoadError> {
    // Ports of closed connections would run out otherwise; this is a namespace of the run's own.
    std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
        .map_err(|e| LoadError::Io("set the reuse of ports", e))?;
    let certificates = options.certificates.as_deref().map(Certificates::at);
    let dialler = |resumes: bool| Dialler::new(options.address, options.wire, certificates.as_ref(), resumes);
    let once = dialler(false)?;
    let mut last = String::new();
    clock::wait_for(READY, || once.open().map_err(|e| last = e.to_string()).ok()).ok_or_else(|| {
        LoadError::NotReady { target: options.address, seconds: READY.as_secs(), last: last.clone() }
    })?;
    let start_kib = procfs::tree_rss_kib(&[options.listener]);
    let open: Result<Vec<Hop>, _> = (0..options.open).map(|_| once.open()).collect();
    let open = open.map_err(|e| LoadError::Io("open a hop and keep it", e))?;
    let mut open_kib = u64::MAX;
    let _ = clock::wait_for(Duration::from_secs(1), || {
        open_kib = open_kib.min(procfs::tree_rss_kib(&[options.listener]));
        None::<()>
    });
    open.into_iter().for_each(Hop::close);
    std::thread::sleep(SETTLE);
    let handshakes: &[Handshake] = match (&certificates, options.wire) {
        (Some(_), _) => &[Handshake::Full, Handshake::Resumed],
        // L2 says nothing by which its having taken the connection would show.
        (None, Wire::Http1) => &[],
        (None, Wire::Vicino | Wire::Http2) => &[Handshake::None],
    };
    let mut openings = Vec::new();
    for &handshake in handshakes {
        let diallers: Result<Vec<_>, _> =
            (0..THREADS).map(|_| dialler(handshake == Handshake::Resumed)).collect();
        openings.push(opening(&diallers?, handshake, options)?);
    }
    Ok(Opened { start_kib, open_kib, open: options.open, openings })
}

fn opening(diallers: &[Dialler], handshake: Handshake, options: &HopsOptions) -> Result<Opening, LoadError> {
    let failed = |e| LoadError::Io("open a hop", e);
    for dialler in diallers {
        // Leaves a session behind where sessions are remembered.
        dialler.open().map(Hop::close).map_err(failed)?;
    }
    std::thread::sleep(SETTLE);
    let cpu = || [options.listener, std::process::id()].map(|pid| procfs::tree_cpu(&[pid]));
    let (started, before, left) = (clock::now(), cpu(), AtomicU32::new(options.count));
    std::thread::scope(|scope| {
        let left = &left;
        let each = |dialler| scope.spawn(move || open_all(dialler, handshake, left));
        let threads: Vec<_> = diallers.iter().map(each).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
    .map_err(failed)?;
    let wall = (clock::now() - started).as_secs_f64();
    std::thread::sleep(SETTLE);
    let after = cpu();
    let count = f64::from(options.count.max(1));
    let cpu = |side: usize| after[side].since(before[side]).total() / count * 1e3;
    Ok(Opening { handshake, per_second: count / wall, listener_cpu: cpu(0), dialler_cpu: cpu(1) })
}

fn open_all(dialler: &Dialler, handshake: Handshake, left: &AtomicU32) -> io::Result<()> {
    let take = |left: u32| left.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
        let hop = dialler.open()?;
        if hop.handshake() != handshake {
            let text = format!("a handshake that is {:?} where {handshake:?} was meant", hop.handshake());
            return Err(io::Error::other(text));
        }
        hop.close();
    }
    Ok(())
}

/// Opens hops to one L2.
struct Dialler {
    address: SocketAddr,
    wire: Wire,
    tls: Option<Arc<ClientConfig>>,
}

impl Dialler {
    fn new(
        address: SocketAddr,
        wire: Wire,
        certificates: Option<&Certificates>,
        resumes: bool,
    ) -> Result<Self, LoadError> {
        let tls = certificates.map(|certificates| configuration(certificates, wire, resumes)).transpose();
        Ok(Self {
            address,
            wire,
            tls: tls.map_err(|e| LoadError::Io("read the certificates", e))?.map(Arc::new),
        })
    }

    fn open(&self) -> io::Result<Hop> {
        let tcp = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(Role::L2.node()).expect("the name of a node is a DNS name");
        let tls = self.tls.clone().map(|tls| ClientConnection::new(tls, name).map_err(io::Error::other));
        let mut hop = Hop { tcp, tls: tls.transpose()? };
        hop.begin(self.wire)?;
        Ok(hop)
    }
}

/// One suite, so that the same is computed with every peer.
fn configuration(certificates: &Certificates, wire: Wire, resumes: bool) -> io::Result<ClientConfig> {
    let wrong = |e| io::Error::other(format!("{e}"));
    let node = Role::L1.node();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(certificates.roots()).map_err(wrong)? {
        roots.add(root.map_err(wrong)?).map_err(io::Error::other)?;
    }
    let chain = CertificateDer::pem_file_iter(certificates.chain(node)).map_err(wrong)?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(wrong)?;
    let key = PrivateKeyDer::from_pem_file(certificates.key(node)).map_err(wrong)?;
    let suites = vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384];
    let provider = CryptoProvider { cipher_suites: suites, ..ring::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![match wire {
        Wire::Vicino => hop::ALPN.to_vec(),
        Wire::Http2 => b"h2".to_vec(),
        Wire::Http1 => b"http/1.1".to_vec(),
    }];
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

/// An open connection.
struct Hop {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
}

impl Hop {
    /// Says what comes first, and waits until L2 has said what shows that it has taken the connection: its own first words, and with TLS a ticket, which comes after it has verified
    /// the certificate.
    fn begin(&mut self, wire: Wire) -> io::Result<()> {
        let words = first_words(wire);
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(&words)?,
            None => self.tcp.write_all(&words)?,
        }
        let mut said = Vec::new();
        while !(self.has_ticket() && has_begun(wire, &said)?) {
            self.exchange(&mut said)?;
        }
        Ok(())
    }

    fn has_ticket(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking() && tls.tls13_tickets_received() > 0)
    }

    /// Writes what there is, then reads once.
    fn exchange(&mut self, said: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let Some(tls) = &mut self.tls else {
            let count = end_is_error(self.tcp.read(&mut buffer)?)?;
            said.extend_from_slice(&buffer[..count]);
            return Ok(());
        };
        while tls.wants_write() {
            tls.write_tls(&mut self.tcp)?;
        }
        if tls.is_handshaking() || tls.wants_read() {
            end_is_error(tls.read_tls(&mut self.tcp)?)?;
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let count = tls.reader().read(&mut buffer[..state.plaintext_bytes_to_read().min(4096)])?;
        said.extend_from_slice(&buffer[..count]);
        while tls.wants_write() {
            tls.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }

    fn handshake(&self) -> Handshake {
        match self.tls.as_ref().map(|tls| tls.handshake_kind()) {
            None => Handshake::None,
            Some(Some(HandshakeKind::Resumed)) => Handshake::Resumed,
            Some(_) => Handshake::Full,
        }
    }

    fn close(mut self) {
        // The peer may have closed already.
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut self.tcp);
        }
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

fn end_is_error(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
}

fn first_words(wire: Wire) -> Vec<u8> {
    match wire {
        Wire::Vicino => {
            let mut words = Vec::new();
            let node = Role::L1.node();
            let own =
                Hello { max_streams: 1, initial_window: 65_535, max_frame: 16_384, binds_late: false, node };
            encode_hello(&mut words, &own).expect("the values are within their bounds");
            words
        }
        // RFC 9113 §3.4: the preface, then SETTINGS, which may be empty.
        Wire::Http2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        // The first word is a request, which is no part of opening a connection.
        Wire::Http1 => Vec::new(),
    }
}

fn has_begun(wire: Wire, said: &[u8]) -> io::Result<bool> {
    match wire {
        Wire::Vicino => match hop::decode(said).map_err(io::Error::other)? {
            None => Ok(false),
            Some((Frame::Hello(_), _)) => Ok(true),
            Some(_) => Err(io::Error::other("the first frame is no HELLO")),
        },
        // The header of a frame has its type in the fourth of nine bytes; 4 is SETTINGS.
        Wire::Http2 => match said {
            [_, _, _, 4, _, _, _, _, _, ..] => Ok(true),
            [_, _, _, _, _, _, _, _, _, ..] => Err(io::Error::other("the first frame is no SETTINGS")),
            _ => Ok(false),
        },
        Wire::Http1 => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustls::server::WebPkiClientVerifier;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    /// An L2 that says HELLO to whoever shows a certificate of the authority, on a thread of its own.
    fn listener(certificates: &Certificates) -> SocketAddr {
        let node = Role::L2.node();
        let chain = CertificateDer::pem_file_iter(certificates.chain(node)).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(certificates.key(node)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificates.roots()).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![hop::ALPN.to_vec()];
        config.ticketer = ring::Ticketer::new().unwrap();
        let config = Arc::new(config);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut tls = ServerConnection::new(config.clone()).unwrap();
                tls.complete_io(&mut stream).unwrap();
                tls.writer().write_all(&first_words(Wire::Vicino)).unwrap();
                // The dialler may be gone once it has read it.
                let _ = tls.complete_io(&mut stream);
            }
        });
        address
    }

    #[test]
    fn sessions_are_resumed_where_they_are_remembered_and_only_there() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path()).unwrap();
        let address = listener(&certificates);
        for (resumes, second) in [(true, Handshake::Resumed), (false, Handshake::Full)] {
            let dialler = Dialler::new(address, Wire::Vicino, Some(&certificates), resumes).unwrap();
            for handshake in [Handshake::Full, second, second] {
                let hop = dialler.open().unwrap();
                assert_eq!(hop.handshake(), handshake, "resumes: {resumes}");
                hop.close();
            }
        }
        let stranger = Certificates::make(&folder.path().join("stranger")).unwrap();
        let dialler = Dialler::new(address, Wire::Vicino, Some(&stranger), false).unwrap();
        assert!(dialler.open().is_err(), "another authority's certificates open nothing");
    }

    #[test]
    fn a_hop_has_begun_with_the_whole_of_the_listeners_first_frame() {
        let words = first_words(Wire::Vicino);
        assert!(!has_begun(Wire::Vicino, &words[..words.len() - 1]).unwrap());
        assert!(has_begun(Wire::Vicino, &words).unwrap());
        assert!(has_begun(Wire::Vicino, b"\0\0\x0a\0\0\0\0\0").is_err(), "DRAIN");
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        assert!(!has_begun(Wire::Http2, &settings[..8]).unwrap());
        assert!(has_begun(Wire::Http2, settings).unwrap());
        assert!(has_begun(Wire::Http2, b"\0\0\x08\x07\0\0\0\0\0").is_err(), "GOAWAY");
    }
}
