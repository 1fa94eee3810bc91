//! CONNECT: HTTP inside is routed as ever, all else is passed through, each half ending by itself.

use super::*;

/// A Service that speaks no HTTP, on the nodes given.
fn echo_on(node: usize, seed: u64) -> World {
    let mut world = World::new(2, seed);
    world.pod("echo", node, 99);
    world.pod("web", node, 1);
    world.publish();
    world
}

fn connect(world: &mut World, service: &str) -> usize {
    let client = world.client(0);
    world.send(client, format!("CONNECT {service}:80 HTTP/1.1\r\nHost: {service}:80\r\n\r\n").as_bytes());
    world.until("200", |w| w.text(client).ends_with("\r\n\r\n"));
    assert!(world.text(client).starts_with("HTTP/1.1 200 "), "{}", world.text(client));
    world.clients[client].got.clear();
    client
}

#[test]
fn http_in_a_tunnel_goes_where_the_tunnel_goes() {
    for node in [0, 1] {
        let mut world = echo_on(node, 1);
        let client = connect(&mut world, "web");
        let answer = world.ask(client, b"GET / HTTP/1.1\r\nHost: nope.example.com\r\n\r\n");
        assert_eq!(answer.status, 200);
        assert!(world.seen[0].head.contains("Host: nope.example.com\r\n"), "{}", world.seen[0].head);
        assert_eq!(world.ask(client, &post("/echo", b"again")).body, b"again");
        let nested = world.ask(client, b"CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n");
        assert_eq!(nested.status, 403);
        world.assert_nothing_left();
    }
}

#[test]
fn other_bytes_pass_both_ways_and_each_half_ends_by_itself() {
    for node in [0, 1] {
        let mut world = echo_on(node, 2);
        let client = connect(&mut world, "echo");
        world.send(client, b"\x00\x01binary");
        world.until("an echo", |w| w.clients[client].got == b"\x00\x01binary");
        let long = pattern(1_500_000);
        world.send(client, &long);
        world.shut(client);
        world.until("the end", |w| w.clients[client].is_closed);
        assert!(!world.clients[client].is_reset);
        assert_eq!(world.clients[client].got.len(), 8 + long.len());
        assert_eq!(&world.clients[client].got[8..], &long);
        world.assert_nothing_left();
    }
}

#[test]
fn where_the_port_says_what_is_spoken_nobody_waits() {
    for node in [0, 1] {
        let mut world = echo_on(node, 4);
        world.snapshot.protocols.insert("echo".into(), Protocol::Opaque);
        world.publish();
        let client = connect(&mut world, "echo");
        world.run(Duration::from_millis(10));
        assert_eq!(world.pods.len(), 1, "the pod may speak before the caller has said anything");
        // What looks like HTTP is passed through as it is, too.
        world.send(client, b"GET / HTTP/1.1\r\nHost: nope\r\n\r\n");
        world.until("the echo", |w| w.clients[client].got == b"GET / HTTP/1.1\r\nHost: nope\r\n\r\n");
        assert!(world.seen.is_empty());
        world.shut(client);
        world.until("the end", |w| w.clients[client].is_closed);
        world.assert_nothing_left();
    }
}

#[test]
fn when_the_server_speaks_first_the_wait_is_short() {
    for node in [0, 1] {
        let mut world = echo_on(node, 3);
        let client = connect(&mut world, "echo");
        world.until("a connection", |w| !w.pods.is_empty());
        world.run(Duration::from_millis(10));
        world.pods[0].say(b"220 ready\r\n");
        world.until("a greeting", |w| w.clients[client].got == b"220 ready\r\n");
        world.send(client, b"EHLO x\r\n");
        world.until("an echo", |w| w.clients[client].got.ends_with(b"EHLO x\r\n"));
        world.pods[0].close();
        world.shut(client);
        world.until("the end", |w| w.clients[client].is_closed);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

#[test]
fn a_pod_that_refuses_ends_the_tunnel() {
    for node in [0, 1] {
        let mut world = echo_on(node, 4);
        world.listeners.insert(pod_address(node, 99), Listener::Refuses);
        let client = connect(&mut world, "echo");
        world.send(client, b"\x00");
        world.until("the end", |w| w.clients[client].is_closed);
        assert_eq!(world.clients[client].got, b"");
        world.assert_nothing_left();
    }
}

#[test]
fn a_caller_that_goes_takes_its_tunnel_along() {
    for node in [0, 1] {
        let mut world = echo_on(node, 5);
        let client = connect(&mut world, "echo");
        world.send(client, b"\x00");
        world.until("an echo", |w| w.clients[client].got == b"\x00");
        world.reset_client(client);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

/// Where a server has spoken first, the next tunnel does not wait for its caller; a server of HTTP that has only lost its patience is not taken for one.
#[test]
fn a_server_that_speaks_first_is_remembered() {
    for node in [0, 1] {
        for (greeting, is_remembered) in
            [(&b"220 ready\r\n"[..], true), (b"HTTP/1.1 408 Request Timeout\r\n\r\n", false)]
        {
            let mut world = echo_on(node, 6);
            // Whether the pod could speak at once.
            let greeted = |world: &mut World| {
                let before = world.pods.len();
                let client = connect(world, "echo");
                world.run(Duration::from_millis(50));
                let at_once = world.pods.len() > before;
                world.run(Duration::from_secs(1));
                world.pods[before].say(greeting);
                world.until("a greeting", |w| w.clients[client].got == greeting);
                world.reset_client(client);
                at_once
            };
            assert!(!greeted(&mut world), "nothing is known yet");
            assert_eq!(greeted(&mut world), is_remembered);
            // A caller that speaks first is understood as ever elsewhere.
            let client = connect(&mut world, "web");
            assert_eq!(world.ask(client, &get("/echo")).status, 200);
            world.reset_client(client);
            world.run(Duration::from_mins(11));
            assert!(!greeted(&mut world), "it is forgotten");
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
}

/// Whoever speaks first, and however late: a caller is understood within the second that it has, although the application was reached meanwhile.
#[test]
fn a_caller_that_takes_its_time_is_understood() {
    for node in [0, 1] {
        for (wait_ms, is_http) in [(50, true), (300, true), (900, true), (1500, false)] {
            let mut world = echo_on(node, 7);
            let client = connect(&mut world, "web");
            world.run(Duration::from_millis(wait_ms));
            if wait_ms == 50 {
                // In parts, too.
                world.send(client, b"GE");
                world.run(Duration::from_millis(400));
                world.send(client, b"T /echo HTTP/1.1\r\nHost: nope\r\n\r\n");
                world.until("an answer", |w| !w.answers(client).is_empty());
                assert!(world.answers(client)[0].field("via").is_some());
            }
            let answer = world.ask(client, b"GET /echo HTTP/1.1\r\nHost: nope\r\n\r\n");
            assert_eq!(answer.status, 200, "after {wait_ms} ms");
            assert_eq!(answer.field("via").is_some(), is_http, "after {wait_ms} ms: {}", answer.head);
            world.reset_client(client);
            let client = connect(&mut world, "echo");
            world.run(Duration::from_millis(wait_ms));
            world.send(client, b"\x00\x01");
            world.until("an echo", |w| w.clients[client].got == b"\x00\x01");
            world.shut(client);
            world.until("the end", |w| w.clients[client].is_closed);
            // One that says nothing and half closes, before and after the application is reached.
            let client = connect(&mut world, "echo");
            world.run(Duration::from_millis(wait_ms));
            world.shut(client);
            world.until("the end", |w| w.clients[client].is_closed);
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
}

#[test]
fn what_a_caller_has_said_before_its_fin_reaches_the_application() {
    // Each of these may still become HTTP.
    for said in [&b"STATS"[..], b"QUIT\r", b"\r", b"PRI * HTTP/2.0", b"GET http"] {
        for node in [0, 1] {
            let mut world = echo_on(node, 6);
            let client = connect(&mut world, "echo");
            world.send(client, said);
            world.shut(client);
            world.until("the end", |w| w.clients[client].is_closed);
            let got = world.clients[client].got.escape_ascii().to_string();
            assert_eq!(got, said.escape_ascii().to_string(), "node {node}");
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
}
