//! Whose an address is, as events come in every order that pods, kernel and MeshNode may have.

use super::{Bindings, Bond, Face, Moment, Span, Tenant, Tenants};
use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;

/// When the tests begin, in seconds since 1970; the machine has been up for a day.
const START: i64 = 1_700_000_000;
const DAY: i64 = 86_400;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A node whose clocks go right, in seconds since [`START`].
#[derive(Default)]
struct Node {
    bindings: Bindings,
    /// How far the wall clock was set.
    set: i64,
}

impl Node {
    fn moment(&self, second: i64) -> Moment {
        Moment { wall_ms: (START + second + self.set) * 1000, boot_ms: (DAY + second) * 1000 }
    }

    fn span(&self, second: i64) -> Span {
        Span { after: self.moment(second), by: self.moment(second) }
    }

    fn link(&mut self, index: u32, second: i64) {
        self.bindings.appeared(index, face(&format!("veth{index}")), self.span(second));
    }

    fn name(&mut self, pods: &[(&str, &str, Option<i64>)]) -> Vec<IpAddr> {
        self.bindings.name(&tenants(pods))
    }

    fn found(&mut self, address: &str, index: u32, second: i64) {
        let now = self.moment(second);
        assert!(self.bindings.found(ip(address), Some(index), now));
    }

    fn doubted(&self) -> Vec<(String, String)> {
        let doubted = self.bindings.doubted().into_iter();
        let mut doubted: Vec<_> = doubted.map(|(ip, uid)| (ip.to_string(), uid.to_string())).collect();
        doubted.sort();
        doubted
    }

    fn doubts(&self, pods: &[(&str, &str)]) {
        let pods: Vec<_> = pods.iter().map(|(ip, uid)| ((*ip).to_owned(), (*uid).to_owned())).collect();
        assert_eq!(self.doubted(), pods);
    }
}

fn face(name: &str) -> Face {
    Face { name: name.into(), mac: [2, 0, 0, 0, 0, 1].into() }
}

/// Address, UID, and since when it has its network.
fn tenants(pods: &[(&str, &str, Option<i64>)]) -> Tenants {
    let tenant = |uid: &str, since: Option<i64>| Tenant { uid: uid.into(), since: since.map(|s| START + s) };
    pods.iter().map(|(address, uid, since)| (ip(address), tenant(uid, *since))).collect()
}

const A: &str = "10.1.0.5";
const A6: &str = "fd00::5";
const B: &str = "10.1.0.6";

/// `one` at both addresses, behind link 7; `two` at another, behind link 8.
fn settled() -> Node {
    let mut node = Node::default();
    node.link(7, 0);
    node.link(8, 0);
    node.name(&[(A, "one", Some(1)), (A6, "one", Some(1)), (B, "two", Some(1))]);
    for (address, index) in [(A, 7), (A6, 7), (B, 8)] {
        node.found(address, index, 3);
    }
    node.doubts(&[]);
    node
}

#[test]
fn a_pod_whose_link_goes_is_doubted_at_all_its_addresses_until_another_is_named_there() {
    let mut node = settled();
    node.bindings.went(7);
    node.doubts(&[(A, "one"), (A6, "one")]);
    node.link(9, 20);
    node.found(A, 9, 20);
    node.doubts(&[(A, "one"), (A6, "one")]);
    let news = [(A, "three", Some(21)), (B, "two", Some(1))];
    assert_eq!(node.name(&news), [ip(A)], "only what is new is looked at");
    node.doubts(&[]);
    node.found(A, 9, 22);
    node.doubts(&[]);
    assert_eq!(node.bindings.link_of(ip(A)), Some(Some(9)));
    assert_eq!(node.bindings.lost(), 2);
}

#[test]
fn another_link_behind_an_address_is_another_pods_even_while_the_old_one_is_there() {
    // As where the address is given away before the link goes.
    let mut node = settled();
    node.link(9, 20);
    node.found(A, 9, 20);
    node.doubts(&[(A, "one")]);
    // And back: its own.
    node.found(A, 7, 21);
    node.doubts(&[]);
    node.bindings.went(7);
    node.doubts(&[(A, "one"), (A6, "one")]);
}

#[test]
fn a_number_that_is_used_again_is_another_link() {
    let mut node = settled();
    node.bindings.went(7);
    node.link(7, 20);
    node.found(A, 7, 20);
    node.doubts(&[(A, "one"), (A6, "one")]);
    // Where that was not seen, the looks tell.
    let mut node = settled();
    let links = HashMap::from([(7, face("veth-other")), (8, face("veth8"))]);
    node.bindings.list(links, node.span(20));
    node.doubts(&[(A, "one"), (A6, "one")]);
    node.found(A, 7, 21);
    node.doubts(&[(A, "one"), (A6, "one")]);
}

#[test]
fn a_list_after_lost_events_finds_what_went_and_leaves_what_stands() {
    let mut node = settled();
    let links = HashMap::from([(8, face("veth8")), (9, face("veth9"))]);
    node.bindings.list(links, node.span(20));
    node.doubts(&[(A, "one"), (A6, "one")]);
    assert_eq!(node.bindings.link_of(ip(B)), Some(Some(8)));
}

#[test]
fn a_link_that_changes_its_name_is_the_same() {
    let mut node = settled();
    node.bindings.appeared(7, face("renamed"), node.span(20));
    node.bindings.list(HashMap::from([(7, face("renamed")), (8, face("veth8"))]), node.span(21));
    node.doubts(&[]);
}

#[test]
fn a_list_that_comes_late_does_not_bind_a_pod_to_its_successors_link() {
    let mut node = Node::default();
    node.link(9, 20);
    // The pod was there from the first second on, and is gone.
    node.name(&[(A, "one", Some(1))]);
    node.found(A, 9, 30);
    node.doubts(&[(A, "one")]);
    node.name(&[(A, "three", Some(21))]);
    node.found(A, 9, 31);
    node.doubts(&[]);
    // Nobody says since when: it is believed.
    let mut node = Node::default();
    node.link(9, 20);
    node.name(&[(A, "one", None)]);
    node.found(A, 9, 30);
    node.doubts(&[]);
}

#[test]
fn a_sandbox_that_is_made_again_at_the_same_address_is_the_pods_own() {
    let mut node = settled();
    node.bindings.went(7);
    node.link(9, 20);
    for address in [A, A6] {
        node.found(address, 9, 20);
    }
    node.doubts(&[(A, "one"), (A6, "one")]);
    let anew = [(A, "one", Some(20)), (A6, "one", Some(20)), (B, "two", Some(1))];
    assert_eq!(node.name(&anew), [ip(A), ip(A6)]);
    node.doubts(&[(A, "one"), (A6, "one")]);
    for address in [A, A6] {
        node.found(address, 9, 22);
    }
    node.doubts(&[]);
    // Whether the old link is known to be gone or not.
    let mut node = settled();
    node.link(9, 20);
    node.name(&anew);
    node.found(A, 9, 22);
    node.doubts(&[]);
}

#[test]
fn an_older_time_of_the_network_is_no_proof_for_a_link_that_came_after_it() {
    let mut node = settled();
    node.bindings.went(7);
    node.link(9, 20);
    // Its sandbox had been made again before it went, and that is heard only now.
    node.name(&[(A, "one", Some(10)), (A6, "one", Some(10)), (B, "two", Some(1))]);
    node.found(A, 9, 22);
    node.doubts(&[(A, "one"), (A6, "one")]);
}

#[test]
fn a_pod_that_was_taken_for_bound_to_its_predecessors_link_is_believed_with_its_own() {
    let mut node = settled();
    node.link(9, 20);
    // The route still ends at the old link.
    node.name(&[(A, "three", Some(22)), (B, "two", Some(1))]);
    node.found(A, 7, 23);
    node.bindings.went(7);
    node.doubts(&[(A, "three")]);
    node.found(A, 9, 24);
    node.doubts(&[]);
}

#[test]
fn without_a_link_nothing_is_doubted() {
    let mut node = Node::default();
    node.name(&[(A, "one", Some(1))]);
    let now = node.moment(2);
    assert!(node.bindings.found(ip(A), None, now));
    node.doubts(&[]);
    assert_eq!(node.bindings.count().unseen, 1);
    // A route that goes away for a moment is no proof of anything.
    let mut node = settled();
    assert!(node.bindings.found(ip(A), None, now));
    node.doubts(&[]);
    assert_eq!(node.bindings.count().bound, 3);
    assert!(!node.bindings.found(ip(A), Some(99), now), "to be asked again");
}

#[test]
fn a_clock_that_is_set_makes_nobody_younger_than_his_network() {
    for set in [-3600, 3600] {
        // Between the network's being made and the pod's being named, or before both.
        for set_at in [1, 3] {
            let mut node = Node::default();
            node.link(7, 0);
            let since = if set_at == 1 { 2 + set } else { 2 };
            node.set = set;
            node.name(&[(A, "one", Some(since))]);
            node.found(A, 7, 4);
            node.doubts(&[]);
        }
    }
}

#[test]
fn a_later_process_knows_what_went_while_nobody_looked() {
    let node = settled();
    let kept: HashMap<_, _> =
        node.bindings.links().iter().map(|(index, link)| (*index, (link.face.clone(), link.made))).collect();
    let bonds = node.bindings.bonds();
    assert_eq!(bonds.len(), 3);
    let mut later = Node::default();
    later.bindings.remember(kept.clone(), bonds.clone());
    let made = Span { after: later.moment(10), by: later.moment(60) };
    later.bindings.list(HashMap::from([(8, face("veth8")), (9, face("veth9"))]), made);
    let pods = [(A, "one", Some(1)), (A6, "one", Some(1)), (B, "two", Some(1))];
    later.name(&pods);
    later.doubts(&[(A, "one"), (A6, "one")]);
    later.found(A, 9, 61);
    later.found(B, 8, 61);
    later.doubts(&[(A, "one"), (A6, "one")]);
    let doubted = Bond { address: ip(A), uid: "one".into(), link: None, since: Some(START + 1) };
    assert!(later.bindings.bonds().contains(&doubted));
    // Its sandbox was made again meanwhile, as a list says that came meanwhile.
    let mut later = Node::default();
    later.bindings.remember(kept, bonds);
    later.bindings.list(HashMap::from([(8, face("veth8")), (9, face("veth9"))]), made);
    later.name(&[(A, "one", Some(50)), (B, "two", Some(1))]);
    later.found(A, 9, 61);
    later.doubts(&[]);
}

#[test]
fn after_a_start_of_the_machine_no_link_is_older_than_that() {
    let mut node = Node::default();
    let boot = Moment { wall_ms: (START - DAY) * 1000, boot_ms: 0 };
    let made = Span { after: boot, by: node.moment(0) };
    node.bindings.list(HashMap::from([(7, face("veth7")), (8, face("veth8"))]), made);
    node.name(&[(A, "before", Some(-DAY - 60)), (B, "after", Some(-60))]);
    node.found(A, 7, 1);
    node.found(B, 8, 1);
    node.doubts(&[(A, "before")]);
}

/// What may happen on a node, a second apart; pods stand for at least some seconds.
#[derive(Clone, Debug)]
enum Step {
    /// The pod at the address is replaced by another one.
    Replace { index: Option<u32>, gives_first: bool },
    /// Its sandbox is made again.
    Remake { index: Option<u32> },
    /// The MeshNode catches up to what was true so many steps ago.
    List { behind: usize },
    /// Events were lost: all links are listed.
    Overrun,
    /// The proxy starts again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let index = prop::option::of(2..4u32);
    prop_oneof![
        (index.clone(), any::<bool>()).prop_map(|(index, gives_first)| Step::Replace { index, gives_first }),
        index.prop_map(|index| Step::Remake { index }),
        (0..4usize).prop_map(|behind| Step::List { behind }),
        Just(Step::Overrun),
        Just(Step::Restart),
    ]
}

/// Whoever is really behind the address: pod, link, since when.
type Truth = (String, u32, i64);

/// The looks of links that share a number differ in their names.
fn look(number: u64) -> Face {
    face(&format!("veth-{number}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_pod_is_believed_behind_another_ones_link_and_none_is_doubted_for_ever(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let mut node = Node::default();
        let (mut second, mut number) = (0, 1);
        let mut faces = HashMap::from([(1, look(1))]);
        node.bindings.list(faces.clone(), node.span(0));
        let mut truths: Vec<Truth> = vec![("pod-0".to_owned(), 1, 1)];
        let mut named = truths[0].clone();
        let doubt_free = |node: &mut Node, named: &Truth, truth: &Truth, second: i64| {
            node.name(&[(A, &named.0, Some(named.2))]);
            node.found(A, truth.1, second);
        };
        second += 5;
        doubt_free(&mut node, &named, &truths[0], second);
        for step in steps {
            second += 5;
            let truth = truths.last().unwrap().clone();
            match step {
                Step::Replace { index, gives_first } => {
                    number += 1;
                    // A number that is free may be used again.
                    let index = index.filter(|index| !faces.contains_key(index)).unwrap_or(100 + number as u32);
                    let pod = format!("pod-{number}");
                    if gives_first {
                        faces.insert(index, look(number));
                        node.bindings.appeared(index, look(number), node.span(second));
                        node.found(A, index, second);
                    }
                    faces.remove(&truth.1);
                    node.bindings.went(truth.1);
                    if !gives_first {
                        faces.insert(index, look(number));
                        node.bindings.appeared(index, look(number), node.span(second));
                        node.found(A, index, second);
                    }
                    truths.push((pod, index, second + 1));
                }
                Step::Remake { index } => {
                    number += 1;
                    faces.remove(&truth.1);
                    node.bindings.went(truth.1);
                    let index = index.filter(|index| !faces.contains_key(index)).unwrap_or(100 + number as u32);
                    faces.insert(index, look(number));
                    node.bindings.appeared(index, look(number), node.span(second));
                    node.found(A, index, second);
                    truths.push((truth.0, index, second + 1));
                }
                Step::List { behind } => {
                    second += 2;
                    named = truths[truths.len().saturating_sub(1 + behind)].clone();
                    node.name(&[(A, &named.0, Some(named.2))]);
                    node.found(A, truth.1, second);
                }
                Step::Overrun => node.bindings.list(faces.clone(), node.span(second)),
                Step::Restart => {
                    let kept = node.bindings.links().iter();
                    let kept = kept.map(|(index, link)| (*index, (link.face.clone(), link.made))).collect();
                    let bonds = node.bindings.bonds();
                    node.bindings = Bindings::default();
                    node.bindings.remember(kept, bonds);
                    node.bindings.list(faces.clone(), node.span(second));
                    node.name(&[(A, &named.0, Some(named.2))]);
                    node.found(A, truth.1, second);
                }
            }
            let truth = truths.last().unwrap();
            if named.0 != truth.0 {
                prop_assert!(!node.doubted().is_empty(), "{named:?} is believed, but there is {truth:?}");
            } else if named == *truth {
                prop_assert!(node.doubted().is_empty(), "{named:?} is doubted and there");
            }
        }
        // In the end the MeshNode says what is true.
        let truth = truths.last().unwrap().clone();
        second += 5;
        doubt_free(&mut node, &truth, &truth, second);
        prop_assert!(node.doubted().is_empty(), "{truth:?} is doubted for ever");
    }
}
