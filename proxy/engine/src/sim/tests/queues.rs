//! Pods with a limit: it is never passed, those who wait are served in their order, nobody is forgotten, and what does not fit is told or goes elsewhere.

use super::*;
use crate::snapshot::Concurrency;

fn limited(per_pod: u32, queue_length: u32, timeout_ms: u64) -> Concurrency {
    Concurrency {
        per_pod,
        queue_length,
        queue_timeout_ns: timeout_ms * 1_000_000,
        standing_timeout_ns: 0,
        adaptive: None,
    }
}

/// Callers on node 0, pods of `web` on the nodes given, each with this limit.
fn world_with(nodes: &[usize], concurrency: Concurrency, seed: u64) -> World {
    let mut world = web_on(nodes, seed);
    world.snapshot.concurrency = Some(concurrency);
    world.snapshot.request_timeout = Duration::from_mins(1);
    world.publish();
    world
}

/// Requests that a pod has and has not answered.
fn open_at(world: &World, pod: SocketAddr) -> usize {
    world.slots[&pod].in_flight() as usize
}

fn queued(world: &World) -> u64 {
    world.nodes.iter().map(|node| node.core.tally().queued.get()).sum()
}

/// Sends so many calls at once; runs until all are answered; returns the most that a pod had at a time, and the statuses.
fn burst(world: &mut World, count: usize, path: &str, pods: &[SocketAddr]) -> (usize, Vec<u16>) {
    let clients: Vec<usize> = (0..count).map(|_| world.client(0)).collect();
    for client in &clients {
        world.send(*client, &get(path));
    }
    let mut most = 0;
    let mut is_done = false;
    while !is_done {
        assert!(world.step(), "nothing more happens");
        most = most.max(pods.iter().map(|pod| open_at(world, *pod)).max().unwrap_or(0));
        is_done = clients.iter().all(|client| !world.answers(*client).is_empty());
    }
    (most, clients.iter().map(|client| world.answers(*client)[0].status).collect())
}

#[test]
fn a_limit_holds_and_everybody_is_served_in_turn() {
    for nodes in [&[0][..], &[1], &[1, 1, 1], &[0, 0]] {
        let mut world = world_with(nodes, limited(2, 100, 60_000), 1);
        let pods: Vec<_> =
            nodes.iter().enumerate().map(|(i, node)| pod_address(*node, i as u8 + 1)).collect();
        let (most, statuses) = burst(&mut world, 40, "/slow/100", &pods);
        assert_eq!(most, 2, "{nodes:?}");
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        // 40 calls of 100 ms on so many pods that take two at a time: no slot was idle while calls waited.
        let took = world.now.since(Time(1_000_000_000));
        let ideal = Duration::from_millis(100 * 40 / (2 * nodes.len() as u64));
        assert!(took < ideal + Duration::from_millis(150), "{nodes:?}: {took:?}, at best {ideal:?}");
        world.assert_nothing_left();
    }
}

#[test]
fn workers_of_one_proxy_share_the_limit_and_wake_each_other() {
    // Node 2 is a second worker of node 1.
    let mut world = World::new(3, 2);
    world.snapshot.twins.insert(2, 1);
    let pod = world.pod("web", 1, 1);
    world.snapshot.concurrency = Some(limited(1, 100, 60_000));
    world.publish();
    let clients: Vec<usize> = (0..30).map(|i| world.client(1 + i % 2)).collect();
    for client in &clients {
        world.send(*client, &get("/slow/20"));
    }
    let mut most = 0;
    while world.seen.len() < 30 || open_at(&world, pod) > 0 {
        assert!(world.step());
        most = most.max(open_at(&world, pod));
    }
    assert_eq!(most, 1);
    world.run(Duration::from_millis(50));
    assert!(clients.iter().all(|client| world.answers(*client)[0].status == 200));
    let took = world.now.since(Time(1_000_000_000));
    assert!(
        took < Duration::from_millis(30 * 22 + 100),
        "{took:?}: a slot that one worker frees is the other's at once"
    );
    world.assert_nothing_left();
}

#[test]
fn a_full_line_is_told_and_so_is_a_wait_that_is_too_long() {
    for node in [0, 1] {
        let mut world = world_with(&[node], limited(1, 3, 60_000), 3);
        let (_, statuses) = burst(&mut world, 10, "/slow/50", &[]);
        assert_eq!(
            statuses.iter().filter(|status| **status == 200).count(),
            4,
            "one is served, three wait: {statuses:?}"
        );
        assert!(statuses.iter().all(|status| [200, 503].contains(status)));
        world.assert_nothing_left();

        let mut world = world_with(&[node], limited(1, 100, 120), 4);
        let started = world.now;
        let (_, statuses) = burst(&mut world, 10, "/slow/50", &[]);
        let served = statuses.iter().filter(|status| **status == 200).count();
        assert!((2..=4).contains(&served), "those whose turn came within 120 ms: {statuses:?}");
        assert!(world.now.since(started) < Duration::from_millis(300));
        world.assert_nothing_left();
    }
    for (node, length, word) in
        [(0, 0, "queue-full"), (1, 0, "queue-full"), (0, 9, "queue-timeout"), (1, 9, "queue-timeout")]
    {
        let mut world = world_with(&[node], limited(1, length, 20), 5);
        let clients = [world.client(0), world.client(0)];
        world.send(clients[0], &get("/slow/100"));
        world.run(Duration::from_millis(10));
        let answer = world.ask(clients[1], &get("/"));
        assert_eq!((answer.status, answer.field("vicino-error")), (503, Some(word)), "node {node}");
        assert_eq!(answer.field("retry-after"), Some("1"));
    }
}

#[test]
fn what_does_not_fit_on_one_node_goes_to_another() {
    // The line of each node has room for two; together they have for all.
    let mut world = world_with(&[0, 1, 2], limited(2, 2, 60_000), 6);
    let (_, statuses) = burst(&mut world, 12, "/slow/50", &[]);
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(served >= 11, "{statuses:?}");
    world.assert_nothing_left();
}

#[test]
fn nobody_passes_those_who_wait() {
    for node in [0, 1] {
        let mut world = world_with(&[node], limited(1, 100, 60_000), 7);
        let mut order = Vec::new();
        for i in 0..12 {
            let client = world.client(0);
            world.send(client, &get(&format!("/slow/{}", 30 + i)));
            order.push(format!("GET /slow/{} ", 30 + i));
            world.run(Duration::from_millis(3));
        }
        world.until("all are served", |w| w.seen.len() == 12);
        let served: Vec<_> = world.seen.iter().map(|seen| seen.head.clone()).collect();
        for (seen, asked) in served.iter().zip(&order) {
            assert!(seen.starts_with(asked.as_str()), "{asked} was passed by {seen}");
        }
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

#[test]
fn callers_that_go_and_pods_that_die_free_their_places() {
    for node in [0, 1] {
        let mut world = world_with(&[node], limited(1, 100, 60_000), 8);
        let clients: Vec<usize> = (0..6).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get("/hang"));
        }
        world.run(Duration::from_millis(100));
        assert_eq!((world.seen.len(), queued(&world)), (1, 5));
        // One goes: if it was in line, the line is shorter; if it was served, the next one is.
        world.reset_client(clients[3]);
        world.run(Duration::from_millis(100));
        assert_eq!((queued(&world), open_at(&world, pod_address(node, 1))), (4, 1));
        // A call that its pod cuts is answered, and the next one is served.
        let seen = world.seen.len();
        let hanging = world.pods.iter().rposition(|pod| pod.served > 0).unwrap();
        world.pods[hanging].close();
        world.until("the next is served", |w| w.seen.len() == seen + 1);
        assert_eq!(queued(&world), 3);
        for client in clients {
            if !world.clients[client].is_closed {
                world.reset_client(client);
            }
        }
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

#[test]
fn another_configuration_serves_those_who_wait() {
    for node in [0, 1] {
        // A pod comes.
        let mut world = world_with(&[node], limited(1, 100, 60_000), 9);
        for _ in 0..5 {
            let client = world.client(0);
            world.send(client, &get("/hang"));
        }
        world.run(Duration::from_millis(100));
        assert_eq!((world.seen.len(), queued(&world)), (1, 4));
        world.pod("web", node, 9);
        world.publish();
        world.run(Duration::from_millis(100));
        assert_eq!((world.seen.len(), queued(&world)), (2, 3));
        // The limit goes.
        world.snapshot.concurrency = None;
        world.publish();
        world.run(Duration::from_millis(100));
        assert_eq!((world.seen.len(), queued(&world)), (5, 0));
    }
}

/// What a pod that has left still has to do is finished there, and nobody in line comes after it.
#[test]
fn a_pod_that_has_left_gets_no_more_calls_while_others_are_there() {
    for node in [0, 1] {
        let mut world = world_with(&[node, node], limited(1, 100, 60_000), 11);
        let ask = |world: &mut World, path: &str| {
            let client = world.client(0);
            world.send(client, &get(path));
            world.run(Duration::from_millis(20));
            client
        };
        let first = ask(&mut world, "/slow/500");
        let leaving = world.seen[0].pod;
        ask(&mut world, "/hang");
        for _ in 0..3 {
            ask(&mut world, "/hang");
        }
        assert_eq!((world.seen.len(), queued(&world)), (2, 3), "node {node}");
        let pods = world.snapshot.endpoints.get_mut("web").unwrap();
        pods.retain(|(_, address)| *address != leaving);
        world.publish();
        world.run(Duration::from_secs(1));
        assert_eq!(world.answers(first)[0].status, 200);
        let at_leaving = world.seen.iter().filter(|seen| seen.pod == leaving).count();
        assert_eq!((at_leaving, queued(&world)), (1, 3), "node {node}");
        assert_eq!(open_at(&world, leaving), 0);
    }
}

/// Those who were in line before the last pod left have nowhere else to go: it serves them as long as it can.
#[test]
fn the_last_pod_serves_its_line_when_it_has_left() {
    for node in [0, 1] {
        let mut world = world_with(&[node], limited(1, 100, 60_000), 12);
        let clients: Vec<usize> = (0..4).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get("/slow/100"));
        }
        world.run(Duration::from_millis(50));
        assert_eq!(queued(&world), 3);
        world.snapshot.endpoints.get_mut("web").unwrap().clear();
        world.publish();
        world.run(Duration::from_secs(1));
        for client in clients {
            assert_eq!(world.answers(client)[0].status, 200, "node {node}");
        }
        world.assert_nothing_left();
    }
}

/// One of two pods refuses connections, which makes it the least busy one: each call fails there once, and then waits for the other.
#[test]
fn a_call_that_failed_at_one_pod_has_a_place_in_line_for_the_others() {
    for node in [0, 1] {
        let mut world = world_with(&[node, node], limited(1, 100, 60_000), 13);
        let (dead, well) = (pod_address(node, 1), pod_address(node, 2));
        world.listeners.insert(dead, Listener::Refuses);
        let clients: Vec<usize> = (0..6).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get("/slow/200"));
            world.run(Duration::from_millis(10));
        }
        assert_eq!((open_at(&world, well), queued(&world)), (1, 5), "node {node}");
        world.run(Duration::from_secs(2));
        for client in clients {
            assert_eq!(world.answers(client)[0].status, 200, "node {node}");
        }
        assert!(world.seen.iter().all(|seen| seen.pod == well));
        world.assert_nothing_left();
    }
}

/// Whoever cannot have the pod that is free keeps nobody from it.
#[test]
fn those_who_may_have_a_pod_pass_one_that_failed_there() {
    for node in [0, 1] {
        let mut world = world_with(&[node, node], limited(1, 100, 60_000), 14);
        let (sick, busy) = (pod_address(node, 1), pod_address(node, 2));
        world.listeners.insert(sick, Listener::Refuses);
        let ask = |world: &mut World, path: &str| {
            let client = world.client(0);
            world.send(client, &get(path));
            world.run(Duration::from_millis(10));
            client
        };
        ask(&mut world, "/slow/1000");
        let failed = ask(&mut world, "/");
        assert_eq!((open_at(&world, busy), queued(&world)), (1, 1));
        world.listeners.insert(sick, Listener::Pod);
        let next = ask(&mut world, "/");
        world.run(Duration::from_millis(50));
        assert!(world.answers(failed).is_empty(), "it waits for the other one");
        assert_eq!(world.answers(next)[0].status, 200);
        world.run(Duration::from_secs(2));
        assert_eq!(world.answers(failed)[0].status, 200);
        assert_eq!(world.seen.iter().filter(|seen| seen.pod == busy).count(), 2);
        world.assert_nothing_left();
    }
}

/// A call to the first pod of `web` by its name.
fn get_first(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: web-0.web\r\n\r\n").into_bytes()
}

/// Calls to a pod by its name are calls like others: the limit holds for them, they wait, and whoever waits behind them is served.
#[test]
fn a_limit_holds_for_calls_to_a_pod_by_its_name() {
    for node in [0, 1] {
        let mut world = world_with(&[node, node], limited(1, 9, 60_000), 15);
        let first = pod_address(node, 1);
        let clients: Vec<usize> = (0..5).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get_first("/slow/100"));
            world.run(Duration::from_millis(5));
            assert_eq!(open_at(&world, first), 1, "node {node}");
        }
        assert_eq!(queued(&world), 4);
        world.run(Duration::from_secs(1));
        assert!(clients.iter().all(|client| world.answers(*client)[0].status == 200), "node {node}");
        assert!(world.seen.iter().all(|seen| seen.pod == first));
        world.assert_nothing_left();

        let mut world = world_with(&[node], limited(1, 9, 60_000), 16);
        let (named, any) = (world.client(0), world.client(0));
        world.send(named, &get_first("/slow/100"));
        world.run(Duration::from_millis(10));
        world.send(any, &get("/"));
        world.run(Duration::from_millis(200));
        assert_eq!(world.answers(any)[0].status, 200, "node {node}: what ends lets the next one in");
        world.assert_nothing_left();
    }
}

/// Those who wait for one pod have a line of their own length, and keep nobody from the others.
#[test]
fn who_waits_for_one_pod_is_in_nobodys_way() {
    for node in [0, 1] {
        let mut world = world_with(&[node, node], limited(1, 2, 60_000), 17);
        let (first, second) = (pod_address(node, 1), pod_address(node, 2));
        for _ in 0..3 {
            let client = world.client(0);
            world.send(client, &get_first("/hang"));
            world.run(Duration::from_millis(10));
        }
        assert_eq!((open_at(&world, first), queued(&world)), (1, 2), "node {node}");
        let beyond = world.client(0);
        let answer = world.ask(beyond, &get_first("/"));
        assert_eq!((answer.status, answer.field("vicino-error")), (503, Some("queue-full")), "node {node}");
        let any = world.client(0);
        for _ in 0..3 {
            assert_eq!(world.ask(any, &get("/")).status, 200, "node {node}");
        }
        // Others line up, too, and are served by whichever is free, first come, first served.
        let clients: Vec<usize> = (0..3).map(|_| world.client(0)).collect();
        for client in &clients {
            world.send(*client, &get("/slow/50"));
            world.run(Duration::from_millis(5));
        }
        assert_eq!((open_at(&world, second), queued(&world)), (1, 4));
        world.run(Duration::from_millis(300));
        assert!(clients.iter().all(|client| world.answers(*client)[0].status == 200), "node {node}");
        assert_eq!(queued(&world), 2);
    }
}

/// Who waits for a pod that leaves has nowhere else to go.
#[test]
fn a_pod_that_has_left_serves_those_who_wait_for_it_alone() {
    for node in [0, 1] {
        let mut world = world_with(&[node, node], limited(1, 9, 60_000), 18);
        let leaving = pod_address(node, 1);
        let clients: Vec<usize> = (0..4).map(|_| world.client(0)).collect();
        for (i, client) in clients.iter().enumerate() {
            // The last one goes to the other pod.
            world.send(*client, &if i < 3 { get_first("/slow/100") } else { get("/hang") });
            world.run(Duration::from_millis(10));
        }
        let any = world.client(0);
        world.send(any, &get("/"));
        world.run(Duration::from_millis(10));
        assert_eq!(queued(&world), 3, "node {node}");
        world.snapshot.endpoints.get_mut("web").unwrap().retain(|(_, address)| *address != leaving);
        world.publish();
        world.run(Duration::from_secs(1));
        assert!(clients[..3].iter().all(|client| world.answers(*client)[0].status == 200), "node {node}");
        assert_eq!((world.answers(any).len(), queued(&world)), (0, 1), "node {node}");
    }
}

#[test]
fn the_time_of_the_call_goes_on_in_line() {
    for node in [0, 1] {
        let mut world = world_with(&[node], limited(1, 100, 60_000), 10);
        let clients = [world.client(0), world.client(0)];
        world.send(clients[0], &get("/slow/1000"));
        world.run(Duration::from_millis(5));
        world.snapshot.request_timeout = Duration::from_millis(200);
        world.publish();
        let started = world.now;
        let answer = world.ask(clients[1], &get("/"));
        assert_eq!((answer.status, answer.field("vicino-error")), (504, Some("timeout")));
        assert!(world.now.since(started) < Duration::from_millis(210));
        world.run(Duration::from_secs(1));
        world.assert_nothing_left();
    }
}

/// More calls than a pod can do, for long: with a time for standing lines those that are served are served soon, and about as many are.
#[test]
fn a_line_that_does_not_end_is_kept_short() {
    let run = |standing_ms: u64| {
        let mut world = web_on(&[1], 21);
        world.snapshot.requeues = 0;
        world.snapshot.concurrency =
            Some(Concurrency { standing_timeout_ns: standing_ms * 1_000_000, ..limited(1, 1000, 1000) });
        world.publish();
        let (mut waiting, mut served) = (Vec::new(), Vec::new());
        for i in 0..600_u64 {
            let client = world.client(0);
            // Forty calls a second, where twenty can be done.
            world.send(client, &get("/slow/50"));
            waiting.push((client, world.now));
            world.run(Duration::from_millis(25));
            let now = world.now;
            waiting.retain(|(client, from)| {
                let answers = world.answers(*client);
                let Some(answer) = answers.first() else { return true };
                if answer.status == 200 && i > 200 {
                    served.push(now.since(*from));
                }
                false
            });
        }
        world.run(Duration::from_secs(3));
        world.assert_nothing_left();
        served.sort_unstable();
        (served.len(), served[served.len() / 2])
    };
    let ((all, late), (some, soon)) = (run(0), run(60));
    assert!(late > Duration::from_millis(900), "{late:?}");
    assert!(soon < Duration::from_millis(200), "{soon:?}");
    assert!(some * 10 > all * 9, "{some} and {all} are served");
}

/// Of two pods the one whose calls take too long is given one at a time, and the other more and more, on the caller's node and elsewhere.
#[test]
fn a_limit_is_found_out_for_each_pod() {
    use crate::adaptive::Adaptive;
    const SLOW: u8 = 60;
    for node in [0, 1] {
        let mut world = World::new(2, 22);
        world.pod("web", node, SLOW);
        world.pod("web", node, 1);
        let adaptive = Some(Adaptive { target_ns: 100_000_000, per_pod_min: 1 });
        world.snapshot.concurrency = Some(Concurrency { adaptive, ..limited(30, 1000, 60_000) });
        world.publish();
        let slots = [pod_address(node, SLOW), pod_address(node, 1)].map(|pod| Arc::clone(&world.slots[&pod]));
        let clients: Vec<usize> = (0..60).map(|_| world.client(0)).collect();
        let mut most = [0, 0];
        for client in &clients {
            world.send(*client, &get("/slow/10"));
        }
        for round in 0..400 {
            world.run(Duration::from_millis(5));
            if round > 350 {
                most = [0, 1].map(|i: usize| slots[i].in_flight().max(most[i]));
            }
            world.run(Duration::from_millis(45));
            for client in &clients {
                if !world.answers(*client).is_empty() {
                    world.clients[*client].got.clear();
                    world.send(*client, &get("/slow/10"));
                }
            }
        }
        assert_eq!(most[0], 1, "the slow one, on node {node}");
        assert_eq!(most[1], 30, "the quick one, on node {node}");
        world.run(Duration::from_secs(30));
        world.assert_nothing_left();
    }
}

/// On the caller's node a call waits too long, and on the other one the proxy stands still.
#[test]
fn a_call_that_has_left_a_line_still_has_its_time() {
    let mut world = world_with(&[0, 1], limited(1, 4, 200), 5);
    let warm = world.client(0);
    for _ in 0..20 {
        assert_eq!(world.ask(warm, &get("/")).status, 200);
    }
    world.snapshot.near.insert("web".into(), [0].into());
    world.snapshot.request_timeout = Duration::from_secs(1);
    world.publish();
    let busy = world.client(0);
    world.send(busy, &get("/hang"));
    world.run(Duration::from_millis(500));
    assert_eq!(open_at(&world, pod_address(0, 1)), 1);
    world.nodes[1].is_frozen = true;
    let (client, started) = (world.client(0), world.now);
    world.send(client, &get("/"));
    world.until("an answer", |w| !w.answers(client).is_empty());
    assert_eq!(world.answers(client)[0].status, 504);
    let took = world.now.since(started);
    assert!(took < Duration::from_millis(1010), "{took:?}");
}

/// A hop on which many calls are refused lives on, with those that are not: only whoever opens streams may not give up too many.
#[test]
fn calls_that_another_node_refuses_cost_no_hop() {
    let config = crate::CoreConfig { resets_per_second_max: 3, ..crate::CoreConfig::default() };
    let mut world = World::with(2, 6, &config);
    world.pod("web", 1, 1);
    world.snapshot.concurrency = Some(limited(1, 0, 100));
    world.publish();
    let first = world.client(0);
    world.send(first, &get("/slow/500"));
    world.run(Duration::from_millis(100));
    let (_, statuses) = burst(&mut world, 20, "/slow/1", &[]);
    assert_eq!(statuses, [503; 20]);
    world.until("the first answer", |w| !w.answers(first).is_empty());
    assert_eq!(world.answers(first)[0].status, 200);
    assert!(!world.nodes[0].events.iter().any(|event| matches!(event, crate::Event::HopDown { .. })));
    world.assert_nothing_left();
}
