//! Who reports, and when there is nothing to write.

use k8s_openapi::jiff::Timestamp;
use vicino_crds::MeshNodeStatus;
use vicino_crds::node::{REJECTED_MAX, ServedConfig};

use super::status::{Served, State, of};
use super::{Decision, decide, older};
use crate::config::gather::{BundleState, Edition};
use crate::config::kubernetes::Seen;

fn served(digest: &str, state: State) -> Served {
    let config = ServedConfig { name: "r".into(), digest: digest.into(), rejected: vec![] };
    Served { state, generation: Some(4), configs: vec![config], routes: 1, rejected: 0 }
}

fn status(pod: &str, digest: &str, state: State) -> MeshNodeStatus {
    of(&served(digest, state), None, pod, Timestamp::UNIX_EPOCH)
}

fn seen(status: Option<MeshNodeStatus>) -> Seen {
    Seen { resource_version: "7".into(), status }
}

#[test]
fn who_reports() {
    use State::{Draining, Ready};
    let table = [
        ("no MeshNode yet", Seen::default(), Ready, false, None),
        ("first report", seen(None), Ready, false, Some("new")),
        ("nothing changed", seen(Some(status("me", "new", Ready))), Ready, true, None),
        ("something changed", seen(Some(status("me", "old", Ready))), Ready, true, Some("new")),
        (
            "a younger one takes over from another",
            seen(Some(status("other", "new", Ready))),
            Ready,
            false,
            Some("new"),
        ),
        ("an older one is silent", seen(Some(status("other", "old", Ready))), Ready, true, None),
        (
            "unless the younger one drains",
            seen(Some(status("other", "old", Draining))),
            Ready,
            true,
            Some("new"),
        ),
        (
            "a reporter says that it drains",
            seen(Some(status("me", "new", Ready))),
            Draining,
            true,
            Some("new"),
        ),
        ("once", seen(Some(status("me", "new", Draining))), Draining, true, None),
        ("not over its successor", seen(Some(status("other", "new", Ready))), Draining, true, None),
        ("nor one that never reported", seen(None), Draining, false, None),
    ];
    for (what, seen, state, reported, expected) in table {
        let digest = match decide(&seen, &served("new", state), "me", reported) {
            Decision::Silent => None,
            Decision::Write(status) => Some(status.configs[0].digest.clone()),
        };
        assert_eq!(digest.as_deref(), expected, "{what}");
    }
}

#[test]
fn the_conditions_time_moves_only_with_the_condition() {
    let later = Timestamp::from_second(60).unwrap();
    let before = status("me", "a", State::Ready);
    let same = of(&served("b", State::Ready), Some(&before), "me", later);
    assert_eq!(same.conditions[0].last_transition_time.0, Timestamp::UNIX_EPOCH);
    let drains = of(&served("b", State::Draining), Some(&before), "me", later);
    assert_eq!(drains.conditions[0].last_transition_time.0, later);
    assert_eq!((drains.conditions[0].status.as_str(), drains.observed_generation), ("False", Some(4)));
}

#[test]
fn refused_keys_beyond_the_limit_are_counted() {
    let many = (0..REJECTED_MAX + 5).map(|i| (format!("k{i}.yaml"), "x".repeat(1000))).collect();
    let bundle = BundleState { name: "r".into(), digest: "d".into(), refused: many };
    let served = Served::of(&Edition { bundles: vec![bundle], ..Edition::default() }, State::Ready);
    assert_eq!(served.configs[0].rejected.len(), REJECTED_MAX);
    assert!(served.configs[0].rejected[0].message.len() < 400);
    assert_eq!(usize::try_from(served.rejected), Ok(REJECTED_MAX + 5));
}

#[test]
fn a_watch_that_is_behind_is_told_by_the_version() {
    assert!(older("9", "10"));
    assert!(!older("10", "10"));
    assert!(!older("", "10"), "the object is gone");
}
