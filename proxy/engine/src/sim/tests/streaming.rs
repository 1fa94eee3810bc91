//! Back-pressure: who reads slowly is waited for, and nobody else is; what is held of memory is bounded.

use super::*;

/// What all connections of a node hold of memory.
pub(super) fn buffered(world: &World, node: usize) -> usize {
    let conns = world.nodes[node].core.net.table.iter();
    let kept: usize = world.nodes[node].core.exchanges.iter().map(|(_, e)| e.request.kept.len()).sum();
    conns.map(|(_, conn)| conn.pending() + conn.input.len()).sum::<usize>() + kept
}

#[test]
fn a_caller_that_does_not_read_holds_up_nobody_and_little_memory() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 1);
        let (slow, fast) = (world.client(0), world.client(0));
        world.clients[slow].is_stalled = true;
        world.send(slow, &get("/bytes/5000000"));
        world.run(Duration::from_secs(2));
        for round in 0..50 {
            assert_eq!(world.ask(fast, &get("/bytes/20000")).body.len(), 20_000, "round {round}");
        }
        for (i, bound) in [(0, 600_000), (1, 600_000)] {
            let held = buffered(&world, i);
            assert!(held < bound, "node {i} holds {held} bytes");
        }
        world.clients[slow].is_stalled = false;
        world.until("all of it", |w| w.answers(slow).len() == 1);
        assert_eq!(world.answers(slow)[0].body, pattern(5_000_000));
        world.assert_nothing_left();
    }
}

#[test]
fn a_pod_that_does_not_read_stops_its_caller_and_nobody_else() {
    for node in [0, 1] {
        let mut world = web_on(&[node, node], 2);
        let body = pattern(3_000_000);
        let (slow, fast) = (world.client(0), world.client(0));
        world.send(slow, b"POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 3000000\r\n\r\n");
        world.until("it began", |w| !w.seen.is_empty());
        world.pods[0].is_stalled = true;
        world.send(slow, &body);
        world.run(Duration::from_secs(2));
        for _ in 0..20 {
            assert_eq!(world.ask(fast, &get("/")).status, 200);
        }
        for i in [0, 1] {
            let held = buffered(&world, i);
            assert!(held < 700_000, "node {i} holds {held} bytes");
        }
        world.pods[0].is_stalled = false;
        world.until("all of it", |w| w.answers(slow).len() == 1);
        assert_eq!(world.answers(slow)[0].body, body);
        world.assert_nothing_left();
    }
}

#[test]
fn many_streams_share_a_hop() {
    let mut world = web_on(&[1, 1, 1], 3);
    let clients: Vec<usize> = (0..50).map(|_| world.client(0)).collect();
    for (i, client) in clients.iter().enumerate() {
        let body = pattern(1000 * i + 1);
        world.send(*client, &post("/echo", &body));
    }
    world.until("all", |w| clients.iter().all(|c| w.answers(*c).len() == 1));
    for (i, client) in clients.iter().enumerate() {
        assert_eq!(world.answers(*client)[0].body, pattern(1000 * i + 1));
    }
    assert_eq!(world.nodes[0].core.tally().hops_dialed.opened.get(), 1);
    world.assert_nothing_left();
}

#[test]
fn idle_connections_own_no_buffers() {
    let mut world = web_on(&[0, 1], 4);
    let clients: Vec<usize> = (0..20).map(|_| world.client(0)).collect();
    for client in &clients {
        world.ask(*client, &get("/bytes/1000"));
    }
    for node in [0, 1] {
        for (_, conn) in world.nodes[node].core.net.table.iter() {
            assert!(conn.owns_no_buffer(), "{conn:?}");
        }
    }
}
