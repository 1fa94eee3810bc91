//! What calls are given out by, where the route says something else than the least in flight.

use std::collections::BTreeMap;

use super::*;
use crate::balance::Algorithm;

/// Callers on every node; one pod on node 0, two on node 1, three on node 2.
fn world_with(algorithm: Algorithm, seed: u64) -> World {
    let mut world = World::new(3, seed);
    for (i, node) in [0, 1, 1, 2, 2, 2].into_iter().enumerate() {
        world.pod("web", node, i as u8 + 1);
    }
    world.snapshot.algorithm = algorithm;
    world.publish();
    world
}

/// How many of a node's calls, one after the other, each pod has.
fn counts(world: &mut World, node: usize, calls: usize, path: &str) -> BTreeMap<SocketAddr, usize> {
    let client = world.client(node);
    let before = world.seen.len();
    for _ in 0..calls {
        assert_eq!(world.ask(client, &get(path)).status, 200);
    }
    world.reset_client(client);
    let mut counts = BTreeMap::new();
    for seen in &world.seen[before..] {
        *counts.entry(seen.pod).or_default() += 1;
    }
    counts
}

#[test]
fn one_after_the_other_each_pod_has_exactly_its_share() {
    for seed in 0..5 {
        let mut world = world_with(Algorithm::RoundRobin, seed);
        for node in [0, 1, 2] {
            let counts = counts(&mut world, node, 60, "/echo");
            assert!(counts.len() == 6 && counts.values().all(|n| *n == 10), "from node {node}: {counts:?}");
        }
    }
}

/// A busy pod has its turn all the same, and so it has by lot.
#[test]
fn turns_and_lots_do_not_look_at_what_is_in_flight() {
    for (algorithm, least) in [(Algorithm::RoundRobin, 20), (Algorithm::Random, 8)] {
        let mut world = world_with(algorithm, 3);
        let busy = pod_address(1, 2);
        world.slots[&busy].acquire();
        let counts = counts(&mut world, 0, 120, "/echo");
        assert!(counts.len() == 6 && counts.values().all(|n| *n >= least), "{algorithm:?}: {counts:?}");
        world.slots[&busy].release();
    }
    let mut world = world_with(Algorithm::LeastRequest, 3);
    let busy = pod_address(1, 2);
    world.slots[&busy].acquire();
    let counts = counts(&mut world, 0, 120, "/echo");
    assert!(!counts.contains_key(&busy), "{counts:?}");
    world.slots[&busy].release();
}

/// A pod that takes fifty times as long as others for `/slow/N`.
const SLOW: u8 = 60;

/// That pod and another one, on the nodes given.
fn slow_and_quick(nodes: [usize; 2], seed: u64) -> (World, SocketAddr) {
    let mut world = World::new(3, seed);
    world.pod("web", nodes[0], SLOW);
    world.pod("web", nodes[1], 1);
    world.snapshot.algorithm = Algorithm::PeakEwma;
    world.publish();
    (world, pod_address(nodes[0], SLOW))
}

#[test]
fn pods_and_nodes_that_take_long_have_fewer_calls() {
    for (nodes, from) in [([1, 1], 0), ([1, 1], 1), ([1, 2], 0), ([0, 1], 0)] {
        let (mut world, slow) = slow_and_quick(nodes, 4);
        // Each call alone, so that nothing is in flight to go by.
        let counts = counts(&mut world, from, 100, "/slow/2");
        let of_slow = counts.get(&slow).copied().unwrap_or(0);
        assert!((1..10).contains(&of_slow), "{nodes:?} from {from}: {counts:?}");
    }
}

/// What was slow once is asked again, since what is known of it fades.
#[test]
fn a_pod_that_was_slow_comes_back() {
    for nodes in [[1, 1], [1, 2]] {
        let (mut world, slow) = slow_and_quick(nodes, 5);
        let before = counts(&mut world, 0, 50, "/slow/10").get(&slow).copied().unwrap_or(0);
        assert!((1..5).contains(&before), "{nodes:?}: {before}");
        world.run(Duration::from_mins(2));
        let after = counts(&mut world, 0, 100, "/echo").get(&slow).copied().unwrap_or(0);
        assert!(after > 0, "{nodes:?}: {after}");
    }
}
