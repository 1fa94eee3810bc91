//! A storm of ends: callers, pods, hops and proxies go, give up, break rules and stand still in every phase of all kinds of calls, at random; when it is over and all is quiet,
//! nothing is counted, held, open or in line anywhere.

use proptest::prelude::*;
use vicino_wire::head::Framing;
use vicino_wire::http2::{ErrorCode, Setting, WINDOW_DEFAULT, encode_go_away, encode_reset, encode_settings};

use super::*;
use crate::affinity::Affinity;
use crate::balance::Algorithm;
use crate::breaker::{Breaker, Standing};
use crate::retry::{Hedge, Retry};
use crate::rules::{Fault, Rule, Rules, Test};
use crate::snapshot::Concurrency;

const NODES: usize = 3;
/// Pods of `web`, `shadow` and `echo`: node and number.
const WEB: [(usize, u8); 5] = [(0, 1), (1, 2), (1, 3), (2, 4), (2, 58)];
const SHADOW: (usize, u8) = (1, 62);
const ECHO: [(usize, u8); 2] = [(0, 99), (1, 99)];
const STEPS: usize = 100;
/// Longer than anything is kept without being used: an accepted hop is for twice `hop_idle_timeout`.
const QUIET: Duration = Duration::from_mins(15);
const PATHS: [&str; 16] = [
    "/",
    "/echo",
    "/early",
    "/hang",
    "/die",
    "/cut",
    "/slow/40",
    "/slow/40",
    "/slow/300",
    "/slow/3000",
    "/bytes/100000",
    "/chunked",
    "/trailers",
    "/hints",
    "/none",
    "/bad",
];

/// One in so many.
fn one_in(world: &mut World, of: u64) -> bool {
    world.random.below(of) == 0
}

fn among(world: &mut World, count: usize) -> usize {
    world.random.below(count as u64) as usize
}

/// A Service's settings, each there or not.
fn settle(world: &mut World) {
    world.net.segment_max = [0, 0, 0, 1500][among(world, 4)];
    let percent = world.random.below(101) as u32;
    let (per_pod, queue_length) = (1 + world.random.below(2) as u32, world.random.below(9) as u32);
    let spec_times = [200, 1000, 8000][among(world, 3)];
    let coins: Vec<bool> = (0..12).map(|_| one_in(world, 2)).collect();
    let protocol = [Protocol::Http, Protocol::Http1, Protocol::Http2][among(world, 3)];
    let algorithm = [Algorithm::LeastRequest, Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Random]
        [among(world, 4)];
    let spec = &mut world.snapshot;
    spec.request_timeout = Duration::from_millis(spec_times);
    spec.idle_timeout = if coins[0] { Duration::from_secs(2) } else { Duration::ZERO };
    spec.protocols.insert("web".into(), protocol);
    spec.algorithm = algorithm;
    spec.concurrency = (coins[1] || coins[4]).then_some(Concurrency {
        per_pod,
        queue_length,
        queue_timeout_ns: 300_000_000,
        standing_timeout_ns: u64::from(coins[2]) * 20_000_000,
        adaptive: None,
    });
    spec.breaker = coins[3].then_some(Breaker {
        codes: vec![500, 502, 503, 504],
        consecutive_failures: 2,
        failure_percent: 0,
        minimum_calls: 20,
        ejection_ns: 500_000_000,
        ejection_max_ns: 2_000_000_000,
        ejected_percent: percent,
    });
    spec.retry = coins[4].then_some(Retry {
        attempts: 2,
        codes: vec![502, 503, 504],
        is_for_any_method: coins[5],
        attempt_ns: u64::from(coins[6]) * 150_000_000,
        backoff_ns: 20_000_000,
        budget_percent: 100,
        min_per_second: 100,
    });
    spec.hedge = coins[7].then_some(Hedge { delay_ns: 30_000_000, budget_percent: 100, min_per_second: 100 });
    spec.affinity = coins[8].then(|| Affinity::Header("x-user".into()));
    if coins[9] {
        spec.secure = (0..NODES).collect();
    }
    if coins[10] {
        let fault = Fault { delay_percent: 30, delay_ns: 50_000_000, ..Fault::default() };
        let times = Times {
            connect_ns: 1_000_000_000,
            request_ns: spec.request_timeout.as_nanos() as u64,
            idle_ns: spec.idle_timeout.as_nanos() as u64,
        };
        let (retry, hedge) = (spec.retry.clone(), spec.hedge);
        let rule = Rule { times, retry, hedge, mirror_percent: 60, fault, ..Rule::default() };
        let rules = Rules::new(vec![(rule, vec![Test::default()])]);
        spec.rules.insert("web".into(), (rules, vec![vec![("web".into(), 1)]]));
        spec.mirrors.insert("web".into(), "shadow".into());
    }
    if coins[11] {
        // A worker more on node 1, with callers of its own.
        spec.twins.insert(NODES, 1);
    }
}

fn start(seed: u64) -> World {
    let mut world = World::new(NODES + 1, seed);
    settle(&mut world);
    for (node, i) in WEB {
        world.pod("web", node, i);
    }
    world.pod("shadow", SHADOW.0, SHADOW.1);
    for (node, i) in ECHO {
        world.pod("echo", node, i);
    }
    world.publish();
    world
}

/// What a caller of HTTP/1.1 says next, whole or not.
fn words(world: &mut World) -> Vec<u8> {
    let path = PATHS[among(world, PATHS.len())];
    let user = world.random.below(4);
    let fields = format!("Host: web\r\nx-user: {user}\r\n");
    let len = [0, 10, 3000, 70_000][among(world, 4)];
    let body = pattern(len);
    let mut out = match world.random.below(9) {
        0 => b"CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n\x00\x01 no HTTP".to_vec(),
        1 => b"CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n".to_vec(),
        2 => format!("GET /ws HTTP/1.1\r\n{fields}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .into_bytes(),
        3 | 4 => {
            let head = format!("PUT {path} HTTP/1.1\r\n{fields}Content-Length: {len}\r\n");
            let expect = if one_in(world, 3) { "Expect: 100-continue\r\n" } else { "" };
            [head.as_bytes(), expect.as_bytes(), b"\r\n", &body].concat()
        }
        5 => {
            let head =
                format!("POST {path} HTTP/1.1\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{len:x}\r\n");
            let end = if len == 0 { &b"\r\n"[..] } else { b"\r\n0\r\nx-sum: 1\r\n\r\n" };
            [head.as_bytes(), &body, end].concat()
        }
        6 => format!("HEAD {path} HTTP/1.1\r\n{fields}\r\n").into_bytes(),
        _ => format!("GET {path} HTTP/1.1\r\n{fields}\r\n").into_bytes(),
    };
    if one_in(world, 4) {
        let end = among(world, out.len() + 1);
        out.truncate(end);
    }
    out
}

/// A caller of HTTP/2 does something, or breaks something.
fn speak(world: &mut World, client: usize, last: &mut u32) {
    let path = PATHS[among(world, PATHS.len())];
    let user = world.random.below(4).to_string();
    let older =
        if *last == 0 { 1 } else { 1 + 2 * (world.random.below(u64::from(*last).div_ceil(2)) as u32) };
    let len = [0, 10, 3000, 70_000][among(world, 4)];
    let code = [ErrorCode::NoError, ErrorCode::Cancel, ErrorCode::Internal][among(world, 3)];
    let window = [0, 1, 5000, 65_535, 1_000_000][among(world, 5)];
    let method = ["GET", "POST", "PUT", "HEAD"][among(world, 4)];
    let (what, is_grpc, is_whole) = (world.random.below(16), one_in(world, 2), one_in(world, 2));
    let mut new = || {
        *last += if *last == 0 { 1 } else { 2 };
        *last
    };
    let mut said = vec![("x-user", &*user)];
    if is_grpc {
        said.extend([("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "700m")]);
    }
    world.speak(client, |mux| match what {
        0..6 => mux.request(new(), (method, "web", path), Framing::None, &fields(&said)),
        6..10 => {
            let framing = if is_whole { Framing::Length(len as u64) } else { Framing::Chunked };
            let stream = new();
            mux.request(stream, ("POST", "web", path), framing, &fields(&said));
            if framing.is_empty() {
                return;
            }
            if is_whole || is_grpc {
                mux.body(stream, &pattern(len), (!is_whole).then(|| fields(&[("x-sum", "1")])));
            } else {
                mux.part(stream, &pattern(len.min(3000)));
            }
        }
        10..13 => encode_reset(&mut mux.out, older, code),
        13 => mux.stalled.push(older),
        14 => mux.window(window),
        _ if is_grpc => encode_go_away(&mut mux.out, 0, code),
        // A part of a body that may be over.
        _ => mux.part(older, b"more"),
    });
}

/// An application does something, or breaks something.
fn stir_pod(world: &mut World) {
    if world.pods.is_empty() {
        return;
    }
    // Rather one of the latest.
    let count = world.pods.len();
    let pod = count - 1 - among(world, count.min(12));
    let what = world.random.below(10);
    let stream = 1 + 2 * (world.random.below(12) as u32);
    let code = [ErrorCode::NoError, ErrorCode::RefusedStream, ErrorCode::Internal][among(world, 3)];
    let window = [0, 1, 5000, 65_535, 1_000_000][among(world, 5)];
    let max = world.random.below(4) as u32;
    let pod = &mut world.pods[pod];
    if pod.is_over() {
        return;
    }
    match (what, &mut pod.mux) {
        (0, _) => pod.close(),
        (1 | 2, _) => pod.is_stalled = !pod.is_stalled,
        (3, None) => pod.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (4..7, Some(mux)) => encode_reset(&mut mux.out, stream, code),
        (7, Some(mux)) => encode_go_away(&mut mux.out, stream, code),
        (8, Some(mux)) => mux.window(window),
        (_, Some(mux)) => {
            encode_settings(&mut mux.out, &[Setting::MaxConcurrentStreams(max)], WINDOW_DEFAULT);
        }
        _ => {}
    }
}

/// Something happens to the cluster.
fn stir_cluster(world: &mut World) {
    let node = among(world, NODES + 1);
    let (of, i) = WEB[among(world, WEB.len())];
    let listener = [Listener::Refuses, Listener::Silent, Listener::Pod][among(world, 3)];
    match world.random.below(8) {
        0 => world.nodes[node].is_frozen = true,
        1 | 2 => {
            for node in 0..=NODES {
                world.thaw(node);
            }
        }
        3 => {
            let to = among(world, NODES);
            world.reset_hops(node, to);
        }
        4 | 5 => drop(world.listeners.insert(pod_address(of, i), listener)),
        6 => {
            let pods = world.snapshot.endpoints.get_mut("web").expect("it is there");
            match pods.iter().position(|(_, address)| *address == pod_address(of, i)) {
                Some(at) => drop(pods.remove(at)),
                None => pods.push((of, pod_address(of, i))),
            }
            world.publish();
        }
        _ if one_in(world, 4) && world.nodes[node].core.draining.is_none() => {
            let (now, end) = (world.now, world.now + Duration::from_secs(3));
            world.nodes[node].core.drain(now, end);
            world.turn(node);
        }
        _ => {
            let protocol = [Protocol::Http, Protocol::Http1, Protocol::Http2][among(world, 3)];
            world.snapshot.protocols.insert("web".into(), protocol);
            world.publish();
        }
    }
}

fn rage(world: &mut World) {
    // Callers, and for those of HTTP/2 the stream that they opened last.
    let mut callers: Vec<(usize, u32)> = Vec::new();
    for _ in 0..STEPS {
        let time = [0, 200, 2000, 60_000][among(world, 4)];
        let time = world.random.below(time + 1);
        world.run(Duration::from_micros(time));
        callers.retain(|(client, _)| !world.clients[*client].is_closed);
        let is_twin = world.snapshot.twins.contains_key(&NODES);
        let node = if is_twin && one_in(world, 4) { NODES } else { among(world, 2) };
        if callers.is_empty() || (callers.len() < 14 && one_in(world, 4)) {
            if world.nodes[node].is_frozen {
                continue;
            }
            let client = if one_in(world, 2) { world.http2_client(node) } else { world.client(node) };
            callers.push((client, 0));
        }
        let at = among(world, callers.len());
        let (client, last) = &mut callers[at];
        match world.random.below(12) {
            0 => world.reset_client(*client),
            1 => world.shut(*client),
            2 => world.clients[*client].is_stalled = !world.clients[*client].is_stalled,
            3 | 4 => stir_pod(world),
            5 => stir_cluster(world),
            _ if world.clients[*client].mux.is_some() => speak(world, *client, last),
            _ => {
                let words = words(world);
                world.send(*client, &words);
            }
        }
    }
}

/// All that stood still goes on, callers go, and for long nothing happens.
fn calm(world: &mut World) {
    for node in 0..=NODES {
        world.thaw(node);
    }
    for pod in &mut world.pods {
        pod.is_stalled = false;
    }
    for client in 0..world.clients.len() {
        world.clients[client].is_stalled = false;
        match world.random.below(3) {
            _ if world.clients[client].is_closed => {}
            0 => world.reset_client(client),
            1 => world.shut(client),
            _ => {}
        }
    }
    world.run(Duration::from_secs(40));
    // Also those that have heard FIN: they may go on in a tunnel.
    for client in 0..world.clients.len() {
        world.reset_client(client);
    }
    world.run(QUIET);
}

fn assert_nothing_is_kept(world: &World) {
    world.assert_nothing_left();
    for ((node, service), queue) in &world.queues {
        assert_eq!(queue.waiting(), 0, "node {node}: the line of {service}");
    }
    for (address, slot) in &world.slots {
        assert_ne!(slot.health.standing(world.now), Standing::Out, "{address} is tried by nobody");
    }
    for (i, node) in world.nodes.iter().enumerate() {
        let core = &node.core;
        let open: Vec<_> = core.net.table.iter().collect();
        assert!(open.is_empty(), "node {i} has connections: {open:?}");
        let tally = core.tally();
        for of in [&tally.clients, &tally.pods, &tally.hops_dialed, &tally.hops_accepted] {
            assert_eq!(of.open.get(), 0, "node {i}: {of:?}");
        }
        assert!(!core.mailbox.has_mail() && core.held_heads.is_empty(), "node {i}");
        assert!(core.is_idle());
        if core.is_cut {
            // Its process ends here.
            continue;
        }
        assert_eq!(core.nodes.hops().count(), 0, "node {i} knows hops that are gone");
        assert!(core.pools.is_empty(), "node {i} keeps connections that are gone: {:?}", core.pools);
        assert!(core.strangers.is_empty(), "node {i}: {:?}", core.strangers);
    }
}

proptest! {
    // 32 cases; PROPTEST_CASES=8000 makes it 1,000.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn after_a_storm_of_ends_nothing_is_counted_held_or_open(seed: u64) {
        let mut world = start(seed);
        rage(&mut world);
        calm(&mut world);
        assert_nothing_is_kept(&world);
    }
}
