//! A peer that does not keep to the hop's specification harms its own streams, or its own connection, and no application.

use vicino_wire::head::{Framing, Header, Headers, RequestHead, Version};
use vicino_wire::hop::{
    Destination, Frame, Hello, Kind, RequestFrame, Reset, decode, encode_data, encode_hello, encode_request,
    encode_reset, encode_window,
};

use super::*;

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    let hello = Hello { max_streams: 100, initial_window: 65_536, max_frame: 16_384, node: "evil" };
    encode_hello(&mut out, &hello).unwrap();
    out
}

fn request(stream: u32, service: &str, framing: Framing, deadline_ms: u32) -> Vec<u8> {
    let to = Destination { namespace: "demo", service, port: 80, port_name: "http", pod: None };
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
