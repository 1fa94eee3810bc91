//! The binary on real sockets of loopback, configured by a directory: what a person sees who runs it without Kubernetes.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stderr, reason = "a failed test shows the proxies' logs")]

mod backend;
mod client;
mod configuration;
mod dns;
mod egress;
mod parsers;
mod process;
mod secure;

use std::time::Duration;

use backend::Backend;
use client::{Client, get, post, post_with};
use configuration::Configuration;
use process::{Proxy, eventually};
use rustix::process::Signal;
use vicino_crds::contract::CompiledBreaker;
use vicino_proxy::explain::{Explanation, Here};

/// How soon a proxy ends that does not wait until a drain is over, which takes 20 seconds.
const SOONER_THAN_A_DRAIN: Duration = Duration::from_secs(15);

/// Two neighbourhoods, `a` and `b`, and a Service `web` with a pod on each that is named; a pod says its node's name.
struct World {
    a: Proxy,
    b: Proxy,
    pods: [Backend; 2],
    configurations: [Configuration; 2],
}

impl World {
    fn start(with_pod: &[&'static str]) -> Self {
        let pods = [Backend::start("a"), Backend::start("b")];
        let configurations = ["a", "b"].map(Configuration::new);
        for configuration in &configurations {
            configuration.nodes(&["a", "b"]);
            configuration.route("web", 1);
            let all = [("a", pods[0].address()), ("b", pods[1].address())];
            let listed: Vec<_> = all.into_iter().filter(|(node, _)| with_pod.contains(node)).collect();
            configuration.endpoints("web", &listed);
        }
        let [a, b] = [0, 1].map(|i| Proxy::start(&configurations[i], &[]));
        a.is_ready();
        b.is_ready();
        Self { a, b, pods, configurations }
    }
}

#[test]
fn calls_reach_the_pods_of_the_own_node_and_of_the_other() {
    let world = World::start(&["a", "b"]);
    for (only, body) in [("a", "a says /x"), ("b", "b says /x")] {
        let index = usize::from(only == "b");
        world.configurations[0].endpoints("web", &[(only, world.pods[index].address())]);
        eventually("calls go to the only pod", || {
            get(world.a.l1(), "web.default", "/x")
                .is_ok_and(|answer| answer.status == 200 && answer.body == body)
        });
    }
    let metrics = get(world.a.metrics(), "metrics", "/metrics").unwrap().body;
    assert!(!metrics.contains("vicino_proxy_connections_open{side=\"hop_dialed\"} 0"), "{metrics}");
    for line in [
        "vicino_proxy_requests_total{namespace=\"default\",service=\"web\",direction=\"outbound\",class=\"2xx\"}",
        "le=\"+Inf\",namespace=\"default\",service=\"web\",direction=\"outbound\"}",
        "vicino_proxy_ready 1",
        "vicino_proxy_config_age_seconds 0",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    assert_eq!(
        get(world.a.l1(), "nobody.default", "/").unwrap().header("vicino-error"),
        Some("no-such-service")
    );
    drop(world.b);
}

#[test]
fn a_route_that_is_written_is_served_and_a_half_written_one_changes_nothing() {
    let world = World::start(&["a", "b"]);
    let [configuration, _] = &world.configurations;
    configuration.route("late", 1);
    configuration.endpoints("late", &[("a", world.pods[0].address())]);
    let status = |service: &str| get(world.a.l1(), &format!("{service}.default"), "/").map(|a| a.status).ok();
    eventually("the new route is served", || status("late") == Some(200));

    configuration.half_route("late");
    let config = || get(world.a.admin(), "admin", "/config").map(|a| a.body).unwrap_or_default();
    eventually("the culprit is named", || config().contains("routes/default/late.yaml"));
    assert!(config().contains("half-written"));
    assert_eq!(status("late"), Some(200), "the last good one stays");
    let metrics = get(world.a.metrics(), "metrics", "/metrics").unwrap().body;
    assert!(
        metrics.contains("config_document_refused{document=\"routes/default/late.yaml\"} 1"),
        "{metrics}"
    );
    configuration.route("other", 1);
    eventually("others go on being updated", || status("other") == Some(503));

    configuration.no_route("late");
    eventually("a route that is deleted is gone", || status("late") == Some(404));
    assert!(!config().contains("half-written"));
}

#[test]
fn rules_of_a_document_are_served() {
    let world = World::start(&["b"]);
    let [configuration, _] = &world.configurations;
    configuration.route_with(
        "web",
        2,
        &[
            "{matches: [{path: {value: /v1}}], urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}",
            "{matches: [{path: {value: '/[0-9]+', type: RegularExpression}}], directResponse: {statusCode: 418, body: short and stout}}",
            "{matches: [{grpc: {service: a.B, method: C}}], directResponse: {statusCode: 501, body: C}}",
            "{matches: [{grpc: {service: a.B}}], directResponse: {statusCode: 502, body: B}}",
            "{matches: [{path: {value: /old, type: Exact}}], requestRedirect: {hostname: new.example, statusCode: 308}}",
        ],
    );
    let ask = |path: &str| get(world.a.l1(), "web.default", path).unwrap();
    eventually("the rules are in force", || ask("/nothing").status == 404);
    assert_eq!(ask("/nothing").header("vicino-error"), Some("no-matching-rule"));
    assert_eq!(ask("/v1/x?y").body, "b says /v2/x?y");
    let answer = ask("/1234");
    assert_eq!((answer.status, answer.body.as_str()), (418, "short and stout"));
    let answer = ask("/old");
    assert_eq!((answer.status, answer.header("location")), (308, Some("http://new.example/old")));

    // gRPC calls are POST with the path /service/method, whichever version they come in.
    for (path, status) in [("/a.B/C", 501), ("/a.B/D", 502), ("/a.B2/C", 404)] {
        assert_eq!(post(world.a.l1(), "web.default", path).unwrap().status, status, "{path}");
    }
    assert_eq!(ask("/a.B/C").status, 404);

    // What is worse than the rules in force is refused, and they stay.
    configuration.route_with("web", 3, &["{matches: [{path: {value: '[', type: RegularExpression}}]}"]);
    let config = || get(world.a.admin(), "admin", "/config").map(|a| a.body).unwrap_or_default();
    eventually("the flaw is named", || config().contains("rules[0].matches[0].path.value"));
    assert_eq!(ask("/v1/x").body, "b says /v2/x");
}

#[test]
fn workers_wake_each_other_for_a_pod_with_a_limit() {
    let world = World::start(&["b"]);
    for configuration in &world.configurations {
        configuration.route_limited("web", 2, 1);
    }
    // Only when all workers serve by it does a second call wait.
    eventually("the limit is in force", || here(&world.b, "web").waiting_max.is_some());
    let l1 = world.a.l1();
    let mut held = Client::connect(l1).unwrap();
    held.send("web.default", "/hold");
    eventually("a call is held", || world.pods[1].holds_one());
    // Each on a connection of its own, so that both workers have some, on both nodes.
    let callers: Vec<_> = (0..40)
        .map(|i| {
            std::thread::spawn(move || get(l1, "web.default", &format!("/{i}")).map(|answer| answer.status))
        })
        .collect();
    eventually("all wait", || {
        get(world.b.metrics(), "m", "/metrics").is_ok_and(|m| m.body.contains("vicino_proxy_queued 40"))
    });
    world.pods[1].let_go();
    assert_eq!(held.receive().unwrap().status, 200);
    for caller in callers {
        assert_eq!(caller.join().unwrap().unwrap(), 200);
    }
    let metrics = get(world.b.metrics(), "m", "/metrics").unwrap().body;
    assert!(metrics.contains("vicino_proxy_queued 0"), "{metrics}");
}

/// Where a proxy would deliver a call on its own node, as it says when it is asked.
fn here(proxy: &Proxy, service: &str) -> Here {
    let call = format!(r#"{{"host": "{service}.default", "from": "default"}}"#);
    let answer = post_with(proxy.admin(), ("admin", "/explain"), &call).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let explanation: Explanation = serde_json::from_str(&answer.body).unwrap();
    explanation.node.unwrap().backends.remove(0)
}

#[test]
fn a_proxy_that_is_asked_tells_how_its_pods_are() {
    let world = World::start(&["b"]);
    for configuration in &world.configurations {
        configuration.route_limited("web", 2, 1);
    }
    eventually("the limit is in force", || here(&world.b, "web").waiting_max.is_some());
    let mut held = Client::connect(world.a.l1()).unwrap();
    held.send("web.default", "/hold");
    eventually("a call is held", || world.pods[1].holds_one());
    let mut waiting = Client::connect(world.b.l1()).unwrap();
    waiting.send("web.default", "/");
    eventually("another waits", || here(&world.b, "web").waiting == 1);
    let busy = here(&world.b, "web");
    assert_eq!((busy.pods.len(), busy.pods[0].in_flight, busy.pods[0].limit), (1, 1, Some(1)));
    assert_eq!(here(&world.a, "web").pods, [], "each node knows its own");
    world.pods[1].let_go();
    assert_eq!((held.receive().unwrap().status, waiting.receive().unwrap().status), (200, 200));
    eventually("nothing waits and nothing is under way", || {
        let idle = here(&world.b, "web");
        (idle.waiting, idle.pods[0].in_flight) == (0, 0)
    });
}

#[test]
fn a_pod_that_is_left_out_is_told_with_the_time_that_is_left() {
    const LEFT_OUT_MILLISECONDS: u32 = 60_000;
    let world = World::start(&["a", "b"]);
    let [configuration, _] = &world.configurations;
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    configuration.endpoints("broken", &[("a", address)]);
    configuration.route("broken", 1);
    let breaker = CompiledBreaker {
        codes: vec![503],
        consecutive_failures: 1,
        failure_percent: 0,
        minimum_calls: 1,
        ejection_milliseconds: LEFT_OUT_MILLISECONDS,
        max_ejection_milliseconds: LEFT_OUT_MILLISECONDS,
        max_ejected_percent: 100,
    };
    configuration.edit_route("broken", |document| document.circuit_breaker = Some(breaker));
    let route = || get(world.a.admin(), "admin", "/snapshot").map(|a| a.body).unwrap_or_default();
    eventually("the breaker is in force", || route().contains("\"leavesOutAfter\": 1"));
    assert_eq!(here(&world.a, "broken").pods[0].left_out_milliseconds, None);
    assert_eq!(get(world.a.l1(), "broken.default", "/").unwrap().status, 503);
    let left = here(&world.a, "broken").pods[0].left_out_milliseconds;
    assert!(left.is_some_and(|left| 0 < left && left <= LEFT_OUT_MILLISECONDS.into()), "{left:?}");
}

#[test]
fn a_proxy_serves_by_what_it_kept_while_its_source_is_away() {
    let pod = Backend::start("a");
    let configuration = Configuration::new("a");
    configuration.nodes(&["a"]);
    configuration.route("web", 1);
    configuration.endpoints("web", &[("a", pod.address())]);
    let state = tempfile::tempdir().unwrap();
    let flags = ["--state-dir", state.path().to_str().unwrap()];
    let proxy = Proxy::start(&configuration, &flags);
    proxy.is_ready();
    eventually("it is kept", || state.path().join("inputs").exists());
    drop(proxy);

    configuration.hide();
    let proxy = Proxy::start(&configuration, &flags);
    proxy.is_ready();
    assert_eq!(get(proxy.l1(), "web.default", "/").unwrap().body, "a says /");
    let metrics = get(proxy.metrics(), "metrics", "/metrics").unwrap().body;
    assert!(!metrics.contains("config_age_seconds 0.0\n"), "its age shows: {metrics}");
    drop(proxy);

    let kept = state.path().join("inputs");
    let mut bytes = std::fs::read(&kept).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&kept, bytes).unwrap();
    let proxy = Proxy::start(&configuration, &flags);
    eventually("it says what it waits for", || {
        get(proxy.metrics(), "metrics", "/ready")
            .is_ok_and(|a| a.status == 503 && a.body.contains("own MeshNode"))
    });
    assert!(get(proxy.l1(), "web.default", "/").is_err(), "it does not listen");
    assert!(proxy.log().contains("cut off or damaged"), "{}", proxy.log());
    configuration.show();
    proxy.is_ready();
    assert_eq!(get(proxy.l1(), "web.default", "/").unwrap().status, 200);
}

#[test]
fn a_body_that_nobody_reads_holds_up_nobody_else_and_loses_nothing() {
    for node in ["a", "b"] {
        let world = World::start(&[node]);
        let mut slow = Client::connect(world.a.l1()).unwrap();
        slow.send("web.default", "/big");
        let head = slow.head().unwrap();
        for _ in 0..100 {
            assert_eq!(get(world.a.l1(), "web.default", "/").unwrap().body, format!("{node} says /"));
        }
        assert!(slow.body(&head).unwrap() == backend::big_body(), "the body of node {node} arrives whole");
    }
}

#[test]
fn a_drain_finishes_what_is_open_and_takes_nothing_new() {
    let mut world = World::start(&["a"]);
    assert_eq!((world.a.probe("ready"), world.a.probe("live")), (Ok(()), Ok(())));
    let mut client = Client::connect(world.a.l1()).unwrap();
    client.send("web.default", "/hold");
    eventually("a call waits at the pod", || world.pods[0].holds_one());
    world.a.terminate();
    eventually("the probe says so", || world.a.probe("ready").is_err_and(|why| why.contains("draining")));
    eventually("it takes nothing new", || Client::connect(world.a.l1()).is_err());
    world.pods[0].let_go();
    let answer = client.receive().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "a says /hold"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(world.a.exit_code(SOONER_THAN_A_DRAIN), Some(0), "{}", world.a.log());
}

#[test]
fn the_bootstraps_log_level_is_in_force_from_the_first_line_on() {
    let configuration = Configuration::new("a");
    configuration.log_level("warn");
    configuration.nodes(&["a"]);
    let mut proxy = Proxy::start(&configuration, &[]);
    proxy.is_ready();
    assert!(!proxy.log().contains(" INFO "), "{}", proxy.log());
    configuration.log_level("info");
    let level = || get(proxy.admin(), "admin", "/log-level").map(|answer| answer.body).unwrap_or_default();
    eventually("it is followed", || level().contains("info"));
    proxy.terminate();
    assert_eq!(proxy.exit_code(SOONER_THAN_A_DRAIN), Some(0));
    assert!(proxy.log().contains(" INFO "), "what is written is told by its level: {}", proxy.log());
}

#[test]
fn a_second_signal_ends_a_drain() {
    let mut world = World::start(&["a"]);
    let mut client = Client::connect(world.a.l1()).unwrap();
    client.send("web.default", "/hold");
    eventually("a call waits at the pod", || world.pods[0].holds_one());
    world.a.terminate();
    eventually("it drains", || Client::connect(world.a.l1()).is_err());
    world.a.terminate();
    assert_eq!(world.a.exit_code(SOONER_THAN_A_DRAIN), Some(0));
    assert!(client.receive().is_err(), "the call was cut");
}

#[test]
fn proxies_that_were_stopped_and_continued_go_on_with_their_calls() {
    let world = World::start(&["b"]);
    let mut client = Client::connect(world.a.l1()).unwrap();
    client.send("web.default", "/hold");
    eventually("a call waits at the pod", || world.pods[1].holds_one());
    for proxy in [&world.a, &world.b] {
        proxy.signal(Signal::STOP);
    }
    // More than the silence after which a neighbour is taken for lost; an amount, not a synchronisation.
    std::thread::sleep(Duration::from_millis(3500));
    for proxy in [&world.a, &world.b] {
        proxy.signal(Signal::CONT);
    }
    assert_eq!(get(world.a.l1(), "web.default", "/x").unwrap().status, 200);
    world.pods[1].let_go();
    assert_eq!(client.receive().unwrap().body, "b says /hold");
    for proxy in [&world.a, &world.b] {
        assert!(!proxy.log().contains("hop ended"), "{}", proxy.log());
    }
}

#[test]
fn a_successor_takes_over_without_a_failed_call() {
    let mut world = World::start(&["a", "b"]);
    let calls = client::Steady::start(world.a.l1(), "web.default");
    calls.makes(50);
    let successor = Proxy::start_beside(&world.a, &world.configurations[0]);
    successor.is_ready_by_probe();
    calls.makes(50);
    world.a.terminate();
    calls.makes(50);
    assert_eq!(world.a.exit_code(SOONER_THAN_A_DRAIN), Some(0), "{}", world.a.log());
    calls.makes(50);
    let failed = calls.stop();
    assert_eq!(failed, Vec::<String>::new());
    eventually("the successor has the port of the metrics", || {
        get(successor.metrics(), "metrics", "/ready").is_ok_and(|answer| answer.status == 200)
    });
}
