//! What the data path promises, on whole simulated clusters.

use super::*;

/// Bytes that tell where in a body they belong.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n").into_bytes()
}

#[test]
fn a_call_goes_over_the_hop_to_a_pod_and_back() {
    let mut world = World::new(2, 1);
    let pod = world.pod("web", 1, 1);
    world.publish();
    let client = world.client(0);
    world.send(client, &get("/"));
    world.until("an answer", |w| w.text(client).contains("hello from"));
    let text = world.text(client);
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with(&format!("hello from {pod}")),
        "{text}"
    );
    world.assert_nothing_left();
    let head = &world.seen[0].head;
    assert!(
        head.contains("x-forwarded-for: 10.1.0.200\r\n") && head.contains("via: 1.1 vicino\r\n"),
        "{head}"
    );
}
