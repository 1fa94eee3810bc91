//! Calls out of the mesh: what the list allows is reached, what is never called is not, by whichever way it is named.

use std::net::Ipv4Addr;

use super::identity::{certify, ip_of};
use super::*;
use crate::egress::{Allowed, Egress, HostTest};
use crate::policy::{Action, Policies, Source};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn outside(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, last).into()
}

fn allowed(hosts: &[HostTest]) -> Allowed {
    Allowed { hosts: hosts.to_vec(), ..Allowed::default() }
}

fn exact(host: &str) -> HostTest {
    HostTest::Exact(host.into())
}

/// Callers `a` and `b` on node 0, `web` on node 1, and hosts outside that DNS knows.
fn world(egress: Egress) -> World {
    let mut world = web_on(&[1], 7);
    for name in ["a", "b"] {
        world.snapshot.callers.push((0, ip_of(name)));
        world.snapshot.pods.insert(ip_of(name), (format!("uid-{name}"), name.to_owned()));
    }
    world.snapshot.egress = Arc::new(Egress { trust_domain: "cluster.local".into(), ..egress });
    world.publish();
    certify(&mut world, &[("a", 1), ("b", 2)], false);
    for (name, addresses) in [
        ("api.example.com.", vec![outside(7)]),
        ("echo.example.com.", vec![outside(99)]),
        ("example.com.", vec![outside(8)]),
        ("two.example.org.", vec![outside(9), outside(7)]),
        ("metadata.example.com.", vec![ip("169.254.169.254")]),
        ("mapped.example.com.", vec![ip("::ffff:127.0.0.1")]),
        ("node.example.com.", vec![node_ip(1)]),
        ("pod.example.com.", vec![ip_of("b")]),
        ("mixed.example.com.", vec![ip("127.0.0.1"), outside(7)]),
        ("legacy.other.svc.cluster.local.", vec![ip("10.97.0.1")]),
    ] {
        world.dns.hosts.insert(name.to_owned(), addresses);
    }
    for last in [7, 8, 99] {
        for port in [80, 443] {
            world.listeners.insert(SocketAddr::new(outside(last), port), Listener::Pod);
        }
    }
    world.listeners.insert("10.97.0.1:80".parse().unwrap(), Listener::Pod);
    world
}

fn open() -> Egress {
    Egress { is_open: true, ..Egress::default() }
}

fn request(url_host: &str) -> Vec<u8> {
    format!("GET http://{url_host}/ HTTP/1.1\r\nhost: {url_host}\r\nX-Forwarded-For: 10.1.1.9\r\nForwarded: for=10.1.1.9\r\n\r\n").into_bytes()
}

fn word(answer: &Answer) -> (u16, String) {
    (answer.status, answer.field("vicino-error").unwrap_or_default().to_owned())
}

/// What a caller is told of CONNECT, which names a port.
fn connect(world: &mut World, name: &str, host: &str) -> (usize, (u16, String)) {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let host = if has_port { host.to_owned() } else { format!("{host}:80") };
    let client = world.client_from(ip_of(name), 0);
    world.send(client, format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes());
    world.until("an answer", |w| w.text(client).contains("\r\n\r\n"));
    let text = world.text(client);
    let error = text.lines().find_map(|line| line.strip_prefix("vicino-error: ")).unwrap_or_default();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let told = (status, error.to_owned());
    world.clients[client].got.clear();
    (client, told)
}

/// A ClientHello for a server, or for none.
fn hello(name: Option<&str>) -> Vec<u8> {
    let vector = |count: usize, data: &[u8]| {
        let length = (data.len() as u32).to_be_bytes();
        [&length[4 - count..], data].concat()
    };
    let list = |name: &str| vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
    let extension = name.map(|name| [&[0, 0][..], &vector(2, &list(name))].concat()).unwrap_or_default();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector(2, &extension)].concat();
    let message = [&[1][..], &vector(3, &body)].concat();
    [&[22, 3, 1][..], &vector(2, &message)].concat()
}

#[test]
fn what_the_list_allows_is_called_and_nothing_else() {
    let of_a = Source { service_accounts: vec![("demo".into(), "a".into())], ..Source::default() };
    let mut world = world(Egress {
        allow: vec![
            allowed(&[exact("api.example.com")]),
            Allowed {
                from: vec![of_a],
                ports: vec![80],
                ..allowed(&[HostTest::Below(".example.org".into())])
            },
            allowed(&[exact("example.com")]),
        ],
        ..Egress::default()
    });
    // Who may call is nothing that a policy about Services says.
    world.snapshot.policies = Arc::new(Policies::new(Action::Deny, "cluster.local".into(), [], []));
    world.publish();
    for (name, host, expected) in [
        ("a", "api.example.com", (200, "")),
        ("b", "API.example.com.:443", (200, "")),
        ("a", "example.com", (200, "")),
        ("a", "two.example.org", (200, "")),
        ("a", "two.example.org:81", (403, "not-in-mesh")),
        ("b", "two.example.org", (403, "not-in-mesh")),
        ("a", "none.example.org", (404, "no-such-host")),
        ("a", "echo.example.com", (403, "not-in-mesh")),
        ("a", "198.51.100.7", (403, "not-in-mesh")),
        ("a", "nope.demo", (404, "no-such-service")),
        ("a", "legacy.other.svc.cluster.local", (404, "no-such-service")),
    ] {
        let client = world.client_from(ip_of(name), 0);
        let answer = world.ask(client, &request(host));
        assert_eq!(word(&answer), (expected.0, expected.1.to_owned()), "{name} to {host}");
        let (client, told) = connect(&mut world, name, host);
        assert_eq!(told, (expected.0, expected.1.to_owned()), "{name} to {host}, by CONNECT");
        world.reset_client(client);
    }
    let head = &world.seen[0].head;
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && head.contains("via: 1.1 vicino"), "{head}");
    assert!(
        !head.to_ascii_lowercase().contains("forwarded"),
        "addresses of pods are nobody's business outside: {head}"
    );
    let refused = world.nodes[0].events.iter().find_map(|event| match event {
        Event::EgressRefused { caller, host, port, .. } => Some((caller.as_str(), host.as_str(), *port)),
        _ => None,
    });
    assert_eq!(refused, Some(("spiffe://cluster.local/ns/demo/sa/a", "two.example.org", 81)));
    world.run(Duration::from_secs(100));
    world.assert_nothing_left();
}

#[test]
fn some_addresses_are_never_called_however_they_are_named() {
    let block = "0.0.0.0/0".parse().unwrap();
    let list = Egress {
        allow: vec![Allowed {
            ip_blocks: vec![(block, Vec::new())],
            ..allowed(&[HostTest::Below(".example.com".into())])
        }],
        ..Egress::default()
    };
    for egress in [open(), list] {
        let mut world = world(egress);
        for (host, reason) in [
            ("127.0.0.1:9990", "never-called"),
            ("[::1]:9990", "never-called"),
            ("[::ffff:127.0.0.1]:9990", "never-called"),
            ("0.0.0.0", "never-called"),
            ("169.254.169.254", "never-called"),
            ("[::ffff:169.254.169.254]", "never-called"),
            ("[64:ff9b::169.254.169.254]", "never-called"),
            ("[fe80::1]", "never-called"),
            ("10.0.0.1:4140", "never-called"),
            ("10.0.0.2:10250", "never-called"),
            ("10.1.0.98", "never-called"),
            ("metadata.example.com", "never-called"),
            ("mapped.example.com", "never-called"),
            ("node.example.com:10250", "never-called"),
            ("pod.example.com", "never-called"),
            ("2852039166.example.2852039166", "not-in-mesh"),
            ("0251.0376.0251.0376", "not-in-mesh"),
            ("0xa9.0xfe.0xa9.0xfe", "not-in-mesh"),
        ] {
            let client = world.client_from(ip_of("a"), 0);
            let answer = world.ask(client, &request(host));
            assert_eq!(word(&answer), (403, reason.to_owned()), "{host}");
            let (_, told) = connect(&mut world, "a", host);
            assert_eq!(told, (403, reason.to_owned()), "{host}, by CONNECT");
            let client = world.http2_client(0);
            let fields = fields(&[]);
            world.speak(client, |mux| {
                mux.request(1, ("GET", host, "/"), vicino_wire::head::Framing::None, &fields);
            });
            world.until("an answer", |w| {
                w.clients[client].mux.as_ref().is_some_and(|mux| mux.over.contains(&1))
            });
            let refused =
                world.heard(client).iter().any(|said| matches!(said, Said::Response { status: 403, .. }));
            assert!(refused, "{host}, by HTTP/2: {:?}", world.heard(client));
        }
        assert_eq!(world.nodes[0].core.tally().pods.opened.get(), 0, "nothing was dialled");
        // Of a name that leads to both, what may be called is.
        let client = world.client_from(ip_of("a"), 0);
        assert_eq!(world.ask(client, &request("mixed.example.com")).status, 200);
    }
}

#[test]
fn a_host_that_has_moved_to_where_nobody_calls_is_not_called_there() {
    let mut world = world(open());
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &request("api.example.com")).status, 200);
    world.dns.hosts.insert("api.example.com.".into(), vec![ip("127.0.0.1")]);
    assert_eq!(world.ask(client, &request("api.example.com")).status, 200, "DNS said for how long");
    world.run(Duration::from_secs(61));
    let answer = world.ask(client, &request("api.example.com"));
    assert_eq!(word(&answer), (403, "never-called".to_owned()));
    // An address that a node gets is the node's from then on, also for connections that are kept.
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &request("example.com")).status, 200);
    world.snapshot.egress = Arc::new(Egress { never: vec![outside(8)], ..open() });
    world.publish();
    assert_eq!(word(&world.ask(client, &request("example.com"))), (403, "never-called".to_owned()));
}

#[test]
fn another_address_is_tried_when_one_does_not_answer() {
    let mut world = world(open());
    world.listeners.insert(SocketAddr::new(outside(9), 80), Listener::Refuses);
    let client = world.client_from(ip_of("a"), 0);
    let long = vec![b'x'; 40_000];
    let mut post = b"POST http://two.example.org/echo HTTP/1.1\r\nhost: two.example.org\r\n".to_vec();
    post.extend(format!("content-length: {}\r\n\r\n", long.len()).bytes());
    post.extend(&long);
    let answer = world.ask(client, &post);
    assert_eq!((answer.status, answer.body.len()), (200, long.len()), "the body waited for DNS, too");
    world.listeners.insert(SocketAddr::new(outside(7), 80), Listener::Refuses);
    world.run(Duration::from_mins(1));
    let client = world.client_from(ip_of("b"), 0);
    assert_eq!(word(&world.ask(client, &request("two.example.org"))), (503, "connect-failed".to_owned()));
}

#[test]
fn everything_is_allowed_but_services_of_the_mesh_stay_its_own() {
    let mut world = world(open());
    let client = world.client_from(ip_of("a"), 0);
    for (host, status) in [("web", 200), ("example.com", 200), ("legacy.other", 200), ("nope", 404)] {
        assert_eq!(world.ask(client, &request(host)).status, status, "{host}");
    }
    assert_eq!(world.nodes[0].core.tally().hops_dialed.opened.get(), 1, "web is called over its node");
}

#[test]
fn in_a_tunnel_tls_and_http_name_a_host_that_is_allowed() {
    let mut world = world(Egress {
        allow: vec![allowed(&[exact("echo.example.com"), exact("api.example.com")])],
        ..Egress::default()
    });
    for (named, passes) in [
        (Some("echo.example.com"), true),
        (Some("ECHO.example.com"), true),
        (Some("api.example.com"), true),
        (None, true),
        (Some("evil.example.net"), false),
        (Some("198.51.100.99"), false),
    ] {
        let (client, told) = connect(&mut world, "a", "echo.example.com:443");
        assert_eq!(told.0, 200);
        let hello = hello(named);
        // In two parts, with a pause that is long enough for whoever waits for a server that speaks first.
        world.send(client, &hello[..20]);
        world.run(Duration::from_secs(3));
        assert_eq!(world.clients[client].got, b"");
        world.send(client, &hello[20..]);
        if passes {
            world.until("an echo", |w| w.clients[client].got == hello);
        } else {
            world.until("the end", |w| w.clients[client].is_closed);
            assert_eq!(world.clients[client].got, b"", "no byte of it was passed on: {named:?}");
        }
    }
    let (client, _) = connect(&mut world, "a", "echo.example.com:443");
    world.send(client, b"\x16\x03\x01\x00\x05\x01\x00\x00");
    world.until("the end", |w| w.clients[client].is_closed);
    // Other bytes go on as they are.
    let (client, _) = connect(&mut world, "a", "echo.example.com:443");
    world.send(client, b"EHLO there\r\n");
    world.until("an echo", |w| w.clients[client].got == b"EHLO there\r\n");
    // HTTP in a tunnel goes where the tunnel goes, and names a host that is allowed.
    let (client, _) = connect(&mut world, "a", "api.example.com:80");
    let get = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
    assert_eq!(world.ask(client, &get("api.example.com")).status, 200);
    assert_eq!(word(&world.ask(client, &get("evil.example.net"))), (403, "not-in-mesh".to_owned()));
    world.run(Duration::from_secs(100));
}

#[test]
fn a_request_that_is_not_read_as_one_does_not_pass_as_something_else() {
    let mut world = world(Egress {
        allow: vec![allowed(&[exact("echo.example.com"), exact("api.example.com")])],
        ..Egress::default()
    });
    let seconds = Duration::from_secs;
    for parts in [
        &["GE", "T / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"][..],
        &["GET", " / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["\r\n", "\r\nGET / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["\r\n\r\nGET / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["\nGET / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["\n \tGET / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["get / HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["GET\t/\tHTTP/1.1\nhost: evil.example.net\n\n"],
        &["GET evil HTTP/1.1\rhost: evil.example.net\r\n\r\n"],
        &["GET x\0 ", "HTTP/1.1\r\nhost: evil.example.net\r\n\r\n"],
        &["get http://evil.example.net/\r\n"],
        &["CONNECT evil.example.net:443 HTTP/1.1\r\n\r\n"],
        &["pri * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        &["GE"],
    ] {
        let (client, told) = connect(&mut world, "a", "echo.example.com:80");
        assert_eq!(told.0, 200);
        for part in parts {
            world.send(client, part.as_bytes());
            world.run(seconds(3));
        }
        world.run(seconds(12));
        let text = world.text(client);
        assert!(world.clients[client].is_closed && text.is_empty(), "{parts:?}: {text}");
    }
    // What is no HTTP goes on, as soon as that is sure.
    for parts in [
        &["\r\n", "EHLO there\r\n"][..],
        &["ehlo there", "\r\n"],
        &["user x", " y HTTPS\r\n"],
        &["SSH-2.0-OpenSSH_9.9\r\n"],
        &["0032git-upload-pack /x.git\0host=echo.example.com\0"],
        &["AMQP\0\0\u{9}\u{1}"],
        &["<stream>"],
        &["*1\r\n$4\r\nPING\r\n"],
    ] {
        let (client, _) = connect(&mut world, "a", "echo.example.com:80");
        for part in parts {
            world.send(client, part.as_bytes());
            world.run(seconds(3));
        }
        assert_eq!(world.text(client), parts.concat(), "{parts:?}");
    }
    // Where nobody is kept from calling another host, a word may be all that is said.
    world.snapshot.egress = Arc::new(open());
    world.publish();
    let (client, _) = connect(&mut world, "a", "echo.example.com:80");
    world.send(client, b"hello");
    world.until("an echo", |w| w.clients[client].got == b"hello");
    world.run(seconds(100));
}

#[test]
fn without_an_answer_of_dns_a_caller_is_told_so_in_the_end() {
    let mut world = world(open());
    world.dns.is_silent = true;
    let (_, told) = connect(&mut world, "a", "api.example.com:443");
    assert_eq!(told, (502, "name-failed".to_owned()));
    // Whoever gave up meanwhile is not missed when it answers.
    let gone = world.client_from(ip_of("b"), 0);
    world.send(gone, &request("api.example.com"));
    world.run(Duration::from_secs(1));
    world.reset_client(gone);
    world.run(Duration::from_secs(1));
    let now = world.now;
    let names: [Box<str>; 1] = ["api.example.com.".into()];
    world.nodes[0].core.resolved(&names, Ok((vec![outside(7)], Duration::from_secs(5))), now);
    let client = world.client_from(ip_of("b"), 0);
    assert_eq!(world.ask(client, &request("api.example.com")).status, 200);
    world.run(Duration::from_secs(100));
    world.assert_nothing_left();
}
