//! Every wait has an end.

use super::*;

fn ends_within(world: &mut World, client: usize, least: Duration, most: Duration) {
    let before = world.now;
    world.until("the end", |w| w.clients[client].is_closed);
    let took = world.now.since(before);
    assert!(took >= least && took <= most, "{took:?}");
}

#[test]
fn a_caller_that_says_nothing_is_let_go() {
    let mut world = web_on(&[1], 1);
    let client = world.client(0);
    ends_within(&mut world, client, Duration::from_millis(9900), Duration::from_millis(10100));
    assert_eq!(world.text(client), "");
}

#[test]
fn a_head_that_trickles_in_is_refused() {
    let mut world = web_on(&[1], 2);
    let client = world.client(0);
    let before = world.now;
    for byte in b"GET / HTTP/1.1\r\nHost: web\r\nX: yyyyyyyy" {
        world.send(client, &[*byte]);
        world.run(Duration::from_millis(400));
    }
    world.until("the end", |w| w.clients[client].is_closed);
    assert!(world.now.since(before) < Duration::from_secs(17));
    assert_eq!(world.answers(client)[0].field("vicino-error"), Some("head-timeout"));
}

#[test]
fn a_later_head_has_its_own_time() {
    let mut world = web_on(&[1], 3);
    let client = world.client(0);
    world.ask(client, &get("/"));
    world.run(Duration::from_secs(30));
    world.send(client, b"GET / HT");
    ends_within(&mut world, client, Duration::from_secs(9), Duration::from_secs(12));
    assert_eq!(world.answers(client)[1].status, 408);
}

#[test]
fn an_idle_connection_is_kept_for_a_while() {
    let mut world = web_on(&[1], 4);
    let client = world.client(0);
    world.ask(client, &get("/"));
    ends_within(&mut world, client, Duration::from_secs(74), Duration::from_secs(76));
}

#[test]
fn a_request_has_the_time_that_its_route_allows() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 5);
        world.snapshot.request_timeout = Duration::from_secs(2);
        world.publish();
        let client = world.client(0);
        let before = world.now;
        let answer = world.ask(client, &get("/hang"));
        assert_eq!((answer.status, answer.field("vicino-error")), (504, Some("timeout")));
        assert!(world.now.since(before) < Duration::from_millis(2100));
        world.run(Duration::from_millis(100));
        world.assert_nothing_left();
        assert_eq!(world.ask(client, &get("/")).status, 200);
    }
}

#[test]
fn idle_pod_connections_and_hops_end() {
    let mut world = web_on(&[1], 6);
    let client = world.client(0);
    world.ask(client, &get("/"));
    world.run(Duration::from_secs(31));
    assert_eq!(world.nodes[1].core.tally().pods.open.get(), 0);
    assert_eq!(world.nodes[0].core.tally().hops_dialed.open.get(), 1);
    world.run(Duration::from_secs(280));
    assert_eq!(world.nodes[0].core.tally().hops_dialed.open.get(), 0);
    assert_eq!(world.nodes[1].core.tally().hops_accepted.open.get(), 0);
    let client = world.client(0);
    assert_eq!(world.ask(client, &get("/")).status, 200);
}

#[test]
fn a_long_call_on_a_silent_hop_lives() {
    let mut world = web_on(&[1], 7);
    let client = world.client(0);
    let answer = world.ask(client, &get("/slow/20000"));
    assert_eq!(answer.body, b"slow", "PING and PONG kept it");
    world.assert_nothing_left();
}

#[test]
fn a_call_in_which_nothing_comes_ends_after_the_idle_time_and_one_that_goes_on_does_not() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 8);
        world.pod("echo", node, 99);
        world.snapshot.idle_timeout = Duration::from_secs(2);
        world.snapshot.request_timeout = Duration::ZERO;
        world.publish();
        let client = world.client(0);
        let before = world.now;
        let answer = world.ask(client, &get("/hang"));
        assert_eq!((answer.status, answer.field("vicino-error")), (504, Some("timeout")));
        assert!(world.now.since(before) < Duration::from_millis(2100));

        // Of a body that comes bit by bit each bit is a sign of life.
        let head = b"POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\n";
        world.send(client, head);
        for byte in b"hello" {
            world.run(Duration::from_millis(1500));
            world.send(client, &[*byte]);
        }
        world.until("the echo", |w| w.text(client).ends_with("hello"));
        world.send(client, head);
        ends_within(&mut world, client, Duration::from_millis(1900), Duration::from_millis(3100));
        assert_eq!(world.answers(client).last().map(|answer| answer.status), Some(504));

        let tunnel = world.client(0);
        world.send(tunnel, b"CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n\x00");
        for count in 1..5 {
            world.run(Duration::from_millis(1500));
            assert!(world.clients[tunnel].got.ends_with(&vec![0; count]));
            world.send(tunnel, b"\x00");
        }
        ends_within(&mut world, tunnel, Duration::from_millis(1900), Duration::from_millis(3100));
        world.run(Duration::from_millis(100));
        world.assert_nothing_left();
    }
}

#[test]
fn what_waits_in_line_or_after_a_failure_is_not_idle() {
    let mut world = web_on(&[0], 9);
    world.snapshot.idle_timeout = Duration::from_secs(1);
    world.snapshot.concurrency = Some(crate::snapshot::Concurrency {
        per_pod: 1,
        queue_length: 9,
        queue_timeout_ns: 30_000_000_000,
        ..Default::default()
    });
    world.publish();
    let clients = [(); 4].map(|()| world.client(0));
    for client in clients {
        world.send(client, &get("/slow/900"));
    }
    world.until("all are answered", |w| clients.iter().all(|client| w.text(*client).ends_with("slow")));
    world.assert_nothing_left();
}
