//! Calls that are meant for some endpoints only: hints prefer, `internalTrafficPolicy: Local` insists.

use super::*;

/// The nodes whose pods were called so far.
fn called(world: &World) -> BTreeSet<usize> {
    let node = |pod| (0..3).find(|node| pod == pod_address(*node, *node as u8 + 1)).expect("one pod a node");
    world.seen.iter().map(|seen| node(seen.pod)).collect()
}

#[test]
fn near_endpoints_are_called_and_no_others() {
    for near in [vec![1], vec![0, 2], vec![0]] {
        let mut world = web_on(&[0, 1, 2], 1);
        world.snapshot.near.insert("web".to_owned(), near.iter().copied().collect());
        world.publish();
        let client = world.client(0);
        for _ in 0..40 {
            assert_eq!(world.ask(client, &get("/")).status, 200);
        }
        assert_eq!(called(&world), near.into_iter().collect());
        world.assert_nothing_left();
    }
}

#[test]
fn far_endpoints_are_called_while_no_near_one_can_be() {
    for listener in [Listener::Refuses, Listener::Silent] {
        let mut world = web_on(&[1, 2], 2);
        world.snapshot.near.insert("web".to_owned(), BTreeSet::from([1]));
        world.publish();
        world.listeners.insert(SocketAddr::new(node_ip(1), L2_PORT), listener);
        let client = world.client(0);
        for _ in 0..20 {
            assert_eq!(world.ask(client, &get("/")).status, 200, "{listener:?}");
        }
        assert!(world.seen.iter().all(|seen| seen.pod == pod_address(2, 2)), "{listener:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn a_node_local_service_is_served_by_the_own_node_or_not_at_all() {
    let mut world = web_on(&[0, 1, 2], 3);
    world.snapshot.node_local.insert("web".to_owned());
    world.publish();
    let client = world.client(0);
    for _ in 0..20 {
        assert_eq!(world.ask(client, &get("/")).status, 200);
    }
    assert_eq!(called(&world), BTreeSet::from([0]));
    world.snapshot.endpoints.get_mut("web").unwrap().retain(|(node, _)| *node != 0);
    world.publish();
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("no-endpoint")));
    world.assert_nothing_left();
}

/// A pod that is called by its own name gets the call, and nobody gets it in its place, not even when it is busy and others are not.
#[test]
fn a_pod_is_called_by_its_own_name() {
    let mut world = web_on(&[0, 1, 1], 11);
    world.snapshot.concurrency = Some(crate::snapshot::Concurrency {
        per_pod: 1,
        queue_length: 9,
        queue_timeout_ns: 1_000_000_000,
        standing_timeout_ns: 0,
        adaptive: None,
    });
    world.publish();
    let pods = [pod_address(0, 1), pod_address(1, 2), pod_address(1, 3)];
    let client = world.client(0);
    for round in 0..4 {
        for (i, pod) in pods.iter().enumerate() {
            let before = world.seen.len();
            let host = if round % 2 == 0 { format!("web-{i}.web") } else { format!("web-{i}.web.demo.svc") };
            let request = format!("POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\nhi");
            let busy = world.client(0);
            if round > 1 {
                let request = format!("GET /slow/50 HTTP/1.1\r\nHost: {host}\r\n\r\n");
                world.send(busy, request.as_bytes());
                world.run(Duration::from_millis(10));
                assert_eq!(world.seen.len(), before + 1);
            }
            assert_eq!(world.ask(client, request.as_bytes()).status, 200, "{host}");
            assert!(world.seen[before..].iter().all(|seen| seen.pod == *pod), "{host}");
            assert!(
                world.seen[before].head.contains(&format!("Host: {host}")),
                "{}",
                world.seen[before].head
            );
        }
    }
    // It fails there and is not tried elsewhere.
    let answer = world.ask(client, b"GET /die HTTP/1.1\r\nHost: web-1.web\r\n\r\n");
    assert_eq!(answer.status, 502);
    let tried = world.seen.iter().filter(|seen| seen.head.starts_with("GET /die")).map(|seen| seen.pod);
    assert!(tried.clone().count() > 0 && tried.clone().all(|pod| pod == pods[1]));
    world.snapshot.endpoints.insert("web".into(), vec![(0, pods[0])]);
    world.publish();
    assert_eq!(world.ask(client, b"GET / HTTP/1.1\r\nHost: web-2.web\r\n\r\n").status, 404);
    world.run(Duration::from_secs(1));
    world.assert_nothing_left();
}

/// What the near pods have no room for goes to far ones, by what they say and not by how many they are; while they have room nothing does.
#[test]
fn calls_spill_over_when_the_near_pods_are_full() {
    for near in [0, 1] {
        let mut world = web_on(&[near, 2], 12);
        world.snapshot.near.insert("web".to_owned(), BTreeSet::from([near]));
        world.snapshot.concurrency = Some(crate::snapshot::Concurrency {
            per_pod: 2,
            queue_length: 100,
            queue_timeout_ns: 60_000_000_000,
            standing_timeout_ns: 0,
            adaptive: None,
        });
        world.publish();
        let of_far = |world: &World| world.seen.iter().filter(|seen| seen.pod == pod_address(2, 2)).count();
        let clients: Vec<usize> = (0..8).map(|_| world.client(0)).collect();
        for _ in 0..20 {
            for client in &clients[..2] {
                world.send(*client, &get("/slow/20"));
            }
            world.run(Duration::from_millis(40));
        }
        assert_eq!((world.seen.len(), of_far(&world)), (40, 0), "there is room");
        let started = world.now;
        for client in &clients {
            world.clients[*client].got.clear();
            world.send(*client, &get("/slow/1000"));
        }
        world.until("all answers", |w| clients.iter().all(|client| !w.answers(*client).is_empty()));
        assert_eq!(of_far(&world), 4, "half of what two near ones at a time are too few for");
        assert!(world.now.since(started) < Duration::from_millis(2200), "{:?}", world.now.since(started));
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}
