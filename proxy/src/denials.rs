//! Counters of the workers → calls that policies were against, for metrics and for the report; it decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;
use vicino_crds::node::{PlainCalls, PolicyCalls};
use vicino_engine::snapshot::ServiceName;
use vicino_engine::tally::{PolicyName, Tally};

use crate::guard::count::{self, ByService, Count};
use crate::lifecycle::Life;

/// Between two looks at the counters.
const EVERY: Duration = Duration::from_secs(5);

/// What one policy, or the mesh's default, was against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// Refused.
    pub denied: u64,
    /// Let pass, since it decides nothing.
    pub audited: u64,
}

/// All workers together.
pub fn sum(tallies: &[Arc<Tally>]) -> BTreeMap<PolicyName, Denied> {
    let mut all: BTreeMap<PolicyName, Denied> = BTreeMap::new();
    for (name, tally) in tallies.iter().flat_map(|tally| tally.policies()) {
        let sum = all.entry(name).or_default();
        sum.denied += tally.denied.get();
        sum.audited += tally.audited.get();
    }
    all
}

/// Calls that each policy was against, by namespace and name; what is let pass in audit is `passed`.
pub type ByPolicy = ByService;

/// Says what policies were against, whenever that is more than before.
pub async fn keep(life: Life, told: watch::Sender<Arc<ByPolicy>>) {
    loop {
        sleep(EVERY).await;
        let Some(crew) = life.crew() else { continue };
        let now = next(&told.borrow(), sum(crew.tallies()), Timestamp::now());
        told.send_if_modified(|before| {
            let is_news = **before != now;
            *before = Arc::new(now);
            is_news
        });
    }
}

/// Only policies: what the mesh's default refuses, and what is beyond the bound, is nobody's status.
fn next(before: &ByPolicy, sums: BTreeMap<PolicyName, Denied>, now: Timestamp) -> ByPolicy {
    let of_policies = sums.into_iter().filter(|(name, _)| !name.namespace.is_empty());
    let counts = of_policies.map(|(PolicyName { namespace, name }, Denied { denied, audited })| {
        let name = ServiceName { namespace, name };
        let old = before.get(&name).copied().unwrap_or_default();
        let is_more = (old.passed, old.refused) != (audited, denied);
        let last_seen = if is_more { Some(now) } else { old.last_seen };
        (name, Count { passed: audited, refused: denied, last_seen })
    });
    counts.collect()
}

/// For the report, as connections around the mesh are reported: renewed for a policy when `lastSeen` moves, and at its first call.
pub fn report(counts: &ByPolicy, before: &[PolicyCalls], now: Timestamp) -> Vec<PolicyCalls> {
    let before: Vec<_> = before
        .iter()
        .map(|old| PlainCalls {
            namespace: old.namespace.clone(),
            service: old.policy.clone(),
            passed: old.audited,
            refused: old.denied,
            last_seen: old.last_seen.clone(),
        })
        .collect();
    let reported = count::report(counts, &before, now).into_iter();
    reported
        .map(|new| PolicyCalls {
            namespace: new.namespace,
            policy: new.service,
            denied: new.refused,
            audited: new.passed,
            last_seen: new.last_seen,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn sums(of: &[(&str, &str, u64, u64)]) -> BTreeMap<PolicyName, Denied> {
        let one = |(namespace, name, denied, audited): &(&str, &str, u64, u64)| {
            let name = PolicyName { namespace: (*namespace).into(), name: (*name).into() };
            (name, Denied { denied: *denied, audited: *audited })
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn policies_are_reported_at_their_first_call_and_then_when_five_minutes_have_passed() {
        let calls = |denied, audited, seen| PolicyCalls {
            namespace: "demo".to_owned(),
            policy: "closed".to_owned(),
            denied,
            audited,
            last_seen: Time(at(seen)),
        };
        let first = next(&ByPolicy::new(), sums(&[("demo", "closed", 2, 0), ("", "default", 9, 0)]), at(1));
        let reported = report(&first, &[], at(1));
        assert_eq!(reported, [calls(2, 0, 0)], "what the mesh's default refuses is nobody's");
        let second = next(&first, sums(&[("demo", "closed", 5, 0)]), at(299));
        assert_eq!(report(&second, &reported, at(299)), reported);
        let audited = next(&second, sums(&[("demo", "closed", 5, 1)]), at(299));
        assert_eq!(report(&audited, &reported, at(299)), [calls(5, 1, 0)]);
        let later = next(&audited, sums(&[("demo", "closed", 6, 1)]), at(301));
        assert_eq!(report(&later, &reported, at(301)), [calls(6, 1, 300)]);
        let same = next(&later, sums(&[("demo", "closed", 6, 1)]), at(900));
        assert_eq!(same, later);
    }
}
