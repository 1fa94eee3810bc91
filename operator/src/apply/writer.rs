//! Sends a plan's changes and takes the responses into the World; when a write failed, not again before its time.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DynamicObject;
use tokio::time::Instant;

use super::{CONCURRENCY, Change, SendError, Sender};
use crate::metric::Metrics;
use crate::plan::Plan;
use crate::world::{Kind, ObjectId, World};

/// First pause after a failed write; it doubles with each further failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Longest pause after a failed write.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A part of a plan. Routes come first and alone, since what proxies are told carries the generation that they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// MeshRoutes.
    Routes,
    /// Everything else.
    Rest,
}

/// Kinds that may be written side by side, in order.
const GROUPS: [&[Kind]; 5] = [
    &[Kind::MeshRoute],
    &[Kind::ServiceAccount, Kind::ClusterRole, Kind::Role, Kind::MeshNode],
    // A binding is refused while its role does not exist: the API server looks up what it would grant.
    &[Kind::ClusterRoleBinding, Kind::RoleBinding],
    &[Kind::ConfigMap],
    &[Kind::DaemonSet],
];

/// What a stage did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Objects that were written or deleted.
    pub written: usize,
    /// Writes that failed.
    pub failed: usize,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.failed += other.failed;
    }
}

/// The last failure of one object.
#[derive(Clone, Debug)]
struct Failed {
    /// What was to be written; something else is tried at once.
    digest: String,
    attempts: u32,
    until: Instant,
}

/// Sends changes.
#[derive(Debug)]
pub struct Applier {
    sender: Sender,
    metrics: Metrics,
    failed: BTreeMap<ObjectId, Failed>,
}

impl Applier {
    /// Sends through `sender` and counts in `metrics`.
    pub fn new(sender: Sender, metrics: Metrics) -> Self {
        Self { sender, metrics, failed: BTreeMap::new() }
    }

    /// When the next failed write may be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.until).min()
    }

    /// Sends what `plan` changes in `stage`. Returns when every write has ended.
    pub async fn apply(&mut self, world: &mut World, plan: &Plan, stage: Stage, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        self.forget_settled(world, plan);
        let groups = match stage {
            Stage::Routes => &GROUPS[..1],
            Stage::Rest => &GROUPS[1..],
        };
        for kinds in groups {
            let applies =
                |change: &&Change| matches!(change, Change::Apply(..)) && kinds.contains(&change.id().kind);
            outcome += self.group(world, (plan, now), plan.changes.iter().filter(applies)).await;
        }
        if stage == Stage::Rest {
            let deletes = plan.changes.iter().filter(|change| matches!(change, Change::Delete { .. }));
            outcome += self.group(world, (plan, now), deletes).await;
        }
        outcome
    }

    /// What no longer has to be written has not failed.
    fn forget_settled(&mut self, world: &mut World, plan: &Plan) {
        let pending = plan.pending();
        self.failed.retain(|id, _| pending.contains(id));
        world.failures.retain(|id, _| pending.contains(id));
    }

    async fn group<'a>(
        &mut self,
        world: &mut World,
        (plan, now): (&'a Plan, Instant),
        changes: impl Iterator<Item = &'a Change>,
    ) -> Outcome {
        let due: Vec<_> = changes
            .map(|change| (change, digest(plan, change)))
            .filter(|(change, digest)| self.is_due(change.id(), digest, now))
            .collect();
        let sender = &self.sender;
        let mut writes = futures::stream::iter(due)
            .map(async |(change, digest)| (change, digest, send(sender, plan, change).await))
            .buffer_unordered(CONCURRENCY);
        let (mut outcome, mut failures, mut unanswered) = (Outcome::default(), Vec::new(), 0);
        while let Some((change, digest, result)) = writes.next().await {
            self.metrics.wrote(change.id().kind.as_str(), verb(change));
            match result {
                Ok(object) => {
                    outcome.written += 1;
                    absorb(world, plan, change, object);
                }
                Err(error) => {
                    outcome.failed += 1;
                    unanswered += usize::from(error.code().is_none());
                    failures.push((change, digest, error));
                }
            }
            // The API server is away: what is left is as good later, and the World must not grow stale meanwhile.
            if unanswered >= CONCURRENCY {
                break;
            }
        }
        drop(writes);
        for (change, digest, error) in failures {
            self.failed(world, change.id(), digest, &error);
        }
        outcome
    }

    /// Whether `plan` has a change that nothing keeps from being sent.
    pub fn has_due(&self, plan: &Plan) -> bool {
        let now = Instant::now();
        plan.changes.iter().any(|change| self.is_due(change.id(), &digest(plan, change), now))
    }

    fn is_due(&self, id: &ObjectId, digest: &str, now: Instant) -> bool {
        self.failed.get(id).is_none_or(|failed| failed.digest != digest || failed.until <= now)
    }

    fn failed(&mut self, world: &mut World, id: &ObjectId, digest: String, error: &SendError) {
        self.metrics.failed("apply");
        let attempts =
            self.failed.get(id).filter(|old| old.digest == digest).map_or(0, |old| old.attempts) + 1;
        let pause = BACKOFF_FIRST.saturating_mul(1 << attempts.min(16).saturating_sub(1)).min(BACKOFF_MAX);
        tracing::warn!(object = %id, attempts, pause_ms = pause.as_millis(), %error, "cannot write");
        self.failed.insert(id.clone(), Failed { digest, attempts, until: Instant::now() + pause });
        world.failures.insert(id.clone(), error.failure());
    }
}

fn verb(change: &Change) -> &'static str {
    match change {
        Change::Apply(_, None) => "create",
        Change::Apply(_, Some(_)) => "apply",
        Change::Delete { .. } => "delete",
    }
}

/// What is to be written, in short.
fn digest(plan: &Plan, change: &Change) -> String {
    match change {
        Change::Apply(id, _) => plan.objects.get(id).map(crate::render::Rendered::digest).unwrap_or_default(),
        Change::Delete { uid, .. } => uid.clone(),
    }
}

async fn send(sender: &Sender, plan: &Plan, change: &Change) -> Result<Option<DynamicObject>, SendError> {
    match change {
        Change::Apply(id, uid) => {
            let object = plan.objects.get(id).expect("a plan changes what it renders");
            sender.apply(id, object.manifest(), uid.as_deref()).await.map(Some)
        }
        Change::Delete { id, uid, version } => sender.delete(id, uid, *version).await.map(|()| None),
    }
}

fn absorb(world: &mut World, plan: &Plan, change: &Change, written: Option<DynamicObject>) {
    let id = change.id();
    // The plan that follows derives statuses: they must not tell of a failure that is over.
    world.failures.remove(id);
    match (change, written) {
        (Change::Delete { uid, .. }, _) => world.bury(id, uid),
        (Change::Apply(..), Some(object)) => {
            world.take_written(id.kind, object);
            world.settled.remove(id);
            let rendered = plan.objects.get(id).expect("a plan changes what it renders");
            // The API server keeps it otherwise than it was sent; at this version there is nothing to do about that.
            if super::diff::differs(world, rendered)
                && let Some((version, _)) = world.identity(id)
            {
                world.settled.insert(id.clone(), (version, rendered.digest()));
            }
        }
        (Change::Apply(..), None) => {}
    }
}
