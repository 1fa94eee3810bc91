//! Who may call what, where calls are delivered: at L2, and at L1 for pods of the caller's own node.

use super::identity::{certify, from_afar, ip_of};
use super::*;
use crate::policy::{Action, Operation, Policies, Policy, Rule, Source, Target};
use crate::rules::PathTest;
use crate::snapshot::Edits;

fn rule(action: Action, from: Source, to: &[Operation]) -> Rule {
    let from = if from == Source::default() { Vec::new() } else { vec![from] };
    Rule { name: "it".into(), action, from, to: to.to_vec() }
}

fn accounts(names: &[&str]) -> Source {
    let of = |name: &&str| ("demo".into(), (*name).into());
    Source { service_accounts: names.iter().map(of).collect(), ..Source::default() }
}

fn path(prefix: &str) -> Operation {
    Operation { paths: vec![PathTest::prefix(prefix)], ..Operation::default() }
}

/// Callers `a` and `b` on node 0, `web` on the node given, and these rules on it.
fn world(node: usize, default: Action, (is_audit, rules): (bool, Vec<Rule>)) -> World {
    let mut world = web_on(&[node], 1);
    world.snapshot.secure = [0, 1].into();
    for name in ["a", "b"] {
        world.snapshot.callers.push((0, ip_of(name)));
        world.snapshot.pods.insert(ip_of(name), (format!("uid-{name}"), name.to_owned()));
    }
    let target = Target::Service { name: "web".into(), port: None };
    let policy = Policy { namespace: "demo".into(), name: "p".into(), is_audit, target, rules };
    let policies = Policies::new(default, "cluster.local".into(), [Arc::new(policy)], []);
    world.snapshot.policies = Arc::new(policies);
    world.publish();
    certify(&mut world, &[("a", 1), ("b", 2)], false);
    world
}

/// What a decision says, on whichever node it was made.
fn decisions(world: &World) -> Vec<(String, Option<String>, bool)> {
    let of = |event: &Event| match event {
        Event::PolicyDecision { caller, by, is_audit, .. } => Some((caller.clone(), by.clone(), *is_audit)),
        _ => None,
    };
    world.nodes.iter().flat_map(|node| node.events.iter().filter_map(of)).collect()
}

#[test]
fn a_call_is_refused_or_allowed_by_who_makes_it_on_the_own_node_and_on_others() {
    for node in [0, 1] {
        let mut world = world(node, Action::Deny, (false, vec![rule(Action::Allow, accounts(&["a"]), &[])]));
        for (ip, status, caller) in [
            (ip_of("a"), 200, ""),
            (ip_of("b"), 403, "spiffe://cluster.local/ns/demo/sa/b"),
            (node_ip(0), 403, "unidentified, from 10.0.0.1"),
        ] {
            let client = world.client_from(ip, 0);
            let answer = world.ask(client, &from_afar());
            assert_eq!(answer.status, status, "{ip} to node {node}");
            if status == 403 {
                assert_eq!(answer.field("vicino-error"), Some("policy-denied"));
                assert_eq!(decisions(&world).last(), Some(&(caller.to_owned(), None, false)));
            }
        }
        assert_eq!(world.seen.len(), 1, "an application sees what is allowed and nothing else");
        world.assert_nothing_left();
    }
}

/// With a node's certificate, from where no node is: it may be stolen, so it vouches for no address.
#[test]
fn a_node_that_dials_from_no_address_of_its_own_vouches_for_none() {
    let block =
        || Source { ip_blocks: vec![("10.0.0.0/8".parse().unwrap(), Vec::new())], ..Source::default() };
    for (from, status) in [(node_ip(0), 200), ([192, 0, 2, 9].into(), 403)] {
        let mut world = world(1, Action::Deny, (false, vec![rule(Action::Allow, block(), &[])]));
        world.nodes[0].ip = from;
        let client = world.client_from(node_ip(0), 0);
        assert_eq!(world.ask(client, &from_afar()).status, status, "{from}");
        let told = decisions(&world);
        assert!(told.iter().all(|(caller, ..)| caller == "unidentified"), "{told:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn over_a_hop_without_tls_nobody_is_anybody() {
    let mut world = world(1, Action::Deny, (false, vec![rule(Action::Allow, accounts(&["a"]), &[])]));
    world.without_tls.insert(1);
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &from_afar()).status, 403);
    assert_eq!(decisions(&world), [("unidentified".to_owned(), None, false)]);
    let block = Source { ip_blocks: vec![("10.0.0.0/8".parse().unwrap(), Vec::new())], ..Source::default() };
    let mut world = self::world(1, Action::Deny, (false, vec![rule(Action::Allow, block, &[])]));
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &from_afar()).status, 200);
    world.without_tls.insert(1);
    world.reset_hops(0, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.ask(client, &from_afar()).status, 403, "nor has an address that somebody tells");
}

#[test]
fn a_path_is_judged_however_it_is_written() {
    for node in [0, 1] {
        let mut world = world(
            node,
            Action::Allow,
            (false, vec![rule(Action::Deny, Source::default(), &[path("/admin")])]),
        );
        let client = world.client_from(ip_of("a"), 0);
        for (path, status) in [
            ("/", 200),
            ("/administration", 200),
            ("/admin", 403),
            ("/admin/x?y", 403),
            ("//admin", 403),
            ("/%61dmin", 403),
            ("/x/../admin", 403),
            ("/x/%2e%2e/admin", 403),
            ("/admin;a=b/", 403),
        ] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: web.demo\r\n\r\n");
            assert_eq!(world.ask(client, request.as_bytes()).status, status, "{path}");
        }
        let by = decisions(&world).pop().and_then(|(_, by, _)| by);
        assert_eq!(by.as_deref(), Some("demo/p it"));
    }
}

#[test]
fn policies_in_audit_let_pass_and_tell() {
    for node in [0, 1] {
        let mut world = world(node, Action::Allow, (true, vec![rule(Action::Deny, accounts(&["a"]), &[])]));
        for (name, status) in [("a", 200), ("b", 200)] {
            let client = world.client_from(ip_of(name), 0);
            assert_eq!(world.ask(client, &from_afar()).status, status);
        }
        let caller = "spiffe://cluster.local/ns/demo/sa/a".to_owned();
        assert_eq!(decisions(&world), [(caller, Some("demo/p it".to_owned()), true)]);
        let tally = world.nodes[node].core.tally();
        assert_eq!(tally.policy_audits.get(), 1);
        let (name, count) = tally.policies().pop_first().unwrap();
        assert_eq!((&*name.namespace, &*name.name), ("demo", "p"));
        assert_eq!((count.denied.get(), count.audited.get()), (0, 1));
    }
}

#[test]
fn a_head_is_judged_as_the_application_gets_it() {
    for node in [0, 1] {
        let test = crate::rules::ValueTest::Exact("yes".into());
        let operation = Operation { headers: vec![("x-inside".into(), test)], ..Operation::default() };
        let deny = rule(Action::Deny, Source::default(), &[operation]);
        let mut world = world(node, Action::Allow, (false, vec![deny]));
        let client = world.client_from(ip_of("a"), 0);
        assert_eq!(world.ask(client, &from_afar()).status, 200);
        let request =
            crate::rules::HeaderEdit { set: vec![("x-inside".into(), "yes".into())], ..Default::default() };
        let edits = Edits { request, ..Edits::default() };
        world.snapshot.edits.insert("web".into(), Arc::new(edits));
        world.publish();
        assert_eq!(world.ask(client, &from_afar()).status, 403);
    }
}

#[test]
fn a_tunnel_of_which_nothing_is_known_is_closed_where_calls_are_judged_by_what_they_ask() {
    for node in [0, 1] {
        let mut world = world(
            node,
            Action::Allow,
            (false, vec![rule(Action::Deny, Source::default(), &[path("/admin")])]),
        );
        let open = |world: &mut World| {
            let client = world.client_from(ip_of("a"), 0);
            world.send(client, b"CONNECT web.demo:80 HTTP/1.1\r\nhost: web.demo:80\r\n\r\n");
            world.until("200", |w| w.text(client).ends_with("\r\n\r\n"));
            world.clients[client].got.clear();
            client
        };
        let bytes = open(&mut world);
        world.send(bytes, b"\x01\x02 no HTTP");
        world.run(Duration::from_secs(3));
        assert!(world.clients[bytes].is_closed, "bytes that are no HTTP could be anything");
        let small = open(&mut world);
        world.send(small, b"get /admin HTTP/1.1\r\nhost: web\r\n\r\n");
        world.run(Duration::from_secs(3));
        assert!(world.clients[small].is_closed && world.seen.is_empty());
        let late = open(&mut world);
        // Long enough for the application to be let speak first.
        world.run(Duration::from_millis(500));
        assert!(!world.clients[late].is_closed, "it may still speak HTTP");
        assert_eq!(world.ask(late, &get("/")).status, 200);
        assert_eq!(world.ask(late, &get("/admin")).status, 403);
        let silent = open(&mut world);
        world.run(Duration::from_secs(5));
        assert!(world.clients[silent].is_closed, "and not for ever");
        world.run(Duration::from_mins(2));
        world.assert_nothing_left();
    }
}

#[test]
fn the_port_is_the_one_that_the_own_node_knows() {
    let to_other_port = Operation { not_ports: vec![80], ..Operation::default() };
    let deny =
        rule(Action::Deny, Source::default(), &[Operation { ports: vec![80], ..Operation::default() }]);
    let allow = rule(Action::Allow, Source::default(), &[to_other_port]);
    let mut world = world(1, Action::Deny, (false, vec![deny, allow]));
    assert_eq!(world.nodes[1].core.snapshot.port_number("demo", "web", "http"), Some(80));
    // A node that is taken over says another number with the same name.
    let lying = world.client_of(Role::L2, node_ip(0), 1);
    let mut bytes = Vec::new();
    let hello = vicino_wire::hop::Hello {
        max_streams: 9,
        initial_window: 65_535,
        max_frame: 1024,
        binds_late: false,
        node: "node-0",
    };
    vicino_wire::hop::encode_hello(&mut bytes, &hello).unwrap();
    let to = vicino_wire::hop::Destination {
        namespace: "demo",
        service: "web",
        port: 81,
        port_name: "http",
        pod: None,
    };
    let request = vicino_wire::hop::RequestFrame {
        to,
        kind: vicino_wire::hop::Kind::Opaque,
        deadline_ms: vicino_wire::hop::DEADLINE_MS_NONE,
        hops: 1,
        is_last_resort: false,
        caller: None,
        head: vicino_wire::head::RequestHead::opaque(),
        framing: vicino_wire::head::Framing::UntilClose,
    };
    vicino_wire::hop::encode_request(&mut bytes, 1, &request, &[]).unwrap();
    world.send(lying, &bytes);
    world.run(Duration::from_secs(1));
    assert_eq!(decisions(&world), [("unidentified".to_owned(), Some("demo/p it".to_owned()), false)]);
    assert!(world.seen.is_empty());
}

#[test]
fn a_strict_service_takes_nothing_over_hops_without_tls_in_a_mesh_that_does() {
    let mut world = world(1, Action::Allow, (true, Vec::new()));
    world.snapshot.is_strict = true;
    world.publish();
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &from_afar()).status, 200);
    world.without_tls.insert(1);
    world.reset_hops(0, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.ask(client, &from_afar()).status, 403);
    assert_eq!(world.seen.len(), 1);
    world.assert_nothing_left();
}

/// Callers that may not call take no place in line from those that may, and are told at once, each of them once.
#[test]
fn who_is_refused_is_not_in_line() {
    for node in [0, 1] {
        let allow = rule(Action::Allow, accounts(&["a"]), &[]);
        let audit = rule(Action::Deny, accounts(&["a"]), &[]);
        let mut world = world(node, Action::Deny, (false, vec![allow.clone()]));
        world.pod("web", node, 9);
        let of = |name: &str, is_audit, rules| {
            let target = Target::Service { name: "web".into(), port: None };
            Arc::new(Policy { namespace: "demo".into(), name: name.into(), is_audit, target, rules })
        };
        let policies = [of("p", false, vec![allow]), of("audit", true, vec![audit])];
        world.snapshot.policies = Arc::new(Policies::new(Action::Deny, "cluster.local".into(), policies, []));
        world.snapshot.concurrency = Some(crate::snapshot::Concurrency {
            per_pod: 1,
            queue_length: 4,
            queue_timeout_ns: 10_000_000_000,
            ..Default::default()
        });
        world.publish();
        let ask = |world: &mut World, name: &str| {
            let client = world.client_from(ip_of(name), 0);
            world.send(client, b"GET /hang HTTP/1.1\r\nhost: web.demo\r\n\r\n");
            world.run(Duration::from_millis(10));
            client
        };
        ask(&mut world, "a");
        ask(&mut world, "a");
        let refused: Vec<usize> = (0..10).map(|_| ask(&mut world, "b")).collect();
        for client in refused {
            let answers = world.answers(client);
            assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [403], "node {node}");
        }
        let waits = ask(&mut world, "a");
        assert!(world.answers(waits).is_empty(), "node {node}: there is room for it");
        assert_eq!(world.nodes[node].core.tally().queued.get(), 1);
        let told = decisions(&world);
        let count = |name: &str| {
            let caller = format!("spiffe://cluster.local/ns/demo/sa/{name}");
            told.iter().filter(|(by, ..)| *by == caller).count()
        };
        assert_eq!((count("b"), count("a")), (10, 2), "node {node}: the one in line was not delivered yet");
    }
}

/// A call in line on its own node, which knows who makes it, does not leave it for a node that does not.
#[test]
fn a_strict_service_gives_no_place_to_calls_over_hops_without_tls() {
    let mut world = world(0, Action::Allow, (true, Vec::new()));
    world.pod("web", 1, 9);
    world.snapshot.near.insert("web".into(), [0].into());
    world.snapshot.is_strict = true;
    world.snapshot.concurrency = Some(crate::snapshot::Concurrency {
        per_pod: 1,
        queue_length: 4,
        queue_timeout_ns: 10_000_000_000,
        ..Default::default()
    });
    world.without_tls.insert(1);
    world.publish();
    let clients = ["/slow/500", "/"].map(|path| {
        let client = world.client_from(ip_of("a"), 0);
        world.send(client, format!("GET {path} HTTP/1.1\r\nhost: web.demo\r\n\r\n").as_bytes());
        world.run(Duration::from_millis(10));
        client
    });
    world.run(Duration::from_secs(1));
    for client in clients {
        assert_eq!(world.answers(client)[0].status, 200);
    }
    assert!(world.seen.iter().all(|seen| seen.pod == pod_address(0, 1)));
    world.assert_nothing_left();
}
