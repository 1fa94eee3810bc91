//! Copies of calls for another Service, which nobody waits for; and changes to heads by backend.

use vicino_wire::head::Framing;

use super::*;
use crate::exchange::MIRRORS_MAX;
use crate::rules::{HeaderEdit, Rule, Rules, Test};
use crate::snapshot::{Concurrency, Edits};

/// A pod that takes `/shadow/hang` for `/hang`, and so on.
const SHADOW: u8 = 62;

/// `web` on node 1 with one rule for everything, of which copies go to `shadow` on the node given.
pub(super) fn mirrored(shadow: usize, percent: u8, seed: u64) -> World {
    let mut world = World::new(3, seed);
    world.pod("web", 1, 1);
    world.pod("shadow", shadow, SHADOW);
    let rule = Rule { times: TIMES, mirror_percent: percent, ..Rule::default() };
    let rules = Rules::new(vec![(rule, vec![Test::default()])]);
    world.snapshot.rules.insert("web".into(), (rules, vec![vec![("web".into(), 1)]]));
    world.snapshot.mirrors.insert("web".into(), "shadow".into());
    world.publish();
    world
}

fn seen_by(world: &World, pod: SocketAddr) -> Vec<(String, Vec<u8>)> {
    let seen = world.seen.iter().filter(|seen| seen.pod == pod && seen.is_complete);
    seen.map(|seen| (seen.head.lines().next().unwrap_or_default().to_owned(), seen.body.clone())).collect()
}

fn mirror_counts(world: &World) -> (u64, u64) {
    let of = |node: &super::super::NodeSim| {
        let tally = node.core.tally();
        (tally.mirrored.get(), tally.mirrors_skipped.get())
    };
    world.nodes.iter().map(of).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[test]
fn a_copy_is_what_the_application_gets_too() {
    for shadow in [0, 1, 2] {
        let mut world = mirrored(shadow, 100, 1);
        let client = world.client(0);
        let chunked = b"POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n";
        for request in [get("/echo"), post("/echo", b"hello"), chunked.to_vec(), get("/bytes/200000")] {
            assert_eq!(world.ask(client, &request).status, 200);
        }
        world.run(Duration::from_secs(2));
        let copies = seen_by(&world, pod_address(shadow, SHADOW));
        assert_eq!(copies, seen_by(&world, pod_address(1, 1)), "shadow on {shadow}");
        assert_eq!(copies.len(), 4);
        assert_eq!(mirror_counts(&world), (4, 0));
        world.assert_nothing_left();
    }
}

#[test]
fn what_is_said_in_http2_is_copied_too() {
    let mut world = mirrored(2, 100, 2);
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        mux.request(1, ("POST", "web", "/echo"), Framing::Chunked, &mux::fields(&[]));
        mux.body(1, b"hello", None);
    });
    world.until("an answer", |w| w.clients[client].mux.as_ref().is_some_and(|mux| mux.over.contains(&1)));
    world.run(Duration::from_secs(1));
    assert_eq!(seen_by(&world, pod_address(2, SHADOW)), seen_by(&world, pod_address(1, 1)));
    world.assert_nothing_left();
}

/// The mirror hangs, dies, refuses or is full: callers do not notice.
#[test]
fn whatever_becomes_of_a_copy_the_call_is_served() {
    for (path, shadow) in
        [("/hang", 2), ("/hang", 0), ("/die", 2), ("/cut", 1), ("/bad", 0), ("/slow/5000", 2)]
    {
        let mut world = mirrored(shadow, 100, 3);
        let client = world.client(0);
        for _ in 0..10 {
            let started = world.now;
            assert_eq!(
                world.ask(client, &post(&format!("/shadow{path}"), b"hello")).status,
                200,
                "{path} on {shadow}"
            );
            assert!(world.now.since(started) < Duration::from_millis(100), "{path} on {shadow}");
        }
        world.run(Duration::from_secs(40));
        world.assert_nothing_left();
    }
    // No such pod at all.
    let mut world = mirrored(2, 100, 4);
    world.snapshot.endpoints.remove("shadow");
    world.publish();
    let client = world.client(0);
    assert_eq!(world.ask(client, &get("/echo")).status, 200);
    world.assert_nothing_left();
}

#[test]
fn copies_are_bounded_in_share_size_and_number() {
    let mut world = mirrored(2, 30, 5);
    let client = world.client(0);
    for _ in 0..300 {
        assert_eq!(world.ask(client, &get("/echo")).status, 200);
    }
    world.run(Duration::from_secs(1));
    let copies = seen_by(&world, pod_address(2, SHADOW)).len();
    assert!((60..120).contains(&copies), "{copies} of 300 at 30 %");

    let mut world = mirrored(2, 100, 6);
    let client = world.client(0);
    assert_eq!(world.ask(client, &post("/echo", &pattern(300_000))).status, 200);
    world.run(Duration::from_secs(1));
    assert_eq!(mirror_counts(&world), (0, 1), "more than is kept of a request is not copied");
    assert!(seen_by(&world, pod_address(2, SHADOW)).is_empty());

    let mut world = mirrored(2, 100, 7);
    world.snapshot.concurrency = Some(Concurrency {
        per_pod: 1,
        queue_length: 9999,
        queue_timeout_ns: 60_000_000_000,
        standing_timeout_ns: 0,
        adaptive: None,
    });
    world.publish();
    let client = world.client(0);
    let calls = u64::from(MIRRORS_MAX) + 20;
    for _ in 0..calls {
        assert_eq!(world.ask(client, &get("/shadow/hang")).status, 200);
    }
    let (sent, skipped) = mirror_counts(&world);
    assert!(sent <= u64::from(MIRRORS_MAX) && sent + skipped == calls, "{sent} and {skipped}");
    world.run(Duration::from_secs(90));
    world.assert_nothing_left();
}

/// Calls to one backend go with fields that those to the other have not, also when they are placed again.
#[test]
fn changes_by_backend_are_made_where_a_call_goes() {
    let fields = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    for node in [0, 1] {
        let mut world = World::new(3, 8);
        world.pod("web", node, 1);
        world.pod("canary", 2, 7);
        let edits = Edits {
            request: HeaderEdit {
                set: fields(&[("x-tier", "canary")]),
                remove: vec!["x-secret".into()],
                ..HeaderEdit::default()
            },
            response: HeaderEdit { add: fields(&[("x-from", "canary")]), ..HeaderEdit::default() },
        };
        world.snapshot.services.insert("web".into(), vec![("web".into(), 1), ("canary".into(), 1)]);
        world.snapshot.edits.insert("canary".into(), std::sync::Arc::new(edits));
        world.publish();
        for old in [true, false] {
            let mut tiers = std::collections::BTreeSet::new();
            for _ in 0..20 {
                let client = world.client(0);
                let before = world.seen.len();
                let answer = world.ask(
                    client,
                    b"POST /echo HTTP/1.1\r\nHost: web\r\nx-secret: 1\r\nContent-Length: 2\r\n\r\nhi",
                );
                assert_eq!((answer.status, &answer.body[..]), (200, &b"hi"[..]));
                let seen = &world.seen[before];
                let is_canary = seen.pod == pod_address(2, 7);
                assert_eq!(seen.head.contains("x-tier: canary"), is_canary, "{}", seen.head);
                assert_eq!(seen.head.contains("x-secret"), !is_canary, "{}", seen.head);
                assert_eq!(answer.field("x-from"), is_canary.then_some("canary"));
                tiers.insert(is_canary);
            }
            if old {
                assert_eq!(tiers.len(), 2);
                // Without pods of its own, all of web's calls are the canary's.
                world.snapshot.endpoints.remove("web");
                world.publish();
            } else {
                assert_eq!(tiers.len(), 1, "all are the canary's");
            }
        }
        world.assert_nothing_left();
    }
}
