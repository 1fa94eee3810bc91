//! Hops with TLS: each calling identity has its own, and L2 knows whose calls it delivers.

use super::*;
use crate::account::{Account, Credentials, Party};
use crate::connection::Kind;
use crate::identify::Doubts;

pub(super) fn account(name: &str) -> Account {
    Account { namespace: "demo".into(), name: name.into() }
}

/// `web` on node 1, which takes TLS, as node 0 does; callers `a` and `b` of node 0 have an account each.
fn world(seed: u64) -> World {
    let mut world = web_on(&[1], seed);
    world.snapshot.secure = [0, 1].into();
    for name in ["a", "b"] {
        world.snapshot.callers.push((0, ip_of(name)));
        world.snapshot.pods.insert(ip_of(name), (format!("uid-{name}"), name.to_owned()));
    }
    world.publish();
    certify(&mut world, &[("a", 1), ("b", 2)], false);
    world
}

/// A caller on the node resolves short names elsewhere.
pub(super) fn from_afar() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nhost: web.demo\r\n\r\n".to_vec()
}

pub(super) fn ip_of(name: &str) -> std::net::IpAddr {
    std::net::IpAddr::from([10, 1, 0, name.as_bytes()[0]])
}

/// Gives all nodes certificates with these numbers, and one of their own.
pub(super) fn certify(world: &mut World, accounts: &[(&str, u64)], is_strict: bool) {
    let accounts = accounts.iter().map(|(name, number)| (account(name), *number)).collect();
    give(world, Credentials { is_strict, node: 100, is_shared: false, accounts });
}

fn give(world: &mut World, credentials: Credentials) {
    let credentials = Arc::new(credentials);
    let now = world.now;
    for node in 0..world.nodes.len() {
        world.nodes[node].core.certify(Arc::clone(&credentials), now);
        world.turn(node);
    }
}

/// Who is at the other end of the hops that node 1 has accepted.
fn parties(world: &World) -> Vec<Party> {
    let hops = world.nodes[1].core.net.table.iter().filter_map(|(_, conn)| match &conn.kind {
        Kind::Hop(hop) if hop.node.is_none() => Some(hop.party().clone()),
        _ => None,
    });
    hops.collect()
}

fn dialled(world: &World) -> u64 {
    world.nodes[0].core.tally().hops_dialed.opened.get()
}

#[test]
fn each_service_account_has_a_hop_of_its_own_and_the_other_side_knows_whose() {
    let mut world = world(1);
    let clients = [ip_of("a"), ip_of("b"), node_ip(0)].map(|ip| world.client_from(ip, 0));
    for _ in 0..3 {
        for client in clients {
            assert_eq!(world.ask(client, &from_afar()).status, 200);
        }
    }
    assert_eq!(dialled(&world), 3);
    let parties = parties(&world);
    for party in [Party::Workload(account("a")), Party::Workload(account("b")), Party::Node("node-0".into())]
    {
        assert!(parties.contains(&party), "{party:?} in {parties:?}");
    }
    world.assert_nothing_left();
}

#[test]
fn a_caller_without_a_certificate_waits_for_it_and_then_goes_as_nobody_or_not_at_all() {
    let mut late = world(2);
    certify(&mut late, &[("b", 2)], true);
    let client = late.client_from(ip_of("a"), 0);
    late.send(client, &from_afar());
    late.run(Duration::from_secs(1));
    assert!(late.seen.is_empty());
    certify(&mut late, &[("a", 3), ("b", 2)], true);
    late.run(Duration::from_secs(1));
    assert_eq!(late.answers(client)[0].status, 200, "it has come in time");
    assert_eq!(parties(&late), [Party::Workload(account("a"))]);
    for is_strict in [false, true] {
        let mut world = world(3);
        certify(&mut world, &[], is_strict);
        let client = world.client_from(ip_of("a"), 0);
        let answer = world.ask(client, &from_afar());
        if is_strict {
            assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("no-identity")));
            assert_eq!(dialled(&world), 0);
        } else {
            assert_eq!(answer.status, 200);
            assert_eq!(parties(&world), [Party::Node("node-0".into())]);
            // It was waited for once.
            let (before, next) = (world.now, world.client_from(ip_of("a"), 0));
            assert_eq!(world.ask(next, &from_afar()).status, 200);
            assert!(world.now.since(before) < Duration::from_secs(1));
        }
        world.assert_nothing_left();
    }
}

#[test]
fn a_node_that_knows_no_tls_is_reached_without_it_unless_the_mesh_is_strict() {
    for is_strict in [false, true] {
        let mut world = world(4);
        world.without_tls.insert(1);
        certify(&mut world, &[("a", 1)], is_strict);
        let client = world.client_from(ip_of("a"), 0);
        for _ in 0..5 {
            let answer = world.ask(client, &from_afar());
            let expected = if is_strict { 503 } else { 200 };
            assert_eq!(answer.status, expected, "{:?}", answer.field("vicino-error"));
        }
        if is_strict {
            assert_eq!(parties(&world), []);
            continue;
        }
        assert_eq!((dialled(&world), parties(&world)), (2, vec![Party::Anyone]));
        // Then it is tried again.
        world.without_tls.clear();
        world.run(Duration::from_secs(11));
        assert_eq!(world.ask(client, &from_afar()).status, 200);
        assert!(parties(&world).contains(&Party::Workload(account("a"))));
        world.assert_nothing_left();
    }
}

#[test]
fn a_dial_that_came_to_nothing_takes_no_newer_hop_with_it() {
    let mut world = world(11);
    world.without_tls.insert(1);
    let [first, second] = [0, 1].map(|_| world.client_from(ip_of("a"), 0));
    world.net.latency_us = (500, 500);
    world.send(first, &from_afar());
    world.run(Duration::from_micros(600));
    certify(&mut world, &[("a", 7), ("b", 2)], false);
    // Its dial begins while the first one is on its way.
    world.net.latency_us = (50, 50);
    world.send(second, &from_afar());
    world.net.latency_us = (500, 500);
    world.run(Duration::from_micros(950));
    assert_eq!(world.nodes[0].core.tally().hops_dialed.refused.get(), 1);
    world.without_tls.clear();
    for client in [first, second] {
        world.until("an answer", |w| !w.answers(client).is_empty());
        assert_eq!(world.answers(client)[0].status, 200);
    }
    assert_eq!(dialled(&world), 3, "the one without TLS is for the first");
    world.run(Duration::from_secs(11));
    assert_eq!(world.ask(second, &from_afar()).status, 200);
    assert_eq!(dialled(&world), 3, "the one with TLS stands and is used");
    world.assert_nothing_left();
}

#[test]
fn a_new_certificate_is_for_new_calls_and_those_that_are_open_live_on() {
    let mut world = world(5);
    let [slow, quick] = [0, 1].map(|_| world.client_from(ip_of("a"), 0));
    world.send(slow, b"POST /echo HTTP/1.1\r\nhost: web.demo\r\ncontent-length: 4\r\n\r\nab");
    world.run(Duration::from_millis(100));
    assert_eq!(dialled(&world), 1);
    certify(&mut world, &[("a", 7), ("b", 2)], false);
    assert_eq!(world.ask(quick, &from_afar()).status, 200);
    assert_eq!(dialled(&world), 2, "on a hop of its own");
    world.send(slow, b"cd");
    world.run(Duration::from_secs(1));
    let answer = &world.answers(slow)[0];
    assert_eq!((answer.status, &answer.body[..]), (200, &b"abcd"[..]));
    world.run(Duration::from_secs(1));
    assert_eq!(parties(&world).len(), 1, "the old one is closed with its last call");
    world.assert_nothing_left();
}

#[test]
fn who_is_proved_until_then_is_asked_anew_and_no_call_is_lost() {
    let mut world = world(6);
    world.proved_until = world.now + Duration::from_secs(5);
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &from_afar()).status, 200);
    world.run(Duration::from_secs(6));
    world.proved_until = Time::NEVER;
    for _ in 0..3 {
        assert_eq!(world.ask(client, &from_afar()).status, 200);
    }
    assert_eq!(dialled(&world), 2);
    world.proved_until = world.now;
    certify(&mut world, &[("a", 8)], false);
    assert_eq!(world.ask(client, &from_afar()).status, 503, "and one that has ended opens nothing");
    world.assert_nothing_left();
}

#[test]
fn whoever_was_known_by_roots_that_have_gone_is_asked_anew_and_no_call_is_lost() {
    let mut world = world(7);
    world.snapshot.request_timeout = Duration::ZERO;
    world.publish();
    let [slow, quick] = [0, 1].map(|_| world.client_from(ip_of("a"), 0));
    world.send(slow, b"POST /echo HTTP/1.1\r\nhost: web.demo\r\ncontent-length: 4\r\n\r\nab");
    world.run(Duration::from_millis(100));
    // This one crosses it.
    world.send(quick, &from_afar());
    world.run(Duration::from_micros(300));
    let now = world.now;
    world.nodes[1].core.distrust(now);
    world.turn(1);
    world.until("an answer", |w| !w.answers(quick).is_empty());
    assert_eq!(world.answers(quick)[0].status, 200);
    for _ in 0..3 {
        assert_eq!(world.ask(quick, &from_afar()).status, 200);
    }
    assert_eq!((dialled(&world), parties(&world).len()), (2, 2));
    world.run(Duration::from_mins(9));
    assert!(world.answers(slow).is_empty() && parties(&world).len() == 1, "it has some time to end");
    world.run(Duration::from_mins(2));
    assert_eq!((world.answers(slow)[0].status, parties(&world).len()), (502, 0));
    world.assert_nothing_left();
}

#[test]
fn a_handshake_that_ends_when_its_roots_have_gone_opens_nothing() {
    let mut world = world(8);
    let client = world.client_from(ip_of("a"), 0);
    world.send(client, &from_afar());
    for _ in 0..60 {
        world.run(Duration::from_micros(50));
        let now = world.now;
        world.nodes[1].core.distrust(now);
        world.turn(1);
    }
    world.until("an answer", |w| !w.answers(client).is_empty());
    assert_eq!(world.answers(client)[0].status, 200);
    world.assert_nothing_left();
}

/// Whatever its certificate says: it may be a forger's own.
#[test]
fn who_it_is_is_proved_for_a_day_at_most() {
    let mut world = world(9);
    for node in &mut world.nodes {
        // So that a day is not 86,400 looks at it.
        node.core.config.hop_ping_after = Duration::from_hours(1);
        node.core.config.hop_dead_after = Duration::from_hours(3);
    }
    world.snapshot.request_timeout = Duration::ZERO;
    world.publish();
    let slow = world.client_from(ip_of("a"), 0);
    world.send(slow, b"POST /echo HTTP/1.1\r\nhost: web.demo\r\ncontent-length: 4\r\n\r\nab");
    for (hours, expected) in [(23, 1), (2, 2)] {
        world.run(Duration::from_hours(hours));
        let quick = world.client_from(ip_of("a"), 0);
        assert_eq!(world.ask(quick, &from_afar()).status, 200);
        assert_eq!(dialled(&world), expected);
    }
    world.send(slow, b"cd");
    world.run(Duration::from_secs(1));
    assert_eq!(world.answers(slow)[0].status, 200, "what is open lives on");
}

#[test]
fn a_node_that_shows_another_ones_certificate_is_refused() {
    let mut world = world(7);
    world.claims = Some(Party::Node("node-1".into()));
    let client = world.client_from(node_ip(0), 0);
    assert_eq!(world.ask(client, &from_afar()).status, 503);
    assert!(world.nodes[1].events.iter().any(|e| matches!(e, Event::Limited { reason: "another-node", .. })));
    assert!(world.seen.is_empty());
    world.claims = Some(Party::Node("node-0".into()));
    // Not from the address of the node that is dialled, either.
    world.nodes[0].ip = node_ip(1);
    world.run(Duration::from_secs(6));
    assert_eq!(world.ask(client, &from_afar()).status, 503);
    world.nodes[0].ip = node_ip(0);
    world.run(Duration::from_secs(6));
    assert_eq!(world.ask(client, &from_afar()).status, 200);
}

#[test]
fn an_address_that_is_another_pods_now_never_calls_as_the_pod_that_had_it() {
    let mut world = world(8);
    let [idle, busy, other] = ["a", "a", "b"].map(|name| world.client_from(ip_of(name), 0));
    for client in [idle, busy, other] {
        assert_eq!(world.ask(client, &from_afar()).status, 200);
    }
    world.send(busy, b"POST /echo HTTP/1.1\r\nhost: web.demo\r\ncontent-length: 4\r\n\r\nab");
    world.run(Duration::from_millis(100));
    world.snapshot.callers.retain(|(_, ip)| *ip != ip_of("a"));
    world.publish();
    assert!(!world.clients[idle].is_closed, "nobody has its address");
    world.snapshot.callers.push((0, ip_of("a")));
    world.snapshot.pods.insert(ip_of("a"), ("uid-c".to_owned(), "b".to_owned()));
    world.publish();
    world.run(Duration::from_secs(1));
    assert!(world.clients[idle].is_closed && world.clients[busy].is_closed);
    assert!(!world.clients[other].is_closed);
    let client = world.client_from(ip_of("a"), 0);
    assert_eq!(world.ask(client, &from_afar()).status, 200);
    assert_eq!(dialled(&world), 2, "as `b`, which has a hop already");
    world.assert_nothing_left();
}

/// Has node 0 doubt that these pods are at their addresses.
fn doubt(world: &mut World, version: u64, pods: &[(&str, &str)]) {
    let pods = pods.iter().map(|(name, uid)| (ip_of(name), (*uid).into())).collect();
    let now = world.now;
    world.nodes[0].core.doubt(Arc::new(Doubts { version, pods }), now);
    world.turn(0);
}

#[test]
fn a_pod_that_is_not_behind_its_address_any_more_is_cut_and_its_successor_is_nobody_until_it_is_named() {
    let mut world = world(9);
    let [idle, busy, other] = ["a", "a", "b"].map(|name| world.client_from(ip_of(name), 0));
    for client in [idle, busy, other] {
        assert_eq!(world.ask(client, &from_afar()).status, 200);
    }
    world.send(busy, b"POST /echo HTTP/1.1\r\nhost: web.demo\r\ncontent-length: 4\r\n\r\nab");
    world.run(Duration::from_millis(100));
    doubt(&mut world, 1, &[("a", "uid-a")]);
    world.run(Duration::from_secs(1));
    assert!(world.clients[idle].is_closed && world.clients[busy].is_closed);
    assert!(!world.clients[other].is_closed);
    let client = world.client_from(ip_of("a"), 0);
    let answer = world.ask(client, &from_afar());
    assert_eq!((answer.status, answer.field("vicino-error")), (403, Some("not-a-neighbour")));
    // It is held for a while, and named meanwhile.
    let named = world.client_from(ip_of("a"), 0);
    world.send(named, &from_afar());
    world.run(Duration::from_secs(1));
    assert!(world.answers(named).is_empty());
    world.snapshot.pods.insert(ip_of("a"), ("uid-c".to_owned(), "b".to_owned()));
    world.publish();
    world.run(Duration::from_secs(1));
    assert_eq!(world.answers(named)[0].status, 200);
    assert_eq!(dialled(&world), 2, "as `b`, which has a hop already");
    world.assert_nothing_left();
}

#[test]
fn a_doubt_that_is_over_frees_whom_it_held_and_an_older_one_does_not_bring_it_back() {
    let mut world = world(10);
    doubt(&mut world, 2, &[("a", "uid-a")]);
    let client = world.client_from(ip_of("a"), 0);
    world.send(client, &from_afar());
    world.run(Duration::from_secs(1));
    assert!(world.answers(client).is_empty());
    doubt(&mut world, 3, &[]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.answers(client)[0].status, 200);
    doubt(&mut world, 2, &[("a", "uid-a")]);
    assert!(!world.clients[client].is_closed);
    assert_eq!(world.ask(client, &from_afar()).status, 200);
    world.assert_nothing_left();
}

#[test]
fn where_nobody_gives_neighbours_certificates_their_calls_go_with_that_of_the_node_at_once() {
    let mut world = web_on(&[1], 30);
    world.snapshot.secure = [0, 1].into();
    world.snapshot.callers.push((0, ip_of("a")));
    world.snapshot.pods.insert(ip_of("a"), ("uid-a".to_owned(), "a".to_owned()));
    world.publish();
    let credentials =
        |is_shared| Credentials { is_strict: true, node: 100, is_shared, ..Credentials::default() };
    give(&mut world, credentials(false));
    let client = world.client_from(ip_of("a"), 0);
    let before = world.now;
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("no-identity")));
    assert!(world.now > before + Duration::from_millis(500), "one of its own was waited for");
    give(&mut world, credentials(true));
    let (before, client) = (world.now, world.client_from(ip_of("a"), 0));
    assert_eq!(world.ask(client, &get("/")).status, 200);
    assert!(world.now < before + Duration::from_millis(100));
    assert_eq!(parties(&world), [Party::Node("node-0".into())]);
}
