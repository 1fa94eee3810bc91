//! What is said of what the witness sees.

use std::net::IpAddr;

use super::{Sight, State};

#[test]
fn the_condition_says_what_is_wrong_and_names_addresses() {
    let of = |state| Sight { state, ..Sight::default() }.condition();
    assert_eq!(of(State::Unknown), None);
    let addresses: Vec<IpAddr> = ["10.1.0.5", "fd00::5"].map(|ip| ip.parse().unwrap()).into();
    for (state, status, reason, part) in [
        (State::Sees, "True", "Seen", "found"),
        (State::Blind, "False", "NoLinks", "spec.pods alone"),
        (State::Stale(addresses, 2), "False", "AddressesStale", "10.1.0.5, fd00::5 and 2 more"),
        (State::Fails("no socket".to_owned()), "False", "Failed", "no socket"),
    ] {
        let (is, why, message) = of(state).unwrap();
        assert_eq!((is, why), (status, reason));
        assert!(message.contains(part), "{message}");
    }
}
