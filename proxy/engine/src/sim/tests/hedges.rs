//! Calls that take long are sent once more, and the answer that comes first counts, once.

use vicino_wire::head::Framing;

use super::*;
use crate::retry::{Hedge, Retry};

/// Takes fifty times as long as others for `/slow/N`; fails; never answers.
const SLOW: u8 = 60;
const ILL: u8 = 55;
const DEAF: u8 = 56;

/// Once more after 20 ms.
const HEDGE: Hedge = Hedge { delay_ns: 20_000_000, budget_percent: 100, min_per_second: 1000 };

fn world_with(pods: &[(usize, u8)], hedge: Hedge, seed: u64) -> World {
    let mut world = World::new(3, seed);
    for (node, i) in pods {
        world.pod("web", *node, *i);
    }
    world.snapshot.hedge = Some(hedge);
    world.publish();
    world
}

/// Hedges, those that won, those that the budget did not allow.
fn hedges(world: &World) -> (u64, u64, u64) {
    let tally = world.nodes[0].core.tally();
    (tally.hedges.get(), tally.hedges_won.get(), tally.hedges_denied.get())
}

fn put(path: &str, body: &[u8]) -> Vec<u8> {
    let mut out = post(path, body);
    out.splice(..4, *b"PUT");
    out
}

#[test]
fn a_slow_pod_costs_a_call_no_more_than_the_delay() {
    // On the caller's node and elsewhere, in any order; both on one node, where the node's proxy knows which is busy.
    for pods in [
        [(1, SLOW), (2, 1)],
        [(0, SLOW), (1, 1)],
        [(1, SLOW), (0, 1)],
        [(1, SLOW), (1, 1)],
        [(0, SLOW), (0, 1)],
    ] {
        for request in [get("/slow/10"), put("/slow/10", b"hello")] {
            let mut world = world_with(&pods, HEDGE, 1);
            let client = world.client(0);
            for _ in 0..40 {
                let started = world.now;
                let answer = world.ask(client, &request);
                assert_eq!((answer.status, &answer.body[..]), (200, &b"slow"[..]));
                let took = world.now.since(started);
                assert!(took < Duration::from_millis(60), "{pods:?}: {took:?}");
                world.run(Duration::from_millis(600));
            }
            let (sent, won, denied) = hedges(&world);
            assert!(sent > 5 && won == sent && denied == 0, "{pods:?}: {sent} {won} {denied}");
            assert_eq!(world.seen.len() as u64, 40 + sent, "{pods:?}");
            world.assert_nothing_left();
        }
    }
}

#[test]
fn what_is_quick_or_not_idempotent_is_sent_once() {
    let mut world = world_with(&[(1, 1), (2, 2)], HEDGE, 2);
    let client = world.client(0);
    for _ in 0..20 {
        assert_eq!(world.ask(client, &get("/slow/10")).status, 200);
        assert_eq!(world.ask(client, &post("/slow/100", b"hello")).status, 200);
        // Until the answer begins: how long the rest takes says nothing.
        assert_eq!(world.ask(client, &get("/bytes/300000")).status, 200);
    }
    assert_eq!((hedges(&world), world.seen.len()), ((0, 0, 0), 60));
    world.assert_nothing_left();
}

#[test]
fn when_the_first_is_answered_first_it_counts() {
    // Both are slow: the one that was asked first is first.
    let mut world = world_with(&[(1, 1), (2, 2)], HEDGE, 3);
    let client = world.client(0);
    for _ in 0..20 {
        assert_eq!(world.ask(client, &get("/slow/30")).status, 200);
        world.run(Duration::from_millis(100));
    }
    assert_eq!(hedges(&world), (20, 0, 0));
    world.assert_nothing_left();
}

#[test]
fn an_attempt_that_fails_leaves_the_call_to_the_other() {
    for retry in [false, true] {
        for pods in [[(1, DEAF), (2, ILL)], [(1, ILL), (2, DEAF)], [(0, DEAF), (1, ILL)]] {
            let mut world = world_with(&pods, HEDGE, 4);
            world.snapshot.request_timeout = Duration::from_millis(300);
            world.snapshot.retry = retry.then(|| Retry {
                attempts: 1,
                codes: vec![503],
                is_for_any_method: false,
                attempt_ns: 0,
                backoff_ns: 1_000_000,
                budget_percent: 100,
                min_per_second: 100,
            });
            world.publish();
            let client = world.client(0);
            for _ in 0..20 {
                let answer = world.ask(client, &get("/"));
                assert!([503, 504].contains(&answer.status), "{answer:?}");
                world.run(Duration::from_millis(20));
            }
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
    // The first is lost with its node while the second is on its way.
    let mut world = world_with(&[(1, SLOW), (2, 1)], HEDGE, 5);
    let client = world.client(0);
    for _ in 0..20 {
        world.send(client, &get("/slow/40"));
        world.run(Duration::from_millis(30));
        world.reset_hops(0, 1);
        let before = world.answers(client).len();
        world.until("an answer", |w| w.answers(client).len() > before || !w.answers(client).is_empty());
        world.run(Duration::from_secs(3));
    }
    let answers = world.answers(client);
    assert!(answers.len() == 20 && answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    world.assert_nothing_left();
}

#[test]
fn hedges_are_bounded_by_their_budget() {
    let mut world =
        world_with(&[(1, SLOW), (2, SLOW)], Hedge { budget_percent: 10, min_per_second: 0, ..HEDGE }, 6);
    let client = world.client(0);
    for _ in 0..100 {
        assert_eq!(world.ask(client, &get("/slow/1")).status, 200);
    }
    let (sent, _, denied) = hedges(&world);
    assert!((9..=10).contains(&sent) && sent + denied == 100, "{sent} and {denied}");
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

/// A caller that goes takes both attempts along; over HTTP/2 windows move along with the stream.
#[test]
fn callers_may_leave_and_may_speak_http2() {
    let mut world = world_with(&[(1, DEAF), (2, DEAF)], HEDGE, 7);
    for _ in 0..5 {
        let client = world.client(0);
        world.send(client, &get("/"));
        world.run(Duration::from_millis(50));
        world.reset_client(client);
        world.run(Duration::from_millis(50));
    }
    assert_eq!(hedges(&world).0, 5);
    world.assert_nothing_left();

    let mut world = world_with(&[(1, SLOW), (2, 1)], HEDGE, 8);
    let client = world.http2_client(0);
    let streams: Vec<u32> = (0..20).map(|i| 2 * i + 1).collect();
    for stream in &streams {
        world.speak(client, |mux| {
            mux.request(*stream, ("GET", "web", "/slow/10"), Framing::None, &mux::fields(&[]));
        });
    }
    let is_over =
        |w: &World, stream: &u32| w.clients[client].mux.as_ref().is_some_and(|m| m.over.contains(stream));
    let started = world.now;
    world.until("all answers", |w| streams.iter().all(|stream| is_over(w, stream)));
    assert!(world.now.since(started) < Duration::from_millis(200));
    let good =
        world.heard(client).iter().filter(|said| matches!(said, Said::Response { status: 200, .. })).count();
    assert_eq!(good, 20);
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

/// Attempts that are answered at the same time, in parts, in whichever order.
#[test]
fn of_two_answers_one_is_passed_on() {
    for seed in 0..100 {
        let mut world = world_with(&[(0, 1), (1, 2), (2, 3)], Hedge { delay_ns: 0, ..HEDGE }, seed);
        world.net.segment_max = 394;
        let client = world.client(0);
        for len in [60_000, 100, 0] {
            let answer = world.ask(client, &get(&format!("/bytes/{len}")));
            assert!(answer.status == 200 && answer.body == pattern(len), "{seed}: {}", answer.head);
        }
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}
