//! What is refused, with which status and reason; and that it reaches no pod.

use super::*;

#[test]
fn each_refusal_has_its_status_and_reason() {
    let mut world = web_on(&[1], 1);
    world.snapshot.services.insert("empty".into(), vec![("empty".into(), 1)]);
    world.publish();
    let vias = "Via: 1.1 vicino\r\n".repeat(9);
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: nope\r\n\r\n", 404, "no-such-service"),
        ("GET / HTTP/1.1\r\nHost: web:81\r\n\r\n", 404, "no-such-port"),
        ("GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", 403, "not-in-mesh"),
        ("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 403, "not-in-mesh"),
        ("GET / HTTP/1.0\r\n\r\n", 403, "not-in-mesh"),
        ("GET / HTTP/1.1\r\nHost: empty\r\n\r\n", 503, "no-endpoint"),
        ("CONNECT nope:80 HTTP/1.1\r\nHost: nope:80\r\n\r\n", 404, "no-such-service"),
        ("CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 10.0.0.1:22\r\n\r\n", 403, "not-in-mesh"),
        (&format!("GET / HTTP/1.1\r\nHost: web\r\n{vias}\r\n"), 508, "loop"),
    ] {
        let client = world.client(0);
        let answer = world.ask(client, request.as_bytes());
        assert_eq!((answer.status, answer.field("vicino-error")), (status, Some(reason)), "{request}");
        if !request.contains("1.0") {
            let again = world.ask(client, &get("/"));
            assert_eq!(again.status, 200, "the connection goes on after {reason}");
        }
    }
    world.assert_nothing_left();
}

#[test]
fn a_call_to_the_proxy_itself_is_refused() {
    let mut world = World::new(2, 2);
    world.snapshot.services.insert("web".into(), vec![("web".into(), 1)]);
    world.snapshot.endpoints.insert("web".into(), vec![(0, SocketAddr::new(node_ip(0), L1_PORT))]);
    world.publish();
    let client = world.client(0);
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, answer.field("vicino-error")), (508, Some("self-call")));
    world.assert_nothing_left();
}

#[test]
fn callers_of_other_nodes_are_refused_at_once() {
    let mut world = web_on(&[1], 3);
    let client = world.client_from(node_ip(1), 0);
    let before = world.now;
    let answer = world.ask(client, &get("/"));
    assert_eq!((answer.status, answer.field("vicino-error")), (403, Some("not-a-neighbour")));
    assert!(world.now.since(before) < Duration::from_millis(10));
    world.until("the end", |w| w.clients[client].is_closed);
    assert!(world.seen.is_empty());
}

#[test]
fn processes_of_the_own_node_may_call() {
    let mut world = web_on(&[1], 3);
    for ip in [node_ip(0), IpAddr::from([127, 0, 0, 1])] {
        let client = world.client_from(ip, 0);
        let answer = world.ask(client, b"GET / HTTP/1.1\r\nHost: web.demo\r\n\r\n");
        assert_eq!(answer.status, 200, "{ip}");
        assert_eq!(
            world.ask(client, &get("/")).status,
            404,
            "short names of the node are those of `default`"
        );
    }
}

#[test]
fn a_pod_that_has_just_started_waits_until_it_is_known() {
    let mut world = web_on(&[1], 4);
    let ip = IpAddr::from([10, 1, 0, 77]);
    let (known, unknown) = (world.client_from(ip, 0), world.client_from(IpAddr::from([10, 1, 0, 78]), 0));
    world.send(known, &get("/"));
    world.send(unknown, &get("/"));
    world.run(Duration::from_secs(1));
    assert_eq!((world.text(known).len(), world.nodes[0].core.tally().held.get()), (0, 2));
    world.snapshot.callers.push((0, ip));
    world.publish();
    world.until("an answer", |w| w.answers(known).len() == 1);
    assert_eq!(world.answers(known)[0].status, 200);
    let since = world.now;
    world.until("a refusal", |w| w.answers(unknown).len() == 1);
    let waited = world.now.since(since);
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(3), "{waited:?}");
    assert_eq!(world.answers(unknown)[0].field("vicino-error"), Some("not-a-neighbour"));
    world.assert_nothing_left();
}

/// Snapshots that do not know a caller either do not make it wait for longer.
#[test]
fn who_stays_unknown_is_told_in_time_however_often_the_snapshot_changes() {
    for is_http2 in [false, true] {
        let mut world = web_on(&[1], 4);
        let stranger = IpAddr::from([10, 1, 0, 78]);
        let client = if is_http2 { world.http2_client(0) } else { world.client_from(stranger, 0) };
        if is_http2 {
            world.snapshot.callers.clear();
            world.publish();
            world.speak(client, |mux| {
                mux.request(1, ("GET", "web", "/"), vicino_wire::head::Framing::None, &mux::fields(&[]));
            });
        } else {
            world.send(client, &get("/"));
        }
        for _ in 0..7 {
            world.run(Duration::from_millis(500));
            world.publish();
        }
        let refused = world.nodes[0].core.tally().replies[crate::reply::Reason::NotANeighbour as usize].get();
        assert_eq!(refused, 1, "HTTP/2: {is_http2}");
        world.run(Duration::from_secs(20));
        world.assert_nothing_left();
    }
}

/// A connection lives longer than one doubt about its caller.
#[test]
fn who_was_waited_for_once_is_waited_for_again() {
    let mut world = web_on(&[1], 4);
    let client = world.http2_client(0);
    let ask = |world: &mut World, stream| {
        world.speak(client, |mux| {
            mux.request(stream, ("GET", "web", "/"), vicino_wire::head::Framing::None, &mux::fields(&[]));
        });
    };
    let statuses = |world: &World| {
        let status = |said: &Said| match said {
            Said::Response { status, .. } => Some(*status),
            _ => None,
        };
        world.heard(client).iter().filter_map(status).collect::<Vec<_>>()
    };
    let callers = std::mem::take(&mut world.snapshot.callers);
    for (stream, answers) in [(1, 1), (3, 2)] {
        world.snapshot.callers.clear();
        world.publish();
        ask(&mut world, stream);
        world.run(Duration::from_secs(1));
        assert_eq!(world.nodes[0].core.tally().held.get(), 1);
        world.snapshot.callers.clone_from(&callers);
        world.publish();
        world.until("an answer", |w| statuses(w).len() == answers);
        world.run(Duration::from_secs(10));
    }
    assert_eq!(statuses(&world), [200, 200]);
    // Nor is one that was refused refused at once from then on.
    world.snapshot.callers.clear();
    world.publish();
    ask(&mut world, 5);
    world.until("a refusal", |w| statuses(w).len() == 3);
    world.snapshot.callers.clone_from(&callers);
    world.publish();
    ask(&mut world, 7);
    world.until("an answer", |w| statuses(w).len() == 4);
    world.snapshot.callers.clear();
    world.publish();
    ask(&mut world, 9);
    world.run(Duration::from_secs(1));
    assert_eq!((world.nodes[0].core.tally().held.get(), statuses(&world)), (1, vec![200, 200, 403, 200]));
}

#[test]
fn before_the_first_snapshot_callers_wait() {
    let mut world = World::new(2, 5);
    world.pod("web", 1, 1);
    let client = world.client(0);
    world.send(client, &get("/"));
    world.run(Duration::from_millis(500));
    assert_eq!(world.text(client), "");
    world.publish();
    world.until("an answer", |w| w.answers(client).len() == 1);
    assert_eq!(world.answers(client)[0].status, 200);
}

#[test]
fn smuggled_requests_reach_no_pod() {
    for sample in [
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding : chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\nHost: web\n\n",
        "GET / HTTP/1.1\r\nHost: web\r\nContent_Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET /\r\nX: y HTTP/1.1\r\nHost: web\r\n\r\n",
    ] {
        for node in [0, 1] {
            let mut world = web_on(&[node], 6);
            let client = world.client(0);
            world.send(client, sample.as_bytes());
            world.until("a refusal", |w| w.clients[client].is_closed);
            assert_eq!(world.answers(client)[0].status, 400, "{sample}");
            assert!(world.seen.is_empty(), "{sample}");
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_body_that_breaks_the_rules_is_never_completed_at_the_pod() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 7);
        let client = world.client(0);
        let head = "POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
        world.send(client, format!("{head}3\r\nabc\r\n").as_bytes());
        world.until("half a body", |w| w.seen.first().is_some_and(|s| s.body == b"abc"));
        world.send(client, b"3\nxyz\r\n0\r\n\r\n");
        world.until("a refusal", |w| w.clients[client].is_closed);
        assert_eq!(world.answers(client)[0].status, 400);
        world.run(Duration::from_millis(10));
        assert!(!world.seen[0].is_complete);
        world.assert_nothing_left();
    }
}

#[test]
fn connections_beyond_the_limit_are_not_taken() {
    let config = CoreConfig { connections_max: 2, ..CoreConfig::default() };
    let mut world = World::with(1, 8, &config);
    world.publish();
    let (now, peer) = (world.now, SocketAddr::new(caller_ip(0), 1));
    let core = &mut world.nodes[0].core;
    let taken: Vec<bool> = (0..3).map(|_| core.accepted(Role::L1, peer, peer, now).is_some()).collect();
    assert_eq!((taken, core.tally().clients.refused.get()), (vec![true, true, false], 1));
}
