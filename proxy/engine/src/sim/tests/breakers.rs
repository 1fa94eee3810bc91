//! Pods that fail again and again are left out, tried again one call at a time, and used all the same when there are no others.

use super::*;
use crate::breaker::Breaker;
use crate::snapshot::Concurrency;

/// A pod that answers 503 to everything, one that does so at first, and one that is well.
const ILL: u8 = 55;
const ILL_AT_FIRST: u8 = 58;
const WELL: u8 = 1;

fn world(pods: &[(usize, u8)], seed: u64) -> World {
    let mut world = World::new(3, seed);
    for (node, pod) in pods {
        world.pod("web", *node, *pod);
    }
    world.snapshot.breaker = Some(Breaker {
        codes: vec![500, 502, 503, 504],
        consecutive_failures: 3,
        failure_percent: 0,
        minimum_calls: 20,
        ejection_ns: 10_000_000_000,
        ejection_max_ns: 60_000_000_000,
        ejected_percent: 50,
    });
    world.publish();
    world
}

/// How many of `count` calls, one after the other, were answered with 200.
fn good(world: &mut World, client: usize, count: usize) -> usize {
    (0..count).filter(|_| world.ask(client, &get("/")).status == 200).count()
}

fn calls_to(world: &World, pod: u8) -> usize {
    world.seen.iter().filter(|seen| seen.pod.ip().to_string().ends_with(&format!(".{pod}"))).count()
}

#[test]
fn an_ill_pod_is_left_out_after_a_few_failures_and_tried_with_one_call_at_a_time() {
    // On the caller's node, both on another, each on one of its own.
    for pods in [[(0, ILL), (0, WELL)], [(1, ILL), (1, WELL)], [(1, ILL), (2, WELL)]] {
        for concurrency in [
            None,
            Some(Concurrency {
                per_pod: 5,
                queue_length: 9,
                queue_timeout_ns: 1_000_000_000,
                standing_timeout_ns: 0,
                adaptive: None,
            }),
        ] {
            let mut world = world(&pods, 3);
            world.snapshot.concurrency = concurrency;
            world.publish();
            let client = world.client(0);
            good(&mut world, client, 40);
            assert_eq!(calls_to(&world, ILL), 3, "{pods:?}");
            assert_eq!(good(&mut world, client, 40), 40, "{pods:?}: it is left out");
            world.run(Duration::from_secs(11));
            assert!(good(&mut world, client, 40) >= 39, "one call tries it");
            assert_eq!(calls_to(&world, ILL), 4, "{pods:?}");
            world.run(Duration::from_secs(11));
            assert_eq!(good(&mut world, client, 40), 40, "{pods:?}: it is out for twice as long");
            let ejections: u64 = world.nodes.iter().map(|n| n.core.tally().ejections.get()).sum();
            assert_eq!(ejections, 2);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_pod_that_is_well_again_has_its_share_again() {
    let mut world = world(&[(1, ILL_AT_FIRST), (1, WELL)], 5);
    if let Some(breaker) = &mut world.snapshot.breaker {
        breaker.ejection_max_ns = breaker.ejection_ns;
    }
    world.publish();
    let client = world.client(0);
    good(&mut world, client, 20);
    // Three calls put it out; of those that try it, each after ten seconds, the first ones fail, too.
    for _ in 3..ILL_CALLS {
        world.run(Duration::from_secs(11));
        good(&mut world, client, 5);
    }
    assert_eq!(calls_to(&world, ILL_AT_FIRST), ILL_CALLS);
    world.run(Duration::from_secs(11));
    assert_eq!(good(&mut world, client, 40), 40, "the next one finds it well");
    let again = calls_to(&world, ILL_AT_FIRST) - ILL_CALLS;
    assert!((10..=30).contains(&again), "it had {again} of 40 calls");
    world.assert_nothing_left();
}

#[test]
fn when_all_are_out_all_are_in() {
    for pods in [&[(0, ILL)][..], &[(1, ILL)], &[(0, ILL), (1, ILL), (2, ILL)]] {
        for per_pod in [None, Some(2)] {
            let mut world = world(pods, 7);
            world.snapshot.concurrency = per_pod.map(|per_pod| Concurrency {
                per_pod,
                queue_length: 9,
                queue_timeout_ns: 1_000_000_000,
                standing_timeout_ns: 0,
                adaptive: None,
            });
            world.publish();
            let client = world.client(0);
            for _ in 0..30 {
                let answer = world.ask(client, &get("/"));
                assert_eq!(
                    (answer.status, &answer.body[..]),
                    (503, &b"ill"[..]),
                    "{pods:?}: {}",
                    answer.head
                );
            }
            assert_eq!(world.seen.len(), 30, "every call reached a pod, once");
            world.assert_nothing_left();
        }
    }
}

#[test]
fn callers_that_give_up_say_nothing_of_a_pod() {
    let mut world = world(&[(1, WELL)], 9);
    for _ in 0..10 {
        let client = world.client(0);
        world.send(client, &get("/hang"));
        world.run(Duration::from_millis(20));
        world.reset_client(client);
        world.run(Duration::from_millis(20));
    }
    let ejections: u64 = world.nodes.iter().map(|n| n.core.tally().ejections.get()).sum();
    assert_eq!(ejections, 0);
    world.assert_nothing_left();
}

#[test]
fn a_pod_that_takes_no_connection_or_dies_of_calls_is_left_out() {
    let mut refuses = world(&[(1, 2), (1, WELL)], 4);
    refuses.listeners.insert(pod_address(1, 2), Listener::Refuses);
    let client = refuses.client(0);
    assert_eq!(good(&mut refuses, client, 40), 40, "the call goes to the other one");
    let failed = |world: &World| {
        world.nodes[1].events.iter().filter(|e| matches!(e, Event::DialFailed { .. })).count()
    };
    assert_eq!(failed(&refuses), 3, "and after three nobody tries it any more");

    let mut dies = world(&[(1, WELL)], 4);
    let client = dies.client(0);
    for _ in 0..3 {
        assert_eq!(dies.ask(client, &get("/die")).status, 502);
    }
    let is_ejected = |event: &Event| matches!(event, Event::Ejected { .. });
    assert!(dies.nodes[1].events.iter().any(is_ejected), "{:?}", dies.nodes[1].events);
    refuses.assert_nothing_left();
    dies.assert_nothing_left();
}
