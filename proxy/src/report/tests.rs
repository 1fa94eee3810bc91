//! Who reports, and when there is nothing to write.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, SanType};
use vicino_crds::MeshNodeStatus;
use vicino_crds::identity::{Identity, fingerprint};
use vicino_crds::node::{IDENTITIES_REPORTED_MAX, REJECTED_MAX, ROOTS_REPORTED_MAX, ServedConfig};

use super::status::{Served, State, of};
use super::{Decision, decide, older};
use crate::config::gather::{BundleState, Edition};
use crate::config::kubernetes::Seen;
use crate::denials::ByPolicy;
use crate::guard::Guarded;
use crate::identity::Known;
use crate::secure::{Certificates, Credentials};

fn served(digest: &str, state: State) -> Served {
    let config = ServedConfig { name: "r".into(), digest: digest.into(), rejected: vec![] };
    Served {
        state,
        generation: Some(4),
        configs: vec![config],
        routes: 1,
        rejected: 0,
        certificates: None,
        is_secure: false,
    }
}

fn status(pod: &str, digest: &str, state: State) -> MeshNodeStatus {
    of(
        (&served(digest, state), &Guarded::default(), &None, &ByPolicy::new()),
        None,
        pod,
        Timestamp::UNIX_EPOCH,
    )
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
        let facts = (&served("new", state), &Guarded::default(), &None, &ByPolicy::new());
        let digest = match decide(&seen, facts, "me", reported) {
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
    let same = of(
        (&served("b", State::Ready), &Guarded::default(), &None, &ByPolicy::new()),
        Some(&before),
        "me",
        later,
    );
    assert_eq!(same.conditions[0].last_transition_time.0, Timestamp::UNIX_EPOCH);
    let drains = of(
        (&served("b", State::Draining), &Guarded::default(), &None, &ByPolicy::new()),
        Some(&before),
        "me",
        later,
    );
    assert_eq!(drains.conditions[0].last_transition_time.0, later);
    assert_eq!((drains.conditions[0].status.as_str(), drains.observed_generation), ("False", Some(4)));
}

#[test]
fn refused_keys_beyond_the_limit_are_counted() {
    let many = (0..REJECTED_MAX + 5).map(|i| (format!("k{i}.yaml"), "x".repeat(1000))).collect();
    let bundle = BundleState { name: "r".into(), digest: "d".into(), refused: many };
    let served =
        Served::of(&Edition { bundles: vec![bundle], ..Edition::default() }, &Known::default(), State::Ready);
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

#[test]
fn certificates_are_listed_the_first_to_end_first_and_counted_and_roots_named_without_any() {
    let report = |known: &Known| Served::of(&Edition::default(), known, State::Ready).certificates;
    assert_eq!(report(&Known::default()), None);
    let held = |account: usize, seconds: u64| {
        let identity = Identity::workload("cluster.local", "shop", &format!("a{account}")).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(2030, 1, 1) + Duration::from_secs(seconds);
        params.use_authority_key_identifier_extension = true;
        let chain = params.self_signed(&key).unwrap().pem();
        (identity, Arc::new(Credentials::new(&chain, &key.serialize_pem()).unwrap()))
    };
    let root = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    let roots = Known { roots: Some(root.pem().into()), ..Known::default() };
    let told = report(&roots).unwrap();
    assert_eq!((told.count, told.expires, told.roots), (0, None, vec![fingerprint(root.der())]));

    // The later the account, the sooner it ends.
    let certificates: Certificates = (0..70).map(|i| held(i, 1000 - i as u64)).collect();
    let issuer = certificates.values().next().unwrap().svid().issuer.to_string();
    let problem = Some("roots.pem: is no text".into());
    let certificates = Arc::new(certificates);
    let known = Known { certificates, skew_seconds: Some(-61), roots_problem: problem, ..roots };
    let told = report(&known).unwrap();
    assert_eq!((told.count, told.identities.len()), (70, IDENTITIES_REPORTED_MAX));
    let names: Vec<_> = told.identities.iter().take(2).map(|held| held.name.as_str()).collect();
    assert_eq!(names, ["spiffe://cluster.local/ns/shop/sa/a69", "spiffe://cluster.local/ns/shop/sa/a68"]);
    assert_eq!(told.expires.unwrap().0.to_string(), "2030-01-01T00:15:31Z");
    assert_eq!((issuer.len(), told.issuers.len()), (16, ROOTS_REPORTED_MAX), "each has its own here");
    assert_eq!(told.clock_skew_seconds, Some(-61));
    assert_eq!(told.roots_problem.as_deref(), Some("roots.pem: is no text"));
    let little = report(&Known { skew_seconds: Some(9), ..known });
    assert_eq!(little.unwrap().clock_skew_seconds, None, "a request takes its time");
}
