//! Calls that belong together, from whichever node they come.

use std::collections::BTreeMap;

use super::*;
use crate::affinity::{Affinity, SetCookie};
use crate::snapshot::Concurrency;

/// Callers on every node, six pods over three nodes.
fn world_with(affinity: Affinity, seed: u64) -> World {
    let mut world = World::new(3, seed);
    for i in 1..=6 {
        world.pod("web", usize::from(i) % 3, i);
    }
    world.snapshot.affinity = Some(affinity);
    world.publish();
    world
}

fn user(name: &str) -> Vec<u8> {
    format!("GET /echo HTTP/1.1\r\nHost: web\r\nx-user: {name}\r\n\r\n").into_bytes()
}

/// The pod that a call of a user goes to from a node.
fn pod_of(world: &mut World, node: usize, name: &str) -> SocketAddr {
    let client = world.client(node);
    let before = world.seen.len();
    assert_eq!(world.ask(client, &user(name)).status, 200);
    world.reset_client(client);
    world.seen[before].pod
}

#[test]
fn the_same_key_leads_to_the_same_pod_from_everywhere() {
    let mut world = world_with(Affinity::Header("x-user".into()), 1);
    let mut pods: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for i in 0..60 {
        let name = format!("user-{i}");
        let first = pod_of(&mut world, 0, &name);
        *pods.entry(first).or_default() += 1;
        for node in [0, 1, 2] {
            assert_eq!(pod_of(&mut world, node, &name), first, "{name} from node {node}");
        }
    }
    assert_eq!(pods.len(), 6, "keys are spread: {pods:?}");
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

#[test]
fn only_the_keys_of_a_pod_that_goes_move() {
    let mut world = world_with(Affinity::Header("x-user".into()), 2);
    let names: Vec<String> = (0..40).map(|i| format!("user-{i}")).collect();
    let before: Vec<SocketAddr> = names.iter().map(|name| pod_of(&mut world, 0, name)).collect();
    let gone = before[0];
    world.listeners.insert(gone, Listener::Refuses);
    world.pods.iter_mut().filter(|pod| pod.address == gone).for_each(PodConn::close);
    world.run(Duration::from_secs(1));
    for (name, was) in names.iter().zip(&before) {
        let now = pod_of(&mut world, 1, name);
        assert!(now == *was || *was == gone, "{name} moved from {was} to {now}");
        assert_ne!(now, gone);
    }
}

#[test]
fn a_call_without_the_key_goes_where_there_is_room() {
    let mut world = world_with(Affinity::Header("x-user".into()), 3);
    let client = world.client(0);
    for _ in 0..60 {
        world.ask(client, &get("/echo"));
    }
    let pods: std::collections::BTreeSet<_> = world.seen.iter().map(|seen| seen.pod).collect();
    assert_eq!(pods.len(), 6);
    // By address, every caller has its pod.
    let mut world = world_with(Affinity::Source, 4);
    let client = world.client(0);
    for _ in 0..20 {
        world.ask(client, &get("/echo"));
    }
    assert!(world.seen.iter().all(|seen| seen.pod == world.seen[0].pod));
}

#[test]
fn a_pod_that_is_full_lets_its_keys_go_to_others() {
    let mut world = world_with(Affinity::Header("x-user".into()), 5);
    world.snapshot.concurrency = Some(Concurrency {
        per_pod: 1,
        queue_length: 10,
        queue_timeout_ns: 1_000_000_000,
        standing_timeout_ns: 0,
        adaptive: None,
    });
    world.publish();
    let home = pod_of(&mut world, 0, "bob");
    let clients = [world.client(0), world.client(0)];
    for client in clients {
        let request = String::from_utf8(user("bob")).unwrap().replace("/echo", "/slow/300");
        world.send(client, request.as_bytes());
        world.run(Duration::from_millis(20));
    }
    let pods: Vec<_> = world.seen.iter().rev().take(2).map(|seen| seen.pod).collect();
    assert_eq!(pods[1], home);
    assert_ne!(pods[0], home, "another pod of the node has room");
    world.run(Duration::from_secs(1));
    assert_eq!(pod_of(&mut world, 2, "bob"), home);
}

#[test]
fn a_split_by_weight_stays_the_same_for_a_key() {
    let mut world = world_with(Affinity::Header("x-user".into()), 6);
    world.pod("canary", 1, 9);
    world.snapshot.services.insert("web".into(), vec![("web".into(), 3), ("canary".into(), 1)]);
    world.publish();
    let canary = pod_address(1, 9);
    let mut count = 0;
    for i in 0..80 {
        let name = format!("user-{i}");
        let first = pod_of(&mut world, 0, &name) == canary;
        count += usize::from(first);
        assert_eq!(pod_of(&mut world, 2, &name) == canary, first, "{name} sees both");
    }
    assert!((8..=34).contains(&count), "a quarter of 80: {count}");
}

#[test]
fn a_caller_without_the_cookie_is_given_one_that_leads_to_the_pod_it_was_served_by() {
    let set = SetCookie { max_age_s: Some(60) };
    let mut world = world_with(Affinity::Cookie("sid".into(), Some(set)), 7);
    let mut pods = BTreeMap::<SocketAddr, usize>::new();
    for i in 0..60 {
        let client = world.client(i % 3);
        let before = world.seen.len();
        let answer = world.ask(client, b"GET /echo HTTP/1.1\r\nHost: web\r\nCookie: a=b\r\n\r\n");
        let set = answer.field("set-cookie").expect("a cookie").to_owned();
        let (pair, rest) = set.split_once(';').unwrap();
        assert_eq!(rest, " path=/; httponly; max-age=60", "in lower case, as every head here");
        assert!(pair.starts_with("sid=") && pair.len() == 4 + 32, "{pair}");
        let first = world.seen[before].pod;
        let cookies: Vec<_> = world.seen[before].head.lines().filter(|l| l.starts_with("cookie:")).collect();
        assert_eq!(cookies, [format!("cookie: a=b; {pair}")], "one field has all");
        *pods.entry(first).or_default() += 1;
        let again = format!("GET /echo HTTP/1.1\r\nHost: web\r\nCookie: {pair}\r\n\r\n");
        for node in [0, 1, 2] {
            let client = world.client(node);
            let before = world.seen.len();
            let answer = world.ask(client, again.as_bytes());
            assert_eq!((answer.status, answer.field("set-cookie")), (200, None));
            assert_eq!(world.seen[before].pod, first, "{pair} from node {node}");
        }
    }
    assert_eq!(pods.len(), 6, "callers are spread: {pods:?}");
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

#[test]
fn a_busy_key_spreads_as_far_as_loads_are_bounded() {
    for concurrency in [
        None,
        Some(Concurrency {
            per_pod: 100,
            queue_length: 10,
            queue_timeout_ns: 1_000_000_000,
            ..Concurrency::default()
        }),
    ] {
        for percent in [0, 150] {
            let mut world = world_with(Affinity::Header("x-user".into()), 5);
            world.snapshot.affinity_load_percent = percent;
            world.snapshot.concurrency = concurrency;
            world.publish();
            let home = pod_of(&mut world, 0, "bob");
            let request = String::from_utf8(user("bob")).unwrap().replace("/echo", "/slow/5000");
            let before = world.seen.len();
            for _ in 0..60 {
                let client = world.client(0);
                world.send(client, request.as_bytes());
                world.run(Duration::from_millis(5));
            }
            let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
            for seen in &world.seen[before..] {
                *counts.entry(seen.pod).or_default() += 1;
            }
            let most = counts.values().max().copied();
            match percent {
                0 => assert_eq!((counts.len(), most), (1, Some(60)), "without a bound all are at home"),
                // Of 60 calls 10 are the average of six pods.
                _ => assert!(counts.len() >= 4 && most <= Some(25) && counts[&home] >= 10, "{counts:?}"),
            }
            world.run(Duration::from_secs(6));
            assert_eq!(pod_of(&mut world, 2, "bob"), home);
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
}
