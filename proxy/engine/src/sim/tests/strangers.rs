//! Who dials L2 without saying who it is gets little of it, and other nodes' hops get as much as ever.

use super::identity::{account, certify, from_afar, ip_of};
use super::*;
use crate::account::Party;
use crate::core::ConnId;
use crate::tally::Refusal;

/// `web` on node 1, and so many service accounts on node 0, each with a certificate.
fn world(accounts: u8) -> World {
    let mut world = web_on(&[1], 1);
    world.snapshot.secure = [0, 1].into();
    let names: Vec<String> = (0..accounts).map(|i| char::from(i + 1).to_string()).collect();
    for name in &names {
        world.snapshot.callers.push((0, ip_of(name)));
        world.snapshot.pods.insert(ip_of(name), (format!("uid-{name}"), name.clone()));
    }
    world.publish();
    let certificates: Vec<_> = names.iter().map(String::as_str).zip(1..).collect();
    certify(&mut world, &certificates, true);
    world
}

/// Somebody dials node 1's L2 so many times at once; what is taken.
fn dials(world: &mut World, source: IpAddr, count: usize) -> Vec<ConnId> {
    all_dial(world, std::iter::repeat_n(source, count))
}

/// The same from many addresses.
fn all_dial(world: &mut World, sources: impl Iterator<Item = IpAddr>) -> Vec<ConnId> {
    let local = SocketAddr::new(node_ip(1), L2_PORT);
    let now = world.now;
    let core = &mut world.nodes[1].core;
    let dial = |source| core.accepted(Role::L2, SocketAddr::new(source, 50_000), local, now);
    let taken = sources.filter_map(dial).collect();
    world.turn(1);
    taken
}

fn refused(world: &World, refusal: Refusal) -> u64 {
    world.nodes[1].core.tally().hop_refusals[refusal as usize].get()
}

fn open(world: &World) -> u64 {
    world.nodes[1].core.tally().hops_accepted.open.get()
}

fn lines(world: &World) -> usize {
    world.nodes[1].events.iter().filter(|event| matches!(event, Event::Limited { .. })).count()
}

/// Each account of node 0 has its call answered, over a hop of its own.
fn everybody_is_served(world: &mut World, accounts: u8) {
    let before = world.nodes[0].core.tally().hops_dialed.opened.get();
    for i in 0..accounts {
        let client = world.client_from(ip_of(&char::from(i + 1).to_string()), 0);
        assert_eq!(world.ask(client, &from_afar()).status, 200, "{i}");
    }
    assert_eq!(world.nodes[0].core.tally().hops_dialed.opened.get() - before, u64::from(accounts));
    assert_eq!(world.nodes[0].core.tally().requeues.get(), 0);
}

#[test]
fn a_flood_from_one_address_is_closed_at_once_and_other_hops_are_as_ever() {
    let mut world = world(30);
    let flood = IpAddr::from([10, 9, 9, 9]);
    let taken = dials(&mut world, flood, 100_000).len();
    assert_eq!(taken, 128);
    assert_eq!(open(&world), 128);
    assert_eq!(refused(&world, Refusal::Strangers), 100_000 - 128);
    assert_eq!(lines(&world), 1);
    everybody_is_served(&mut world, 30);
    world.run(Duration::from_secs(6));
    assert_eq!(open(&world), 30, "who says nothing is gone, whether it sends or not");
    assert_eq!(refused(&world, Refusal::Unknown), 128);
    let mut taken = taken;
    for _ in 0..600 {
        world.run(Duration::from_millis(100));
        let ids = dials(&mut world, flood, 100);
        taken += ids.len();
        for id in ids {
            let now = world.now;
            world.nodes[1].core.failed(id, ErrorKind::ConnectionReset, now);
        }
    }
    assert!((512 + 66 * 20..=513 + 67 * 20).contains(&taken), "{taken}: a burst, then twenty a second");
    assert!(refused(&world, Refusal::Rate) > 58_000);
    assert!(lines(&world) < 20, "{}", lines(&world));
    world.assert_nothing_left();
}

#[test]
fn a_flood_from_many_addresses_has_a_bound_of_its_own() {
    let mut world = world(30);
    let address = |i: u32| IpAddr::from((0x0b00_0000 + i).to_be_bytes());
    let taken = all_dial(&mut world, (0..50_000).map(address)).len();
    assert_eq!((taken, open(&world)), (1_024, 1_024));
    assert!(lines(&world) <= 1_024, "what is remembered of them is bounded, too");
    everybody_is_served(&mut world, 30);
    for round in 1..20 {
        world.run(Duration::from_secs(6));
        let taken = all_dial(&mut world, (0..5_000).map(|i| address(round * 5_000 + i))).len();
        assert!(taken <= 1_024, "{taken}");
    }
    let by_rate = refused(&world, Refusal::Rate);
    assert!(by_rate > 0, "4,096 at once, then a hundred a second");
    world.run(Duration::from_secs(6));
    world.assert_nothing_left();
}

#[test]
fn a_node_with_hundreds_of_accounts_and_many_workers_dials_all_its_hops_at_once() {
    let mut world = world(1);
    let all = dials(&mut world, node_ip(0), 250 * 16);
    assert_eq!(all.len(), 250 * 16, "after a restart");
    let now = world.now;
    for id in all {
        world.nodes[1].core.identified(id, Party::Workload(account("a")), Time::NEVER, now);
    }
    for _ in 0..3 {
        let more = dials(&mut world, node_ip(0), 250 * 16);
        assert_eq!(more.len(), 250 * 16, "with 64 workers");
        for id in more {
            world.nodes[1].core.identified(id, Party::Workload(account("a")), Time::NEVER, now);
        }
    }
    assert_eq!(lines(&world), 0);
    everybody_is_served(&mut world, 1);
}

#[test]
fn a_node_that_nobody_lists_is_known_by_its_first_hop_that_is_proved() {
    let mut world = world(1);
    let address = IpAddr::from([192, 168, 7, 7]);
    assert_eq!(dials(&mut world, address, 1_000).len(), 128);
    world.run(Duration::from_secs(6));
    let now = world.now;
    let first = dials(&mut world, address, 1)[0];
    world.nodes[1].core.identified(first, Party::Node("node-7".into()), Time::NEVER, now);
    assert_eq!(dials(&mut world, address, 4_000).len(), 4_000);
    let another = IpAddr::from([192, 168, 7, 8]);
    let id = dials(&mut world, another, 1)[0];
    world.nodes[1].core.identified(id, Party::Node("node-0".into()), now, now);
    assert_eq!(refused(&world, Refusal::CertificateEnded), 1);
    assert_eq!(dials(&mut world, another, 1_000).len(), 128, "and not by one that is refused");
}
