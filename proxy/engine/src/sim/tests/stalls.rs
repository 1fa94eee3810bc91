//! Proxies that stand still for seconds and go on, as under SIGSTOP or on a machine that was paused: a neighbour that does is
//! taken for lost after a while; one that did itself blames nobody.

use super::*;

/// What came of calls that are over, by status and reason, with how often.
fn outcomes(world: &World, clients: &[usize]) -> BTreeMap<(u16, String), usize> {
    let mut all = BTreeMap::new();
    for answer in clients.iter().flat_map(|client| world.answers(*client)) {
        *all.entry((answer.status, answer.field("vicino-error").unwrap_or_default().to_owned()))
            .or_default() += 1;
    }
    all
}

fn served(count: usize) -> BTreeMap<(u16, String), usize> {
    [((200, String::new()), count)].into()
}

fn hops_lost(world: &World) -> usize {
    let events = world.nodes.iter().flat_map(|node| &node.events);
    events.filter(|event| matches!(event, Event::HopDown { .. })).count()
}

#[test]
fn a_neighbour_that_stands_still_delays_calls_and_loses_only_what_may_have_begun() {
    for (nodes, seed) in [(&[1, 2][..], 1), (&[1], 2)] {
        let mut world = web_on(nodes, seed);
        let warm = world.client(0);
        world.ask(warm, &get("/"));
        let begun: Vec<usize> = (0..20).map(|_| world.client(0)).collect();
        for client in &begun {
            let request = if client % 2 == 0 { get("/slow/50") } else { post("/slow/50", b"x") };
            world.send(*client, &request);
        }
        world.run(Duration::from_millis(20));
        world.nodes[1].is_frozen = true;
        // One call every 20 ms while it stands still.
        let mut during = Vec::new();
        for _ in 0..200 {
            let client = world.client(0);
            world.send(client, &get("/"));
            during.push(client);
            world.run(Duration::from_millis(20));
        }
        world.thaw(1);
        let thawed = world.now;
        world.until("all", |w| begun.iter().chain(&during).all(|client| !w.answers(*client).is_empty()));
        assert!(world.now.since(thawed) < Duration::from_millis(200), "nobody waits for more than the thaw");
        assert_eq!(outcomes(&world, &during), served(200), "what may be done twice is placed again, or late");
        for (key, count) in outcomes(&world, &begun) {
            let is_lost = key == (502, "hop-lost".to_owned()) && count <= 10;
            assert!(is_lost || key.0 == 200, "{key:?}: {count}; only the POSTs may be lost");
        }
        let client = world.client(0);
        for _ in 0..20 {
            assert_eq!(world.ask(client, &post("/echo", b"x")).status, 200);
        }
        world.run(Duration::from_secs(10));
        world.assert_nothing_left();
    }
}

#[test]
fn calls_wait_for_a_neighbour_that_stands_still_before_its_hop_is_made() {
    for (nodes, is_secure, seed) in
        [(&[1][..], false, 1), (&[1], true, 2), (&[1, 2], false, 3), (&[1, 2], true, 4)]
    {
        let mut world = web_on(nodes, seed);
        if is_secure {
            world.snapshot.secure = [0, 1, 2].into();
            world.snapshot.callers.push((0, caller_ip(0)));
            world.snapshot.pods.insert(caller_ip(0), ("uid-a".to_owned(), "a".to_owned()));
            world.publish();
            identity::certify(&mut world, &[("a", 1)], false);
        }
        world.nodes[1].is_frozen = true;
        let clients: Vec<usize> = (0..180).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &post("/echo", b"once"));
            world.run(Duration::from_millis(25));
        }
        let what = format!("pods on {nodes:?}, with TLS: {is_secure}");
        if nodes.len() > 1 {
            let all = |w: &World| clients.iter().all(|client| !w.answers(*client).is_empty());
            assert!(all(&world), "{what}: another node has pods, and none waits to the end");
        }
        world.thaw(1);
        world.run(Duration::from_millis(200));
        assert_eq!(outcomes(&world, &clients), served(180), "{what}");
        assert_eq!(world.seen.len(), 180, "{what}");
        world.run(Duration::from_secs(10));
        world.assert_nothing_left();
    }
}

#[test]
fn a_proxy_that_stood_still_blames_nobody_for_the_silence() {
    for stands_still in [&[0][..], &[0, 1], &[1, 0]] {
        for (stop_ms, path) in
            [(2500, "/slow/100"), (3500, "/slow/100"), (20_000, "/slow/100"), (3500, "/slow/9000")]
        {
            // A caller's proxy alone that is silent for three seconds with calls open is the callee's proxy's to judge.
            if stands_still == [0] && path == "/slow/9000" {
                continue;
            }
            let mut world = web_on(&[1], 3);
            let clients: Vec<usize> = (0..50).map(|_| world.client(0)).collect();
            for client in &clients {
                world.send(*client, &post(path, b"once"));
            }
            world.run(Duration::from_millis(20));
            for node in stands_still {
                world.nodes[*node].is_frozen = true;
            }
            world.run(Duration::from_millis(stop_ms));
            for node in stands_still {
                world.thaw(*node);
            }
            world.until("all", |w| clients.iter().all(|client| !w.answers(*client).is_empty()));
            let what = format!("{stands_still:?} for {stop_ms} ms, {path}");
            assert_eq!(outcomes(&world, &clients), served(50), "{what}");
            assert_eq!((hops_lost(&world), world.seen.len()), (0, 50), "{what}");
            world.run(Duration::from_secs(10));
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_proxy_that_stood_still_still_notices_a_dead_neighbour() {
    let mut world = web_on(&[1], 4);
    let client = world.client(0);
    world.send(client, &get("/hang"));
    world.run(Duration::from_millis(20));
    world.listeners.insert(SocketAddr::new(node_ip(1), L2_PORT), Listener::Silent);
    world.nodes[1].is_frozen = true;
    world.nodes[0].is_frozen = true;
    world.run(Duration::from_secs(20));
    world.thaw(0);
    let thawed = world.now;
    world.until("an answer", |w| !w.answers(client).is_empty());
    assert!(world.now.since(thawed) < Duration::from_secs(6), "three looks and a dial");
    assert_eq!(world.answers(client)[0].field("vicino-error"), Some("connect-failed"));
}
