//! Calls that switch protocols: WebSocket and the like, from the request to the last byte of either side.

use super::*;

fn switch(path: &str) -> Vec<u8> {
    let fields = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n{fields}\r\n").into_bytes()
}

#[test]
fn once_the_application_switches_bytes_go_both_ways() {
    for node in [0, 1] {
        for seed in 0..10 {
            let mut world = web_on(&[node], seed);
            world.net.segment_max = [0, 1, 700][seed as usize % 3];
            let client = world.client(0);
            // What comes early waits for the 101, as it should not have been sent.
            world.send(client, &[switch("/ws"), b"early ".to_vec()].concat());
            world.until("the early bytes come back", |w| w.text(client).ends_with("early "));
            let text = world.text(client);
            let (head, rest) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
            for field in
                ["Connection: Upgrade", "Upgrade: websocket", "sec-websocket-accept: x", "via: 1.1 vicino"]
            {
                assert_eq!(head.matches(field).count(), 1, "{field} in {head}");
            }
            assert!(!head.contains("vicino-upgrade") && !head.contains("Content-Length"), "{head}");
            assert_eq!(rest, "early ");
            let seen = &world.seen[0].head;
            assert!(
                seen.contains("\r\nSec-WebSocket-Key: k\r\n") && !seen.contains("vicino-upgrade"),
                "{seen}"
            );

            let body = pattern(if world.net.segment_max == 1 { 2000 } else { 400_000 });
            world.send(client, &body);
            let end = world.clients[client].got.len() + body.len();
            world.until("all of it comes back", |w| w.clients[client].got.len() >= end);
            assert_eq!(&world.clients[client].got[end - body.len()..], &body[..]);
            world.shut(client);
            world.until("the end", |w| w.clients[client].is_closed);
            assert!(!world.clients[client].is_reset);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn an_application_that_does_not_switch_answers_as_ever() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 1);
        let client = world.client(0);
        for _ in 0..3 {
            assert_eq!(world.ask(client, &switch("/bytes/5000")).body, pattern(5000));
            assert_eq!(world.ask(client, &post("/echo", b"then this")).body, b"then this");
        }
        let pods = world.pods.len();
        assert!(pods <= 2, "its connections are used again: {pods}");
        // Other things that a response can be.
        assert_eq!(world.ask(client, &switch("/chunked")).body, b"abcdefg");
        assert_eq!(world.ask(client, &switch("/none")).status, 204);
        assert_eq!(world.ask(client, &switch("/die")).status, 502);
        world.assert_nothing_left();
    }
}

#[test]
fn nothing_goes_to_an_application_that_has_not_switched() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 2);
        let client = world.client(0);
        world.send(client, &switch("/slow/5000"));
        let long = pattern(1_000_000);
        world.send(client, &long);
        world.run(Duration::from_secs(2));
        assert_eq!(world.seen.len(), 1);
        let held = world.nodes[0].core.tally().buffered.get();
        assert!(held < 200_000, "{held} bytes are held");
        world.reset_client(client);
        world.run(Duration::from_secs(10));
        assert_eq!(world.seen.len(), 1, "nobody took the bytes for a request");
        world.assert_nothing_left();
    }
}

#[test]
fn a_switch_that_nobody_asked_for_is_a_bad_response() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 3);
        let client = world.client(0);
        let answer = world.ask(client, &get("/unasked"));
        assert_eq!((answer.status, answer.field("vicino-error")), (502, Some("bad-response")));
        world.assert_nothing_left();
    }
}

#[test]
fn what_is_spoken_on_the_connection_itself_is_not_passed_on() {
    let mut world = web_on(&[1], 4);
    let client = world.client(0);
    for (fields, body) in [
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: websocket, other\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n", ""),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: Upgrade\r\n", ""),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n", "body"),
    ] {
        let request = format!("GET /ws HTTP/1.1\r\nHost: web\r\n{fields}\r\n{body}");
        assert_eq!(world.ask(client, request.as_bytes()).status, 200, "{fields}");
        let seen = world.seen.last().unwrap().head.to_lowercase();
        assert!(!seen.contains("upgrade"), "{seen}");
    }
}

#[test]
fn the_time_of_the_route_ends_with_the_switch() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 5);
        world.snapshot.request_timeout = Duration::from_millis(300);
        world.publish();
        let client = world.client(0);
        world.send(client, &switch("/ws"));
        world.run(Duration::from_secs(5));
        world.send(client, b"still there?");
        world.until("the echo", |w| w.text(client).ends_with("still there?"));
        // Before it, it holds.
        let other = world.client(0);
        assert_eq!(world.ask(other, &switch("/slow/2000")).status, 504);
    }
}

#[test]
fn when_one_side_is_gone_so_is_the_other() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 6);
        let client = world.client(0);
        world.send(client, &switch("/ws"));
        world.until("the switch", |w| w.text(client).contains("101"));
        let pod = world.pods.iter().position(|pod| pod.served > 0).unwrap();
        world.pods[pod].close();
        world.until("the end", |w| w.clients[client].is_closed);
        world.shut(client);
        let client = world.client(0);
        world.send(client, &switch("/ws"));
        world.until("the switch", |w| w.text(client).contains("101"));
        world.reset_client(client);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}
