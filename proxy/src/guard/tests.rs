//! What is said of the guard, and when a MeshNode counts as gone.

use std::io;

use super::{GuardError, Guarded, Presence, State};
use crate::config::kubernetes::Seen;

#[test]
fn errors_say_what_would_be_right() {
    let of = |number| GuardError::of(io::Error::from_raw_os_error(number));
    let (eperm, enoent, eprotonosupport, eopnotsupp, enobufs) = (1, 2, 93, 95, 105);
    for (number, reason, words) in [
        (eperm, "NotPermitted", "NET_ADMIN"),
        (enoent, "NotSupported", "nf_tables"),
        (eprotonosupport, "NotSupported", "nf_tables"),
        (eopnotsupp, "NotSupported", "nf_tables"),
        (enobufs, "Failed", "packet filter"),
    ] {
        let error = of(number);
        assert_eq!(error.reason(), reason, "{number}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_condition_is_true_only_when_the_table_holds() {
    let guarded = |state| Guarded { state, ..Guarded::default() };
    assert_eq!(guarded(State::Unknown).condition(), None);
    let of = |state| guarded(state).condition().map(|(status, reason, _)| (status, reason));
    assert_eq!(of(State::Holds { strict: true }), Some(("True", "Refusing")));
    assert_eq!(of(State::Holds { strict: false }), Some(("True", "Counting")));
    let fails = State::Fails { reason: "NotPermitted", message: "why".to_owned() };
    assert_eq!(of(fails), Some(("False", "NotPermitted")));
}

#[test]
fn conflicts_are_named_and_the_rest_counted() {
    let conflicts = (1..=5).map(|port| ([10, 0, 0, 1], port).into()).collect();
    let guarded = Guarded { state: State::Holds { strict: true }, conflicts, ..Guarded::default() };
    let (_, _, message) = guarded.condition().unwrap();
    assert!(message.contains("share 10.0.0.1:1, 10.0.0.1:2, 10.0.0.1:3 and 2 more differ"), "{message}");
}

#[test]
fn a_mesh_node_is_gone_only_after_it_was_there() {
    let there = Seen { resource_version: "7".to_owned(), status: None };
    let mut node = Presence::default();
    for (seen, is_gone) in
        [(&Seen::default(), false), (&there, false), (&Seen::default(), true), (&there, false)]
    {
        node.see(seen);
        assert_eq!(node.is_gone(), is_gone);
    }
}
