//! Rules of routes, on the whole way of a call: where it goes, what the pod and the caller see, and faults on purpose.

use super::*;
use crate::rules::{Action, Fault, HeaderEdit, PathEdit, PathTest, Redirect, Rule, Rules, Test, ValueTest};
use crate::tally::Counter;

const SECOND: u64 = 1_000_000_000;

fn prefix(text: &str) -> Vec<Test> {
    vec![Test { path: PathTest::prefix(text), ..Test::default() }]
}

fn rule(name: &str) -> Rule {
    Rule { name: name.into(), times: TIMES, ..Rule::default() }
}

fn fields(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

/// `web` and `canary` with a pod each, `web` with these rules; what goes on goes to the Service named.
fn world_with(rules: Vec<(Rule, Vec<Test>, &str)>, seed: u64) -> World {
    let mut world = web_on(&[1], seed);
    world.pod("canary", 1, 7);
    let backends = rules.iter().map(|(.., to)| vec![((*to).to_owned(), 1)]).collect();
    let rules = Rules::new(rules.into_iter().map(|(rule, tests, _)| (rule, tests)).collect());
    world.snapshot.rules.insert("web".into(), (rules, backends));
    world.publish();
    world
}

fn with_header(name: &str, value: &str) -> Vec<Test> {
    let headers = vec![(name.into(), ValueTest::Exact(value.into()))];
    vec![Test { headers, ..Test::default() }]
}

#[test]
fn calls_go_where_their_rule_says() {
    let canary = world_rules();
    let mut world = world_with(canary, 1);
    let client = world.client(0);
    for (request, status, to) in [
        ("GET /v1 HTTP/1.1\r\nHost: web\r\n\r\n", 200, Some(1)),
        ("GET /v1 HTTP/1.1\r\nHost: web\r\nX-Canary: yes\r\n\r\n", 200, Some(1)),
        ("GET /other HTTP/1.1\r\nHost: web\r\nX-Canary: yes\r\n\r\n", 200, Some(7)),
        ("GET /other HTTP/1.1\r\nHost: web\r\nX-Canary: no\r\n\r\n", 404, None),
        ("GET / HTTP/1.1\r\nHost: canary\r\n\r\n", 200, Some(7)),
    ] {
        let before = world.seen.len();
        let answer = world.ask(client, request.as_bytes());
        assert_eq!(answer.status, status, "{request}");
        let pod = world.seen.get(before).map(|seen| seen.pod);
        assert_eq!(pod, to.map(|i| pod_address(1, i)), "{request}");
        let reason = answer.field("vicino-error");
        assert_eq!(reason, to.is_none().then_some("no-matching-rule"), "{request}");
    }
    world.assert_nothing_left();
}

fn world_rules() -> Vec<(Rule, Vec<Test>, &'static str)> {
    vec![(rule("canary"), with_header("x-canary", "yes"), "canary"), (rule("v1"), prefix("/v1"), "web")]
}

#[test]
fn a_plan_that_was_made_for_one_request_does_not_serve_another_rule() {
    let mut world = world_with(world_rules(), 2);
    let client = world.client(0);
    // One authority, two rules, in turn: the plan is kept by authority.
    for round in 0..6 {
        let path = if round % 2 == 0 { "GET /v1" } else { "GET /x" };
        let request = format!("{path} HTTP/1.1\r\nHost: web\r\nx-canary: yes\r\n\r\n");
        world.ask(client, request.as_bytes());
    }
    let pods: Vec<_> = world.seen.iter().map(|seen| seen.pod).collect();
    let (web, canary) = (pod_address(1, 1), pod_address(1, 7));
    assert_eq!(pods, [web, canary, web, canary, web, canary]);
}

#[test]
fn pod_and_caller_see_what_the_rule_makes_of_heads() {
    let edited = Rule {
        request: HeaderEdit {
            remove: vec!["cookie".into()],
            set: fields(&[("X-Tier", "gold")]),
            add: fields(&[("x-more", "1")]),
        },
        response: HeaderEdit {
            remove: vec!["server".into()],
            set: fields(&[("x-served-by", "the mesh")]),
            add: vec![],
        },
        host: Some("inner.example".into()),
        path: Some(PathEdit::Prefix("/v2".into())),
        ..rule("edited")
    };
    let mut world = world_with(vec![(edited, prefix("/api"), "web")], 3);
    let client = world.client(0);
    let body = pattern(10_000);
    let mut request = b"POST /api/echo?a=b HTTP/1.1\r\nHost: web\r\nCookie: secret\r\nx-tier: tin\r\nContent-Length: 10000\r\n\r\n".to_vec();
    request.extend_from_slice(&body);
    let answer = world.ask(client, &request);
    assert_eq!((answer.status, answer.field("x-served-by")), (200, Some("the mesh")));
    let seen = &world.seen[0];
    assert!(seen.head.starts_with("POST /v2/echo?a=b HTTP/1.1\r\nHost: inner.example\r\n"), "{}", seen.head);
    for (field, count) in
        [("X-Tier: gold\r\n", 1), ("x-more: 1\r\n", 1), ("tin", 0), ("Cookie", 0), ("x-forwarded-for: ", 1)]
    {
        assert_eq!(seen.head.matches(field).count(), count, "{field} in {}", seen.head);
    }
    assert_eq!(seen.body, body);
    world.assert_nothing_left();
}

#[test]
fn a_call_that_is_placed_again_is_still_edited() {
    let edited = Rule { path: Some(PathEdit::Full("/new".into())), ..rule("edited") };
    let mut world = world_with(vec![(edited, vec![], "web")], 4);
    // The first choice refuses; it goes to another node.
    let refusing = world.pod("web", 0, 2);
    world.listeners.insert(refusing, Listener::Refuses);
    world.publish();
    for _ in 0..10 {
        let client = world.client(0);
        assert_eq!(world.ask(client, &get("/old")).status, 200);
    }
    assert!(world.seen.iter().all(|seen| seen.head.starts_with("GET /new ")), "{:?}", world.seen);
    assert!(world.nodes[0].core.tally().requeues.get() > 0);
}

#[test]
fn rules_answer_by_themselves() {
    let redirect = Redirect {
        status: 301,
        scheme: Some("https"),
        host: None,
        port: None,
        path: Some(PathEdit::Prefix("/new".into())),
    };
    let moved = Rule { action: Action::Redirect(redirect), ..rule("moved") };
    let respond = |status, body: &str| Action::Respond { status, body: body.into() };
    let gone = Rule {
        action: respond(410, "gone for good\n"),
        response: HeaderEdit { set: fields(&[("content-type", "text/x")]), ..HeaderEdit::default() },
        ..rule("gone")
    };
    let empty = Rule { action: respond(204, ""), ..rule("empty") };
    let mut world = world_with(
        vec![
            (moved, prefix("/old"), "web"),
            (gone, prefix("/gone"), "web"),
            (empty, prefix("/empty"), "web"),
        ],
        5,
    );
    let client = world.client(0);
    let answer = world.ask(client, &get("/old/x?y"));
    assert_eq!((answer.status, answer.field("location")), (301, Some("https://web/new/x?y")));
    assert_eq!((answer.body.len(), answer.field("vicino-error")), (0, None));
    let answer = world.ask(client, &get("/gone"));
    assert_eq!((answer.status, answer.field("content-type")), (410, Some("text/x")));
    assert_eq!(answer.body, b"gone for good\n");
    let answer = world.ask(client, &get("/empty"));
    assert_eq!((answer.status, answer.field("content-length")), (204, None));
    // HEAD: the length is told, no body comes, and the next answer is understood.
    world.send(client, b"HEAD /gone HTTP/1.1\r\nHost: web\r\n\r\n");
    world.run(Duration::from_millis(100));
    assert!(world.text(client).contains("Content-Length: 14\r\n\r\n"), "{}", world.text(client));
    let whole = world.text(client);
    world.send(client, &get("/empty"));
    world.until("the last answer", |w| w.text(client).len() > whole.len());
    assert!(world.text(client)[whole.len()..].starts_with("HTTP/1.1 204 No Content\r\n"));
    // A body that nobody wants is read away, so that the connection goes on.
    let other = world.client(0);
    world.ask(other, &post("/gone", &pattern(50_000)));
    assert!(world.seen.is_empty());
    let finished: u64 = world.nodes[0].core.tally().services()[0].by_class.iter().map(Counter::get).sum();
    assert_eq!(finished, 6);
    world.assert_nothing_left();
}

#[test]
fn faults_strike_as_often_as_they_say_and_delays_hold_the_body_back() {
    let fault = Fault { delay_ns: SECOND / 2, delay_percent: 30, abort_status: 418, abort_percent: 50 };
    let mut world = world_with(vec![(Rule { fault, ..rule("faulty") }, vec![], "web")], 6);
    let (mut aborted, mut delayed, mut both) = (0, 0, 0);
    let count = 600;
    for i in 0..count {
        let client = world.client(0);
        let started = world.now;
        let answer = world.ask(client, &post("/echo", &pattern(i * 100)));
        let is_delayed = world.now.since(started) >= Duration::from_millis(500);
        assert!(world.now.since(started) < Duration::from_millis(560), "{:?}", world.now.since(started));
        delayed += usize::from(is_delayed);
        if answer.status == 418 {
            aborted += 1;
            both += usize::from(is_delayed);
            assert_eq!(answer.field("vicino-error"), Some("fault-injected"));
        } else {
            assert_eq!((answer.status, answer.body.len()), (200, i * 100));
        }
        world.reset_client(client);
    }
    assert_eq!(world.seen.len(), count - aborted);
    // Far beyond what chance does: 6 standard deviations.
    assert!((count * 30 / 100).abs_diff(delayed) < 70, "{delayed} delayed");
    assert!((count * 50 / 100).abs_diff(aborted) < 75, "{aborted} aborted");
    assert!((count * 15 / 100).abs_diff(both) < 55, "{both} both");
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

#[test]
fn a_delay_is_part_of_the_time_that_the_route_allows() {
    let fault = Fault { delay_ns: 2 * SECOND, delay_percent: 100, ..Fault::default() };
    let slow = Rule { fault, times: Times { request_ns: SECOND, ..TIMES }, ..rule("slow") };
    let mut world = world_with(vec![(slow, vec![], "web")], 7);
    let client = world.client(0);
    let started = world.now;
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, answer.field("vicino-error")), (504, Some("timeout")));
    assert!(world.now.since(started) < Duration::from_millis(1050));
    // A caller that goes while its call waits leaves nothing behind.
    let client = world.client(0);
    world.send(client, &get("/"));
    world.run(Duration::from_millis(100));
    world.reset_client(client);
    world.run(Duration::from_secs(3));
    assert!(world.seen.is_empty());
    world.assert_nothing_left();
}

#[test]
fn the_time_of_a_rule_is_its_own() {
    let quick = Rule { times: Times { request_ns: SECOND / 10, ..TIMES }, ..rule("quick") };
    let mut world = world_with(vec![(quick, prefix("/slow"), "web"), (rule("rest"), vec![], "web")], 8);
    let client = world.client(0);
    assert_eq!(world.ask(client, &get("/slow/500")).status, 504);
    assert_eq!(world.ask(client, &get("/echo")).status, 200);
}

#[test]
fn a_tunnel_of_another_protocol_goes_to_the_backends_of_the_route() {
    let mut world = world_with(vec![(rule("http"), prefix("/only"), "canary")], 9);
    // A pod that sends back what it gets.
    world.snapshot.endpoints.insert("web".into(), Vec::new());
    world.pod("web", 1, 99);
    world.publish();
    let client = world.client(0);
    world.send(client, b"CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n");
    world.run(Duration::from_millis(50));
    world.send(client, b"GET /only HTTP/1.1\r\nHost: whatever\r\n\r\n");
    world.until("the answer", |w| !w.seen.is_empty());
    assert_eq!(world.seen[0].pod, pod_address(1, 7), "HTTP inside a tunnel falls under rules");
    let client = world.client(0);
    world.send(client, b"CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n");
    world.run(Duration::from_millis(50));
    world.send(client, b"\x16\x03\x01 hello");
    world.until("the echo", |w| w.text(client).ends_with(" hello"));
}

/// A call goes where it asks to go by `vicino-route`, when that is allowed, and nowhere else; the application hears of it.
#[test]
fn a_call_may_ask_for_another_service() {
    for rules in [vec![], vec![(rule("all"), prefix("/"), "web")]] {
        let mut world = web_on(&[1], 9);
        world.pod("canary", 1, 7);
        world.snapshot.overrides = vec![("canary".into(), 0)];
        if !rules.is_empty() {
            let backends = rules.iter().map(|(.., to): &(_, _, &str)| vec![((*to).to_owned(), 1)]).collect();
            let rules = Rules::new(rules.into_iter().map(|(rule, tests, _)| (rule, tests)).collect());
            world.snapshot.rules.insert("web".into(), (rules, backends));
        }
        world.publish();
        let client = world.client(0);
        for (wish, status, to) in [
            ("web=canary", 200, Some(7)),
            ("WEB=canary", 200, Some(1)),
            ("api=x, web.demo=canary.demo", 200, Some(7)),
            ("api=canary", 200, Some(1)),
            ("web=api", 403, None),
        ] {
            let before = world.seen.len();
            let request =
                format!("GET /x HTTP/1.1\r\nHost: web\r\nvicino-route: {wish}\r\nvicino-x: 1\r\n\r\n");
            let answer = world.ask(client, request.as_bytes());
            assert_eq!(answer.status, status, "{wish}");
            assert_eq!(answer.field("vicino-error"), to.is_none().then_some("override-not-allowed"));
            let seen = world.seen.get(before);
            assert_eq!(seen.map(|seen| seen.pod), to.map(|i| pod_address(1, i)), "{wish}");
            let heard = |seen: &Seen| {
                seen.head.contains(&format!("vicino-route: {wish}")) && !seen.head.contains("vicino-x")
            };
            assert!(seen.is_none_or(heard), "{seen:?}");
        }
        // Without it nobody goes there, and with it nobody goes elsewhere.
        for _ in 0..20 {
            let before = world.seen.len();
            assert_eq!(world.ask(client, &get("/x")).status, 200);
            assert_eq!(world.seen[before].pod, pod_address(1, 1));
        }
        world.snapshot.endpoints.remove("canary");
        world.publish();
        let answer = world.ask(client, b"GET /x HTTP/1.1\r\nHost: web\r\nvicino-route: web=canary\r\n\r\n");
        assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("no-endpoint")));
        world.assert_nothing_left();
    }
}
