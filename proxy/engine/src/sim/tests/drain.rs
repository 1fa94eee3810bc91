//! Stopping: nobody's request fails, everybody goes, and what stays is cut in the end.

use vicino_wire::head::Framing;

use super::*;

#[test]
fn draining_l2_under_load_fails_no_request() {
    for seed in 0..4 {
        let mut world = web_on(&[1, 2], seed);
        let clients: Vec<usize> = (0..20).map(|_| world.client(0)).collect();
        let mut sent = 0;
        for round in 0..30 {
            for client in &clients {
                world.send(*client, &if round % 2 == 0 { get("/slow/3") } else { post("/slow/3", b"x") });
            }
            sent += clients.len();
            if round == 10 {
                world.run(Duration::from_millis(1));
                let (now, end) = (world.now, world.now + Duration::from_secs(20));
                world.nodes[1].core.drain(now, end);
                // The old process lets its listener go: the orchestrator has taken its node for not ready.
                world.listeners.insert(SocketAddr::new(node_ip(1), L2_PORT), Listener::Refuses);
                world.turn(1);
            }
            world.until("all", |w| clients.iter().map(|c| w.answers(*c).len()).sum::<usize>() == sent);
        }
        let failed = clients.iter().flat_map(|c| world.answers(*c)).filter(|a| a.status != 200).count();
        assert_eq!(failed, 0, "seed {seed}");
        assert!(world.nodes[1].core.is_idle(), "the hop closed when it was empty");
        world.assert_nothing_left();
    }
}

#[test]
fn draining_l1_says_close_and_lets_idle_callers_go() {
    let mut world = web_on(&[1], 1);
    let (busy, idle, last) = (world.client(0), world.client(0), world.client(0));
    for client in [idle, last] {
        world.ask(client, &get("/"));
    }
    world.send(busy, &get("/slow/3000"));
    world.run(Duration::from_millis(100));
    let (now, end) = (world.now, world.now + Duration::from_secs(20));
    world.nodes[0].core.drain(now, end);
    world.turn(0);
    let answer = world.ask(last, &get("/"));
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    world.until("the idle one's end", |w| w.clients[idle].is_closed);
    assert!(world.now.since(now) < Duration::from_millis(2100) && !world.nodes[0].core.is_idle());
    world.until("the busy one's end", |w| w.clients[busy].is_closed);
    assert_eq!(world.answers(busy)[0].field("connection"), Some("close"));
    world.run(Duration::from_millis(50));
    assert!(world.nodes[0].core.is_idle());
    world.assert_nothing_left();
}

#[test]
fn nobody_waits_for_copies() {
    // On the own node the copy is with a pod, on the other one on a hop.
    for shadow in [0, 1] {
        let mut world = super::mirrors::mirrored(shadow, 100, 3);
        let client = world.client(0);
        assert_eq!(world.ask(client, &get("/shadow/hang")).status, 200);
        assert!(!world.nodes[0].core.is_idle(), "the copy is still open");
        let (now, end) = (world.now, world.now + Duration::from_secs(20));
        world.nodes[0].core.drain(now, end);
        world.turn(0);
        world.until("the caller's end", |w| w.clients[client].is_closed);
        world.run(Duration::from_millis(50));
        assert!(world.now.since(now) < Duration::from_secs(3) && world.nodes[0].core.is_idle(), "{shadow}");
        world.run(Duration::from_secs(40));
        world.assert_nothing_left();
    }
}

#[test]
fn a_held_caller_of_http2_is_told_too() {
    let mut world = web_on(&[1], 2);
    let client = world.http2_client(0);
    let callers = std::mem::take(&mut world.snapshot.callers);
    world.publish();
    world.speak(client, |mux| mux.request(1, ("GET", "web", "/"), Framing::None, &mux::fields(&[])));
    world.run(Duration::from_millis(500));
    assert_eq!(world.nodes[0].core.tally().held.get(), 1);
    let (now, end) = (world.now, world.now + Duration::from_secs(20));
    world.nodes[0].core.drain(now, end);
    world.turn(0);
    world.run(Duration::from_millis(500));
    world.snapshot.callers = callers;
    world.publish();
    world.until("an answer", |w| {
        w.heard(client).iter().any(|said| matches!(said, Said::Response { status: 200, .. }))
    });
    world.until("the end", |w| w.clients[client].is_closed);
    assert!(world.now.since(now) < Duration::from_secs(4), "{:?}", world.now.since(now));
    world.run(Duration::from_millis(50));
    assert!(world.nodes[0].core.is_idle());
    world.assert_nothing_left();
}

#[test]
fn heads_in_pieces_do_not_put_the_end_off() {
    let mut world = web_on(&[1], 2);
    let client = world.http2_client(0);
    let ask = |mux: &mut mux::Mux, stream, path| {
        mux.request(stream, ("GET", "web", path), Framing::None, &mux::fields(&[]));
    };
    world.speak(client, |mux| ask(mux, 1, "/slow/9000"));
    world.run(Duration::from_millis(100));
    let (now, end) = (world.now, world.now + Duration::from_secs(20));
    world.nodes[0].core.drain(now, end);
    world.turn(0);
    let heads = |stream: u32, kind: u8, flags: u8, part: &[u8]| {
        let stream = stream.to_be_bytes();
        [&[0, 0, part.len() as u8, kind, flags][..], &stream, part].concat()
    };
    let goaways = |world: &World| {
        let is_goaway = |said: &&Said| matches!(said, Said::GoAway { .. });
        world.heard(client).iter().filter(is_goaway).count()
    };
    let mut stream = 3;
    world.speak(client, |mux| mux.out.extend(heads(stream, 1, 1, b"\x82")));
    while goaways(&world) < 2 && world.now.since(now) < Duration::from_secs(6) {
        world.run(Duration::from_millis(900));
        // There is never none that is begun.
        world.speak(client, |mux| {
            mux.out.extend(heads(stream, 9, 4, b"\x86"));
            mux.out.extend(heads(stream + 2, 1, 1, b"\x82"));
        });
        stream += 2;
    }
    assert!(world.now.since(now) < Duration::from_secs(3), "{:?}", world.now.since(now));
    world.until("the end", |w| w.clients[client].is_closed);
    let is_answered = |said: &Said| matches!(said, Said::Response { stream: 1, status: 200, .. });
    assert!(world.heard(client).iter().any(is_answered), "what was begun is answered");
}

#[test]
fn what_is_left_at_the_deadline_is_cut() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 2);
        let client = world.client(0);
        world.send(client, &get("/hang"));
        world.run(Duration::from_millis(100));
        for i in [0, 1] {
            let (now, end) = (world.now, world.now + Duration::from_secs(5));
            world.nodes[i].core.drain(now, end);
            world.turn(i);
        }
        world.until("the end", |w| w.clients[client].is_closed);
        let answer = world.answers(client).remove(0);
        assert!(answer.status >= 502 && answer.field("vicino-error").is_some(), "{answer:?}");
        world.run(Duration::from_secs(5));
        assert!(world.nodes.iter().all(|n| n.core.is_idle()));
        world.assert_nothing_left();
    }
}
