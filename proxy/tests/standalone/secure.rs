//! Hops with TLS: proxies know each other by certificates of their nodes, and others get nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use vicino_wire::hop::{Hello, encode_hello};

use crate::backend::Backend;
use crate::client::get;
use crate::configuration::{Configuration, L2_PORT, node_address};
use crate::process::{Proxy, eventually};

/// An authority whose certificates lie in files.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let (folder, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        std::fs::write(folder.path().join("roots"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Flags of a proxy with a certificate of `node`, which knows others by the roots of `trusted`.
    fn flags(&self, node: &str, trusted: &Authority) -> Vec<String> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let name = format!("spiffe://cluster.local/node/{node}");
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        let write = |name: &str, text: String| std::fs::write(Path::new(&self.path(name)), text).unwrap();
        write(&format!("{node}.crt"), params.signed_by(&key, &self.issuer).unwrap().pem());
        write(&format!("{node}.key"), key.serialize_pem());
        let flags = [
            ("--hop-certificate", self.path(&format!("{node}.crt"))),
            ("--hop-key", self.path(&format!("{node}.key"))),
            ("--hop-roots", trusted.path("roots")),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

/// Two neighbourhoods; the only pod is on `b`.
struct World {
    a: Proxy,
    b: Proxy,
    _pod: Backend,
    _configurations: [Configuration; 2],
}

impl World {
    fn start(flags: [&[String]; 2]) -> Self {
        let (pod, configurations) = (Backend::start("b"), ["a", "b"].map(Configuration::new));
        for configuration in &configurations {
            configuration.nodes_with(&["a", "b"], true);
            configuration.route("web", 1);
            configuration.endpoints("web", &[("b", pod.address())]);
        }
        let start = |i: usize| {
            let flags: Vec<_> = flags[i].iter().map(String::as_str).collect();
            Proxy::start(&configurations[i], &flags)
        };
        let (a, b) = (start(0), start(1));
        a.is_ready();
        b.is_ready();
        Self { a, b, _pod: pod, _configurations: configurations }
    }

    fn status(&self, path: &str) -> Option<u16> {
        get(self.a.l1(), "web.default", path).map(|answer| answer.status).ok()
    }
}

fn strict(mut flags: Vec<String>) -> Vec<String> {
    flags.push("--hop-strict".to_owned());
    flags
}

/// What the L2 of `b` answers who speaks the hop's protocol without TLS; empty when it closes.
fn plainly() -> Vec<u8> {
    let address = SocketAddr::new(node_address("b").parse().unwrap(), L2_PORT);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut hello = Vec::new();
    let own = Hello { max_streams: 1, initial_window: 65_535, max_frame: 1024, binds_late: false, node: "a" };
    encode_hello(&mut hello, &own).unwrap();
    stream.write_all(&hello).unwrap();
    let mut answer = vec![0; 14];
    let count = stream.read(&mut answer).unwrap_or(0);
    answer.truncate(count);
    answer
}

/// Somebody who begins a handshake with the L2 of `b` and says no more, from an address that is no node's.
fn stranger() -> TcpStream {
    let to = SocketAddr::new(node_address("b").parse().unwrap(), L2_PORT);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 9, 9], 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    // The head of a record with a ClientHello of 512 bytes. Whoever is refused at once may find the connection reset.
    let _may_be_reset = stream.write_all(&[0x16, 3, 1, 2, 0]);
    stream
}

#[test]
fn nodes_know_each_other_and_bodies_pass() {
    let authority = Authority::new();
    let [a, b] = ["a", "b"].map(|node| strict(authority.flags(node, &authority)));
    let world = World::start([&a, &b]);
    eventually("calls pass", || world.status("/x") == Some(200));
    for _ in 0..100 {
        assert_eq!(world.status("/x"), Some(200));
    }
    let big = get(world.a.l1(), "web.default", "/big").unwrap();
    assert_eq!(big.status, 200);
    assert_eq!(plainly(), b"", "and whoever has no certificate gets nothing");
    assert!(!world.a.log().contains("hop ended"), "{}", world.a.log());
}

#[test]
fn while_it_is_brought_in_hops_without_it_are_taken() {
    let authority = Authority::new();
    let b = authority.flags("b", &authority);
    let world = World::start([&[], &b]);
    eventually("a proxy without certificates calls one that has some", || world.status("/x") == Some(200));
    assert!(plainly().windows(6).any(|part| part == b"VICINO"));
    drop(world);
    let a = authority.flags("a", &authority);
    let world = World::start([&a, &b]);
    eventually("and one that has some, too", || world.status("/x") == Some(200));
}

#[test]
fn a_node_by_another_authority_or_of_another_name_gets_no_call_and_makes_none() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let good = authority.flags("a", &authority);
    for (a, b) in [
        (good.clone(), foreign.flags("b", &authority)),
        (good.clone(), strict(authority.flags("c", &authority))),
        (foreign.flags("a", &authority), strict(authority.flags("b", &authority))),
    ] {
        let world = World::start([&a, &b]);
        for _ in 0..5 {
            assert_eq!(world.status("/x"), Some(503), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn a_flood_of_handshakes_is_refused_and_calls_over_new_hops_pass() {
    let authority = Authority::new();
    let [a, b] = ["a", "b"].map(|node| strict(authority.flags(node, &authority)));
    let world = World::start([&a, &b]);
    let flood: Vec<TcpStream> = (0..700).map(|_| stranger()).collect();
    // Each of two workers bears 128.
    let refused = || {
        let metrics = get(world.b.metrics(), "metrics", "/metrics").unwrap().body;
        let of = |reason: &str| {
            let name = format!("vicino_proxy_hops_refused_total{{reason=\"{reason}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap()
        };
        (of("strangers") + of("rate"), of("unknown"))
    };
    eventually("what is over the bound is refused", || refused().0 >= 700 - 2 * 128);
    eventually("calls pass", || world.status("/x") == Some(200));
    let lines = world.b.log().matches("connection refused").count();
    assert!((1..=4).contains(&lines), "one for each worker and reason, not {lines}: {}", world.b.log());
    eventually("those that were taken are closed, too", || {
        let (refused, unknown) = refused();
        refused + unknown == 700
    });
    drop(flood);
}
