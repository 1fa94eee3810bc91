//! Late binding: a call in line goes to whichever of two nodes has a pod first, once, and nothing is held for one that has begun.

use super::*;
use crate::snapshot::Concurrency;

/// Callers on node 0, one pod of `web` on each node given, one call at a time each.
fn saturated(nodes: &[usize], seed: u64) -> World {
    let mut world = web_on(nodes, seed);
    world.snapshot.concurrency = Some(Concurrency {
        per_pod: 1,
        queue_length: 100,
        queue_timeout_ns: 60_000_000_000,
        standing_timeout_ns: 0,
        adaptive: None,
    });
    world.snapshot.request_timeout = Duration::from_mins(1);
    world.publish();
    world
}

fn late_bound(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.core.tally().late_bound.get()).sum()
}

/// Has a pod of each node busy, for so many milliseconds, as found by asking until all are.
fn occupy(world: &mut World, pods: &[SocketAddr], path: &str) {
    for _ in 0..pods.len() {
        let client = world.client(0);
        world.send(client, &get(path));
        world.run(Duration::from_millis(3));
    }
    assert!(pods.iter().all(|pod| world.slots[pod].in_flight() == 1), "each pod has one");
}

/// Waits until all have an answer, which is 200.
fn all_are_served(world: &mut World, clients: &[usize], what: &str) {
    world.until("all are answered", |w| clients.iter().all(|client| !w.answers(*client).is_empty()));
    let statuses: Vec<u16> = clients.iter().map(|client| world.answers(*client)[0].status).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{what}: {statuses:?}");
}

/// Calls that are answered on the pod that is free first, wherever they were put.
#[test]
fn a_call_in_line_goes_where_a_pod_is_free_first() {
    for nodes in [[1, 2], [0, 1]] {
        for seed in 0..20 {
            let mut world = saturated(&nodes, seed);
            let pods = [pod_address(nodes[0], 1), pod_address(nodes[1], 2)];
            if seed % 2 == 0 {
                // Hops stand; else they are dialled when they are needed.
                occupy(&mut world, &pods, "/slow/20");
                world.run(Duration::from_millis(50));
            }
            let long = world.client(0);
            world.send(long, &get("/slow/5000"));
            world.run(Duration::from_millis(3));
            let short = world.client(0);
            world.send(short, &get("/slow/100"));
            world.run(Duration::from_millis(3));
            let waits = world.client(0);
            let started = world.now;
            world.send(waits, &post("/slow/1", b"hello"));
            world.until("it is answered", |w| !w.answers(waits).is_empty());
            assert_eq!(world.answers(waits)[0].status, 200);
            let took = world.now.since(started);
            assert!(took < Duration::from_millis(120), "{nodes:?} {seed}: {took:?}, behind the long one");
            let seen = world.seen.iter().filter(|seen| seen.head.starts_with("POST")).count();
            assert_eq!(seen, 1);
            world.run(Duration::from_secs(6));
            world.assert_nothing_left();
        }
    }
}

#[test]
fn each_call_is_served_once_however_answers_cross() {
    for seed in 0..30 {
        let nodes = [0, 1, 2, 3];
        let mut world = saturated(&nodes, seed);
        let mut clients = Vec::new();
        for i in 0..120 {
            let client = world.client(0);
            world.send(client, &post(&format!("/slow/{}", i % 9), b"hi"));
            clients.push(client);
            world.run(Duration::from_micros(700));
        }
        all_are_served(&mut world, &clients, &format!("{seed}"));
        assert_eq!(world.seen.len(), 120, "{seed}");
        assert!(late_bound(&world) > 0, "{seed}: some have moved");
        world.run(Duration::from_secs(5));
        world.assert_nothing_left();
    }
}

#[test]
fn a_lost_node_loses_no_call_that_waits_elsewhere() {
    for seed in 0..20 {
        let mut world = saturated(&[1, 2, 3], seed);
        let clients: Vec<usize> = (0..40).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get("/slow/20"));
        }
        world.run(Duration::from_millis(30));
        world.reset_hops(0, 1);
        all_are_served(&mut world, &clients, &format!("{seed}"));
        world.run(Duration::from_secs(5));
        world.assert_nothing_left();
    }
}

#[test]
fn callers_that_give_up_leave_both_lines() {
    for seed in 0..20 {
        let mut world = saturated(&[0, 1, 2], seed);
        let clients: Vec<usize> = (0..30).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get("/slow/40"));
            world.run(Duration::from_micros(300));
        }
        for client in &clients[5..] {
            world.reset_client(*client);
        }
        world.run(Duration::from_secs(5));
        assert!(clients[..5].iter().all(|client| world.answers(*client)[0].status == 200));
        assert!(world.seen.len() < 20, "{}: those who went are not served", world.seen.len());
        world.assert_nothing_left();
    }
}

/// A caller's proxy that stands still while a pod is held for its call does not keep the pod from others for long.
#[test]
fn a_pod_is_not_held_for_long() {
    let mut world = saturated(&[1, 2], 1);
    let pods = [pod_address(1, 1), pod_address(2, 2)];
    occupy(&mut world, &pods, "/slow/200");
    let waits = world.client(0);
    world.send(waits, &get("/slow/1"));
    world.run(Duration::from_millis(10));
    world.nodes[0].is_frozen = true;
    world.run(Duration::from_millis(700));
    let held: u32 = pods.iter().map(|pod| world.slots[pod].in_flight()).sum();
    assert!(held <= 1, "{held}");
    world.run(Duration::from_secs(2));
    assert_eq!(pods.iter().map(|pod| world.slots[pod].in_flight()).sum::<u32>(), 0);
    world.thaw(0);
    world.run(Duration::from_secs(2));
    assert_eq!(world.answers(waits)[0].status, 200);
    world.assert_nothing_left();
}

/// What has begun to be sent on is more than is kept: such a call stays where it is.
#[test]
fn a_long_body_stays_or_moves_whole() {
    for (seed, len) in (0..10).flat_map(|seed| [(seed, 50_000), (seed, 200_000)]) {
        let mut world = saturated(&[1, 2, 3], seed);
        let clients: Vec<usize> = (0..12).map(|_| world.client(0)).collect();
        let body = pattern(len);
        for client in &clients {
            world.send(*client, &post("/slow/10", &body));
        }
        all_are_served(&mut world, &clients, &format!("{seed} {len}"));
        assert!(world.seen.iter().all(|seen| seen.body == body), "{seed} {len}");
        world.run(Duration::from_secs(5));
        world.assert_nothing_left();
    }
}
