//! Limits on calls a second: for all, for each caller, for a rule; each node by itself, through changes of the configuration.

use vicino_wire::head::Framing;

use super::*;
use crate::rate::{RateKey, RateLimit};
use crate::rules::{PathTest, Rule, Rules, Test};

fn limited(key: Option<RateKey>) -> World {
    let mut world = web_on(&[0, 1], 1);
    world.snapshot.rate_limit = Some(RateLimit { per_second: 10, burst: 3, key });
    world.publish();
    world
}

fn statuses(world: &mut World, client: usize, count: usize, request: &[u8]) -> Vec<u16> {
    (0..count).map(|_| world.ask(client, request).status).collect()
}

#[test]
fn calls_beyond_the_limit_are_told_when_to_come_again() {
    let mut world = limited(None);
    let client = world.client(0);
    assert_eq!(statuses(&mut world, client, 4, &get("/")), [200, 200, 200, 429]);
    let answer = world.ask(client, &get("/"));
    assert_eq!(answer.field("vicino-error"), Some("rate-limited"));
    assert_eq!(answer.field("retry-after"), Some("1"));
    // Another configuration changes nothing of what was let through; another node has a limit of its own.
    world.publish();
    assert_eq!(world.ask(client, &get("/")).status, 429);
    let elsewhere = world.client(1);
    assert_eq!(world.ask(elsewhere, &get("/")).status, 200);
    world.run(Duration::from_millis(100));
    assert_eq!(statuses(&mut world, client, 2, &get("/")), [200, 429]);
    let seen = world.seen.len();
    assert_eq!(seen, 5, "what is refused reaches no pod");
    world.assert_nothing_left();
}

#[test]
fn each_key_has_its_own() {
    let mut world = limited(Some(RateKey::Header("x-user".into())));
    let client = world.client(0);
    let of = |user: &str| format!("GET / HTTP/1.1\r\nHost: web\r\n{user}\r\n").into_bytes();
    for user in ["x-user: a\r\n", "X-User: b\r\n", ""] {
        assert_eq!(statuses(&mut world, client, 4, &of(user)), [200, 200, 200, 429], "{user}");
    }
    // All pods of a simulated cluster run as the same account.
    for (key, status) in [(RateKey::Source, 200), (RateKey::ServiceAccount, 429)] {
        let mut world = limited(Some(key));
        let (one, same) = (world.client(0), world.client(0));
        world.snapshot.callers.push((0, "10.1.0.77".parse().unwrap()));
        world.publish();
        let other = world.client_from("10.1.0.77".parse().unwrap(), 0);
        assert_eq!(statuses(&mut world, one, 3, &get("/")), [200; 3]);
        assert_eq!(world.ask(same, &get("/")).status, 429, "the same pod on another connection");
        assert_eq!(world.ask(other, &get("/")).status, status, "another pod");
    }
}

#[test]
fn a_rule_has_a_limit_of_its_own_and_so_have_streams() {
    let mut world = limited(None);
    let rule = |per_second| Rule {
        name: "quick".into(),
        times: TIMES,
        rate_limit: Some(RateLimit { per_second, burst: 1, key: None }),
        ..Rule::default()
    };
    let quick = Test { path: PathTest::prefix("/quick"), ..Test::default() };
    let rules = Rules::new(vec![
        (rule(1), vec![quick]),
        (Rule { rate_limit: None, ..rule(1) }, vec![Test::default()]),
    ]);
    let backends = vec![vec![("web".to_owned(), 1)], vec![("web".to_owned(), 1)]];
    world.snapshot.rules.insert("web".into(), (rules, backends));
    world.publish();
    let client = world.client(0);
    assert_eq!(statuses(&mut world, client, 2, &get("/quick")), [200, 429]);
    assert_eq!(
        statuses(&mut world, client, 4, &get("/")),
        [200, 200, 200, 429],
        "the others share the route's"
    );
    let client = world.http2_client(0);
    let grpc = fields(&[("content-type", "application/grpc")]);
    world.speak(client, |mux| mux.request(1, ("POST", "web", "/"), Framing::None, &grpc));
    world.until("an answer", |w| !w.heard(client).is_empty());
    let Said::Response { status, fields, .. } = &world.heard(client)[0] else { panic!("no response") };
    assert_eq!(
        (*status, fields.iter().find(|(n, _)| n == "grpc-status").map(|f| f.1.as_str())),
        (200, Some("14"))
    );
}

#[test]
fn rules_without_a_name_have_limits_of_their_own() {
    let mut world = limited(None);
    let rule = |per_second| Rule {
        times: TIMES,
        rate_limit: Some(RateLimit { per_second, burst: per_second, key: None }),
        ..Rule::default()
    };
    let at = |path: &str| vec![Test { path: PathTest::prefix(path), ..Test::default() }];
    let rules = Rules::new(vec![
        (rule(1), at("/slow")),
        (rule(1000), at("/quick")),
        (Rule { rate_limit: None, ..rule(1) }, at("/")),
    ]);
    let backends = vec![vec![("web".to_owned(), 1)]; 3];
    world.snapshot.rules.insert("web".into(), (rules, backends));
    world.publish();
    let client = world.client(0);
    assert_eq!(statuses(&mut world, client, 2, &get("/slow")), [200, 429]);
    assert_eq!(statuses(&mut world, client, 4, &get("/quick")), [200; 4], "not what /slow has used up");
    assert_eq!(statuses(&mut world, client, 4, &get("/")), [200, 200, 200, 429], "the route's own");
    // The same value of another field is another key.
    for field in ["x-user", "x-tenant"] {
        let key = Some(RateKey::Header(field.into()));
        world.snapshot.rules.clear();
        world.snapshot.rate_limit = Some(RateLimit { per_second: 1, burst: 1, key });
        world.publish();
        let ask = format!("GET / HTTP/1.1\r\nHost: web\r\n{field}: a\r\n\r\n");
        assert_eq!(statuses(&mut world, client, 2, ask.as_bytes()), [200, 429], "{field}");
    }
}
