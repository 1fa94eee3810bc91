//! What is served → MeshNode status, pure; sorted, so that equal facts make equal statuses.

use std::collections::BTreeSet;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use vicino_crds::contract::CONTRACT_VERSION;
use vicino_crds::node::{
    CLOCK_SKEW_SECONDS_MIN, CertificatesReport, HeldCertificate, IDENTITIES_REPORTED_MAX, ProxyReport,
    REJECTED_MAX, ROOTS_REPORTED_MAX, RejectedKey, ServedConfig,
};
use vicino_crds::{MeshNodeStatus, names};

use crate::config::gather::{BundleState, Edition};
use crate::denials::{self, ByPolicy};
use crate::guard::{Guarded, count};
use crate::identity::{Known, roots};

/// A longer reason of a refusal is cut, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// How the proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Ready,
    /// It finishes what is open.
    Draining,
}

impl State {
    /// As the status spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Draining => "Draining",
        }
    }
}

/// Status, reason and message of what the node's witness says; None while it has not said anything.
pub type Witnessed = Option<(&'static str, &'static str, String)>;

/// What all workers serve.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// How the proxy is.
    pub state: State,
    /// Generation of the MeshNode taken in.
    pub generation: Option<i64>,
    /// ConfigMaps taken in.
    pub configs: Vec<ServedConfig>,
    /// Compiled routes.
    pub routes: i32,
    /// Refused keys of all ConfigMaps, the unlisted ones as well.
    pub rejected: i32,
    /// The certificates that the node has, and the roots.
    pub certificates: Option<CertificatesReport>,
    /// Hops with TLS are taken.
    pub is_secure: bool,
}

impl Served {
    /// What an edition comes to.
    pub fn of(edition: &Edition, known: &Known, state: State) -> Self {
        let rejected: usize = edition.bundles.iter().map(|bundle| bundle.refused.len()).sum();
        let routes: usize = edition.snapshot.services.values().map(std::collections::HashMap::len).sum();
        Self {
            state,
            generation: edition.mesh_node_generation,
            configs: edition.bundles.iter().map(config).collect(),
            routes: i32::try_from(routes).unwrap_or(i32::MAX),
            rejected: i32::try_from(rejected).unwrap_or(i32::MAX),
            certificates: report(known),
            is_secure: false,
        }
    }
}

/// None while the proxy knows nothing of certificates.
fn report(known: &Known) -> Option<CertificatesReport> {
    let roots = known.roots.as_deref().map(roots::fingerprints).unwrap_or_default();
    if known.certificates.is_empty() && roots.is_empty() {
        return None;
    }
    let mut held: Vec<_> = known.certificates.values().map(|held| held.svid()).collect();
    held.sort_by(|a, b| (a.not_after, &a.identity).cmp(&(b.not_after, &b.identity)));
    let issuers: BTreeSet<_> = held.iter().map(|svid| svid.issuer.to_string()).collect();
    let identities = held.iter().take(IDENTITIES_REPORTED_MAX).filter_map(|svid| {
        let (name, issuer) = (svid.identity.to_string(), svid.issuer.to_string());
        Some(HeldCertificate { name, expires: whole(svid.not_after)?, issuer })
    });
    let skew = known.skew_seconds.filter(|skew| skew.unsigned_abs() >= CLOCK_SKEW_SECONDS_MIN);
    Some(CertificatesReport {
        count: i32::try_from(held.len()).unwrap_or(i32::MAX),
        expires: held.first().and_then(|first| whole(first.not_after)),
        roots: roots.into_iter().take(ROOTS_REPORTED_MAX).collect(),
        roots_problem: known.roots_problem.as_deref().map(cut),
        issuers: issuers.into_iter().take(ROOTS_REPORTED_MAX).collect(),
        identities: identities.collect(),
        clock_skew_seconds: skew.map(|skew| i32::try_from(skew).unwrap_or(i32::MAX)),
    })
}

/// Times of the API have whole seconds.
fn whole(time: SystemTime) -> Option<Time> {
    let exact = Timestamp::try_from(time).ok()?;
    Timestamp::from_second(exact.as_second()).ok().map(Time)
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_CHARACTERS_MAX).collect()
}

fn config(bundle: &BundleState) -> ServedConfig {
    let rejected = bundle
        .refused
        .iter()
        .take(REJECTED_MAX)
        .map(|(key, message)| RejectedKey { key: key.clone(), message: cut(message) });
    ServedConfig {
        name: bundle.name.to_string(),
        digest: bundle.digest.clone(),
        rejected: rejected.collect(),
    }
}

/// The status to write. A condition's time moves only when the condition does.
pub fn of(
    (served, guarded, witnessed, denials): (&Served, &Guarded, &Witnessed, &ByPolicy),
    before: Option<&MeshNodeStatus>,
    pod: &str,
    now: Timestamp,
) -> MeshNodeStatus {
    let (status, reason, message) = match served.state {
        State::Ready => ("True", "Serving", "The proxy listens and serves this configuration."),
        State::Draining => ("False", "Draining", "The proxy finishes open calls and accepts no new ones."),
    };
    let since = |kind: &str, status: &str| {
        let old = before.and_then(|before| before.conditions.iter().find(|c| c.type_ == kind));
        old.filter(|c| c.status == status).map_or(Time(now), |c| c.last_transition_time.clone())
    };
    let condition = |kind: &str, (status, reason, message): (&str, &str, String)| Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: served.generation,
        last_transition_time: since(kind, status),
    };
    let mut conditions = vec![condition("Ready", (status, reason, message.to_owned()))];
    conditions.extend(guarded.condition().map(|known| condition(names::CONDITION_GUARDED, known)));
    let policies_before = before.map(|before| before.policy_calls.as_slice()).unwrap_or_default();
    conditions.extend(witnessed.clone().map(|known| condition(names::CONDITION_WITNESSED, known)));
    let calls_before = before.map(|before| before.plain_calls.as_slice()).unwrap_or_default();
    MeshNodeStatus {
        observed_generation: served.generation,
        conditions,
        proxy: Some(ProxyReport {
            pod: pod.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            contract: CONTRACT_VERSION,
            state: served.state.name().to_owned(),
            secure: served.is_secure,
        }),
        configs: served.configs.clone(),
        routes: served.routes,
        certificates: served.certificates.clone(),
        rejected_count: served.rejected,
        plain_calls: count::report(&guarded.counts, calls_before, now),
        policy_calls: denials::report(denials, policies_before, now),
    }
}
