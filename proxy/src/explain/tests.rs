//! What a node says of calls of its pods: by a small shop, of which `node1` has two pods, and `node2` one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use vicino_engine::Time;
use vicino_engine::breaker::Breaker;
use vicino_engine::identify::Doubts;
use vicino_engine::policy::{Action, Pod, Policies, Policy, Rule, Selector, Source, Target};
use vicino_engine::snapshot::{
    Backend, Concurrency, EndpointSet, NamedPod, Neighbour, NodeEndpoints, PodSlot, PortEndpoints, Service,
    ServiceName, ServicePort, Snapshot,
};

use super::*;

mod fields;

const NOW: Time = Time(5_000_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn slot(number: u8) -> Arc<PodSlot> {
    Arc::new(PodSlot::new(format!("10.1.0.{number}:8080").parse().unwrap(), format!("u{number}").into()))
}

fn service(name: &ServiceName) -> Service {
    let backend = Backend {
        service: name.clone(),
        port: 80,
        port_name: "http".into(),
        weight: 1,
        is_node_local: false,
        edits: None,
    };
    let concurrency = Concurrency { per_pod: 3, queue_length: 50, ..Concurrency::default() };
    let breaker = Breaker {
        codes: vec![503],
        consecutive_failures: 1,
        failure_percent: 0,
        minimum_calls: 10,
        ejection_ns: 1,
        ejection_max_ns: 1,
        ejected_percent: 50,
    };
    let ports = vec![ServicePort { port: 80, backends: vec![backend], ..ServicePort::default() }];
    Service {
        name: name.clone(),
        ports,
        concurrency: Some(concurrency),
        breaker: Some(breaker),
        ..Service::default()
    }
}

/// What `node1` serves by, and the slots of its two pods of `shop/web`.
pub(crate) fn shop() -> (Snapshot, [Arc<PodSlot>; 2]) {
    let name = ServiceName { namespace: "shop".into(), name: "web".into() };
    let slots = [slot(1), slot(2)];
    let of_node = |node: &str, pods| NodeEndpoints { node: node.into(), pods, near: pods };
    let named = |number: u8, node: &str| {
        let at = NamedPod { node: node.into(), address: ip(&format!("10.1.0.{number}")), is_usable: true };
        (Arc::from(format!("web-{number}")), at)
    };
    let port = PortEndpoints {
        nodes: vec![of_node("node1", 2), of_node("node2", 1)],
        local: slots.to_vec(),
        named: [named(2, "node1"), named(9, "node2")].into(),
        listed: 3,
        ..PortEndpoints::default()
    };
    let set = EndpointSet { ports: [("http".into(), port)].into() };
    let neighbour = |number: u8, name: &str, account: &str| {
        let pod = Neighbour {
            uid: format!("u{number}").into(),
            namespace: "shop".into(),
            name: name.into(),
            service_account: account.into(),
        };
        (ip(&format!("10.1.0.{number}")), Arc::new(pod))
    };
    let snapshot = Snapshot {
        version: 17,
        node: "node1".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        services: [("shop".into(), [("web".into(), Arc::new(service(&name)))].into())].into(),
        endpoints: [("shop".into(), [("web".into(), Arc::new(set))].into())].into(),
        neighbours: [
            neighbour(1, "web-1", "web"),
            neighbour(7, "job-x", "batch"),
            neighbour(8, "job-y", "batch"),
        ]
        .into(),
        ..Snapshot::default()
    };
    (snapshot, slots)
}

fn call(host: &str, from: &str) -> Call {
    Call {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: "/".to_owned(),
        headers: Vec::new(),
        from: from.to_owned(),
    }
}

fn asked(snapshot: &Snapshot, doubts: &Doubts, call: &Call) -> Explanation {
    at_node(Moment { snapshot, doubts, config_age: Duration::from_secs(90), time: NOW }, call).unwrap()
}

fn node(snapshot: &Snapshot, call: &Call) -> Node {
    asked(snapshot, &Doubts::default(), call).node.unwrap()
}

#[test]
fn calls_in_flight_and_limits_of_own_pods_are_told_and_stay_as_they_are() {
    let (snapshot, slots) = shop();
    for _ in 0..2 {
        slots[0].acquire();
    }
    let explanation = asked(&snapshot, &Doubts::default(), &call("web", "shop/job-x"));
    assert_eq!(
        (explanation.service.as_deref(), explanation.outcome()),
        (Some("shop/web"), "web:80".to_owned())
    );
    let node = explanation.node.unwrap();
    assert_eq!((&*node.name, node.snapshot, node.config_age_seconds), ("node1", 17, 90));
    let [here] = &node.backends[..] else { panic!("{node:?}") };
    assert_eq!((&*here.service, here.port, here.waiting, here.waiting_max), ("shop/web", 80, 0, Some(50)));
    let pods = here.pods.iter().map(|pod| (pod.name.as_deref(), &*pod.address, pod.in_flight, pod.limit));
    // Whose address the second is no MeshNode has said yet.
    let expected = [(Some("shop/web-1"), "10.1.0.1:8080", 2, Some(3)), (None, "10.1.0.2:8080", 0, Some(3))];
    assert_eq!(pods.collect::<Vec<_>>(), expected);
    assert_eq!(slots.map(|slot| slot.in_flight()), [2, 0]);
}

#[test]
fn a_pod_that_is_called_by_its_own_name_is_the_only_one_and_has_its_limit() {
    let (snapshot, slots) = shop();
    slots[1].acquire();
    let here = node(&snapshot, &call("web-2.web", "shop/job-x")).backends;
    assert_eq!((here.len(), here[0].pods.len(), here[0].waiting_max), (1, 1, Some(50)));
    assert_eq!((here[0].pods[0].in_flight, here[0].pods[0].limit), (1, Some(3)));
    let elsewhere = node(&snapshot, &call("web-9.web", "shop/job-x")).backends;
    assert_eq!((elsewhere.len(), elsewhere[0].pods.len()), (1, 0));
}

#[test]
fn a_caller_is_a_pod_of_the_node_or_a_service_account_of_one() {
    let (mut snapshot, _) = shop();
    let twin = Neighbour {
        uid: "u7".into(),
        namespace: "shop".into(),
        name: "job-x".into(),
        service_account: "batch".into(),
    };
    // The same pod by its other address.
    snapshot.neighbours.insert(ip("fd00::7"), Arc::new(twin));
    let doubts = Doubts { version: 1, pods: [(ip("10.1.0.1"), "u1".into())].into() };
    for (from, expected) in [
        ("shop/job-x", "spiffe://cluster.local/ns/shop/sa/batch: the pod shop/job-x at 10.1.0.7"),
        (
            "shop/batch",
            "spiffe://cluster.local/ns/shop/sa/batch: the service account of the pod shop/job-x and 1 more",
        ),
        (
            "shop",
            "spiffe://cluster.local/ns/shop/sa/default: no pod is named, so the default service account of shop",
        ),
        (
            "bank/job-x",
            "unidentified: no pod of this node is bank/job-x or runs as a service account of that name",
        ),
        // It has gone from its address, whatever the MeshNode says.
        (
            "shop/web-1",
            "unidentified: no pod of this node is shop/web-1 or runs as a service account of that name",
        ),
    ] {
        assert_eq!(asked(&snapshot, &doubts, &call("web.shop", from)).node.unwrap().caller, expected);
    }
}

#[test]
fn a_host_that_is_no_service_has_no_pods_here() {
    let (snapshot, _) = shop();
    let explanation = asked(&snapshot, &Doubts::default(), &call("nobody", "shop"));
    assert_eq!(explanation.outcome(), "404 no-such-service");
    assert_eq!(explanation.node.unwrap().backends, []);
    let tunnel = Call { method: "CONNECT".to_owned(), path: String::new(), ..call("web:443", "shop") };
    let moment =
        Moment { snapshot: &snapshot, doubts: &Doubts::default(), config_age: Duration::ZERO, time: NOW };
    assert_eq!(at_node(moment, &tunnel), Err(Wrong::Https));
}

#[test]
fn policies_are_judged_for_the_pods_of_the_node_and_as_far_as_they_can_be_for_others() {
    let (mut snapshot, _) = shop();
    let policy = |name: &str, action, target, from| {
        let rule = Rule { name: "only".into(), action, from, to: Vec::new() };
        Arc::new(Policy {
            namespace: "shop".into(),
            name: name.into(),
            is_audit: false,
            target,
            rules: vec![rule],
        })
    };
    let batch = Source { service_accounts: vec![("shop".into(), "batch".into())], ..Source::default() };
    let labels = |tier: &str| [("tier".to_owned(), tier.to_owned())].into();
    let (secret, open) = (labels("secret"), labels("open"));
    let pods = [("u1", &secret), ("u2", &open)];
    let pods = pods.map(|(uid, labels)| Pod { uid, namespace: "shop", labels });
    let selected = Selector { labels: secret.clone(), ..Selector::default() };
    let all = [
        policy("secret", Action::Deny, Target::Pods(selected), Vec::new()),
        policy("batch", Action::Allow, Target::Namespace, vec![batch]),
    ];
    snapshot.policies = Arc::new(Policies::new(Action::Deny, "cluster.local".into(), all, pods));
    let said = |from: &str| -> Vec<String> {
        let policy = asked(&snapshot, &Doubts::default(), &call("web.shop", from)).policy;
        policy.iter().map(ToString::to_string).collect()
    };
    let batch = "called as spiffe://cluster.local/ns/shop/sa/batch";
    assert_eq!(
        said("shop/job-y"),
        [
            format!("shop/web:80 denied (403) by shop/secret, rule only, {batch}, at 1 of 2 pods"),
            format!("shop/web:80 allowed by shop/batch, rule only, {batch}, at 1 of 2 pods"),
            // It may be secret as well.
            format!(
                "shop/web:80 denied (403) by shop/secret, rule only, {batch}, at pods of other nodes, as far as can be told without their labels"
            ),
        ]
    );
    let closed = Policies::new(Action::Deny, "cluster.local".into(), [], []);
    snapshot.policies = Arc::new(closed);
    let policy = asked(&snapshot, &Doubts::default(), &call("web.shop", "shop/nobody")).policy;
    let [judged] = &policy[..] else { panic!("what is so for every pod is said once: {policy:?}") };
    assert_eq!((judged.pods, judged.is_elsewhere, judged.is_allowed), ([2, 2], false, false));
}

#[test]
fn an_explanation_is_read_as_it_was_written() {
    let (snapshot, _) = shop();
    let explanation = asked(&snapshot, &Doubts::default(), &call("web", "shop/job-x"));
    let text = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), explanation);
}
