//! Pods and nodes that fail: what is safe is placed again, what is not is told, and nothing is counted for ever.

use super::*;

#[test]
fn a_pod_that_refuses_is_not_the_callers_concern() {
    for node in [0, 1] {
        let mut world = web_on(&[node, node, 2], 1);
        world.listeners.insert(pod_address(node, 1), Listener::Refuses);
        let client = world.client(0);
        for i in 0..30 {
            let answer = world.ask(client, &post("/echo", b"body"));
            assert_eq!((answer.status, &answer.body[..]), (200, &b"body"[..]), "{i}");
        }
        assert!(world.seen.iter().all(|s| s.pod != pod_address(node, 1)));
        world.assert_nothing_left();
    }
}

#[test]
fn when_all_pods_refuse_the_caller_is_told() {
    for node in [0, 1] {
        let mut world = web_on(&[node, node], 2);
        for i in 1..=2 {
            world.listeners.insert(pod_address(node, i), Listener::Refuses);
        }
        let client = world.client(0);
        let answer = world.ask(client, &get("/"));
        assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("connect-failed")));
        world.assert_nothing_left();
    }
}

#[test]
fn a_pod_that_is_silent_costs_its_connect_timeout() {
    for node in [0, 1] {
        let mut world = web_on(&[node, node], 3);
        world.listeners.insert(pod_address(node, 1), Listener::Silent);
        let client = world.client(0);
        let before = world.now;
        for _ in 0..4 {
            assert_eq!(world.ask(client, &get("/")).status, 200);
        }
        assert!(world.now.since(before) < Duration::from_millis(4200));
        world.assert_nothing_left();
    }
}

#[test]
fn a_node_that_cannot_be_reached_is_avoided() {
    for listener in [Listener::Refuses, Listener::Silent] {
        let mut world = web_on(&[1, 2], 4);
        world.listeners.insert(SocketAddr::new(node_ip(1), L2_PORT), listener);
        let client = world.client(0);
        let before = world.now;
        for _ in 0..50 {
            assert_eq!(world.ask(client, &post("/echo", b"x")).status, 200);
        }
        assert!(world.now.since(before) < Duration::from_secs(4), "{listener:?}: one wait, then back-off");
        assert!(
            world.nodes[0]
                .events
                .iter()
                .any(|e| matches!(e, Event::DialFailed { .. } | Event::HopDown { .. }))
        );
        world.assert_nothing_left();
    }
}

#[test]
fn a_node_that_is_not_ready_is_asked_only_when_there_is_no_other() {
    let mut world = web_on(&[1, 2], 5);
    world.snapshot.not_ready.insert(1);
    world.publish();
    let client = world.client(0);
    for _ in 0..20 {
        world.ask(client, &get("/"));
    }
    assert!(world.seen.iter().all(|seen| seen.pod == pod_address(2, 2)));
    world.snapshot.not_ready.insert(2);
    world.publish();
    assert_eq!(world.ask(client, &get("/")).status, 200);
}

#[test]
fn a_node_that_dies_takes_only_what_it_may_have_begun() {
    let mut world = web_on(&[1, 2], 6);
    let clients: Vec<usize> = (0..20).map(|_| world.client(0)).collect();
    for client in &clients {
        assert_eq!(world.ask(*client, &get("/")).status, 200);
    }
    for (i, client) in clients.iter().enumerate() {
        let request = if i % 2 == 0 { get("/slow/50") } else { post("/slow/50", b"x") };
        world.send(*client, &request);
    }
    world.run(Duration::from_millis(5));
    world.nodes[1].is_frozen = true;
    world.listeners.insert(SocketAddr::new(node_ip(1), L2_PORT), Listener::Silent);
    let before = world.now;
    world.until("all", |w| clients.iter().all(|c| w.answers(*c).len() == 2));
    assert!(world.now.since(before) < Duration::from_secs(4), "three seconds of silence are enough");
    let lost = clients.iter().filter(|c| world.answers(**c)[1].status != 200).count();
    for (i, client) in clients.iter().enumerate() {
        let answer = &world.answers(*client)[1];
        match answer.status {
            200 => {}
            502 => assert!(i % 2 == 1 && answer.field("vicino-error") == Some("hop-lost"), "{i}: {answer:?}"),
            _ => panic!("{i}: {answer:?}"),
        }
    }
    assert!(lost > 0 && lost < 10, "{lost} of the POSTs were on the node that died");
    for client in &clients {
        assert_eq!(world.ask(*client, &get("/")).status, 200);
    }
    world.thaw(1);
    world.run(Duration::from_secs(10));
    world.assert_nothing_left();
}

#[test]
fn a_call_that_had_not_left_when_its_hop_broke_is_placed_again() {
    let mut world = web_on(&[1], 14);
    let client = world.client(0);
    world.ask(client, &get("/"));
    // The hop's end and the request are there in the same turn, the request first.
    world.send(client, &post("/echo", b"once"));
    world.reset_hops(0, 1);
    world.until("an answer", |w| w.answers(client).len() == 2);
    assert_eq!(world.answers(client)[1].body, b"once");
    assert_eq!(world.nodes[0].core.tally().requeues.get(), 1);
    // One that had left is not, since it may have been done.
    world.send(client, &post("/slow/100", b"once"));
    world.run(Duration::from_millis(20));
    world.reset_hops(0, 1);
    world.until("an answer", |w| w.answers(client).len() == 3);
    assert_eq!(world.answers(client)[2].field("vicino-error"), Some("hop-lost"));
    // What may be done twice is.
    world.send(client, &get("/slow/100"));
    world.run(Duration::from_millis(20));
    world.reset_hops(0, 1);
    world.until("an answer", |w| w.answers(client).len() == 4);
    assert_eq!(world.answers(client)[3].body, b"slow");
    world.assert_nothing_left();
}

#[test]
fn a_node_that_moves_is_dialled_anew_and_open_calls_end_where_they_are() {
    let mut world = web_on(&[1], 13);
    let client = world.client(0);
    world.send(client, &get("/slow/300"));
    world.run(Duration::from_millis(50));
    let moved = SocketAddr::new(node_ip(1), 5141);
    world.listeners.insert(moved, Listener::Core(1, Role::L2));
    world.snapshot.l2_ports.insert(1, 5141);
    world.publish();
    let other = world.client(0);
    assert_eq!(world.ask(other, &get("/")).status, 200);
    assert_eq!(world.nodes[0].core.tally().hops_dialed.open.get(), 2);
    world.until("the first answer", |w| w.answers(client).len() == 1);
    assert_eq!(world.answers(client)[0].body, b"slow");
    world.run(Duration::from_millis(10));
    assert_eq!(world.nodes[0].core.tally().hops_dialed.open.get(), 1);
    world.assert_nothing_left();
}

#[test]
fn an_idle_connection_that_died_is_replaced_unseen() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 7);
        let client = world.client(0);
        world.ask(client, &get("/"));
        // The pod's FIN and the next request cross.
        world.net.latency_us = (20_000, 20_000);
        world.pods[0].close();
        let answer = world.ask(client, &get("/"));
        assert_eq!(answer.status, 200);
        let tallies: u64 = world.nodes.iter().map(|n| n.core.tally().stale_retries.get()).sum();
        assert_eq!((world.pods.len(), tallies), (2, 1));
        world.assert_nothing_left();
    }
}

#[test]
fn a_post_on_an_idle_connection_that_died_is_not_repeated() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 8);
        let client = world.client(0);
        world.ask(client, &get("/"));
        world.net.latency_us = (20_000, 20_000);
        world.pods[0].close();
        let answer = world.ask(client, &post("/echo", b"x"));
        assert_eq!((answer.status, answer.field("vicino-error")), (502, Some("upstream-closed")));
        world.assert_nothing_left();
    }
}

#[test]
fn a_post_takes_an_idle_connection_only_when_it_was_used_just_now() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 18);
        let client = world.client(0);
        world.ask(client, &post("/echo", b"x"));
        world.ask(client, &post("/echo", b"x"));
        assert_eq!(world.pods.len(), 1);
        world.run(Duration::from_secs(3));
        world.net.latency_us = (20_000, 20_000);
        world.pods[0].close();
        assert_eq!(world.ask(client, &post("/echo", b"x")).status, 200);
        assert_eq!(world.pods.len(), 2);
        world.assert_nothing_left();
    }
}

#[test]
fn an_application_that_fails_is_told_from_one_that_was_not_reached() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 9);
        for (path, reason) in [("/die", "upstream-closed"), ("/bad", "bad-response")] {
            let client = world.client(0);
            let answer = world.ask(client, &get(path));
            assert_eq!((answer.status, answer.field("vicino-error")), (502, Some(reason)), "{path}");
            assert_eq!(world.ask(client, &get("/")).status, 200);
        }
        assert_eq!(world.seen.iter().filter(|s| s.head.contains("/die")).count(), 1, "not repeated");
        world.assert_nothing_left();
    }
}

#[test]
fn a_response_that_is_cut_is_cut_for_the_caller_too() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 10);
        let client = world.client(0);
        world.send(client, &get("/cut"));
        world.until("the end", |w| w.clients[client].is_closed);
        assert!(world.text(client).ends_with("only this"));
        assert_eq!(world.answers(client).len(), 0, "it is not taken for whole");
        world.assert_nothing_left();
    }
}

#[test]
fn a_caller_that_goes_frees_what_it_held() {
    for node in [0, 1] {
        for request in [
            get("/hang"),
            get("/bytes/3000000"),
            b"POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 9\r\n\r\nabc".to_vec(),
        ] {
            let mut world = web_on(&[node], 11);
            let client = world.client(0);
            world.send(client, &request);
            world.until("it began", |w| !w.seen.is_empty());
            world.reset_client(client);
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
}

#[test]
fn pods_that_leave_the_snapshot_get_no_more_calls_and_lose_their_idle_connections() {
    let mut world = web_on(&[0, 1], 12);
    let client = world.client(0);
    for _ in 0..20 {
        world.ask(client, &get("/"));
    }
    world.snapshot.endpoints.get_mut("web").unwrap().retain(|(node, _)| *node == 1);
    world.publish();
    world.run(Duration::from_millis(100));
    let before = world.seen.len();
    for _ in 0..20 {
        assert_eq!(world.ask(client, &get("/")).status, 200);
    }
    assert!(world.seen[before..].iter().all(|seen| seen.pod == pod_address(1, 2)));
    assert_eq!(world.nodes[0].core.tally().pods.open.get(), 0);
}

#[test]
fn nodes_whose_pods_went_unheard_cost_no_requeue() {
    let mut world = World::new(6, 13);
    world.snapshot.requeues = 0;
    for node in 1..6 {
        world.pod("web", node, node as u8);
    }
    world.publish();
    // All but one node's pods go, and the caller's proxy is the last one to hear of it.
    world.snapshot.endpoints.get_mut("web").unwrap().retain(|(node, _)| *node == 5);
    world.publish_to(1..6);
    let client = world.client(0);
    for _ in 0..30 {
        assert_eq!(world.ask(client, &get("/")).status, 200);
    }
    // When none is left at all, the caller is told, once every node has been asked.
    world.snapshot.endpoints.get_mut("web").unwrap().clear();
    world.publish_to(1..6);
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("no-endpoint")));
    world.assert_nothing_left();
}
