//! Pods that fail again and again are left out, tried again one call at a time, and used all the same when there are no others.

use super::*;
use crate::breaker::{Breaker, Standing};
use crate::rules::{Rule, Rules, Test};
use crate::snapshot::Concurrency;

/// Pods that answer 503 to everything, one that does so at first, and one that is well.
const ILL: u8 = 55;
const ILL_TOO: u8 = 66;
const ILL_AT_FIRST: u8 = 58;
const WELL: u8 = 1;
const LINE: Concurrency = Concurrency {
    per_pod: 1,
    queue_length: 9,
    queue_timeout_ns: 1_000_000_000,
    standing_timeout_ns: 0,
    adaptive: None,
};

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
        for concurrency in [None, Some(Concurrency { per_pod: 5, ..LINE })] {
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
            world.snapshot.concurrency = per_pod.map(|per_pod| Concurrency { per_pod, ..LINE });
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

/// `web` on node 1 with one rule for everything, by which these answers are failures.
fn with_failures(codes: &[u16], pods: &[(usize, u8)]) -> World {
    let mut world = world(pods, 6);
    let rule = Rule { times: TIMES, failures: Some(codes.into()), ..Rule::default() };
    let rules = Rules::new(vec![(rule, vec![Test::default()])]);
    world.snapshot.rules.insert("web".into(), (rules, vec![vec![("web".into(), 1)]]));
    world.publish();
    world
}

#[test]
fn a_rule_says_which_answers_are_failures_wherever_the_pod_is() {
    for node in [0, 1] {
        let pods = [(node, ILL), (node, WELL)];
        for (codes, is_left_out) in [(&[][..], false), (&[500], false), (&[400, 503], true)] {
            for per_pod in [None, Some(2)] {
                let mut world = with_failures(codes, &pods);
                world.snapshot.concurrency = per_pod.map(|per_pod| Concurrency { per_pod, ..LINE });
                world.publish();
                let client = world.client(0);
                good(&mut world, client, 40);
                let ill = calls_to(&world, ILL);
                assert_eq!(ill == 3, is_left_out, "{codes:?} on {node}: {ill} calls");
                world.assert_nothing_left();
            }
        }
    }
}

/// Ten pods, each on a node of its own or two on each; all but one are ill.
#[test]
fn no_more_than_the_share_of_a_service_is_left_out_wherever_its_pods_are() {
    for (nodes, of_node) in [(10, 1), (5, 2)] {
        for percent in [50, 20] {
            for per_pod in [None, Some(5)] {
                let mut world = World::new(nodes + 1, 11);
                for i in 0..10 {
                    let number = if i == 0 { WELL } else { [ILL, ILL_TOO][i % of_node] };
                    world.pod("web", 1 + i / of_node, number);
                }
                world.snapshot.concurrency = per_pod.map(|per_pod| Concurrency { per_pod, ..LINE });
                world.snapshot.requeues = 5;
                world.snapshot.breaker = Some(Breaker {
                    codes: vec![503],
                    consecutive_failures: 3,
                    failure_percent: 0,
                    minimum_calls: 20,
                    ejection_ns: 600_000_000_000,
                    ejection_max_ns: 600_000_000_000,
                    ejected_percent: percent,
                });
                world.publish();
                let client = world.client(0);
                good(&mut world, client, 100);
                let before = world.seen.len();
                good(&mut world, client, 200);
                let mut pods: Vec<_> = world.seen[before..].iter().map(|seen| seen.pod).collect();
                let well = pods.iter().filter(|pod| **pod == pod_address(1, WELL)).count();
                pods.sort_unstable();
                pods.dedup();
                let out = 10 - pods.len();
                let most = percent as usize / 10;
                let what = format!("{nodes} nodes, {percent} %, {per_pod:?}: {out} are out");
                assert!(out <= most, "{what}, and {most} may be");
                assert!(out > 0, "{what}");
                assert!(well < 200 * 2 / (10 - most), "{what}, the one that is well had {well} of 200 calls");
                world.assert_nothing_left();
            }
        }
    }
}

#[test]
fn a_pod_that_is_out_and_called_all_the_same_is_found_well() {
    for (ill, per_pod) in [(0, None), (1, None), (2, None), (0, Some(5)), (1, Some(5)), (2, Some(5))] {
        let pods = [0, 1, 2].map(|node| (node, if node == ill { ILL } else { ILL_AT_FIRST }));
        let mut world = world(&pods, 3);
        world.snapshot.concurrency = per_pod.map(|per_pod| Concurrency { per_pod, ..LINE });
        let breaker = world.snapshot.breaker.as_mut().unwrap();
        (breaker.ejection_ns, breaker.ejection_max_ns) = (1_000_000_000, 1_000_000_000);
        world.publish();
        let client = world.client(0);
        // One of three may be out. All of them are, by the word of their nodes, which is never forgotten while there are calls.
        for _ in 0..80 {
            good(&mut world, client, 3);
            world.run(Duration::from_millis(100));
        }
        for (node, _) in pods.into_iter().filter(|(node, _)| *node != ill) {
            let slot = &world.slots[&pod_address(node, ILL_AT_FIRST)];
            assert_eq!(slot.health.standing(world.now), Standing::In, "the one on node {node}, {per_pod:?}");
        }
        assert_eq!(good(&mut world, client, 40), 40, "the one that is ill is the one that is out");
        world.assert_nothing_left();
    }
}

/// A pod is put out by the calls that it refuses, is well then, and is called as often once it may be tried.
fn out_and_tried_again(world: &mut World, pod: SocketAddr, mut call: impl FnMut(&mut World)) {
    world.listeners.insert(pod, Listener::Refuses);
    call(world);
    assert_eq!(world.slots[&pod].health.standing(world.now), Standing::Out, "{pod}");
    world.listeners.insert(pod, Listener::Pod);
    world.run(Duration::from_secs(11));
    call(world);
}

/// A tunnel, or a long answer, may try a pod for hours: that it is answered says enough.
#[test]
fn a_pod_is_in_again_once_the_call_that_tries_it_is_answered() {
    for nodes in [[0, 0], [1, 1], [1, 2]] {
        let mut world = world(&[], 7);
        world.snapshot.breaker.as_mut().expect("it is there").ejected_percent = 50;
        let ill = world.pod("echo", nodes[0], 99);
        let well = pod_address(nodes[1], 98);
        world.listeners.insert(well, Listener::Pod);
        world.snapshot.endpoints.get_mut("echo").expect("it is there").push((nodes[1], well));
        world.snapshot.protocols.insert("echo".into(), crate::snapshot::Protocol::Opaque);
        world.publish();
        let open = |world: &mut World, count: usize| {
            for _ in 0..count {
                let client = world.client(0);
                world.send(client, b"CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n");
                world.run(Duration::from_millis(20));
            }
        };
        out_and_tried_again(&mut world, ill, |world| open(world, 20));
        assert!(world.slots[&ill].in_flight() > 5, "{nodes:?}: {}", world.slots[&ill].in_flight());
    }
}

/// Of a gRPC call a head says nothing yet; its first message does.
#[test]
fn a_pod_is_in_again_once_the_grpc_call_that_tries_it_has_a_message() {
    use crate::sim::mux::Mux;
    use vicino_wire::head::Framing;
    const TRIED: u8 = 2;
    for nodes in [[0, 0], [1, 1], [1, 2]] {
        let mut world = world(&[(nodes[0], TRIED), (nodes[1], WELL)], 7);
        world.snapshot.protocols.insert("web".into(), crate::snapshot::Protocol::Http2);
        world.publish();
        let tried = pod_address(nodes[0], TRIED);
        let grpc = fields(&[("content-type", "application/grpc")]);
        let client = world.http2_client(0);
        let mut stream = 1;
        let mut open = |world: &mut World, count: usize| {
            for _ in 0..count {
                world
                    .speak(client, |mux| mux.request(stream, ("POST", "web", "/hang"), Framing::None, &grpc));
                stream += 2;
                world.run(Duration::from_millis(20));
            }
        };
        out_and_tried_again(&mut world, tried, |world| open(world, 20));
        assert_eq!(calls_to(&world, TRIED), 1, "{nodes:?}: one tries it");
        let pod = world.pods.iter().position(|pod| pod.address == tried).expect("it is called");
        let mut mux = Mux::new(false);
        mux.out.clear();
        mux.response(1, 200, Framing::Chunked, &grpc);
        world.pods[pod].say(&mux.out);
        open(&mut world, 20);
        assert_eq!(calls_to(&world, TRIED), 1, "{nodes:?}: it has not said anything");
        mux.out.clear();
        mux.part(1, b"abc");
        world.pods[pod].say(&mux.out);
        open(&mut world, 20);
        assert!(calls_to(&world, TRIED) > 5, "{nodes:?}: {}", calls_to(&world, TRIED));
    }
}
