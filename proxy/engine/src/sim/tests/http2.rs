//! HTTP/2 and gRPC: streams are calls of their own, whatever is spoken at the other side, and no stream and no caller can hurt another.

use vicino_wire::head::Framing;
use vicino_wire::http2::{ErrorCode, Setting};
use vicino_wire::http2::{
    FRAME_BYTES_MAX, WINDOW_DEFAULT, encode_go_away, encode_reset, encode_settings, encode_window,
};

use super::*;
use crate::snapshot::Protocol;

const PROTOCOLS: [Protocol; 3] = [Protocol::Http, Protocol::Http1, Protocol::Http2];

/// A stream's answer: status, fields, body, trailers; None while it has not ended.
fn answer(world: &World, client: usize, stream: u32) -> Option<(u16, String, Vec<u8>, String)> {
    let (mut status, mut fields, mut body, mut trailers) = (0, String::new(), Vec::new(), String::new());
    let text = |fields: &[(String, String)]| -> String {
        fields.iter().map(|(n, v)| format!("{n}: {v}\n")).collect::<Vec<_>>().concat()
    };
    let mut is_over = false;
    for said in world.heard(client) {
        match said {
            Said::Response { stream: on, status: s, fields: f, framing } if *on == stream && *s >= 200 => {
                (status, fields) = (*s, text(f));
                is_over = framing.is_empty();
            }
            Said::Data { stream: on, bytes, is_end } if *on == stream => {
                body.extend_from_slice(bytes);
                is_over = *is_end;
            }
            Said::Trailers { stream: on, fields: f } if *on == stream => {
                trailers = text(f);
                is_over = true;
            }
            _ => {}
        }
    }
    is_over.then_some((status, fields, body, trailers))
}

fn is_over(world: &World, client: usize, stream: u32) -> bool {
    world.clients[client].mux.as_ref().is_some_and(|mux| mux.over.contains(&stream))
}

fn reset_of(world: &World, client: usize, stream: u32) -> Option<u32> {
    world.heard(client).iter().find_map(|said| match said {
        Said::Reset { stream: on, code } if *on == stream => Some(*code),
        _ => None,
    })
}

fn goaway(world: &World, client: usize) -> Option<u32> {
    let last = world.heard(client).iter().rev().find_map(|said| match said {
        Said::GoAway { code, .. } => Some(*code),
        _ => None,
    });
    last.filter(|_| world.clients[client].is_closed)
}

fn ask_on(world: &mut World, client: usize, stream: u32, path: &str) -> (u16, String, Vec<u8>, String) {
    world.speak(client, |mux| mux.request(stream, ("GET", "web", path), Framing::None, &fields(&[])));
    world.until("an answer", |w| is_over(w, client, stream));
    answer(world, client, stream).expect("it came")
}

fn grpc() -> Vec<(String, String)> {
    fields(&[("content-type", "application/grpc"), ("te", "trailers")])
}

#[test]
fn streams_are_calls_whatever_is_spoken_at_the_other_side() {
    for protocol in PROTOCOLS {
        for nodes in [&[0][..], &[1], &[0, 1, 2]] {
            let mut world = web_on(nodes, 7);
            world.snapshot.protocols.insert("web".into(), protocol);
            world.publish();
            let client = world.http2_client(0);
            for i in 0..60 {
                let stream = 2 * i + 1;
                world.speak(client, |mux| {
                    mux.request(stream, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[("n", "v")]));
                    mux.body(stream, &pattern(i as usize * 700), None);
                });
            }
            world.until("all", |w| (0..60).all(|i| is_over(w, client, 2 * i + 1)));
            for i in 0..60 {
                let (status, fields, body, _) = answer(&world, client, 2 * i + 1).unwrap();
                assert_eq!((status, body), (200, pattern(i as usize * 700)), "{protocol:?} {nodes:?}");
                assert!(fields.contains("via: 1.1 vicino\n"), "{fields}");
            }
            let is_http2 = world.seen.iter().all(|seen| seen.head.contains(" HTTP/2\r\n"));
            let is_http1 = world.seen.iter().all(|seen| seen.head.contains(" HTTP/1.1\r\n"));
            assert!(if protocol == Protocol::Http1 { is_http1 } else { is_http2 }, "{protocol:?}");
            assert!(world.seen.iter().all(|seen| seen.head.contains("n: v\r\n")));
            assert!(is_http1 || world.pods.len() <= 3, "a connection carries many calls");
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_caller_of_http1_reaches_a_pod_that_speaks_http2() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 3);
        world.snapshot.protocols.insert("web".into(), Protocol::Http2);
        world.publish();
        let client = world.client(0);
        assert_eq!(world.ask(client, &post("/echo", &pattern(300_000))).body, pattern(300_000));
        assert_eq!(world.ask(client, &get("/none")).status, 204);
        let chunked = world.ask(client, &get("/chunked"));
        assert_eq!(
            (chunked.field("transfer-encoding"), &chunked.body[..]),
            (Some("chunked"), &b"abcdefg"[..])
        );
        assert_eq!(world.ask(client, &get("/bytes/0")).field("content-length"), Some("0"));
        let head = b"HEAD /bytes/9 HTTP/1.1\r\nHost: web\r\n\r\n";
        world.send(client, head);
        world.until("HEAD's answer", |w| w.text(client).ends_with("Content-Length: 9\r\n\r\n"));
        assert!(world.seen.iter().all(|seen| seen.head.contains(" HTTP/2\r\n")), "{:?}", world.seen);
        world.run(Duration::from_millis(10));
        world.assert_nothing_left();
    }
}

#[test]
fn trailers_interims_and_bodies_go_both_ways() {
    for protocol in PROTOCOLS {
        for node in [0, 1] {
            let mut world = web_on(&[node], 11);
            world.net.segment_max = 700;
            world.snapshot.protocols.insert("web".into(), protocol);
            world.publish();
            let client = world.http2_client(0);
            world.speak(client, |mux| {
                mux.request(1, ("POST", "web", "/trailers"), Framing::Chunked, &fields(&[]));
                mux.body(1, b"some", Some(fields(&[("x-up", "1")])));
                mux.request(3, ("GET", "web", "/hints"), Framing::None, &fields(&[]));
                mux.request(5, ("POST", "web", "/echo"), Framing::Length(200_000), &fields(&[]));
                mux.body(5, &pattern(200_000), None);
                mux.request(7, ("GET", "web", "/bytes/300000"), Framing::None, &fields(&[]));
            });
            world.until("all", |w| [1, 3, 5, 7].iter().all(|s| is_over(w, client, *s)));
            let (status, _, body, trailers) = answer(&world, client, 1).unwrap();
            assert_eq!((status, &body[..], &trailers[..]), (200, &b"abc"[..], "x-sum: 7\n"));
            let has_hint = |said: &Said| matches!(said, Said::Response { stream: 3, status: 103, .. });
            assert!(world.heard(client).iter().any(has_hint));
            assert_eq!(answer(&world, client, 5).unwrap().2, pattern(200_000));
            assert_eq!(answer(&world, client, 7).unwrap().2, pattern(300_000));
            assert_eq!(world.seen.iter().map(|seen| seen.trailers).sum::<usize>(), 1);
            world.assert_nothing_left();
        }
    }
}

#[test]
fn a_stream_that_is_not_read_holds_up_no_other_and_holds_little() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 5);
        world.snapshot.protocols.insert("web".into(), Protocol::Http2);
        world.publish();
        let client = world.http2_client(0);
        world.speak(client, |mux| {
            mux.stalled = vec![1, 3];
            for stream in [1, 3] {
                mux.request(stream, ("GET", "web", "/bytes/3000000"), Framing::None, &fields(&[]));
            }
        });
        world.run(Duration::from_millis(100));
        for stream in [5, 7, 9] {
            assert_eq!(ask_on(&mut world, client, stream, "/bytes/500000").2.len(), 500_000);
        }
        world.run(Duration::from_secs(3));
        let held: u64 = world.nodes.iter().map(|node| node.core.tally().buffered.get()).sum();
        assert!(held < 2 * 700_000, "two streams that nobody reads hold {held} bytes");
        world.speak(client, |mux| {
            mux.stalled.clear();
            for stream in [1, 3] {
                mux.grant(stream, 4_000_000);
            }
        });
        world.until("the rest", |w| [1, 3].iter().all(|s| is_over(w, client, *s)));
        assert_eq!(answer(&world, client, 3).unwrap().2, pattern(3_000_000));
        world.assert_nothing_left();
    }
}

#[test]
fn a_body_that_the_pod_does_not_read_holds_up_no_other() {
    for protocol in PROTOCOLS {
        for node in [0, 1] {
            let mut world = web_on(&[node], 5);
            world.snapshot.protocols.insert("web".into(), protocol);
            world.pod("other", node, 9);
            world.publish();
            let client = world.http2_client(0);
            ask_on(&mut world, client, 1, "/");
            world.pods[0].is_stalled = true;
            world.speak(client, |mux| {
                mux.request(3, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[]));
                mux.body(3, &pattern(3_000_000), None);
            });
            world.run(Duration::from_millis(300));
            world.speak(client, |mux| {
                mux.request(5, ("POST", "other", "/echo"), Framing::Chunked, &fields(&[]));
                mux.body(5, &pattern(100_000), None);
            });
            world.until("the other's answer", |w| is_over(w, client, 5));
            world.pods[0].is_stalled = false;
            world.until("the slow one's", |w| is_over(w, client, 3));
            assert_eq!(answer(&world, client, 3).unwrap().2, pattern(3_000_000), "{protocol:?} {node}");
            world.assert_nothing_left();
        }
    }
}

#[test]
fn answers_of_our_own_are_what_the_caller_understands() {
    let mut world = web_on(&[1], 2);
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        mux.request(1, ("GET", "nobody", "/"), Framing::None, &fields(&[]));
        mux.request(3, ("POST", "nobody", "/a.B/C"), Framing::Chunked, &grpc());
        mux.request(5, ("HEAD", "nobody", "/"), Framing::None, &fields(&[]));
        frame(&mut mux.out, 1, 4, 7, b"\x02\x07CONNECT\x01\x06web:80");
        let hurried = [grpc(), fields(&[("grpc-timeout", "50m")])].concat();
        mux.request(9, ("POST", "web", "/slow/5000"), Framing::None, &hurried);
        mux.request(11, ("GET", "web", "/"), Framing::None, &fields(&[("host", "other")]));
    });
    let begun = world.now;
    world.until("all", |w| [1, 3, 5, 9, 11].iter().all(|s| is_over(w, client, *s)));
    assert!(world.now.since(begun) < Duration::from_millis(200), "gRPC's own deadline holds");
    let (status, fields, body, _) = answer(&world, client, 1).unwrap();
    assert_eq!(status, 404);
    assert!(fields.contains("vicino-error: no-such-service\n"), "{fields}");
    assert_eq!(String::from_utf8_lossy(&body), "no-such-service: the mesh has no Service of this name\n");
    let (status, fields, body, _) = answer(&world, client, 3).unwrap();
    assert_eq!((status, body.len()), (200, 0));
    assert!(fields.contains("grpc-status: 12\n") && fields.contains("content-type: application/grpc\n"));
    assert_eq!(reset_of(&world, client, 3), Some(ErrorCode::NoError as u32), "the body is not wanted");
    assert_eq!(answer(&world, client, 5).unwrap().2, b"");
    let connect =
        world.heard(client).iter().any(|s| matches!(s, Said::Response { stream: 7, status: 501, .. }));
    assert!(connect);
    let (_, fields, ..) = answer(&world, client, 9).unwrap();
    assert!(fields.contains("grpc-status: 4\n") && fields.contains("vicino-error: timeout\n"), "{fields}");
    let (status, fields, ..) = answer(&world, client, 11).unwrap();
    assert!(status == 400 && fields.contains("vicino-error: duplicate-host\n"), "{fields}");
    world.run(Duration::from_millis(10));
    world.assert_nothing_left();
}

/// As what its status means, at both proxies.
#[test]
fn a_grpc_call_counts_as_its_status_says() {
    for (node, pod, class) in [(0, 57, 5), (1, 57, 5), (0, 1, 2), (1, 1, 2)] {
        let mut world = World::new(2, 1);
        world.pod("web", node, pod);
        world.snapshot.protocols.insert("web".into(), Protocol::Http2);
        world.publish();
        let client = world.http2_client(0);
        world.speak(client, |mux| mux.request(1, ("POST", "web", "/a.B/C"), Framing::None, &grpc()));
        world.until("an answer", |w| is_over(w, client, 1));
        world.run(Duration::from_millis(10));
        for core in world.nodes.iter().map(|node| &node.core) {
            for service in core.tally().services() {
                let counts: Vec<u64> = service.by_class.iter().map(crate::tally::Counter::get).collect();
                assert_eq!((counts[class], counts.iter().sum()), (1, 1), "{service:?}");
            }
        }
        assert_eq!(world.nodes[1].core.tally().services().len(), node);
    }
}

#[test]
fn a_foreign_caller_is_refused_and_one_that_is_not_known_yet_waits() {
    let mut world = web_on(&[1], 2);
    let client = world.client_from("10.1.0.77".parse().unwrap(), 0);
    world.clients[client].mux = Some(Box::new(Mux::new(true)));
    world.speak(client, |mux| mux.request(1, ("GET", "web", "/"), Framing::None, &fields(&[])));
    world.run(Duration::from_millis(500));
    assert_eq!(answer(&world, client, 1), None);
    world.snapshot.callers.push((0, "10.1.0.77".parse().unwrap()));
    world.publish();
    world.until("an answer", |w| is_over(w, client, 1));
    assert_eq!(ask_on(&mut world, client, 3, "/").0, 200);
    let stranger = world.client_from(node_ip(1), 0);
    world.clients[stranger].mux = Some(Box::new(Mux::new(true)));
    assert_eq!(ask_on(&mut world, stranger, 1, "/").0, 403);
    let gone = world.client_from("10.1.0.78".parse().unwrap(), 0);
    world.clients[gone].mux = Some(Box::new(Mux::new(true)));
    world.speak(gone, |mux| mux.request(1, ("GET", "web", "/"), Framing::None, &fields(&[])));
    world.run(Duration::from_millis(5));
    world.reset_client(gone);
    world.run(Duration::from_millis(5));
    world.assert_nothing_left();
}

#[test]
fn http2_inside_a_tunnel_is_balanced_by_stream() {
    let mut world = web_on(&[0, 1, 1], 8);
    let client = world.client(0);
    world.send(client, b"CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n");
    world.until("200", |w| w.text(client).contains("200 Connection established"));
    world.clients[client].mux = Some(Box::new(Mux::new(true)));
    for i in 0..60 {
        assert_eq!(ask_on(&mut world, client, 2 * i + 1, "/").0, 200);
    }
    let pods: BTreeSet<_> = world.seen.iter().map(|seen| seen.pod).collect();
    assert_eq!(pods.len(), 3, "every pod has a share of one connection's calls");
    assert!(world.seen.iter().all(|seen| seen.head.contains(" HTTP/2\r\n")));
    world.assert_nothing_left();
}

#[test]
fn what_a_pod_did_not_look_at_is_placed_again() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 4);
        world.snapshot.protocols.insert("web".into(), Protocol::Http2);
        world.publish();
        let client = world.client(0);
        assert_eq!(world.ask(client, &get("/")).status, 200);
        // GOAWAY, having seen nothing beyond the first stream; REFUSED_STREAM; FIN.
        for round in 0..3 {
            let is_open = |pod: &&PodConn| pod.mux.is_some() && !pod.is_over();
            let count = world.pods.iter().filter(is_open).count();
            assert_eq!(count, 1, "round {round}");
            let pod = world.pods.iter().position(|pod| is_open(&pod)).unwrap();
            world.pods[pod].is_stalled = true;
            world.send(client, &post("/echo", b"once"));
            world.run(Duration::from_millis(20));
            let mux = world.pods[pod].mux.as_mut().unwrap();
            match round {
                0 => encode_go_away(&mut mux.out, 1, ErrorCode::NoError),
                1 => encode_reset(&mut mux.out, 3, ErrorCode::RefusedStream),
                _ => world.pods[pod].close(),
            }
            let out = world.pods[pod].mux.as_mut().unwrap().out.split_off(0);
            world.pods[pod].out.extend(out);
            world.pods[pod].is_stalled = round != 1;
            let before = world.answers(client).len();
            world.until("an answer", |w| w.answers(client).len() > before);
            world.pods[pod].is_stalled = false;
            world.run(Duration::from_millis(10));
            let answer = world.answers(client).pop().unwrap();
            // FIN says nothing of what the pod has done; POST cannot be told twice.
            assert_eq!(answer.status, if round == 2 { 502 } else { 200 }, "round {round}");
            if round == 1 {
                world.ask(client, &get("/"));
            }
        }
        let gets = world.ask(client, &get("/")).status;
        assert_eq!(gets, 200);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

#[test]
fn a_pod_that_dies_takes_its_own_calls_with_it_and_idempotent_ones_are_saved() {
    let mut world = web_on(&[1], 6);
    world.snapshot.protocols.insert("web".into(), Protocol::Http2);
    world.publish();
    let client = world.http2_client(0);
    // The connection has served before: that it dies need not be the calls' doing.
    assert_eq!(ask_on(&mut world, client, 1, "/").0, 200);
    world.speak(client, |mux| {
        mux.request(9, ("GET", "web", "/slow/2000"), Framing::None, &fields(&[]));
        mux.request(11, ("POST", "web", "/slow/2000"), Framing::None, &fields(&[]));
        mux.request(13, ("POST", "web", "/slow/2000"), Framing::None, &grpc());
    });
    world.until("they are there", |w| w.seen.len() == 4);
    world.pods[0].close();
    world.until("all", |w| [9, 11, 13].iter().all(|s| is_over(w, client, *s)));
    assert_eq!(answer(&world, client, 9).unwrap().0, 200);
    let (status, fields, ..) = answer(&world, client, 11).unwrap();
    assert!(status == 502 && fields.contains("vicino-error: upstream-closed\n"), "{fields}");
    let (_, fields, ..) = answer(&world, client, 13).unwrap();
    assert!(fields.contains("grpc-status: 14\n"), "{fields}");
    world.assert_nothing_left();
}

/// Of a connection that was dialled for it and dies without a word, a call may be the reason.
#[test]
fn a_call_that_a_new_connection_dies_of_is_not_repeated() {
    let mut world = web_on(&[1, 1], 6);
    world.snapshot.protocols.insert("web".into(), Protocol::Http2);
    world.publish();
    let client = world.http2_client(0);
    world.speak(client, |mux| mux.request(1, ("GET", "web", "/slow/2000"), Framing::None, &fields(&[])));
    world.until("it is there", |w| w.seen.len() == 1);
    for pod in &mut world.pods {
        pod.close();
    }
    world.until("an answer", |w| is_over(w, client, 1));
    let (status, fields, ..) = answer(&world, client, 1).unwrap();
    assert!(status == 502 && fields.contains("vicino-error: upstream-closed\n"), "{fields}");
    assert_eq!(world.seen.len(), 1);
    let repeated: u64 = world.nodes.iter().map(|n| n.core.tally().stale_retries.get()).sum();
    assert_eq!(repeated, 0);
    world.assert_nothing_left();
}

#[test]
fn a_caller_that_goes_takes_its_calls_with_it() {
    for how in 0..3 {
        for node in [0, 1] {
            let mut world = web_on(&[node], 6);
            let client = world.http2_client(0);
            world.speak(client, |mux| {
                mux.request(1, ("GET", "web", "/slow/60000"), Framing::None, &fields(&[]));
                mux.request(3, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[]));
            });
            world.until("they are there", |w| w.seen.len() == 2);
            match how {
                0 => world.speak(client, |mux| {
                    encode_reset(&mut mux.out, 1, ErrorCode::Cancel);
                    encode_reset(&mut mux.out, 3, ErrorCode::Cancel);
                }),
                1 => world.shut(client),
                _ => world.reset_client(client),
            }
            world.run(Duration::from_secs(1));
            world.assert_nothing_left();
        }
    }
}

#[test]
fn stopping_lets_calls_end_and_tells_callers() {
    for node in [0, 1] {
        let mut world = web_on(&[node], 6);
        let (busy, idle) = (world.http2_client(0), world.http2_client(0));
        world.speak(busy, |mux| mux.request(1, ("GET", "web", "/slow/4000"), Framing::None, &fields(&[])));
        ask_on(&mut world, idle, 1, "/");
        let (now, end) = (world.now, world.now + Duration::from_secs(20));
        world.nodes[0].core.drain(now, end);
        world.turn(0);
        // One that crossed the first GOAWAY is served.
        assert_eq!(ask_on(&mut world, idle, 3, "/").0, 200);
        world.until("the idle one's end", |w| w.clients[idle].is_closed);
        assert_eq!(goaway(&world, idle), Some(0));
        world.until("the busy one's end", |w| w.clients[busy].is_closed);
        assert_eq!(answer(&world, busy, 1).unwrap().0, 200);
        let told: Vec<u32> = world
            .heard(busy)
            .iter()
            .filter_map(
                |said| if let Said::GoAway { last_stream, .. } = said { Some(*last_stream) } else { None },
            )
            .collect();
        assert_eq!(told[..2], [0x7fff_ffff, 1], "first that it will end, then where");
        world.run(Duration::from_millis(50));
        assert!(world.nodes[0].core.is_idle());
        world.assert_nothing_left();
    }
}

/// A caller that breaks the protocol as `say` does is cut with that code; another one does not notice.
#[track_caller]
fn check_fault(code: ErrorCode, why: &str, say: impl FnOnce(&mut Vec<u8>)) {
    check_fault_within(Duration::from_secs(2), code, why, say);
}

fn check_fault_within(time: Duration, code: ErrorCode, why: &str, say: impl FnOnce(&mut Vec<u8>)) {
    let mut world = web_on(&[0], 3);
    let (bad, good) = (world.http2_client(0), world.http2_client(0));
    ask_on(&mut world, bad, 1, "/");
    world.speak(bad, |mux| say(&mut mux.out));
    let begun = world.now;
    world.until(why, |w| w.clients[bad].is_closed);
    let took = world.now.since(begun);
    assert!(took <= time, "{why}: it is noticed after {took:?}");
    assert_eq!(goaway(&world, bad), Some(code as u32), "{why}");
    assert_eq!(ask_on(&mut world, good, 1, "/").0, 200);
    world.run(Duration::from_millis(50));
    world.assert_nothing_left();
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend([length[1], length[2], length[3], kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// `GET http://web/slow/60000`
const BLOCK: &[u8] = b"\x82\x86\x04\x0b/slow/60000\x01\x03web";

#[test]
fn floods_end_the_connection_that_they_come_on() {
    check_fault(ErrorCode::EnhanceYourCalm, "rapid reset", |out| {
        for i in 1..8000 {
            frame(out, 1, 5, 2 * i + 1, BLOCK);
            frame(out, 3, 0, 2 * i + 1, &[0, 0, 0, 8]);
        }
    });
    check_fault(ErrorCode::EnhanceYourCalm, "streams that are broken again and again", |out| {
        for i in 1..8000 {
            frame(out, 1, 5, 2 * i + 1, b"\x82");
        }
    });
    check_fault(ErrorCode::EnhanceYourCalm, "CONTINUATION without end", |out| {
        frame(out, 1, 1, 3, BLOCK);
        for _ in 0..1000 {
            frame(out, 9, 0, 3, b"");
        }
    });
    check_fault(ErrorCode::EnhanceYourCalm, "a field block beyond all bounds", |out| {
        frame(out, 1, 1, 3, BLOCK);
        for _ in 0..10 {
            frame(out, 9, 0, 3, &vec![0; FRAME_BYTES_MAX]);
        }
    });
    check_fault(ErrorCode::EnhanceYourCalm, "empty DATA", |out| {
        frame(out, 1, 4, 3, BLOCK);
        for _ in 0..1000 {
            frame(out, 0, 0, 3, b"");
        }
    });
    check_fault(ErrorCode::EnhanceYourCalm, "SETTINGS without end", |out| {
        for _ in 0..10_000 {
            frame(out, 4, 0, 0, &[0, 4, 0, 1, 0, 0]);
        }
    });
    check_fault(ErrorCode::EnhanceYourCalm, "settings without end", |out| {
        frame(out, 4, 0, 0, &[0, 4, 0, 1, 0, 0].repeat(2730));
    });
    // Of the time for a head, and of that in which its answer arrives.
    let patience = Duration::from_secs(12);
    check_fault_within(patience, ErrorCode::EnhanceYourCalm, "a field block that does not end", |out| {
        frame(out, 1, 1, 3, BLOCK);
    });
}

#[test]
fn whoever_asks_without_reading_is_given_up_before_it_costs_much() {
    // PING, and requests that are answered at once.
    for what in 0..2 {
        let mut world = web_on(&[0], 3);
        let (bad, good) = (world.http2_client(0), world.http2_client(0));
        ask_on(&mut world, good, 1, "/");
        ask_on(&mut world, bad, 1, "/");
        world.clients[bad].is_stalled = true;
        for i in 1..100_000 {
            if world.nodes[0].core.tally().clients.open.get() < 2 {
                break;
            }
            world.speak(bad, |mux| match what {
                0 => frame(&mut mux.out, 6, 0, 0, &[0; 8]),
                _ => frame(&mut mux.out, 1, 5, 2 * i + 1, b"\x82\x86\x84\x01\x06nobody"),
            });
            if i % 500 == 0 {
                world.run(Duration::from_millis(2));
                let held =
                    world.nodes[0].core.net.table.iter().map(|(_, conn)| conn.pending()).sum::<usize>();
                assert!(held < 3_000_000, "{held} bytes wait for somebody who does not read");
            }
        }
        world.run(Duration::from_mins(2));
        assert_eq!(
            world.nodes[0].core.tally().clients.open.get(),
            0,
            "both are gone, the good one because it was idle"
        );
        world.assert_nothing_left();
    }
}

#[test]
fn what_breaks_the_protocol() {
    check_fault(ErrorCode::Protocol, "an even stream", |out| frame(out, 1, 5, 4, BLOCK));
    check_fault(ErrorCode::StreamClosed, "HEADERS on a stream that is over", |out| {
        frame(out, 1, 5, 1, BLOCK);
    });
    check_fault(ErrorCode::Protocol, "DATA on a stream that never was", |out| frame(out, 0, 1, 9, b"x"));
    check_fault(ErrorCode::Protocol, "RST_STREAM of one", |out| frame(out, 3, 0, 9, &[0; 4]));
    check_fault(ErrorCode::Protocol, "another frame inside a block", |out| {
        frame(out, 1, 1, 3, BLOCK);
        frame(out, 6, 0, 0, &[0; 8]);
    });
    check_fault(ErrorCode::Protocol, "CONTINUATION of nothing", |out| frame(out, 9, 4, 3, BLOCK));
    check_fault(ErrorCode::Compression, "no HPACK", |out| frame(out, 1, 5, 3, b"\x80"));
    check_fault(ErrorCode::FlowControl, "windows beyond all bounds", |out| {
        encode_window(out, 0, 0x7fff_ffff);
    });
    check_fault(ErrorCode::FlowControl, "a window beyond all bounds by SETTINGS", |out| {
        frame(out, 1, 5, 3, BLOCK);
        encode_window(out, 3, 0x7fff_0000);
        encode_settings(out, &[Setting::InitialWindowSize(0x7fff_ffff)], 0);
    });
    check_fault(ErrorCode::FrameSize, "a frame that is too long", |out| {
        frame(out, 0, 0, 1, &vec![0; FRAME_BYTES_MAX + 1]);
    });
    let mut world = web_on(&[0], 3);
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        mux.out.truncate(24);
        frame(&mut mux.out, 6, 0, 0, &[0; 8]);
    });
    world.until("no SETTINGS first", |w| w.clients[client].is_closed);
    assert_eq!(goaway(&world, client), Some(ErrorCode::Protocol as u32));
}

#[test]
fn what_breaks_a_stream_leaves_the_others() {
    let mut world = web_on(&[1], 3);
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        mux.request(1, ("GET", "web", "/slow/100"), Framing::None, &fields(&[]));
        frame(&mut mux.out, 1, 5, 3, b"\x82");
        mux.request(5, ("POST", "web", "/echo"), Framing::Length(3), &fields(&[]));
        frame(&mut mux.out, 0, 1, 5, b"four");
        mux.request(7, ("POST", "web", "/echo"), Framing::Length(3), &fields(&[]));
        frame(&mut mux.out, 0, 1, 7, b"2x");
        mux.request(9, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[]));
        frame(&mut mux.out, 8, 0, 9, &[0; 4]);
        mux.request(11, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[]));
        for _ in 0..5 {
            frame(&mut mux.out, 0, 0, 11, &[0; 15_000]);
        }
    });
    world.until("the good one's answer", |w| is_over(w, client, 1));
    for stream in [3, 5, 7, 9] {
        assert_eq!(reset_of(&world, client, stream), Some(ErrorCode::Protocol as u32), "{stream}");
    }
    world.speak(client, |mux| encode_reset(&mut mux.out, 11, ErrorCode::Cancel));
    let over = ask_on(&mut world, client, 13, "/");
    assert_eq!(over.0, 200);
    // A frame for a stream that was given up means nothing; one for a stream that has ended does.
    world.speak(client, |mux| {
        frame(&mut mux.out, 0, 1, 3, b"late");
        frame(&mut mux.out, 0, 1, 13, b"late");
    });
    world.until("a reset", |w| reset_of(w, client, 13).is_some());
    assert_eq!(reset_of(&world, client, 13), Some(ErrorCode::StreamClosed as u32));
    assert_eq!(ask_on(&mut world, client, 15, "/").0, 200);
    world.assert_nothing_left();
}

#[test]
fn a_head_in_pieces_that_breaks_its_stream_does_not_end_an_idle_connection_early() {
    let mut world = web_on(&[0], 3);
    let client = world.http2_client(0);
    assert_eq!(ask_on(&mut world, client, 1, "/").0, 200);
    world.speak(client, |mux| {
        frame(&mut mux.out, 1, 1, 3, b"\x82");
        frame(&mut mux.out, 9, 4, 3, b"\x86");
    });
    world.run(Duration::from_secs(12));
    assert_eq!(reset_of(&world, client, 3), Some(ErrorCode::Protocol as u32));
    assert_eq!(ask_on(&mut world, client, 5, "/").0, 200);
    world.assert_nothing_left();
}

#[test]
fn more_streams_than_allowed_are_refused_unseen() {
    let mut world = web_on(&[0], 3);
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        for i in 0..101 {
            mux.request(2 * i + 1, ("GET", "web", "/slow/100"), Framing::None, &fields(&[]));
        }
    });
    world.until("all", |w| (0..100).all(|i| is_over(w, client, 2 * i + 1)));
    assert_eq!(reset_of(&world, client, 201), Some(ErrorCode::RefusedStream as u32));
    assert_eq!(world.seen.len(), 100);
    world.assert_nothing_left();
}

#[test]
fn a_window_that_is_taken_back_is_kept_to() {
    let mut world = web_on(&[1], 3);
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        mux.stalled = vec![1];
        encode_settings(&mut mux.out, &[Setting::InitialWindowSize(1000)], 0);
        mux.request(1, ("GET", "web", "/bytes/5000"), Framing::None, &fields(&[]));
    });
    world.run(Duration::from_millis(50));
    let got = |w: &World| -> usize {
        w.heard(client).iter().map(|s| if let Said::Data { bytes, .. } = s { bytes.len() } else { 0 }).sum()
    };
    assert_eq!(got(&world), 1000);
    world.speak(client, |mux| encode_settings(&mut mux.out, &[Setting::InitialWindowSize(500)], 0));
    world.speak(client, |mux| encode_window(&mut mux.out, 1, 700));
    world.run(Duration::from_millis(50));
    assert_eq!(got(&world), 1200, "500 were taken back, 700 given");
    world.speak(client, |mux| encode_settings(&mut mux.out, &[Setting::InitialWindowSize(50_000)], 0));
    world.until("the rest", |w| is_over(w, client, 1));
    assert_eq!(answer(&world, client, 1).unwrap().2, pattern(5000));
}

/// Only what a frame comes to counts, and credit in the smallest pieces brings all of a body in order.
#[test]
fn windows_that_change_in_small_steps_bring_all_of_a_body() {
    let mut world = web_on(&[0], 3);
    world.snapshot.protocols.insert("web".into(), Protocol::Http2);
    world.publish();
    let client = world.http2_client(0);
    world.speak(client, |mux| {
        mux.stalled = vec![1];
        encode_settings(
            &mut mux.out,
            &[Setting::InitialWindowSize(70_000), Setting::InitialWindowSize(0)],
            0,
        );
        mux.request(1, ("GET", "web", "/bytes/5000"), Framing::None, &fields(&[]));
    });
    world.run(Duration::from_millis(50));
    assert!(!world.heard(client).iter().any(|said| matches!(said, Said::Data { .. })));
    for _ in 0..500 {
        world.speak(client, |mux| (0..10).for_each(|_| encode_window(&mut mux.out, 1, 1)));
        world.run(Duration::from_millis(1));
    }
    world.until("the body", |w| is_over(w, client, 1));
    assert_eq!(answer(&world, client, 1).unwrap().2, pattern(5000));
    world.assert_nothing_left();
}

/// Everything at once: calls of both versions, every protocol, small segments, callers that give up.
#[test]
fn any_mixture_of_calls_is_answered_as_each_would_be_alone() {
    for seed in 0..30 {
        let mut world = web_on(&[0, 1, 2], seed);
        world.net.segment_max = [0, 900, 5000][seed as usize % 3];
        world.snapshot.protocols.insert("web".into(), PROTOCOLS[seed as usize / 3 % 3]);
        world.publish();
        let clients: Vec<usize> = (0..3).map(|_| world.http2_client(0)).collect();
        let old = world.client(0);
        let mut sent = 0;
        for i in 0..20 {
            let stream = 2 * i + 1;
            for (at, client) in clients.iter().enumerate() {
                let size = world.random.below(20_000) as usize * at;
                let is_given_up = world.random.below(5) == 0;
                world.speak(*client, |mux| {
                    mux.request(stream, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[]));
                    mux.body(stream, &pattern(size), None);
                    if is_given_up && at == 0 {
                        encode_reset(&mut mux.out, stream, ErrorCode::Cancel);
                    }
                });
            }
            world.run(Duration::from_micros(300));
            if i % 5 == 0 {
                world.send(old, &post("/echo", &pattern(30_000)));
                sent += 1;
            }
        }
        world.until("all", |w| {
            w.answers(old).len() == sent
                && clients[1..].iter().all(|c| (0..20).all(|i| is_over(w, *c, 2 * i + 1)))
        });
        for client in &clients[1..] {
            for i in 0..20 {
                let (status, _, body, _) = answer(&world, *client, 2 * i + 1).unwrap();
                assert_eq!((status, &body), (200, &pattern(body.len())), "seed {seed}");
            }
        }
        assert!(world.answers(old).iter().all(|a| a.status == 200 && a.body == pattern(30_000)));
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

/// Bytes that went wrong on their way: whatever comes of them, nothing breaks, nothing is left, and nobody else notices.
#[test]
fn any_bytes_hurt_nobody_but_whoever_sent_them() {
    for seed in 0..200 {
        let mut world = web_on(&[0, 1], seed);
        world.snapshot.protocols.insert("web".into(), PROTOCOLS[seed as usize % 3]);
        world.publish();
        let (bad, good) = (world.client(0), world.http2_client(0));
        let mut mux = Mux::new(true);
        for i in 0..5 {
            let stream = 2 * i + 1;
            mux.request(stream, ("POST", "web", "/echo"), Framing::Chunked, &fields(&[("cookie", "a=b")]));
            mux.body(stream, &pattern(i as usize * 300), Some(fields(&[("x-sum", "1")])));
        }
        mux.request(11, ("GET", "web", "/slow/50"), Framing::None, &grpc());
        let mut bytes = std::mem::take(&mut mux.out);
        for _ in 0..=world.random.below(8) {
            // Never the preface, or it would not be HTTP/2.
            let at = 24 + world.random.below(bytes.len() as u64 - 24) as usize;
            match world.random.below(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, world.random.below(256) as u8),
                2 => bytes.truncate(at.max(40)),
                _ => bytes[at] = world.random.below(256) as u8,
            }
        }
        world.send(bad, &bytes);
        world.run(Duration::from_millis(200));
        assert_eq!(ask_on(&mut world, good, 1, "/").0, 200, "seed {seed}");
        world.reset_client(bad);
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

/// Only data needs credit: a body that is as long as the window ends without more of it.
#[test]
fn the_end_of_a_body_needs_no_credit() {
    for node in [0, 1] {
        // "abcdefg" in chunks, from a pod that speaks HTTP/1.1.
        let mut world = web_on(&[node], 17);
        world.snapshot.protocols.insert("web".into(), Protocol::Http1);
        world.publish();
        let client = world.http2_client(0);
        world.speak(client, |mux| {
            encode_settings(&mut mux.out, &[Setting::InitialWindowSize(7)], WINDOW_DEFAULT);
            mux.stalled.push(1);
            mux.request(1, ("GET", "web", "/chunked"), Framing::None, &fields(&[]));
        });
        world.run(Duration::from_secs(1));
        assert_eq!(answer(&world, client, 1).map(|a| a.2), Some(b"abcdefg".to_vec()), "node {node}");

        // The same towards a pod that speaks HTTP/2 and gives no more.
        let mut world = web_on(&[node], 18);
        world.snapshot.protocols.insert("web".into(), Protocol::Http2);
        world.publish();
        let client = world.client(0);
        assert_eq!(world.ask(client, &get("/")).status, 200);
        for pod in &mut world.pods {
            let mux = pod.mux.as_mut().expect("it speaks HTTP/2");
            encode_settings(&mut mux.out, &[Setting::InitialWindowSize(7)], WINDOW_DEFAULT);
            mux.stalled.push(3);
        }
        world.run(Duration::from_millis(10));
        let head = b"POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
        world.send(client, head);
        world.send(client, b"7\r\nabcdefg\r\n");
        world.run(Duration::from_millis(100));
        world.send(client, b"0\r\n\r\n");
        world.run(Duration::from_secs(1));
        let answers = world.answers(client);
        assert_eq!(answers.get(1).map(|a| &a.body[..]), Some(&b"abcdefg"[..]), "node {node}");
    }
}
