//! Any seed: whatever the network does, every request gets exactly one outcome, bodies are whole, and nothing is left over.

use proptest::prelude::*;

use super::*;
use crate::retry::{Hedge, Retry};
use crate::snapshot::Concurrency;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Refuse(u8),
    Silence(u8),
    Heal(u8),
    ClosePods,
    FreezeNode,
    ThawNode,
    /// The callers' own proxy, for some seconds.
    StandStill(u64),
    RemovePod,
    ResetCaller(u8),
    Drain,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (1_u8..=4).prop_map(Fault::Refuse),
        (1_u8..=4).prop_map(Fault::Silence),
        (1_u8..=4).prop_map(Fault::Heal),
        Just(Fault::ClosePods),
        Just(Fault::FreezeNode),
        Just(Fault::ThawNode),
        (1_u64..6).prop_map(Fault::StandStill),
        Just(Fault::RemovePod),
        (0_u8..6).prop_map(Fault::ResetCaller),
        Just(Fault::Drain),
    ]
}

fn retry() -> impl Strategy<Value = Retry> {
    (1_u32..4, any::<bool>(), 0_u64..3000, 0_u64..500).prop_map(
        |(attempts, is_any, attempt_ms, backoff_ms)| Retry {
            attempts,
            codes: vec![502, 503, 504],
            is_for_any_method: is_any,
            attempt_ns: attempt_ms * 1_000_000,
            backoff_ns: backoff_ms * 1_000_000,
            budget_percent: 100,
            min_per_second: 100,
        },
    )
}

fn request(kind: u8, len: usize, name: &str) -> Vec<u8> {
    let id = format!("Host: web\r\nX-Id: {name}\r\n");
    let body = pattern(len);
    match kind % 4 {
        0 => format!("GET /bytes/{len} HTTP/1.1\r\n{id}\r\n").into_bytes(),
        1 => {
            let head = format!("POST /echo HTTP/1.1\r\n{id}Content-Length: {len}\r\n\r\n");
            [head.as_bytes(), &body].concat()
        }
        2 => {
            let mut out =
                format!("PUT /echo HTTP/1.1\r\n{id}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            for part in body.chunks(1500) {
                out.extend(format!("{:x}\r\n", part.len()).into_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
            out
        }
        _ => format!("GET /slow/{} HTTP/1.1\r\n{id}\r\n", len % 50).into_bytes(),
    }
}

fn apply(world: &mut World, fault: Fault, clients: &[usize]) {
    let node_of = |i: u8| usize::from(i - 1) % 3;
    match fault {
        Fault::Refuse(i) => drop(world.listeners.insert(pod_address(node_of(i), i), Listener::Refuses)),
        Fault::Silence(i) => drop(world.listeners.insert(pod_address(node_of(i), i), Listener::Silent)),
        Fault::Heal(i) => drop(world.listeners.insert(pod_address(node_of(i), i), Listener::Pod)),
        Fault::ClosePods => world.pods.iter_mut().for_each(PodConn::close),
        Fault::FreezeNode => world.nodes[1].is_frozen = true,
        Fault::ThawNode => world.thaw(1),
        Fault::StandStill(seconds) => {
            world.nodes[0].is_frozen = true;
            world.run(Duration::from_secs(seconds));
            world.thaw(0);
        }
        Fault::RemovePod => {
            world.snapshot.endpoints.get_mut("web").expect("it is there").truncate(3);
            world.publish();
        }
        Fault::ResetCaller(i) => {
            let client = clients[usize::from(i) % clients.len()];
            if !world.clients[client].is_closed {
                world.reset_client(client);
            }
        }
        Fault::Drain if world.nodes[2].core.draining.is_none() => {
            let (now, end) = (world.now, world.now + Duration::from_secs(5));
            world.nodes[2].core.drain(now, end);
            world.turn(2);
        }
        Fault::Drain => {}
    }
}

/// Every answer is whole and right, or says what went wrong; a caller that was cut off had a call that had begun.
fn check(world: &World, clients: &[usize], sent: &[(u8, usize)]) {
    for (client, (kind, len)) in clients.iter().zip(sent) {
        let answers = world.answers(*client);
        assert!(answers.len() <= 1, "more answers than requests: {answers:?}");
        let Some(answer) = answers.first() else {
            assert!(world.clients[*client].is_closed, "no outcome");
            continue;
        };
        match answer.status {
            200 if kind % 4 == 3 => assert_eq!(answer.body, b"slow"),
            200 => assert_eq!(answer.body, pattern(*len)),
            502..=504 => assert!(answer.field("vicino-error").is_some(), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    for seen in world.seen.iter().filter(|seen| seen.is_complete && !seen.head.starts_with("GET")) {
        assert_eq!(seen.body, pattern(seen.body.len()), "a body was mixed up");
    }
}

proptest! {
    // 64 cases; PROPTEST_CASES=4000 makes it 1,000.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_has_one_outcome_and_nothing_is_left(
        seed: u64,
        segment_max in prop_oneof![Just(0_usize), 1_usize..40, 100_usize..5000],
        calls in prop::collection::vec((0_u8..4, prop_oneof![0_usize..300, 60_000_usize..200_000]), 6),
        faults in prop::collection::vec((0_u64..60, fault()), 0..8),
        limits in (prop::option::of(1_u32..3), 0_u32..4, 1_u64..3000),
        retry in prop::option::of(retry()),
        hedge_ms in prop::option::of(0_u64..200),
    ) {
        let calls: Vec<(u8, usize)> =
            calls.into_iter().map(|(k, len)| (k, if segment_max > 0 && segment_max < 100 { len % 5000 } else { len })).collect();
        let mut world = World::new(3, seed);
        world.net.segment_max = segment_max;
        world.snapshot.request_timeout = Duration::from_secs(8);
        let (per_pod, queue_length, wait_ms) = limits;
        world.snapshot.concurrency = per_pod.map(|per_pod| Concurrency {
            per_pod,
            queue_length,
            queue_timeout_ns: wait_ms * 1_000_000,
            standing_timeout_ns: 0,
            adaptive: None,
        });
        world.snapshot.retry = retry;
        world.snapshot.hedge =
            hedge_ms.map(|ms| Hedge { delay_ns: ms * 1_000_000, budget_percent: 100, min_per_second: 100 });
        for i in 1..=4 {
            world.pod("web", usize::from(i - 1) % 3, i);
        }
        world.publish();
        let clients: Vec<usize> = calls.iter().map(|_| world.client(0)).collect();
        let (first, second) = clients.split_at(3);
        for (client, (kind, len)) in first.iter().zip(&calls) {
            world.send(*client, &request(*kind, *len, &format!("{client}")));
        }
        for (i, (wait_ms, fault)) in faults.into_iter().enumerate() {
            world.run(Duration::from_millis(wait_ms));
            apply(&mut world, fault, &clients);
            if i == 1 {
                for (client, (kind, len)) in second.iter().zip(&calls[3..]) {
                    world.send(*client, &request(*kind, *len, &format!("{client}")));
                }
            }
        }
        for (client, (kind, len)) in second.iter().zip(&calls[3..]) {
            if world.clients[*client].is_unused() && !world.clients[*client].is_closed {
                world.send(*client, &request(*kind, *len, &format!("{client}")));
            }
        }
        world.until("all outcomes", |w| {
            clients.iter().all(|c| w.clients[*c].is_closed || !w.answers(*c).is_empty())
        });
        check(&world, &clients, &calls);
        world.thaw(1);
        world.run(Duration::from_secs(15));
        world.assert_nothing_left();
    }

    #[test]
    fn only_pods_that_are_listed_get_calls(seed: u64, listed in prop::collection::btree_set(1_u8..=6, 1..5)) {
        let mut world = World::new(3, seed);
        for i in &listed {
            world.pod("web", usize::from(*i) % 3, *i);
        }
        for i in 1..=6 {
            world.listeners.insert(pod_address(usize::from(i) % 3, i), Listener::Pod);
        }
        world.publish();
        let client = world.client(0);
        for _ in 0..20 {
            prop_assert_eq!(world.ask(client, &get("/")).status, 200);
        }
        for seen in &world.seen {
            prop_assert!(listed.iter().any(|i| seen.pod == pod_address(usize::from(*i) % 3, *i)));
        }
        world.assert_nothing_left();
    }
}
