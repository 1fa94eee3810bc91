//! HTTP/1.1 between caller and pod, over a hop and without.

use super::*;

/// Both ways that a call can take: to another node's pod, to one of the own node.
const WAYS: [usize; 2] = [1, 0];

#[test]
fn a_call_comes_to_a_pod_and_back() {
    for node in WAYS {
        let mut world = web_on(&[node], 1);
        let pod = pod_address(node, 1);
        let client = world.client(0);
        let answer = world.ask(client, &get("/"));
        assert_eq!((answer.status, answer.body), (200, format!("hello from {pod}").into_bytes()));
        assert!(answer.head.contains("via: 1.1 vicino"), "{}", answer.head);
        let head = world.seen[0].head.to_lowercase();
        for field in ["host: web", "x-forwarded-for: 10.1.0.200", "via: 1.1 vicino"] {
            assert!(head.contains(&format!("\r\n{field}\r\n")), "{field} in {head}");
        }
        assert!(!head.contains("\r\nforwarded:") && !head.contains("vicino-"), "{head}");
        world.assert_nothing_left();
    }
}

#[test]
fn a_connection_serves_many_calls_and_so_does_a_pods() {
    for node in WAYS {
        let mut world = web_on(&[node], 2);
        let client = world.client(0);
        for _ in 0..20 {
            assert_eq!(world.ask(client, &get("/")).status, 200);
        }
        assert_eq!((world.pods.len(), world.pods[0].served), (1, 20));
        let hops = world.nodes[0].core.tally().hops_dialed.opened.get();
        assert_eq!(hops, u64::from(node == 1));
        world.assert_nothing_left();
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for node in WAYS {
        let mut world = web_on(&[node], 3);
        let client = world.client(0);
        let mut all = Vec::new();
        for path in ["/bytes/3", "/slow/20", "/bytes/5"] {
            all.extend(get(path));
        }
        all.extend(post("/echo", b"posted"));
        world.send(client, &all);
        world.until("four answers", |w| w.answers(client).len() == 4);
        let bodies: Vec<Vec<u8>> = world.answers(client).into_iter().map(|a| a.body).collect();
        assert_eq!(bodies, [pattern(3), b"slow".to_vec(), pattern(5), b"posted".to_vec()]);
        world.assert_nothing_left();
    }
}

#[test]
fn what_was_answered_arrives_though_the_caller_breaks_off_the_next_request() {
    for node in WAYS {
        let mut world = web_on(&[node], 3);
        let client = world.client(0);
        let partly = b"POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nabc";
        world.send(client, &[get("/bytes/3"), partly.to_vec()].concat());
        world.shut(client);
        world.until("the end", |w| w.clients[client].is_closed);
        assert_eq!(world.answers(client).len(), 1);
        world.assert_nothing_left();
    }
}

#[test]
fn bodies_arrive_intact_both_ways_whatever_frames_them() {
    for node in WAYS {
        let mut world = web_on(&[node], 4);
        let body = pattern(300_000);
        let client = world.client(0);
        assert_eq!(world.ask(client, &post("/echo", &body)).body, body);
        let mut chunked = b"POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in body.chunks(7777) {
            chunked.extend(format!("{:x}\r\n", part.len()).into_bytes());
            chunked.extend_from_slice(part);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\nx-sum: 1\r\n\r\n");
        assert_eq!(world.ask(client, &chunked).body, body);
        let seen = world.seen.last().unwrap();
        assert_eq!((seen.trailers, seen.body == body), (1, true));
        for (path, expected) in
            [("/chunked", "abcdefg"), ("/trailers", "abc"), ("/old", "old"), ("/none", "")]
        {
            assert_eq!(world.ask(client, &get(path)).body, expected.as_bytes(), "{path}");
        }
        assert!(world.text(client).contains("x-sum: 7\r\n\r\n"), "trailers of a response");
        assert_eq!(world.ask(client, &get("/close")).body, b"until close");
        assert_eq!(world.ask(client, &get("/bytes/1000000")).body, pattern(1_000_000));
        world.assert_nothing_left();
    }
}

#[test]
fn responses_without_a_body_keep_their_length() {
    for node in WAYS {
        let mut world = web_on(&[node], 5);
        let client = world.client(0);
        world.send(client, b"HEAD /bytes/42 HTTP/1.1\r\nHost: web\r\n\r\n");
        world.until("a head", |w| w.text(client).contains("\r\n\r\n"));
        world.send(client, &get("/not-modified"));
        world.until("304", |w| w.text(client).matches("\r\n\r\n").count() == 2);
        let text = world.text(client).to_lowercase();
        assert!(text.contains("content-length: 42\r\n") && text.contains("content-length: 9\r\n"), "{text}");
        world.assert_nothing_left();
    }
}

#[test]
fn interim_responses_reach_the_caller_and_expect_works_end_to_end() {
    for node in WAYS {
        let mut world = web_on(&[node], 6);
        let client = world.client(0);
        assert_eq!(world.ask(client, &get("/hints")).body, b"hinted");
        assert!(world.text(client).starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n"));
        world.send(
            client,
            b"POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        );
        world.until("100", |w| w.text(client).contains("100 Continue"));
        assert_eq!(world.ask(client, b"body").body, b"body");
        // Refused at the head: whether the body still comes nobody knows, so the connection ends.
        let refused =
            b"POST /refuse HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
        world.send(client, refused);
        world.send(client, b"more");
        world.until("refused", |w| w.clients[client].is_closed);
        assert_eq!(world.answers(client).last().unwrap().status, 413);
        world.assert_nothing_left();
    }
}

#[test]
fn http_1_0_callers_get_what_they_understand() {
    for node in WAYS {
        let mut world = web_on(&[node], 7);
        let client = world.client(0);
        world.send(client, b"GET /chunked HTTP/1.0\r\nHost: web\r\n\r\n");
        world.until("the end", |w| w.clients[client].is_closed);
        let answer = world.answers(client).remove(0);
        assert_eq!((&answer.body[..], answer.field("connection")), (&b"abcdefg"[..], Some("close")));
        assert_eq!(answer.field("transfer-encoding"), None);
        let client = world.client(0);
        let answer =
            world.ask(client, b"GET /bytes/9 HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(answer.field("connection"), Some("keep-alive"));
        assert_eq!(world.ask(client, &get("/")).status, 200);
        world.assert_nothing_left();
    }
}

#[test]
fn connection_close_is_obeyed_both_ways() {
    for node in WAYS {
        let mut world = web_on(&[node], 8);
        let client = world.client(0);
        world.send(client, b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        world.until("the end", |w| w.clients[client].is_closed);
        assert_eq!(world.answers(client)[0].field("connection"), Some("close"));
        let client = world.client(0);
        world.ask(client, &get("/old"));
        world.ask(client, &get("/"));
        assert_eq!(world.pods.len(), 2, "the first pod connection served twice, HTTP/1.0 ended it");
        world.assert_nothing_left();
    }
}

#[test]
fn a_caller_that_half_closes_still_gets_its_answer() {
    for node in WAYS {
        let mut world = web_on(&[node], 9);
        let client = world.client(0);
        world.send(client, &get("/slow/50"));
        world.shut(client);
        world.until("the end", |w| w.clients[client].is_closed);
        assert_eq!(world.answers(client)[0].body, b"slow");
        world.assert_nothing_left();
    }
}

#[test]
fn an_early_response_reaches_a_caller_that_is_still_sending() {
    for node in WAYS {
        let mut world = web_on(&[node], 10);
        let client = world.client(0);
        let head = b"POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 200000\r\n\r\n";
        let answer = world.ask(client, head);
        assert_eq!((answer.status, &answer.body[..]), (413, &b"much"[..]));
        world.send(client, &pattern(200_000));
        assert_eq!(
            world.ask(client, &get("/")).status,
            200,
            "the rest was thrown away, the connection lives"
        );
        // More than anyone would throw away: the connection ends, but not before the answer is read.
        world.ask(client, b"POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 9000000\r\n\r\n");
        world.send(client, &pattern(400_000));
        world.until("the end", |w| w.clients[client].is_closed);
        world.assert_nothing_left();
    }
}

#[test]
fn absolute_form_names_the_service_and_nobody_says_who_forwarded_but_proxies() {
    for node in WAYS {
        let mut world = web_on(&[node], 11);
        let client = world.client(0);
        let request = b"GET http://web.demo.svc.cluster.local/echo?q HTTP/1.1\r\nHost: other.example.com\r\n\
            Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
        assert_eq!(world.ask(client, request).status, 200);
        let head = &world.seen[0].head;
        assert!(head.starts_with("GET /echo?q HTTP/1.1\r\nHost: web.demo.svc.cluster.local\r\n"), "{head}");
        assert!(!head.contains("Forwarded: for="), "{head}");
        let first = head.find("X-Forwarded-For: 192.0.2.1").unwrap();
        assert!(first < head.find("x-forwarded-for: 10.1.0.200").unwrap(), "{head}");
    }
}

#[test]
fn a_caller_may_ask_which_way_its_call_went() {
    for (node, path) in [(1, "node-0 node-1 10.1.1.1:8080"), (0, "node-0 node-0 10.1.0.1:8080")] {
        let mut world = web_on(&[node], 12);
        let client = world.client(0);
        let answer = world.ask(client, b"GET / HTTP/1.1\r\nHost: web\r\nVicino-Debug: path\r\n\r\n");
        assert_eq!(answer.field("vicino-path"), Some(path));
        assert!(!world.seen[0].head.to_ascii_lowercase().contains("vicino-"), "it is for proxies alone");
        assert_eq!(world.ask(client, &get("/")).field("vicino-path"), None);
    }
}

/// A backend is picked once, whatever the route of that Service says.
#[test]
fn backends_that_name_each_other_are_no_loop() {
    let mut world = web_on(&[1], 14);
    let web = pod_address(1, 1);
    let api = world.pod("api", 1, 9);
    world.snapshot.services.insert("web".into(), vec![("api".into(), 1)]);
    world.snapshot.services.insert("api".into(), vec![("web".into(), 1)]);
    world.publish();
    let client = world.client(0);
    for (host, pod) in [("web", api), ("api", web)] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(world.ask(client, request.as_bytes()).status, 200);
        assert_eq!(world.seen.last().map(|seen| seen.pod), Some(pod), "{host}");
    }
    assert_eq!(world.seen.len(), 2);
    world.assert_nothing_left();
}

/// No document says so; a call would else go to the first of them.
#[test]
fn backends_none_of_which_has_a_weight_get_no_call() {
    let mut world = web_on(&[1], 14);
    world.pod("canary", 1, 9);
    for backends in [vec![("web".into(), 0)], vec![("web".into(), 0), ("canary".into(), 0)]] {
        world.snapshot.services.insert("web".into(), backends);
        world.publish();
        let client = world.client(0);
        let answer = world.ask(client, &get("/"));
        assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("no-endpoint")));
    }
    assert_eq!(world.seen.len(), 0);
    world.assert_nothing_left();
}

#[test]
fn backends_get_their_weights_and_one_without_endpoints_gets_none() {
    let mut world = web_on(&[1, 2], 14);
    let canary = world.pod("canary", 2, 9);
    world.snapshot.services.insert("web".into(), vec![("web".into(), 80), ("canary".into(), 20)]);
    world.publish();
    let client = world.client(0);
    for _ in 0..300 {
        assert_eq!(world.ask(client, &get("/")).status, 200);
    }
    let count = world.seen.iter().filter(|seen| seen.pod == canary).count();
    assert!((35..=85).contains(&count), "{count} of 300");
    world.snapshot.services.insert("web".into(), vec![("canary".into(), 99), ("web".into(), 1)]);
    world.publish();
    world.listeners.insert(canary, Listener::Refuses);
    for _ in 0..20 {
        let answer = world.ask(client, &post("/echo", b"to another"));
        assert_eq!((answer.status, &answer.body[..]), (200, &b"to another"[..]));
    }
    world.snapshot.endpoints.get_mut("canary").unwrap().clear();
    world.publish();
    let before = world.seen.len();
    for _ in 0..30 {
        assert_eq!(world.ask(client, &get("/")).status, 200);
    }
    assert!(world.seen[before..].iter().all(|seen| seen.pod != canary));
    world.assert_nothing_left();
}

#[test]
fn calls_spread_over_nodes_by_their_pods_and_over_pods_by_their_load() {
    let mut world = web_on(&[0, 1, 1, 2], 13);
    let clients: Vec<usize> = (0..40).map(|_| world.client(0)).collect();
    for _ in 0..10 {
        let before: usize = clients.iter().map(|c| world.answers(*c).len()).sum();
        for client in &clients {
            world.send(*client, &get("/slow/10"));
        }
        world.until("all", |w| clients.iter().map(|c| w.answers(*c).len()).sum::<usize>() == before + 40);
    }
    let mut counts = std::collections::BTreeMap::new();
    for seen in &world.seen {
        *counts.entry(seen.pod).or_insert(0) += 1;
    }
    assert_eq!(counts.values().sum::<i32>(), 400);
    assert!(counts.values().all(|count| (70..=130).contains(count)), "{counts:?}");
    world.assert_nothing_left();
}
