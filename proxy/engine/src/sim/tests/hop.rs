//! A peer that does not keep to the hop's specification harms its own streams, or its own connection, and no application.

use vicino_wire::head::{Framing, Header, Headers, RequestHead, ResponseHead, Version};
use vicino_wire::hop::{
    Destination, Frame, Hello, Kind, RequestFrame, Reset, ResponseFrame, decode, encode_cancel, encode_data,
    encode_grant, encode_hello, encode_request, encode_reserve, encode_reset, encode_response,
    encode_started, encode_wait, encode_window,
};

use super::*;

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    let hello =
        Hello { max_streams: 100, initial_window: 65_536, max_frame: 16_384, binds_late: true, node: "evil" };
    encode_hello(&mut out, &hello).unwrap();
    out
}

fn request(stream: u32, service: &str, framing: Framing, deadline_ms: u32) -> Vec<u8> {
    let to = Destination { namespace: "demo", service, port: 80, port_name: "http", pod: None };
    request_to(stream, to, framing, deadline_ms)
}

/// A call to `web` by the name of its port, with a number that is not the port's.
fn request_to_port_81(stream: u32) -> Vec<u8> {
    let to = Destination { namespace: "demo", service: "web", port: 81, port_name: "http", pod: None };
    request_to(stream, to, Framing::None, 0)
}

fn request_to(stream: u32, to: Destination<'_>, framing: Framing, deadline_ms: u32) -> Vec<u8> {
    let via = [Header { name: b"via", value: b"1.1 vicino" }];
    let head = RequestHead {
        method: "POST",
        authority: "web",
        path: if framing.is_empty() { "/hang" } else { "/echo" },
        version: Version::Http11,
        accepts_trailers: false,
        headers: Headers::from(&via[..]),
    };
    let frame = RequestFrame {
        to,
        kind: Kind::Http,
        deadline_ms,
        hops: 1,
        is_last_resort: false,
        caller: None,
        head,
        framing,
    };
    let mut out = Vec::new();
    encode_request(&mut out, stream, &frame, &[]).unwrap();
    out
}

type Resets = Vec<(u32, Reset)>;

/// What L2 said after its HELLO: resets by stream, statuses by stream.
fn said(world: &World, peer: usize) -> (Resets, Vec<(u32, u16)>) {
    let (mut resets, mut statuses) = (Vec::new(), Vec::new());
    let mut rest = &world.clients[peer].got[..];
    while let Ok(Some((frame, used))) = decode(rest) {
        match frame {
            Frame::Reset { stream, reason } => resets.push((stream, reason)),
            Frame::Response { stream, response, .. } => statuses.push((stream, response.head.status)),
            _ => {}
        }
        rest = &rest[used..];
    }
    (resets, statuses)
}

fn peer_of(world: &mut World) -> usize {
    let peer = world.client_of(Role::L2, node_ip(0), 1);
    world.send(peer, &hello());
    peer
}

#[test]
fn a_body_that_is_longer_than_it_was_said_to_be_smuggles_nothing() {
    let mut world = web_on(&[1], 1);
    let peer = peer_of(&mut world);
    let mut bytes = request(1, "web", Framing::Length(4), 0);
    encode_data(&mut bytes, 1, b"abcdGET /x HTTP/1.1\r\nHost: web\r\n\r\n", 16_384, true);
    bytes.extend(request(2, "web", Framing::Length(4), 0));
    encode_data(&mut bytes, 2, b"abc", 16_384, true);
    bytes.extend(request(3, "web", Framing::Length(4), 0));
    encode_data(&mut bytes, 3, b"good", 16_384, true);
    world.send(peer, &bytes);
    world.until("three outcomes", |w| {
        let (resets, statuses) = said(w, peer);
        resets.len() == 2 && statuses.len() == 1
    });
    assert_eq!(said(&world, peer), (vec![(1, Reset::Protocol), (2, Reset::Protocol)], vec![(3, 200)]));
    assert!(world.seen.iter().all(|seen| !seen.head.contains("/x")));
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

#[test]
fn what_breaks_the_order_of_frames_ends_the_hop() {
    let mut data = Vec::new();
    encode_data(&mut data, 9, b"x", 16_384, false);
    let mut window = request(1, "web", Framing::None, 0);
    encode_window(&mut window, 1, 0x7fff_ffff);
    let mut beyond = request(1, "web", Framing::UntilClose, 0);
    beyond.clear();
    beyond.extend(request(1, "web", Framing::Chunked, 0));
    encode_data(&mut beyond, 1, &pattern(300_000), 16_384, false);
    let mut after_end = request(1, "web", Framing::None, 0);
    encode_data(&mut after_end, 1, b"x", 16_384, false);
    let again = [request(5, "web", Framing::None, 0), request(5, "web", Framing::None, 0)].concat();
    for (what, bytes) in [
        ("a stream that never was", data),
        ("too much credit", window),
        ("more than the credit", beyond),
        ("data after the end", after_end),
        ("a number used twice", again),
        ("a second HELLO", hello()),
        ("no frame at all", b"GET / HTTP/1.1\r\nHost: web\r\n\r\n".to_vec()),
    ] {
        let mut world = web_on(&[1], 2);
        world.listeners.insert(pod_address(1, 1), Listener::Silent);
        let peer = peer_of(&mut world);
        world.send(peer, &bytes);
        world.run(Duration::from_millis(500));
        assert!(world.clients[peer].is_closed, "{what}: {:?} {:?}", said(&world, peer), world.nodes[1]);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

#[test]
fn a_peer_that_says_nothing_is_let_go() {
    let mut world = web_on(&[1], 3);
    let peer = world.client_of(Role::L2, node_ip(0), 1);
    let before = world.now;
    world.until("the end", |w| w.clients[peer].is_closed);
    assert!(world.now.since(before) < Duration::from_millis(5100));
}

#[test]
fn what_cannot_be_served_is_reset_with_its_reason() {
    let mut world = web_on(&[1], 4);
    let peer = peer_of(&mut world);
    world.send(peer, &request(1, "nope", Framing::None, 0));
    world.send(peer, &request(2, "web", Framing::None, 500));
    world.until("two resets", |w| said(w, peer).0.len() == 2);
    assert_eq!(said(&world, peer).0, [(1, Reset::NoEndpoint), (2, Reset::DeadlineExpired)]);
    world.listeners.insert(pod_address(1, 1), Listener::Refuses);
    world.send(peer, &request(3, "web", Framing::None, 0));
    world.until("a third", |w| said(w, peer).0.len() == 3);
    assert_eq!(said(&world, peer).0[2], (3, Reset::ConnectFailed));
    world.assert_nothing_left();
}

#[test]
fn streams_have_a_bound_and_so_has_giving_them_up() {
    let config = CoreConfig { streams_max: 3, resets_per_second_max: 5, ..CoreConfig::default() };
    let mut world = World::with(2, 5, &config);
    world.pod("web", 1, 1);
    world.publish();
    let peer = peer_of(&mut world);
    for stream in 1..=4 {
        world.send(peer, &request(stream, "web", Framing::None, 0));
    }
    world.until("a refusal", |w| said(w, peer).0.len() == 1);
    assert_eq!(said(&world, peer).0, [(4, Reset::Overloaded)]);
    let mut cancels = Vec::new();
    for stream in 1..=3 {
        encode_reset(&mut cancels, stream, Reset::Cancelled);
    }
    for stream in 5..=9 {
        cancels.extend(request(stream, "web", Framing::None, 0));
        encode_reset(&mut cancels, stream, Reset::Cancelled);
    }
    world.send(peer, &cancels);
    world.until("the end", |w| w.clients[peer].is_closed);
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

fn reserve(stream: u32) -> Vec<u8> {
    let to = Destination { namespace: "demo", service: "web", port: 80, port_name: "http", pod: None };
    let mut out = Vec::new();
    encode_reserve(&mut out, stream, &to, false).unwrap();
    out
}

/// L2 on node 1 with one pod that takes one call at a time.
fn limited() -> World {
    let mut world = web_on(&[1], 1);
    world.snapshot.concurrency = Some(crate::snapshot::Concurrency {
        per_pod: 1,
        queue_length: 10,
        queue_timeout_ns: 60_000_000_000,
        standing_timeout_ns: 0,
        adaptive: None,
    });
    world.publish();
    world
}

fn peer_of_node_1(world: &mut World) -> usize {
    let peer = world.client_of(Role::L2, node_ip(0), 1);
    world.send(peer, &hello());
    peer
}

/// Streams for which a pod is held, as L2 said.
fn granted(world: &World, peer: usize) -> Vec<u32> {
    let mut streams = Vec::new();
    let mut rest = &world.clients[peer].got[..];
    while let Ok(Some((frame, used))) = decode(rest) {
        if let Frame::Grant { stream } = frame {
            streams.push(stream);
        }
        rest = &rest[used..];
    }
    streams
}

#[test]
fn a_pod_that_is_held_is_the_one_that_the_call_gets() {
    let mut world = limited();
    let peer = peer_of_node_1(&mut world);
    world.send(peer, &[reserve(1), reserve(2), reserve(3)].concat());
    world.run(Duration::from_millis(20));
    assert_eq!(granted(&world, peer), [1], "the others are in line");
    world.send(peer, &request(1, "web", Framing::Length(0), 0));
    let mut reset = Vec::new();
    encode_reset(&mut reset, 2, Reset::Cancelled);
    world.send(peer, &reset);
    world.run(Duration::from_millis(20));
    assert_eq!(world.seen.len(), 1);
    world.run(Duration::from_secs(1));
    assert_eq!(granted(&world, peer), [1], "/hang has the pod");
    let mut reset = Vec::new();
    encode_reset(&mut reset, 1, Reset::Cancelled);
    world.send(peer, &reset);
    world.run(Duration::from_millis(20));
    assert_eq!(granted(&world, peer), [1, 3]);
    // Nobody comes for it: it is given up, and a REQUEST that crosses this is dropped without harm.
    world.run(Duration::from_secs(2));
    assert_eq!(said(&world, peer).0, [(3, Reset::Unprocessed)]);
    world.send(peer, &request(3, "web", Framing::Length(0), 0));
    world.send(peer, &request(4, "web", Framing::Length(0), 0));
    world.until("the next call is served", |w| w.seen.len() == 2);
    assert!(!world.clients[peer].is_closed);
}

fn response(stream: u32, framing: Framing) -> Vec<u8> {
    let head = ResponseHead {
        status: 200,
        reason: b"",
        version: Version::Http11,
        declared_length: None,
        headers: Headers::default(),
    };
    let mut out = Vec::new();
    encode_response(&mut out, stream, &ResponseFrame { head, framing }, &[]).unwrap();
    out
}

/// An answer to HEAD has no body, whatever the other node says: its bytes would be the answer to the caller's next call.
#[test]
fn a_body_behind_an_answer_to_head_forges_no_other_answer() {
    let forged = b"HTTP/1.1 299 Forged\r\ncontent-length: 0\r\n\r\n";
    for framing in [Framing::Length(forged.len() as u64), Framing::Chunked, Framing::UntilClose] {
        let mut world = web_on(&[1], 1);
        world.listeners.insert(SocketAddr::new(node_ip(1), L2_PORT), Listener::Scripted);
        let client = world.client(0);
        world.send(client, b"HEAD / HTTP/1.1\r\nHost: web\r\n\r\n");
        world.run(Duration::from_millis(20));
        world.pods[0].say(&hello());
        world.run(Duration::from_millis(20));
        let mut answer = response(1, framing);
        encode_data(&mut answer, 1, forged, 16_384, true);
        world.pods[0].say(&answer);
        world.run(Duration::from_millis(20));
        world.send(client, &get("/"));
        world.run(Duration::from_millis(20));
        world.pods[0].say(&response(2, Framing::Length(0)));
        world.run(Duration::from_millis(20));
        let got = world.text(client);
        let statuses: Vec<_> = got.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
        assert_eq!(statuses, ["HTTP/1.1 502 Bad Gateway", "HTTP/1.1 200 "], "{got}");
        assert!(got.contains("hop-protocol"), "{got}");
        world.assert_nothing_left();
    }
}

/// The name of a port decides, and no peer's word on its number holds for another peer.
#[test]
fn a_wrong_number_of_a_port_harms_nobody() {
    let mut world = limited();
    let liar = peer_of_node_1(&mut world);
    world.send(liar, &request_to_port_81(1));
    world.run(Duration::from_millis(20));
    let mut reset = Vec::new();
    encode_reset(&mut reset, 1, Reset::Cancelled);
    world.send(liar, &reset);
    let peer = peer_of_node_1(&mut world);
    world.send(peer, &reserve(1));
    world.run(Duration::from_millis(20));
    assert_eq!(granted(&world, peer), [1]);
    world.send(peer, &request(1, "web", Framing::None, 0));
    world.run(Duration::from_millis(20));
    assert!(!world.clients[peer].is_closed);
    assert_eq!(world.seen.len(), 2);
}

/// What a pod speaks is told by its route, whichever number the first to ask since the last snapshot has said.
#[test]
fn a_wrong_number_of_a_port_changes_no_protocol() {
    let mut world = web_on(&[1], 1);
    world.snapshot.protocols.insert("web".to_owned(), Protocol::Http2);
    world.publish();
    let liar = peer_of_node_1(&mut world);
    world.send(liar, &request_to_port_81(1));
    world.run(Duration::from_millis(20));
    let client = world.client(0);
    assert_eq!(world.ask(client, &get("/")).status, 200);
    assert!(world.seen.iter().all(|seen| seen.head.contains(" HTTP/2\r\n")), "{:?}", world.seen);
}

#[test]
fn what_is_not_allowed_on_a_reservation_ends_the_hop() {
    let frame = |encode: fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        out
    };
    let faults: [(&str, Vec<u8>); 8] = [
        ("data", frame(|out| encode_data(out, 2, b"?", 100, false))),
        ("credit", frame(|out| encode_window(out, 2, 1))),
        ("a call before its pod is held", request(2, "web", Framing::Length(0), 0)),
        ("a second reservation", reserve(2)),
        ("a lower number", reserve(1)),
        ("the listener's own words", frame(|out| encode_grant(out, 2))),
        ("those, on a call", frame(|out| encode_wait(out, 1))),
        ("and the other one", frame(|out| encode_started(out, 1))),
    ];
    for (what, fault) in faults {
        let mut world = limited();
        let peer = peer_of_node_1(&mut world);
        world.send(peer, &[request(1, "web", Framing::Length(0), 0), reserve(2)].concat());
        world.run(Duration::from_millis(20));
        world.send(peer, &fault);
        world.until(what, |w| w.clients[peer].is_closed);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

#[test]
fn a_call_that_is_asked_back_is_given_back_only_while_it_is_in_line() {
    let mut world = limited();
    let peer = peer_of_node_1(&mut world);
    world.send(
        peer,
        &[request(1, "web", Framing::Length(0), 0), request(2, "web", Framing::Length(0), 0)].concat(),
    );
    world.run(Duration::from_millis(20));
    for stream in [1, 2] {
        let mut cancel = Vec::new();
        encode_cancel(&mut cancel, stream);
        world.send(peer, &cancel);
    }
    world.run(Duration::from_millis(20));
    assert_eq!(said(&world, peer).0, [(2, Reset::Unprocessed)]);
    assert_eq!(world.seen.len(), 1);
    assert!(!world.clients[peer].is_closed);
}
