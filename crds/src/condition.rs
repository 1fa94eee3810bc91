//! Conditions as kstatus reads them: how one is set so that a time changes only when the status does; no decisions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types that this project writes.
pub mod kind {
    /// Summary: the object is in force.
    pub const READY: &str = "Ready";
    /// kstatus: work is under way. Present only while true.
    pub const RECONCILING: &str = "Reconciling";
    /// kstatus: no progress without a change by somebody. Present only while true.
    pub const STALLED: &str = "Stalled";
    /// The spec is valid and refers to things that exist.
    pub const ACCEPTED: &str = "Accepted";
    /// What a MeshRoute refers to exists, and may be referred to (as in the Gateway API); unknown while something else is wrong with it.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// Every ready proxy serves this generation.
    pub const PROGRAMMED: &str = "Programmed";
    /// There is an authority, as its Secret says, and it issues certificates.
    pub const IDENTITY_READY: &str = "IdentityReady";
    /// Every ready proxy lets out what `spec.egress` of the mesh says. Present only while that is anything, or some proxy still does.
    pub const EGRESS_PROGRAMMED: &str = "EgressProgrammed";
}

/// What a condition should say. `reason` is one CamelCase word; `message` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Condition type, see [`kind`].
    pub kind: &'static str,
    /// `Some(true)` is "True", `Some(false)` is "False", `None` is "Unknown".
    pub status: Option<bool>,
    /// CamelCase, bounded set.
    pub reason: &'static str,
    /// What is so, and what would be right.
    pub message: String,
}

impl Wanted {
    fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The conditions of an object at `generation`: exactly `wanted`, in that order; the transition time of one
/// whose status did not change is carried over from `old`, so that a steady object is never rewritten.
pub fn merge(old: &[Condition], wanted: &[Wanted], generation: i64, now: &Time) -> Vec<Condition> {
    wanted
        .iter()
        .map(|w| Condition {
            type_: w.kind.to_owned(),
            status: w.status_text().to_owned(),
            reason: w.reason.to_owned(),
            message: w.message.clone(),
            observed_generation: Some(generation),
            last_transition_time: old
                .iter()
                .find(|c| c.type_ == w.kind && c.status == w.status_text())
                .map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
        })
        .collect()
}

/// Whether `conditions` say that `kind` is true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let then: Time = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
        let now: Time = serde_json::from_str("\"2026-02-02T00:00:00Z\"").unwrap();
        let wanted = |status, message: &str| Wanted {
            kind: kind::READY,
            status,
            reason: "AllGood",
            message: message.to_owned(),
        };
        let first = merge(&[], &[wanted(Some(true), "a")], 1, &then);
        let same = merge(&first, &[wanted(Some(true), "b")], 2, &now);
        assert_eq!(same[0].last_transition_time, then);
        assert_eq!((same[0].message.as_str(), same[0].observed_generation), ("b", Some(2)));
        let flipped = merge(&same, &[wanted(None, "b")], 2, &now);
        assert_eq!((flipped[0].last_transition_time.clone(), flipped[0].status.as_str()), (now, "Unknown"));
    }
}
