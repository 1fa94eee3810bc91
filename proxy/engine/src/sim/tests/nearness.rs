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
