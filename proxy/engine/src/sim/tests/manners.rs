//! Callers, pods and peers with bad manners: who asks without reading, leaves without a word, or comes in by the wrong door.

use vicino_wire::head::Framing;

use super::streaming::buffered;
use super::*;

#[test]
fn a_caller_that_asks_without_reading_is_not_asked_for_more() {
    for request in [get("/none"), b"GET / HTTP/1.1\r\nHost: nowhere.at.all.example\r\n\r\n".to_vec()] {
        let mut world = web_on(&[0], 1);
        let client = world.client(0);
        world.clients[client].is_stalled = true;
        let count = 2_000;
        world.send(client, &request.repeat(count));
        world.run(Duration::from_secs(20));
        let held = buffered(&world, 0);
        assert!(held < 300_000, "{held} bytes are held for answers that nobody reads");
        world.clients[client].is_stalled = false;
        world.until("all answers", |w| w.answers(client).len() == count);
        world.assert_nothing_left();
    }
}

#[test]
fn interim_heads_without_end_end_the_call() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 2);
        let client = world.client(0);
        let answer = world.ask(client, &get("/interims/32"));
        assert_eq!(answer.status, 200);
        let other = world.client(0);
        world.send(other, &get("/interims/33"));
        world.until("the end", |w| w.answers(other).iter().any(|answer| answer.status >= 200));
        let last = world.answers(other).pop().unwrap();
        assert_eq!((last.status, last.field("vicino-error")), (502, Some("bad-response")));
        world.assert_nothing_left();
    }
}

#[test]
fn a_caller_that_closes_in_silence_frees_what_it_held_after_a_while() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 3);
        let (gone, patient) = (world.client(0), world.client(0));
        world.send(gone, &get("/hang"));
        // Half closed: it reads still, and is answered in time.
        world.send(patient, &get("/slow/20000"));
        world.until("they began", |w| w.seen.len() == 2);
        world.shut(gone);
        world.shut(patient);
        world.run(Duration::from_secs(29));
        assert_eq!(world.answers(patient)[0].status, 200);
        world.run(Duration::from_secs(3));
        assert!(world.clients[gone].is_closed);
        world.assert_nothing_left();
    }
}

#[test]
fn a_refusal_after_a_head_request_has_its_body() {
    let mut world = web_on(&[0], 4);
    let client = world.client(0);
    world.send(client, b"HEAD /none HTTP/1.1\r\nHost: web\r\n\r\n");
    world.until("its answer", |w| w.answers(client).len() == 1);
    world.send(client, b"GET / HTTP/1.1\r\n\r\n");
    world.until("the refusal", |w| w.clients[client].is_closed);
    let refusal = world.answers(client).pop().unwrap();
    assert_eq!((refusal.status, refusal.body.is_empty()), (400, false), "{refusal:?}");
    world.assert_nothing_left();
}

#[test]
fn a_call_that_a_pod_works_on_is_not_repeated_when_its_proxy_has_to_go() {
    let mut world = web_on(&[1, 2], 5);
    let client = world.client(0);
    world.send(client, &post("/hang", b"once"));
    world.until("it began", |w| w.seen.iter().any(|seen| seen.is_complete));
    let node = if world.seen[0].pod == pod_address(1, 1) { 1 } else { 2 };
    let (now, end) = (world.now, world.now + Duration::from_secs(5));
    world.nodes[node].core.drain(now, end);
    world.turn(node);
    world.until("an answer", |w| w.answers(client).len() == 1);
    assert_eq!(world.answers(client)[0].status, 503);
    world.run(Duration::from_secs(2));
    assert_eq!(world.seen.len(), 1, "a pod saw it, and no second one may");
    assert_eq!(
        world.nodes[node].core.next_deadline().filter(|due| *due <= world.now),
        None,
        "nothing is due for ever"
    );
    world.assert_nothing_left();
}

#[test]
fn a_pod_is_no_proxy() {
    let mut world = web_on(&[1], 6);
    world.snapshot.callers.push((1, caller_ip(1)));
    world.publish();
    let (now, here) = (world.now, SocketAddr::new(node_ip(1), L2_PORT));
    for (ip, is_taken) in [(caller_ip(1), false), (node_ip(0), true)] {
        let taken = world.nodes[1].core.accepted(Role::L2, SocketAddr::new(ip, 4000), here, now);
        assert_eq!(taken.is_some(), is_taken, "{ip}");
    }
}

/// Bodies that trickle in cost what they have brought, and nobody waits for them.
#[test]
fn callers_whose_bodies_trickle_in_hold_little_and_harm_nobody() {
    const COUNT: u32 = 100;
    for node in [0, 1] {
        let mut world = web_on(&[node], 9);
        world.snapshot.protocols.insert("streams".into(), Protocol::Http2);
        world.pod("streams", node, 9);
        world.snapshot.request_timeout = Duration::ZERO;
        world.publish();
        let slow: Vec<usize> = (0..COUNT).map(|_| world.client(0)).collect();
        let (mux, good) = (world.http2_client(0), world.client(0));
        for client in &slow {
            world.send(*client, b"POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
        world.speak(mux, |mux| {
            for i in 0..COUNT - 1 {
                mux.request(2 * i + 1, ("POST", "streams", "/echo"), Framing::Chunked, &fields(&[]));
            }
        });
        for round in 0..30 {
            for client in &slow {
                world.send(*client, b"1\r\nx\r\n");
            }
            world.speak(mux, |mux| {
                for i in 0..COUNT - 1 {
                    mux.part(2 * i + 1, b"x");
                }
            });
            world.run(Duration::from_secs(1));
            let started = world.now;
            assert_eq!(world.ask(good, &post("/echo", b"quick")).body, b"quick", "round {round}");
            assert!(world.now.since(started) < Duration::from_millis(50), "nobody waits for them");
            for i in [0, node] {
                let held = buffered(&world, i);
                assert!(held < 2 * COUNT as usize * 1024, "node {i} holds {held} bytes");
            }
        }
        // They have their answers in the end.
        for client in &slow {
            world.send(*client, b"0\r\n\r\n");
        }
        world.until("all answers", |w| slow.iter().all(|client| w.answers(*client).len() == 1));
        assert!(slow.iter().all(|client| world.answers(*client)[0].body == [b'x'; 30]));
        world.speak(mux, |mux| {
            for i in 0..COUNT - 1 {
                mux.body(2 * i + 1, b"", None);
            }
        });
        world.until("all streams", |w| w.clients[mux].mux.as_ref().unwrap().over.len() == COUNT as usize - 1);
        world.assert_nothing_left();
    }
}
