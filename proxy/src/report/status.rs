//! What is served → MeshNode status, pure; sorted, so that equal facts make equal statuses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use vicino_crds::MeshNodeStatus;
use vicino_crds::contract::CONTRACT_VERSION;
use vicino_crds::node::{ProxyReport, REJECTED_MAX, RejectedKey, ServedConfig};

use crate::config::gather::{BundleState, Edition};

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
}

impl Served {
    /// What an edition comes to.
    pub fn of(edition: &Edition, state: State) -> Self {
        let rejected: usize = edition.bundles.iter().map(|bundle| bundle.refused.len()).sum();
        let routes: usize = edition.snapshot.services.values().map(std::collections::HashMap::len).sum();
        Self {
            state,
            generation: edition.mesh_node_generation,
            configs: edition.bundles.iter().map(config).collect(),
            routes: i32::try_from(routes).unwrap_or(i32::MAX),
            rejected: i32::try_from(rejected).unwrap_or(i32::MAX),
        }
    }
}

fn config(bundle: &BundleState) -> ServedConfig {
    let rejected = bundle.refused.iter().take(REJECTED_MAX).map(|(key, message)| RejectedKey {
        key: key.clone(),
        message: message.chars().take(MESSAGE_CHARACTERS_MAX).collect(),
    });
    ServedConfig {
        name: bundle.name.to_string(),
        digest: bundle.digest.clone(),
        rejected: rejected.collect(),
    }
}

/// The status to write. The condition's time moves only when the condition does.
pub fn of(served: &Served, before: Option<&MeshNodeStatus>, pod: &str, now: Timestamp) -> MeshNodeStatus {
    let (status, reason, message) = match served.state {
        State::Ready => ("True", "Serving", "The proxy listens and serves this configuration."),
        State::Draining => ("False", "Draining", "The proxy finishes open calls and accepts no new ones."),
    };
    let old = before.and_then(|status| status.conditions.iter().find(|c| c.type_ == "Ready"));
    let since = old.filter(|c| c.status == status).map_or(Time(now), |c| c.last_transition_time.clone());
    MeshNodeStatus {
        observed_generation: served.generation,
        conditions: vec![Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: served.generation,
            last_transition_time: since,
        }],
        proxy: Some(ProxyReport {
            pod: pod.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            contract: CONTRACT_VERSION,
            state: served.state.name().to_owned(),
        }),
        configs: served.configs.clone(),
        routes: served.routes,
        rejected_count: served.rejected,
    }
}
