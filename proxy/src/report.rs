//! What this proxy serves, written into its MeshNode status once all workers serve it; never a promise, only a fact.
//!
//! One proxy of a node reports: the one that started last. It writes with the object's `resourceVersion`, so a report that
//! does not know of another's is refused (409) and made anew from what is there. A proxy that has reported and then sees
//! another's report knows that a younger one has taken over, and is silent, unless that one says that it drains. A
//! reporter that drains says so once, and no more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use vicino_crds::{MeshNode, MeshNodeStatus, names};

use crate::config::kubernetes::Seen;
use crate::denials::ByPolicy;
use crate::guard::Guarded;
use crate::log::chain;
use crate::witness::Sight;

pub mod status;

use status::{Served, State, Witnessed};

/// Changes within this time are one report.
const COALESCE: Duration = Duration::from_millis(100);
/// Between attempts that failed: first, and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// What is to be reported.
#[derive(Clone, Debug)]
pub struct ToReport {
    /// Nothing yet, or what all workers serve.
    pub served: watch::Receiver<Option<Arc<Served>>>,
    /// How the node's guard is.
    pub guard: watch::Receiver<Arc<Guarded>>,
    /// What the node's witness sees.
    pub sight: watch::Receiver<Arc<Sight>>,
    /// What policies were against.
    pub denials: watch::Receiver<Arc<ByPolicy>>,
}

/// Who reports, and where to.
#[derive(Debug)]
pub struct Reporter {
    api: Api<MeshNode>,
    node: String,
    pod: String,
    seen: watch::Receiver<Seen>,
    /// The newest of what the watch showed and of what our own writes returned.
    current: Seen,
    /// Whether a report of ours has ever been taken.
    reported: bool,
}

/// What to do about a report.
#[derive(Debug, PartialEq)]
enum Decision {
    /// Nothing to say, or not ours to say.
    Silent,
    /// Write it.
    Write(Box<MeshNodeStatus>),
}

impl Reporter {
    /// For the MeshNode of `node`; `pod` is how this proxy is told from its predecessor.
    pub fn new(client: Client, node: &str, pod: &str, seen: watch::Receiver<Seen>) -> Self {
        Self {
            api: Api::all(client),
            node: node.to_owned(),
            pod: pod.to_owned(),
            seen,
            current: Seen::default(),
            reported: false,
        }
    }

    /// Reports until the sender of `served` is gone, which is after the report that says that it drains.
    pub async fn run(mut self, to_report: ToReport) {
        let ToReport { mut served, mut guard, mut sight, mut denials } = to_report;
        let mut retry = RETRY.0;
        let mut not_before = Instant::now();
        loop {
            tokio::time::sleep_until(not_before).await;
            not_before = Instant::now() + COALESCE;
            let now = served.borrow_and_update().clone();
            let guarded = guard.borrow_and_update().clone();
            let denied = denials.borrow_and_update().clone();
            let witnessed = sight.borrow_and_update().condition();
            let seen = self.seen.borrow_and_update().clone();
            if !older(&seen.resource_version, &self.current.resource_version) {
                self.current = seen;
            }
            let decision = match &now {
                Some(now) => {
                    decide(&self.current, (now, &guarded, &witnessed, &denied), &self.pod, self.reported)
                }
                None => Decision::Silent,
            };
            if let Decision::Write(status) = decision {
                match self.write(*status).await {
                    Ok(()) => retry = RETRY.0,
                    Err(e) => {
                        tracing::warn!(error = %chain(&e), "report not taken; tried again");
                        not_before = Instant::now() + retry;
                        retry = RETRY.1.min(retry * 2);
                        continue;
                    }
                }
            }
            if now.is_some_and(|now| now.state == State::Draining) {
                return;
            }
            tokio::select! {
                end = served.changed() => if end.is_err() { return },
                end = self.seen.changed() => if end.is_err() { return },
                Ok(()) = guard.changed() => {}
                Ok(()) = denials.changed() => {}
                Ok(()) = said_otherwise(&mut sight, &witnessed) => {}
            }
        }
    }

    async fn write(&mut self, status: MeshNodeStatus) -> Result<(), ReportError> {
        let patch = Patch::Apply(serde_json::json!({
            "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
            "kind": "MeshNode",
            "metadata": { "name": self.node, "resourceVersion": self.current.resource_version },
            "status": status,
        }));
        let parameters = PatchParams::apply(names::PROXY_FIELD_MANAGER).force();
        let attempt = self.api.patch_status(&self.node, &parameters, &patch);
        match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(node)) => {
                self.reported = true;
                self.current = Seen::of(&node);
                Ok(())
            }
            Ok(Err(kube::Error::Api(source))) => {
                Err(ReportError::Refused { node: self.node.clone(), source })
            }
            Ok(Err(source)) => Err(ReportError::Failed { node: self.node.clone(), source: Box::new(source) }),
            Err(_elapsed) => Err(ReportError::Slow { node: self.node.clone() }),
        }
    }
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("the API server refuses the status of MeshNode {node}")]
    Refused { node: String, source: Box<Status> },
    #[error("can't write the status of MeshNode {node}")]
    Failed { node: String, source: Box<kube::Error> },
    #[error("no answer about the status of MeshNode {node} within {} s", ATTEMPT.as_secs())]
    Slow { node: String },
}

/// Whether the watch is behind our own writes. Versions are numbers that grow (KEP-5504); what is no number is taken.
fn older(seen: &str, current: &str) -> bool {
    matches!((seen.parse::<u64>(), current.parse::<u64>()), (Ok(seen), Ok(current)) if seen < current)
}

/// Counts change with every pod; what is reported does not.
async fn said_otherwise(
    sight: &mut watch::Receiver<Arc<Sight>>,
    before: &Witnessed,
) -> Result<(), watch::error::RecvError> {
    sight.wait_for(|sight| sight.condition() != *before).await.map(drop)
}

fn decide(
    seen: &Seen,
    (served, guarded, witnessed, denials): (&Served, &Guarded, &Witnessed, &ByPolicy),
    pod: &str,
    reported: bool,
) -> Decision {
    if seen.resource_version.is_empty() {
        return Decision::Silent;
    }
    let theirs = seen.status.as_ref().and_then(|status| status.proxy.as_ref());
    let other = theirs.filter(|proxy| proxy.pod != pod);
    let taken_over = reported && other.is_some_and(|proxy| proxy.state != State::Draining.name());
    let not_mine_to_end = served.state == State::Draining && (!reported || other.is_some());
    if taken_over || not_mine_to_end {
        return Decision::Silent;
    }
    let status =
        status::of((served, guarded, witnessed, denials), seen.status.as_ref(), pod, Timestamp::now());
    if seen.status.as_ref() == Some(&status) { Decision::Silent } else { Decision::Write(Box::new(status)) }
}

#[cfg(test)]
mod tests;
