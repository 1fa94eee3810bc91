//! Calls that failed are repeated: only those that may be, where it may help, within their time and their budget.

use super::*;
use crate::retry::Retry;

/// A second attempt for every call.
fn twice() -> Retry {
    Retry {
        attempts: 1,
        codes: vec![502, 503, 504],
        is_for_any_method: false,
        attempt_ns: 0,
        backoff_ns: 10_000_000,
        budget_percent: 100,
        min_per_second: 1000,
    }
}

/// Callers on node 0, pods of `web` as given: node and number; 55 is ill, 56 hangs.
fn world_with(pods: &[(usize, u8)], retry: Retry, seed: u64) -> World {
    let mut world = World::new(3, seed);
    for (node, i) in pods {
        world.pod("web", *node, *i);
    }
    world.snapshot.retry = Some(retry);
    world.publish();
    world
}

fn retries(world: &World) -> (u64, u64) {
    let tally = world.nodes[0].core.tally();
    (tally.retries.get(), tally.retries_denied.get())
}

#[test]
fn a_call_that_an_ill_pod_failed_is_saved_by_another() {
    for ill in [0, 1] {
        let mut world = world_with(&[(ill, 55), (2, 1)], twice(), 1);
        let client = world.client(0);
        for _ in 0..40 {
            let answer = world.ask(client, &get("/echo"));
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let at_ill = world.seen.iter().filter(|seen| seen.pod == pod_address(ill, 55)).count() as u64;
        assert!(at_ill > 5, "{at_ill}");
        assert_eq!(retries(&world), (at_ill, 0));
        assert_eq!(world.seen.len() as u64, 40 + at_ill);
        world.assert_nothing_left();
    }
}

#[test]
fn what_must_not_be_done_twice_is_not_unless_the_route_says_so() {
    let mut world = world_with(&[(1, 55), (2, 1)], twice(), 2);
    let client = world.client(0);
    let body = pattern(30_000);
    let mut failed = 0;
    for _ in 0..30 {
        let answer = world.ask(client, &post("/echo", &body));
        failed += usize::from(answer.status == 503 && answer.body == b"ill");
    }
    assert!(failed > 5 && retries(&world) == (0, 0));

    world.snapshot.retry = Some(Retry { is_for_any_method: true, ..twice() });
    world.publish();
    let before = world.seen.len();
    for _ in 0..30 {
        let answer = world.ask(client, &post("/echo", &body));
        assert_eq!((answer.status, &answer.body), (200, &body));
    }
    assert!(
        world.seen[before..].iter().all(|seen| seen.body == body && seen.is_complete),
        "each attempt has all of it"
    );
    // What is longer than what is kept is not repeated.
    let long = pattern(300_000);
    let answers: Vec<_> = (0..20).map(|_| world.ask(client, &post("/echo", &long)).status).collect();
    assert!(answers.contains(&503) && answers.contains(&200), "{answers:?}");
    world.assert_nothing_left();
}

#[test]
fn attempts_are_counted_and_the_last_answer_is_the_applications_own() {
    for pods in [&[(1, 55)][..], &[(1, 55), (2, 55)], &[(0, 55)]] {
        let mut world = world_with(pods, Retry { attempts: 3, ..twice() }, 3);
        let client = world.client(0);
        let answer = world.ask(client, &get("/"));
        assert_eq!((answer.status, &answer.body[..], answer.field("vicino-error")), (503, &b"ill"[..], None));
        assert_eq!(world.seen.len(), 4, "{pods:?}: where there is no other pod, the same one is asked again");
        world.assert_nothing_left();
    }
}

#[test]
fn failures_of_our_own_are_repeated_too() {
    let mut world = world_with(&[(1, 1)], Retry { attempts: 2, ..twice() }, 4);
    let client = world.client(0);
    let answer = world.ask(client, &get("/die"));
    assert_eq!((answer.status, answer.field("vicino-error")), (502, Some("upstream-closed")));
    assert_eq!((world.seen.len(), retries(&world).0), (3, 2));
    // No endpoint now, one a moment later.
    let pods = world.snapshot.endpoints.insert("web".into(), Vec::new());
    world.publish();
    world.snapshot.retry = Some(Retry { backoff_ns: 500_000_000, ..twice() });
    world.publish();
    world.send(client, &get("/"));
    world.run(Duration::from_millis(100));
    world.snapshot.endpoints.extend(pods.map(|pods| ("web".to_owned(), pods)));
    world.publish();
    world.until("the answer", |w| w.answers(client).len() == 2);
    let answer = &world.answers(client)[1];
    assert_eq!(
        (answer.status, answer.field("vicino-error")),
        (503, Some("no-endpoint")),
        "a call sees one snapshot"
    );
    world.assert_nothing_left();
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up() {
    let quick = Retry { attempt_ns: 50_000_000, ..twice() };
    let mut world = world_with(&[(1, 56), (2, 1)], quick.clone(), 5);
    let client = world.client(0);
    for _ in 0..20 {
        let started = world.now;
        assert_eq!(world.ask(client, &get("/")).status, 200);
        assert!(world.now.since(started) < Duration::from_millis(70));
    }
    assert!(retries(&world).0 > 3);
    world.assert_nothing_left();

    let mut world = world_with(&[(1, 56)], quick, 6);
    let client = world.client(0);
    let started = world.now;
    let answer = world.ask(client, &get("/"));
    let took = world.now.since(started);
    assert_eq!((answer.status, answer.field("vicino-error")), (504, Some("timeout")));
    assert!(took > Duration::from_millis(104) && took < Duration::from_millis(115), "{took:?}");
    // The time of an attempt is that to the head: a body may take longer.
    let mut world = world_with(&[(1, 1)], Retry { attempt_ns: 20_000_000, ..twice() }, 7);
    world.net = Net { latency_us: (1000, 1000), segment_max: 2000 };
    let client = world.client(0);
    let answer = world.ask(client, &get("/bytes/500000"));
    assert_eq!((answer.status, answer.body.len()), (200, 500_000));
}

#[test]
fn no_attempt_begins_that_the_time_of_the_call_does_not_allow() {
    let mut world = world_with(&[(1, 55)], Retry { backoff_ns: 2_000_000_000, ..twice() }, 8);
    world.snapshot.request_timeout = Duration::from_millis(500);
    world.publish();
    let client = world.client(0);
    let started = world.now;
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, &answer.body[..]), (503, &b"ill"[..]), "its answer is better than none");
    assert!(world.now.since(started) < Duration::from_millis(50));
    assert_eq!(retries(&world), (0, 0));
}

#[test]
fn a_service_that_is_down_is_not_beaten() {
    let retry =
        Retry { attempts: 5, backoff_ns: 1_000_000, budget_percent: 20, min_per_second: 1, ..twice() };
    let mut world = world_with(&[(1, 55), (2, 55)], retry, 9);
    let (calls, started) = (400, world.now);
    for i in 0..calls {
        let client = world.client(0);
        assert_eq!(world.ask(client, &get("/")).status, 503);
        world.reset_client(client);
        // Configuration that changes all the time makes no budget larger.
        if i % 10 == 0 {
            world.publish();
        }
    }
    let seconds = world.now.since(started).as_secs() + 1;
    let extra = world.seen.len() as u64 - calls;
    let allowed = calls / 5 + (1 + seconds);
    assert!(extra <= allowed && extra + 5 >= calls / 5, "{extra} of {allowed}");
    let (granted, denied) = retries(&world);
    assert_eq!(granted, extra);
    assert!(denied >= calls - extra, "{denied}");
}

#[test]
fn a_caller_that_goes_while_its_call_waits_leaves_nothing_behind() {
    let mut world = world_with(&[(1, 55)], Retry { backoff_ns: 1_000_000_000, ..twice() }, 10);
    let client = world.client(0);
    world.send(client, &get("/"));
    world.until("the first attempt", |w| !w.seen.is_empty());
    world.run(Duration::from_millis(100));
    world.reset_client(client);
    world.run(Duration::from_secs(3));
    assert_eq!(world.seen.len(), 1);
    world.assert_nothing_left();
}

#[test]
fn a_grpc_call_that_fails_at_once_is_saved_by_another_pod() {
    use vicino_wire::head::Framing;
    let retry = Retry { is_for_any_method: true, ..twice() };
    let mut world = world_with(&[(0, 57), (1, 57), (2, 1)], retry, 1);
    world.snapshot.protocols.insert("web".into(), Protocol::Http2);
    world.publish();
    let client = world.http2_client(0);
    let grpc = fields(&[("content-type", "application/grpc")]);
    for i in 0..30 {
        world.speak(client, |mux| mux.request(2 * i + 1, ("POST", "web", "/a.B/C"), Framing::None, &grpc));
        world.run(Duration::from_millis(100));
    }
    let (saved, _) = retries(&world);
    assert!(saved > 10, "{saved} were repeated");
    let is_unavailable = |said: &&Said| {
        let Said::Response { fields, .. } = said else { return false };
        fields.iter().any(|(name, value)| name == "grpc-status" && value == "14")
    };
    let failed = world.heard(client).iter().filter(is_unavailable).count();
    // One of two ill pods, and then the other: a call is repeated once.
    assert!(failed < 12, "{failed} of 30 failed although {saved} were repeated");
    world.assert_nothing_left();
}

/// A world in which `web` has these pods, which speak HTTP/2, and calls of any method are repeated twice.
fn grpc_world(pods: &[(usize, u8)]) -> World {
    let retry = Retry { is_for_any_method: true, ..twice() };
    let mut world = world_with(pods, retry, 1);
    world.snapshot.protocols.insert("web".into(), Protocol::Http2);
    world.publish();
    world
}

/// A unary call with this message.
fn call(world: &mut World, client: usize, stream: u32, message: &[u8]) {
    use vicino_wire::head::Framing;
    let grpc = fields(&[("content-type", "application/grpc")]);
    world.speak(client, |mux| {
        mux.request(stream, ("POST", "web", "/echo"), Framing::Chunked, &grpc);
        mux.body(stream, message, None);
    });
    world.until("its end", |w| w.clients[client].mux.as_ref().unwrap().over.contains(&stream));
}

#[test]
fn a_grpc_call_whose_trailers_say_that_it_failed_is_saved_with_its_message() {
    let message = pattern(30_000);
    for node in [0, 1] {
        let mut world = grpc_world(&[(node, 63), (2, 1)]);
        let client = world.http2_client(0);
        for i in 0..20 {
            call(&mut world, client, 2 * i + 1, &message);
        }
        let (saved, _) = retries(&world);
        assert!(saved > 3, "{saved} were repeated");
        let echoed: usize = world
            .heard(client)
            .iter()
            .map(|said| if let Said::Data { bytes, .. } = said { bytes.len() } else { 0 })
            .sum();
        assert_eq!(
            echoed,
            20 * message.len(),
            "each was answered by the pod that is well, with what it was sent"
        );
        let heads = world.heard(client).iter().filter(|said| matches!(said, Said::Response { .. })).count();
        assert_eq!(heads, 20, "of the attempts that failed nothing is heard");
        assert!(world.seen.iter().all(|seen| seen.body == message));
        world.assert_nothing_left();
    }
}

#[test]
fn a_grpc_call_that_has_answered_something_is_not_repeated() {
    for node in [0, 1] {
        let mut world = grpc_world(&[(node, 64)]);
        let client = world.http2_client(0);
        call(&mut world, client, 1, b"hello");
        assert_eq!((retries(&world).0, world.seen.len()), (0, 1));
        let heard = world.heard(client);
        assert!(heard.iter().any(|said| matches!(said, Said::Data { bytes, .. } if bytes == b"abc")));
        let is_told = |said: &Said| matches!(said, Said::Trailers { fields, .. } if fields.iter().any(|(n, v)| n == "grpc-status" && v == "14"));
        assert!(heard.iter().any(is_told), "{heard:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn the_head_of_a_grpc_call_that_goes_on_waits_for_nothing() {
    use crate::sim::mux::Mux;
    use vicino_wire::head::Framing;
    for node in [0, 1] {
        let mut world = grpc_world(&[(node, 1)]);
        let client = world.http2_client(0);
        let grpc = fields(&[("content-type", "application/grpc")]);
        world.speak(client, |mux| mux.request(1, ("POST", "web", "/hang"), Framing::None, &grpc));
        world.until("it began", |w| w.seen.len() == 1);
        let mut mux = Mux::new(false);
        mux.out.clear();
        mux.response(1, 200, Framing::Chunked, &grpc);
        world.pods[0].say(&mux.out);
        world.run(Duration::from_millis(10));
        let has_head =
            |world: &World| world.heard(client).iter().any(|said| matches!(said, Said::Response { .. }));
        assert!(has_head(&world), "the caller has the head while the pod thinks");
        mux.out.clear();
        mux.body(1, b"", Some(fields(&[("grpc-status", "14")])));
        world.pods[0].say(&mux.out);
        world.until("its end", |w| w.clients[client].mux.as_ref().unwrap().over.contains(&1));
        assert_eq!((retries(&world).0, world.seen.len()), (0, 1), "it is not repeated any more");
    }
}
