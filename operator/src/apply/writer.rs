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
/// Longest pause after a failed write …
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// … and when the API server was away: as for watches, so that what it missed is written soon after it is back.
const BACKOFF_AWAY_MAX: Duration = Duration::from_secs(5);

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

/// What one write is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    /// What is to be written, in short.
    content: String,
    /// The incarnation, for a deletion also the version, that it is to be written over.
    over: String,
}

/// What has to change before a failed write is tried before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// What is written: the API server does not want it.
    Content,
    /// What is known of the object.
    Knowledge,
    /// Nothing that is ours: the API server is in trouble, and a busy cluster is no reason to add to it.
    Server,
}

/// The last failure of one object.
#[derive(Clone, Debug)]
struct Failed {
    attempt: Attempt,
    obstacle: Obstacle,
    attempts: u32,
    until: Instant,
}

impl Failed {
    /// Whether what stood in the way of the failed attempt does not stand in the way of this one.
    fn is_overcome(&self, attempt: &Attempt) -> bool {
        match self.obstacle {
            Obstacle::Content => self.attempt.content != attempt.content,
            Obstacle::Knowledge => self.attempt.over != attempt.over,
            Obstacle::Server => false,
        }
    }
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
            .map(|change| (change, attempt(plan, change)))
            .filter(|(change, attempt)| self.is_due(change.id(), attempt, now))
            .collect();
        let sender = &self.sender;
        let mut writes = futures::stream::iter(due)
            .map(async |(change, attempt)| (change, attempt, send(sender, plan, change).await))
            .buffer_unordered(CONCURRENCY);
        let (mut outcome, mut failures, mut unavailable) = (Outcome::default(), Vec::new(), 0);
        while let Some((change, attempt, result)) = writes.next().await {
            self.metrics.wrote(change.id().kind.as_str(), verb(change));
            match result {
                Ok(object) => {
                    outcome.written += 1;
                    absorb(world, plan, change, object);
                }
                Err(error) => {
                    outcome.failed += 1;
                    unavailable += usize::from(error.unavailable());
                    failures.push((change, attempt, error));
                }
            }
            // The API server is away: what is left is as good later, and the World must not grow stale meanwhile.
            if unavailable >= CONCURRENCY {
                break;
            }
        }
        drop(writes);
        for (change, attempt, error) in failures {
            self.failed(world, change.id(), attempt, &error);
        }
        outcome
    }

    /// Whether `plan` has a change that nothing keeps from being sent.
    pub fn has_due(&self, plan: &Plan) -> bool {
        let now = Instant::now();
        plan.changes.iter().any(|change| self.is_due(change.id(), &attempt(plan, change), now))
    }

    fn is_due(&self, id: &ObjectId, attempt: &Attempt, now: Instant) -> bool {
        self.failed.get(id).is_none_or(|failed| failed.until <= now || failed.is_overcome(attempt))
    }

    fn failed(&mut self, world: &mut World, id: &ObjectId, attempt: Attempt, error: &SendError) {
        self.metrics.failed("apply");
        let before = self.failed.get(id).filter(|old| !old.is_overcome(&attempt));
        let attempts = before.map_or(0, |old| old.attempts) + 1;
        let pause = pause(attempts, error);
        tracing::warn!(object = %id, attempts, pause_ms = pause.as_millis(), %error, "cannot write");
        let obstacle = if error.conflict() {
            Obstacle::Knowledge
        } else if error.transient() {
            Obstacle::Server
        } else {
            Obstacle::Content
        };
        let until = Instant::now() + pause;
        self.failed.insert(id.clone(), Failed { attempt, obstacle, attempts, until });
        world.failures.insert(id.clone(), error.failure());
    }
}

/// How long nothing is tried after the failed attempt of this number.
fn pause(attempts: u32, error: &SendError) -> Duration {
    let most = if error.away() { BACKOFF_AWAY_MAX } else { BACKOFF_MAX };
    let pause = BACKOFF_FIRST.saturating_mul(1 << attempts.min(16).saturating_sub(1));
    pause.max(error.retry_after()).min(most)
}

fn verb(change: &Change) -> &'static str {
    match change {
        Change::Apply(_, None) => "create",
        Change::Apply(_, Some(_)) => "apply",
        Change::Delete { .. } => "delete",
    }
}

fn attempt(plan: &Plan, change: &Change) -> Attempt {
    match change {
        Change::Apply(id, uid) => Attempt {
            content: plan.objects.get(id).map(crate::render::Rendered::digest).unwrap_or_default(),
            over: uid.clone().unwrap_or_default(),
        },
        Change::Delete { uid, version, .. } => {
            Attempt { content: String::new(), over: format!("{uid} {version}") }
        }
    }
}

async fn send(sender: &Sender, plan: &Plan, change: &Change) -> Result<Option<DynamicObject>, SendError> {
    match change {
        Change::Apply(id, uid) => {
            let object = plan.objects.get(id).expect("a plan changes what it renders");
            sender.apply(id, object.manifest(), uid.as_deref()).await.map(Some)
        }
        Change::Delete { id, uid, version, .. } => sender.delete(id, uid, *version).await,
    }
}

fn absorb(world: &mut World, plan: &Plan, change: &Change, written: Option<DynamicObject>) {
    let id = change.id();
    // The plan that follows derives statuses: they must not tell of a failure that is over.
    world.failures.remove(id);
    match (change, written) {
        (Change::Delete { uid, .. }, None) => world.bury(id, uid),
        // It is there until its finalizers are done, and is neither deleted again nor made again before.
        (Change::Delete { .. }, Some(object)) => {
            world.take_written(id.kind, object);
        }
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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn pauses_double_to_a_bound_that_depends_on_what_is_wrong() {
        let pauses = |error: &SendError| (1..=10).map(|n| pause(n, error).as_millis()).collect::<Vec<_>>();
        let refused = |code| {
            let status = Status::failure("", "").with_code(code);
            SendError::Kube(Box::new(kube::Error::Api(status.boxed())))
        };
        let usual = [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        for code in [403, 409, 422, 500] {
            assert_eq!(pauses(&refused(code)), usual, "{code}");
        }
        let away = [200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000, 5000];
        assert_eq!(pauses(&SendError::Timeout), away);
        assert_eq!(pauses(&refused(503)), away);
        let spared = [1000, 1000, 1000, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(pauses(&refused(429)), spared);
    }
}
