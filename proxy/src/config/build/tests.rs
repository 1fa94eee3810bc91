//! Inputs → snapshot: tables for what an endpoint list means; properties for order, repetition and reuse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use vicino_crds::MeshNodeSpec;
use vicino_crds::contract::{
    self, CompiledAlias, CompiledBackend, CompiledNode, CompiledPort, CompiledRoute,
};
use vicino_crds::node::Neighbour;
use vicino_crds::route::PortProtocol;
use vicino_engine::egress::{Allowed, Egress, HostTest};
use vicino_engine::policy::{Call, Source};
use vicino_engine::snapshot::Snapshot;
use vicino_wire::head::{RequestHead, Version};

use super::{Built, build};
use crate::config::bundle::{BundleKind, RawBundle};
use crate::config::inputs::Identity;
use crate::config::slice::{Condition, Hints, SliceEndpoint, SlicePort};
use crate::config::{Change, Inputs, OwnNode, Slice, SliceKey};

fn inputs(changes: impl IntoIterator<Item = Change>) -> Inputs {
    let mut inputs =
        Inputs::new(Identity { node: "n1".into(), mesh: "default".into(), mesh_uid: "u1".into() });
    take(&mut inputs, changes);
    inputs
}

fn take(inputs: &mut Inputs, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        let mut notices = Vec::new();
        inputs.apply(change, &mut notices);
        assert_eq!(notices, []);
    }
}

fn route(service: &str, generation: i64) -> String {
    let backend = |name: &str, weight| CompiledBackend {
        service: name.into(),
        port: 80,
        port_name: String::new(),
        weight,
        ..CompiledBackend::default()
    };
    contract::write(&CompiledRoute {
        affinity: None,
        load_balancer: None,
        concurrency: None,
        rate_limit: None,
        circuit_breaker: None,
        retry: None,
        hedge: None,
        rules: Vec::new(),
        inbound: None,
        version: 1,
        namespace: "demo".into(),
        service: service.into(),
        generation,
        alias: None,
        cluster_ips: vec![format!("10.96.0.{}", service.len())],
        ports: vec![CompiledPort {
            port: 80,
            protocol: PortProtocol::Http,
            backends: vec![backend(service, 9), backend("canary", 1)],
            overrides: Vec::new(),
        }],
        connect_timeout_milliseconds: 500,
        request_timeout_milliseconds: u32::try_from(generation).unwrap() * 1000,
        idle_timeout_milliseconds: 0,
        requeues: 1,
    })
}

fn node(name: &str, address: &str, ready: bool) -> String {
    contract::write(&CompiledNode {
        version: 1,
        name: name.into(),
        addresses: vec![address.into()],
        port: 4141,
        zone: "z".into(),
        ready,
        secure: false,
        pod_cidrs: Vec::new(),
    })
}

fn bundle(name: &str, kind: BundleKind, documents: &[(&str, String)]) -> Change {
    let data = documents.iter().map(|(key, text)| (format!("{key}.yaml"), text.clone()));
    Change::Bundle(RawBundle { name: name.into(), kind, data: data.collect::<BTreeMap<_, _>>() })
}

fn routes(name: &str, documents: &[(&str, String)]) -> Change {
    bundle(name, BundleKind::Routes { namespace: "demo".into() }, documents)
}

fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> Change {
    Change::Slice(Slice {
        key: SliceKey::new("demo", name),
        service: service.into(),
        ports: vec![SlicePort { name: "".into(), port: 8080 }],
        endpoints,
    })
}

fn pod(address: &str, uid: &str, node: &str, condition: Condition) -> SliceEndpoint {
    SliceEndpoint {
        hostname: "".into(),
        address: address.parse().unwrap(),
        uid: uid.into(),
        node: node.into(),
        condition,
        hints: Hints::default(),
    }
}

fn neighbours(pods: &[(&str, &str)]) -> Change {
    let neighbour = |(uid, ip): &(&str, &str)| Neighbour {
        uid: (*uid).into(),
        namespace: "demo".into(),
        name: format!("pod-{uid}"),
        service_account: "default".into(),
        ips: vec![(*ip).into()],
        labels: [("app".to_owned(), (*uid).to_owned())].into(),
        inbound: None,
        plain_ports: Vec::new(),
        plain_ports_problem: None,
        network_since: None,
    };
    let pods = pods.iter().map(neighbour).collect();
    let spec = MeshNodeSpec {
        mesh: "default".into(),
        addresses: vec!["192.0.2.1".into()],
        pods,
        ..MeshNodeSpec::default()
    };
    Change::MeshNode(OwnNode { generation: 1, spec })
}

/// Everything of a snapshot but its version, sorted.
fn show(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let sorted = |map: &mut dyn Iterator<Item = String>| {
        let mut lines: Vec<_> = map.collect();
        lines.sort();
        lines
    };
    for (namespace, services) in snapshot.services.iter().collect::<BTreeMap<_, _>>() {
        for line in sorted(&mut services.values().map(|service| {
            let backends = service.ports.iter().flat_map(|port| &port.backends);
            let backends: Vec<_> = backends.map(|b| format!("{}*{}", b.service.name, b.weight)).collect();
            let timeout = service.times.request_ns;
            format!("route {namespace}/{} {} timeout={timeout}", service.name.name, backends.join(" "))
        })) {
            writeln!(text, "{line}").unwrap();
        }
    }
    for (namespace, sets) in snapshot.endpoints.iter().collect::<BTreeMap<_, _>>() {
        for (service, set) in sets.iter().collect::<BTreeMap<_, _>>() {
            for (port, endpoints) in &set.ports {
                let nodes: Vec<_> =
                    endpoints.nodes.iter().map(|n| format!("{}={}", n.node, n.pods)).collect();
                let local: Vec<_> =
                    endpoints.local.iter().map(|s| format!("{}@{}", s.uid, s.address)).collect();
                let (nodes, local, listed) = (nodes.join(","), local.join(","), endpoints.listed);
                writeln!(
                    text,
                    "endpoints {namespace}/{service}:{port} nodes[{nodes}] local[{local}] of {listed}"
                )
                .unwrap();
            }
        }
    }
    for node in snapshot.nodes.iter().collect::<BTreeMap<_, _>>().into_values() {
        writeln!(text, "node {} {:?} ready={}", node.name, node.addresses, node.ready).unwrap();
    }
    for (ip, neighbour) in snapshot.neighbours.iter().collect::<BTreeMap<_, _>>() {
        writeln!(text, "neighbour {ip} {}", neighbour.uid).unwrap();
    }
    for (ip, service) in snapshot.cluster_ips.iter().collect::<BTreeMap<_, _>>() {
        writeln!(text, "cluster ip {ip} {}", service.name).unwrap();
    }
    for (ip, node) in snapshot.foreign_addresses.iter().collect::<BTreeMap<_, _>>() {
        writeln!(text, "foreign {ip} {node}").unwrap();
    }
    writeln!(text, "own {} {:?}", snapshot.node, snapshot.node_addresses).unwrap();
    text
}

fn check(changes: Vec<Change>, expected: &Expect) {
    expected.assert_eq(&show(&build(&inputs(changes), &Built::default()).snapshot));
}

#[test]
fn a_whole_configuration() {
    check(
        vec![
            routes("r", &[("web", route("web", 2))]),
            bundle(
                "n",
                BundleKind::Nodes,
                &[("n1", node("n1", "192.0.2.1", true)), ("n2", node("n2", "192.0.2.2", false))],
            ),
            neighbours(&[("u1", "10.0.1.1")]),
            slice(
                "a",
                "web",
                vec![
                    pod("10.0.1.1", "u1", "n1", Condition::Ready),
                    pod("10.0.2.1", "u2", "n2", Condition::Ready),
                ],
            ),
        ],
        &expect![[r#"
            route demo/web web*9 canary*1 timeout=2000000000
            endpoints demo/web: nodes[n1=1,n2=1] local[u1@10.0.1.1:8080] of 2
            node n1 [192.0.2.1:4141] ready=true
            node n2 [192.0.2.2:4141] ready=false
            neighbour 10.0.1.1 u1
            cluster ip 10.96.0.3 web
            foreign 192.0.2.2 n2
            own n1 [192.0.2.1]
        "#]],
    );
}

#[test]
fn an_address_that_could_be_of_two_service_accounts_is_nobodys() {
    let of = |pods: &[(&str, &str, &str)]| {
        let mut change = neighbours(&pods.iter().map(|(uid, ip, _)| (*uid, *ip)).collect::<Vec<_>>());
        if let Change::MeshNode(node) = &mut change {
            for (pod, (.., account)) in node.spec.pods.iter_mut().zip(pods) {
                pod.service_account = (*account).into();
            }
        }
        let snapshot = build(&inputs(vec![change]), &Built::default()).snapshot;
        let mut found: Vec<_> = snapshot.neighbours.values().map(|pod| pod.uid.to_string()).collect();
        found.sort();
        found
    };
    assert_eq!(of(&[("u1", "10.0.1.1", "a"), ("u2", "10.0.1.1", "a")]), ["u2"], "whichever of them it is");
    for uids in [["u1", "u2", "u3"], ["u3", "u2", "u1"]] {
        let [one, other, third] = uids;
        let pods = [
            (one, "10.0.1.1", "a"),
            (other, "10.0.1.1", "b"),
            (third, "10.0.1.1", "b"),
            ("u4", "10.0.1.4", "a"),
        ];
        assert_eq!(of(&pods), ["u4"]);
    }
    assert_eq!(of(&[("u1", "192.0.2.1", "a")]), [""; 0], "and a node's address is no pod's");
}

#[test]
fn ending_endpoints_are_used_only_while_none_is_ready() {
    let of = |first, second| {
        slice("a", "web", vec![pod("10.0.1.1", "u1", "n1", first), pod("10.0.2.1", "u2", "n2", second)])
    };
    for (first, second, expected) in [
        (Condition::Ready, Condition::Ready, "nodes[n1=1,n2=1] local[u1@10.0.1.1:8080] of 2"),
        (Condition::Ready, Condition::Ending, "nodes[n1=1] local[u1@10.0.1.1:8080] of 2"),
        (Condition::Ending, Condition::Ready, "nodes[n2=1] local[] of 2"),
        (Condition::Ending, Condition::Down, "nodes[n1=1] local[u1@10.0.1.1:8080] of 2"),
        (Condition::Down, Condition::Down, "nodes[] local[] of 2"),
    ] {
        let shown = show(&build(&inputs([of(first, second)]), &Built::default()).snapshot);
        assert!(shown.contains(expected), "{first:?} {second:?}: {shown}");
    }
}

#[test]
fn pods_with_a_name_are_found_by_it_usable_or_not() {
    let named = |name: &str, pod: SliceEndpoint| SliceEndpoint { hostname: name.into(), ..pod };
    let pods = vec![
        named("web-0", pod("10.0.1.1", "u1", "n1", Condition::Ready)),
        named("web-1", pod("10.0.2.1", "u2", "n2", Condition::Down)),
        pod("10.0.3.1", "u3", "n3", Condition::Ready),
    ];
    let ipv6 = vec![named("web-0", pod("fd00::1", "u1", "n1", Condition::Ready))];
    let built = build(&inputs([slice("a", "web", pods), slice("b", "web", ipv6)]), &Built::default());
    let endpoints = built.snapshot.endpoints("demo", "web", "").unwrap();
    let of = |(name, pod): (&Arc<str>, &vicino_engine::snapshot::NamedPod)| {
        format!("{name} {} {} {}", pod.node, pod.address, pod.is_usable)
    };
    let named: Vec<_> = endpoints.named.iter().map(of).collect();
    assert_eq!(named, ["web-0 n1 10.0.1.1 true", "web-1 n2 10.0.2.1 false"]);
}

/// What of `n1=1,n2=1,n3=1` is near, for a proxy of node n1 in zone `a`.
fn near(hints: [(&[&str], &[&str]); 3], second: Condition) -> String {
    let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
    let pods = (1..=3).zip(hints).map(|(i, (nodes, zones))| SliceEndpoint {
        hints: Hints { nodes: boxed(nodes), zones: boxed(zones) },
        ..pod(
            &format!("10.0.{i}.1"),
            &format!("u{i}"),
            &format!("n{i}"),
            if i == 2 { second } else { Condition::Ready },
        )
    });
    let spec = MeshNodeSpec { mesh: "default".into(), zone: "a".into(), ..MeshNodeSpec::default() };
    let zone = Change::MeshNode(OwnNode { generation: 1, spec });
    let mut inputs = inputs([slice("a", "web", pods.collect())]);
    let before = build(&inputs, &Built::default());
    take(&mut inputs, [zone]);
    let built = build(&inputs, &before);
    let endpoints = built.snapshot.endpoints("demo", "web", "").unwrap();
    let near = endpoints.nodes.iter().filter(|n| n.near > 0).map(|n| &*n.node);
    near.collect::<Vec<_>>().join(",")
}

#[test]
fn hints_say_which_endpoints_are_near_as_they_do_for_kube_proxy() {
    let ready = Condition::Ready;
    let none: (&[&str], &[&str]) = (&[], &[]);
    let zone = |name: &'static [&'static str]| (&[][..], name);
    for (hints, expected, why) in [
        ([none, none, none], "n1,n2,n3", "nothing is said"),
        ([zone(&["b"]), zone(&["a"]), zone(&["a", "b"])], "n2,n3", "the own zone's"),
        ([zone(&["a"]), none, zone(&["b"])], "n1,n2,n3", "one has no hint"),
        ([zone(&["b"]), zone(&["c"]), zone(&["b"])], "n1,n2,n3", "none is for here"),
        ([(&["n1"], &["a"]), (&["n2"], &["a"]), (&["n3"], &["b"])], "n1", "the node before the zone"),
        ([(&["n4"], &["a"]), (&["n2"], &["a"]), (&["n3"], &["b"])], "n1,n2", "no endpoint for this node"),
    ] {
        assert_eq!(near(hints, ready), expected, "{why}");
    }
    let unready = [zone(&["a"]), none, zone(&["b"])];
    assert_eq!(near(unready, Condition::Down), "n1", "who is not ready has no say");
}

#[test]
fn a_pod_with_two_families_counts_once_and_by_its_ipv4_address() {
    let four = || slice("a", "web", vec![pod("10.0.1.1", "u1", "n1", Condition::Ready)]);
    let six = || {
        slice(
            "b",
            "web",
            vec![
                pod("2001:db8::1", "u1", "n1", Condition::Ready),
                pod("2001:db8::2", "u2", "n1", Condition::Ready),
            ],
        )
    };
    check(
        vec![six(), four()],
        &expect![[r#"
            endpoints demo/web: nodes[n1=2] local[u1@10.0.1.1:8080,u2@[2001:db8::2]:8080] of 2
            own n1 []
        "#]],
    );
}

#[test]
fn an_endpoint_without_node_is_counted_not_used() {
    let endpoints =
        vec![pod("10.0.1.1", "u1", "", Condition::Ready), pod("10.0.1.2", "u2", "n1", Condition::Ready)];
    let built = build(&inputs([slice("a", "web", endpoints)]), &Built::default());
    assert_eq!(built.without_node, 1);
    assert_eq!(
        built.snapshot.endpoints("demo", "web", "").map(|e| (e.local.len(), e.nodes.len())),
        Some((1, 1))
    );
}

#[test]
fn while_a_route_moves_the_higher_generation_wins_in_either_order() {
    for (first, second) in [(1, 2), (2, 1)] {
        let built = build(
            &inputs([
                routes("r", &[("web", route("web", first))]),
                routes("r-1", &[("web", route("web", second))]),
            ]),
            &Built::default(),
        );
        assert_eq!(built.snapshot.service("demo", "web").map(|s| s.times.request_ns), Some(2_000_000_000));
    }
}

#[test]
fn what_did_not_change_is_taken_over_as_it_is() {
    let mut inputs = inputs([
        routes("r", &[("web", route("web", 1)), ("api", route("api", 1))]),
        slice("a", "web", vec![pod("10.0.1.1", "u1", "n1", Condition::Ready)]),
        slice("b", "api", vec![pod("10.0.1.2", "u2", "n1", Condition::Ready)]),
        neighbours(&[("u1", "10.0.1.1")]),
    ]);
    let before = build(&inputs, &Built::default());
    take(
        &mut inputs,
        [
            routes("r", &[("web", route("web", 2)), ("api", route("api", 1))]),
            slice(
                "a",
                "web",
                vec![
                    pod("10.0.1.1", "u1", "n1", Condition::Ready),
                    pod("10.0.2.9", "u9", "n2", Condition::Ready),
                ],
            ),
        ],
    );
    let after = build(&inputs, &before);
    let (before, after) = (&before.snapshot, &after.snapshot);
    assert_eq!(after.version, before.version + 1);
    let service = |s: &Arc<Snapshot>, name| s.service("demo", name).unwrap().clone();
    assert!(Arc::ptr_eq(&service(before, "api"), &service(after, "api")));
    assert!(!Arc::ptr_eq(&service(before, "web"), &service(after, "web")));
    let set = |s: &Arc<Snapshot>, name: &str| s.endpoints["demo"][name].clone();
    assert!(Arc::ptr_eq(&set(before, "api"), &set(after, "api")));
    let slot = |s: &Arc<Snapshot>| s.endpoints("demo", "web", "").unwrap().local[0].clone();
    assert!(Arc::ptr_eq(&slot(before), &slot(after)), "the pod lives on, and its counter with it");
    let queue = |s: &Arc<Snapshot>| s.endpoints("demo", "web", "").unwrap().queue.clone();
    assert!(Arc::ptr_eq(&queue(before), &queue(after)), "whoever waits in line goes on waiting there");
}

#[test]
fn a_counter_survives_a_pod_that_is_unready_for_a_while_as_long_as_a_call_is_open() {
    let web = |condition, uid| slice("a", "web", vec![pod("10.0.1.1", uid, "n1", condition)]);
    let mut inputs = inputs([web(Condition::Ready, "u1")]);
    let first = build(&inputs, &Built::default());
    let call = first.snapshot.endpoints("demo", "web", "").unwrap().local[0].clone();
    call.acquire();
    let mut built = first;
    for condition in [Condition::Down, Condition::Down, Condition::Ready] {
        take(&mut inputs, [web(condition, "u1")]);
        built = build(&inputs, &built);
    }
    let slot = built.snapshot.endpoints("demo", "web", "").unwrap().local[0].clone();
    assert_eq!(slot.in_flight(), 1);
    take(&mut inputs, [web(Condition::Ready, "u2")]);
    let built = build(&inputs, &built);
    let slot = built.snapshot.endpoints("demo", "web", "").unwrap().local[0].clone();
    assert_eq!(slot.in_flight(), 0, "the address belongs to another pod now");
}

#[test]
fn counters_of_pods_that_are_gone_are_let_go() {
    let web = |endpoints| slice("a", "web", endpoints);
    let mut inputs = inputs([]);
    let mut built = Built::default();
    for i in 1..50 {
        take(&mut inputs, [web(vec![pod(&format!("10.0.1.{i}"), &format!("u{i}"), "n1", Condition::Ready)])]);
        built = build(&inputs, &built);
    }
    assert!(built.slots.len() <= 3, "{} slots for one pod", built.slots.len());
}

#[derive(Clone, Debug)]
enum Step {
    Route(u8, i64),
    RouteGone(u8),
    Slice(u8, u8, Vec<(u8, u8, Condition)>),
    SliceGone(u8),
    Neighbours(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![Just(Condition::Ready), Just(Condition::Ending), Just(Condition::Down)];
    let pods = prop::collection::vec((0u8..6, 0u8..3, condition), 0..5);
    prop_oneof![
        (0u8..4, 1i64..4).prop_map(|(service, generation)| Step::Route(service, generation)),
        (0u8..4).prop_map(Step::RouteGone),
        (0u8..5, 0u8..4, pods).prop_map(|(name, service, pods)| Step::Slice(name, service, pods)),
        (0u8..5).prop_map(Step::SliceGone),
        prop::collection::vec(0u8..6, 0..4).prop_map(Step::Neighbours),
    ]
}

fn change(step: &Step) -> Change {
    match step {
        Step::Route(service, generation) => {
            let name = format!("s{service}");
            routes(&format!("r{service}"), &[(&name, route(&name, *generation))])
        }
        Step::RouteGone(service) => Change::BundleGone(format!("r{service}").into()),
        Step::Slice(name, service, pods) => {
            let endpoint = |(p, n, c): &(u8, u8, Condition)| {
                pod(&format!("10.0.0.{p}"), &format!("u{p}"), &format!("n{n}"), *c)
            };
            slice(&format!("e{name}"), &format!("s{service}"), pods.iter().map(endpoint).collect())
        }
        Step::SliceGone(name) => Change::SliceGone(SliceKey::new("demo", &format!("e{name}"))),
        Step::Neighbours(pods) => {
            let pods: Vec<_> = pods.iter().map(|p| (format!("u{p}"), format!("10.0.0.{p}"))).collect();
            neighbours(&pods.iter().map(|(uid, ip)| (uid.as_str(), ip.as_str())).collect::<Vec<_>>())
        }
    }
}

/// The last news of everything, so that their order does not matter any more.
fn last_news(steps: &[Step]) -> Vec<Step> {
    let subject = |step: &Step| match step {
        Step::Route(service, _) | Step::RouteGone(service) => (0, *service),
        Step::Slice(name, ..) | Step::SliceGone(name) => (1, *name),
        Step::Neighbours(_) => (2, 0),
    };
    let last: BTreeMap<_, _> = steps.iter().map(|step| (subject(step), step.clone())).collect();
    last.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn going_on_from_before_equals_starting_anew(steps in prop::collection::vec(step(), 1..40)) {
        let mut inputs = inputs([]);
        let mut built = Built::default();
        for step in &steps {
            take(&mut inputs, [change(step)]);
            built = build(&inputs, &built);
        }
        prop_assert_eq!(show(&built.snapshot), show(&build(&inputs, &Built::default()).snapshot));
        let again = build(&inputs, &built);
        prop_assert_eq!(show(&again.snapshot), show(&built.snapshot));
    }

    #[test]
    fn the_order_of_news_about_different_things_does_not_matter(
        (steps, shuffled) in prop::collection::vec(step(), 1..30)
            .prop_map(|steps| last_news(&steps))
            .prop_flat_map(|steps| (Just(steps.clone()), Just(steps).prop_shuffle())),
    ) {
        let [a, b] = [steps, shuffled].map(|steps| {
            show(&build(&inputs(steps.iter().map(change)), &Built::default()).snapshot)
        });
        prop_assert_eq!(a, b);
    }

    #[test]
    fn only_usable_endpoints_are_offered_and_none_is_lost(
        pods in prop::collection::vec((0u8..6, 0u8..3, prop_oneof![
            Just(Condition::Ready), Just(Condition::Ending), Just(Condition::Down)]), 0..8),
    ) {
        let pods: BTreeMap<u8, (u8, Condition)> = pods.into_iter().map(|(p, n, c)| (p, (n, c))).collect();
        let list = pods.iter().map(|(p, (n, c))| (*p, *n, *c)).collect();
        let built = build(&inputs([change(&Step::Slice(0, 0, list))]), &Built::default());
        let endpoints = built.snapshot.endpoints("demo", "s0", "").unwrap();
        let of = |wanted| pods.values().filter(|(_, c)| *c == wanted).count();
        let usable = if of(Condition::Ready) > 0 { of(Condition::Ready) } else { of(Condition::Ending) };
        let offered: u32 = endpoints.nodes.iter().map(|n| n.pods).sum();
        prop_assert_eq!(offered as usize, usable);
        let own = endpoints.nodes.iter().find(|n| &*n.node == "n1").map_or(0, |n| n.pods as usize);
        prop_assert_eq!(endpoints.local.len(), own);
        prop_assert_eq!(endpoints.listed as usize, pods.len());
    }
}

/// 2,000 Services with ten pods each on 200 nodes. Run by hand: `cargo test --release -p vicino-proxy cost -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures, judges nothing"]
fn the_cost_of_a_change_in_a_large_cluster() {
    let names: Vec<String> = (0..2000).map(|i| format!("service-{i}")).collect();
    let documents: Vec<_> = names.iter().map(|name| (name.as_str(), route(name, 1))).collect();
    let mut inputs =
        inputs(documents.chunks(100).enumerate().map(|(i, part)| routes(&format!("r{i}"), part)));
    let nodes: Vec<_> = (1..=200)
        .map(|i| (format!("n{i}"), node(&format!("n{i}"), &format!("192.0.2.{}", i % 250), true)))
        .collect();
    let nodes: Vec<_> = nodes.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    take(&mut inputs, [bundle("nodes", BundleKind::Nodes, &nodes)]);
    let endpoints = |service: usize, more: usize| {
        let pods = (0..10 + more).map(|i| {
            let (a, b) = (service / 200, service % 200);
            pod(
                &format!("10.{a}.{b}.{}", i + 1),
                &format!("u{service}-{i}"),
                &format!("n{}", (service + 20 * i) % 200 + 1),
                Condition::Ready,
            )
        });
        slice(&names[service], &names[service], pods.collect())
    };
    take(&mut inputs, (0..2000).map(|service| endpoints(service, 0)));
    let time = |what: &str, work: &mut dyn FnMut() -> Built| {
        let start = tokio::time::Instant::now();
        let built = work();
        println!("{what}: {:?}", start.elapsed());
        built
    };
    let mut built = time("from scratch", &mut || build(&inputs, &Built::default()));
    for i in 0..3 {
        built = time("one EndpointSlice changed", &mut || {
            take(&mut inputs, [endpoints(7, i + 1)]);
            build(&inputs, &built)
        });
    }
    let mut documents = documents;
    documents[7].1 = route(documents[7].0, 2);
    time("one route changed", &mut || {
        take(&mut inputs, [routes("r0", &documents[..100])]);
        build(&inputs, &built)
    });
}

#[test]
fn another_name_is_no_service_of_its_own() {
    let alias = CompiledAlias { namespace: "demo".into(), service: "web".into() };
    let alias = contract::write(&CompiledRoute::of_alias("demo", "site", alias));
    let mut inputs = inputs([routes("r", &[("web", route("web", 1)), ("site", alias)])]);
    let built = build(&inputs, &Built::default());
    let snapshot = &built.snapshot;
    assert!(snapshot.service("demo", "site").is_none());
    assert_eq!(snapshot.service_or_alias("demo", "site").map(|service| &*service.name.name), Some("web"));
    take(&mut inputs, [routes("r", &[("web", route("web", 1))])]);
    assert!(build(&inputs, &built).snapshot.service_or_alias("demo", "site").is_none());
}

fn policies(name: &str, documents: &[(&str, String)]) -> Change {
    bundle(name, BundleKind::Policies { namespace: "demo".into() }, documents)
}

/// A policy that denies calls to a target, in flow style.
fn policy(name: &str, generation: i64, target: &str) -> String {
    format!(
        "version: 4\nnamespace: demo\nname: {name}\ngeneration: {generation}\ntarget: {target}\nmode: Enforce\nrules: [{{action: Deny}}]\n...\n"
    )
}

fn bootstrap(more: &str) -> Change {
    let text = format!(
        "version: 4\nmesh: default\nclusterDomain: cluster.local\nworkers: 1\nlogLevel: info\ndrainSeconds: 5\n{more}...\n"
    );
    Change::Bootstrap(text.into_bytes())
}

/// Whether a call to a Service's pod is allowed.
fn is_allowed(snapshot: &Snapshot, service: &str, pod: &str) -> bool {
    snapshot.policies.judge(&to(service, pod)).is_allowed()
}

/// A call of which only is known where it goes.
fn to<'a>(service: &'a str, pod: &'a str) -> Call<'a> {
    Call { caller: None, source: None, namespace: "demo", service, port: 80, pod, head: None }
}

#[test]
fn a_policy_about_grpc_is_about_posts_to_that_method_and_no_other() {
    let text = policy("web", 1, "{service: {name: web}}").replace(
        "rules: [{action: Deny}]",
        "rules: [{action: Deny, to: [{grpc: [{service: shop.Quotes, method: Say}]}]}]",
    );
    let built = build(&inputs([bootstrap(""), policies("p", &[("web", text)])]), &Built::default());
    let is_allowed = |method, path| {
        let head = RequestHead {
            method,
            authority: "web",
            path,
            version: Version::Http2,
            accepts_trailers: true,
            headers: (&[][..]).into(),
        };
        built.snapshot.policies.judge(&Call { head: Some(&head), ..to("web", "web") }).is_allowed()
    };
    assert!(!is_allowed("POST", "/shop.Quotes/Say"));
    assert!(is_allowed("POST", "/shop.Quotes/Sing") && is_allowed("POST", "/shop.Other/Say"));
    assert!(is_allowed("GET", "/shop.Quotes/Say"));
}

#[test]
fn policies_are_about_services_and_about_pods_of_the_own_node() {
    let mut inputs = inputs([
        bootstrap(""),
        neighbours(&[("web", "10.1.0.1"), ("db", "10.1.0.2")]),
        policies(
            "p",
            &[
                ("web", policy("web", 1, "{service: {name: web}}")),
                ("db", policy("db", 1, "{pods: {matchLabels: {app: db}}}")),
            ],
        ),
    ]);
    let built = build(&inputs, &Built::default());
    let of = |built: &Built, service: &str, pod: &str| is_allowed(&built.snapshot, service, pod);
    assert_eq!([of(&built, "web", "web"), of(&built, "other", "web")], [false, true]);
    assert_eq!([of(&built, "other", "db"), of(&built, "other", "unknown")], [false, false]);
    let again = build(&inputs, &built);
    assert!(Arc::ptr_eq(&built.snapshot.policies, &again.snapshot.policies), "nothing has changed");

    take(&mut inputs, [bootstrap("defaultAction: Deny\n")]);
    let denying = build(&inputs, &again);
    assert!(!of(&denying, "other", "web"));
    take(&mut inputs, [bootstrap(""), Change::BundleGone("p".into())]);
    let open = build(&inputs, &denying);
    assert!(open.snapshot.policies.is_open() && of(&open, "web", "web"));
}

#[test]
fn a_policy_that_is_refused_is_named_and_the_last_good_one_stays() {
    let mut inputs = inputs([policies("p", &[("web", policy("web", 1, "{service: {name: web}}"))])]);
    let newer = policy("web", 2, "{service: {name: other}, weather: fine}");
    let mut notices = Vec::new();
    inputs.apply(policies("p", &[("web", newer)]), &mut notices);
    let [crate::config::inputs::Notice::Refused { place, message, kept: true }] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert_eq!(place.to_string(), "p/web.yaml");
    assert!(message.contains("weather"), "{message}");
    let built = build(&inputs, &Built::default());
    assert!(!is_allowed(&built.snapshot, "web", "") && is_allowed(&built.snapshot, "other", ""));
    assert_eq!(inputs.refused().len(), 1);
}

#[test]
fn a_policy_in_two_bundles_counts_with_its_higher_generation() {
    let old = policies("a", &[("web", policy("web", 1, "{service: {name: web}}"))]);
    let new = policies("b", &[("web", policy("web", 2, "{service: {name: other}}"))]);
    let built = build(&inputs([new, old]), &Built::default());
    assert!(is_allowed(&built.snapshot, "web", "") && !is_allowed(&built.snapshot, "other", ""));
}

fn egress(text: &str) -> Change {
    bundle("egress", BundleKind::Egress, &[("egress", format!("version: 4\nmesh: default\n{text}...\n"))])
}

#[test]
fn what_may_be_called_outside_is_what_the_document_says_and_nobody_calls_nodes() {
    let mut inputs = inputs([bootstrap("identity: {trustDomain: mesh.example, strict: false}\n")])
        .never_calling(["10.96.0.1".parse().unwrap()]);
    let closed = build(&inputs, &Built::default());
    assert!(closed.snapshot.egress.is_closed());

    let node = |name: &str, pods: &str| {
        let text = node(name, "192.0.2.2", true).replace("...\n", &format!("podCidrs: ['{pods}']\n...\n"));
        (name.to_owned(), text)
    };
    let nodes = [node("n1", "10.244.1.0/24"), node("n2", "fd00:1::/64")];
    let nodes: Vec<_> = nodes.iter().map(|(name, text)| (&**name, text.clone())).collect();
    let api_servers = Change::Slice(Slice {
        key: SliceKey::new("default", "kubernetes"),
        service: "kubernetes".into(),
        ports: vec![SlicePort { name: "https".into(), port: 6443 }],
        endpoints: vec![
            pod("192.0.2.5", "", "", Condition::Ready),
            pod("192.0.2.6", "", "", Condition::Down),
        ],
    });
    let document = egress(
        "mode: Deny\nallow:\n\
         - {hosts: [api.example.com, '*.example.org'], ports: [443, 8443], from: [{serviceAccounts: [{namespace: demo, name: web}]}]}\n\
         - {ipBlocks: [{cidr: 198.51.100.0/24, except: [198.51.100.7/32]}]}\n\
         nodeAddresses: ['::ffff:192.0.2.9']\n",
    );
    take(&mut inputs, [bundle("nodes", BundleKind::Nodes, &nodes), api_servers, document]);
    let built = build(&inputs, &closed);
    let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>();
    let expected = Egress {
        is_open: false,
        allow: vec![
            Allowed {
                hosts: vec![
                    HostTest::Exact("api.example.com".into()),
                    HostTest::Below(".example.org".into()),
                ],
                ports: vec![443, 8443],
                from: vec![Source {
                    service_accounts: vec![("demo".into(), "web".into())],
                    ..Source::default()
                }],
                ..Allowed::default()
            },
            Allowed {
                ip_blocks: vec![(
                    "198.51.100.0/24".parse().unwrap(),
                    vec!["198.51.100.7/32".parse().unwrap()],
                )],
                ..Allowed::default()
            },
        ],
        trust_domain: "mesh.example".into(),
        never: ips(&["192.0.2.9", "10.96.0.1", "192.0.2.5", "192.0.2.6"]),
        pod_blocks: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
    };
    assert_eq!(*built.snapshot.egress, expected);
    let again = build(&inputs, &built);
    assert!(Arc::ptr_eq(&built.snapshot.egress, &again.snapshot.egress), "nothing has changed");

    take(&mut inputs, [egress("mode: Allow\n")]);
    assert!(build(&inputs, &again).snapshot.egress.is_open);
    take(&mut inputs, [Change::BundleGone("egress".into())]);
    assert_eq!(*build(&inputs, &again).snapshot.egress, Egress::default());
}

#[test]
fn egress_that_is_refused_is_named_and_the_last_good_one_stays() {
    let mut inputs = inputs([egress("mode: Allow\n")]);
    for (key, text, expected) in [
        ("egress", "version: 4\nmesh: other\nmode: Deny\n...\n", "mesh: must be default"),
        ("egress", "version: 4\nmesh: default\nmode: Deny\nweather: fine\n...\n", "weather"),
        ("egress", "version: 4\nmesh: default\nmode: Deny\nnodeAddresses: [n1]\n...\n", "nodeAddresses[0]"),
        ("egress", "version: 4\nmesh: default\nmode: Deny\n", "half-written"),
    ] {
        let mut notices = Vec::new();
        inputs.apply(bundle("egress", BundleKind::Egress, &[(key, text.to_owned())]), &mut notices);
        let [crate::config::inputs::Notice::Refused { place, message, kept: true }] = &notices[..] else {
            panic!("{notices:?}")
        };
        assert_eq!(place.to_string(), "egress/egress.yaml");
        assert!(message.contains(expected), "{message}");
        assert!(build(&inputs, &Built::default()).snapshot.egress.is_open, "{text}");
    }
    let mut notices = Vec::new();
    let text = "version: 4\nmesh: default\nmode: Allow\n...\n".to_owned();
    inputs.apply(bundle("other", BundleKind::Egress, &[("more", text)]), &mut notices);
    assert!(format!("{notices:?}").contains("key must be egress.yaml, not more.yaml"), "{notices:?}");
}
