//! Statuses → the API server: only those that changed, and none of them in a torrent; decides nothing about content.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use tokio::time::Instant;
use vicino_crds::names;

use crate::apply::{CONCURRENCY, SendError, Sender};
use crate::metric::Metrics;
use crate::plan::Plan;
use crate::world::{Change, Key, Kind, World, trim, written};

/// Counts in the status of one object are written at most once in this time; a condition that turns is written at once.
const SPACING: Duration = Duration::from_millis(500);
/// After a failed write of a status, the next attempt, also when a condition turns meanwhile.
const RETRY: Duration = Duration::from_secs(2);

/// Whose status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Mesh,
    Route,
    Policy,
}

impl Subject {
    fn kind(self) -> &'static str {
        match self {
            Self::Mesh => "ServiceMesh",
            Self::Route => "MeshRoute",
            Self::Policy => "MeshPolicy",
        }
    }

    fn resource(self) -> ApiResource {
        let of = |plural: &str| {
            let gvk = GroupVersionKind::gvk(names::GROUP, names::VERSION, self.kind());
            ApiResource::from_gvk_with_plural(&gvk, plural)
        };
        match self {
            Self::Mesh => of("servicemeshes"),
            Self::Route => Kind::MeshRoute.resource(),
            Self::Policy => of("meshpolicies"),
        }
    }
}

/// A status that differs from the live one.
struct Pending {
    subject: Subject,
    key: Key,
    /// The object's version that it was derived from.
    version: u64,
    status: Value,
    turns: bool,
}

/// What the last write of a status came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Written,
    /// Somebody was faster: the object is no longer at this version.
    Overtaken(u64),
    Failed,
}

/// How long the next write of a status waits.
#[derive(Clone, Copy, Debug)]
struct Hold {
    last: Last,
    until: Instant,
}

impl Hold {
    fn applies_to(&self, pending: &Pending) -> bool {
        match self.last {
            Last::Written => !pending.turns,
            Last::Overtaken(version) => pending.version == version,
            Last::Failed => true,
        }
    }
}

/// Writes statuses.
#[derive(Debug)]
pub struct StatusWriter {
    sender: Sender,
    metrics: Metrics,
    holds: BTreeMap<(Subject, Key), Hold>,
    /// What the API server keeps otherwise than it was sent, since its schema is older or somebody adds conditions: at this version
    /// of the object there is nothing to do about that.
    settled: BTreeMap<(Subject, Key), (u64, Value)>,
    due_at: Option<Instant>,
}

impl StatusWriter {
    /// Writes through `sender` and counts in `metrics`.
    pub fn new(sender: Sender, metrics: Metrics) -> Self {
        Self { sender, metrics, holds: BTreeMap::new(), settled: BTreeMap::new(), due_at: None }
    }

    /// When a status that was held back may be written.
    pub fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// Writes every status of `plan` that differs and is due, and takes the responses into `world`. Kind and name of those that
    /// differ still.
    pub async fn write(&mut self, world: &mut World, plan: &Plan) -> BTreeSet<(&'static str, Key)> {
        let now = Instant::now();
        self.holds.retain(|_, hold| hold.until > now);
        self.due_at = None;
        let (mut due, mut unwritten) = (Vec::new(), BTreeSet::new());
        for pending in self.unsettled(world, plan) {
            unwritten.insert((pending.subject.kind(), pending.key.clone()));
            match self.holds.get(&(pending.subject, pending.key.clone())) {
                Some(hold) if hold.applies_to(&pending) => {
                    let until = hold.until;
                    self.be_due(until);
                }
                _ => due.push(pending),
            }
        }
        let sender = &self.sender;
        let mut writes = futures::stream::iter(due)
            .map(async |Pending { subject, key, version, status, .. }| {
                let result = sender.apply_status(&subject.resource(), (&key, version), status).await;
                (subject, key, version, result)
            })
            .buffer_unordered(CONCURRENCY);
        let (mut results, mut unavailable) = (Vec::new(), 0);
        while let Some((subject, key, version, result)) = writes.next().await {
            self.metrics.wrote(subject.kind(), "status");
            let result = result.map(|object| {
                take(world, subject, &object);
                version_of(&object)
            });
            unavailable += usize::from(result.as_ref().is_err_and(SendError::unavailable));
            results.push((subject, key, version, result));
            // The API server is away: what is left is as good later.
            if unavailable >= CONCURRENCY {
                break;
            }
        }
        drop(writes);
        let written: BTreeMap<_, _> = results
            .iter()
            .filter_map(|(subject, key, _, result)| Some(((*subject, key.clone()), *result.as_ref().ok()?)))
            .collect();
        self.note(results);
        if written.is_empty() {
            return unwritten;
        }
        for Pending { subject, key, version, status, .. } in pending(world, plan) {
            let subject = (subject, key);
            if written.get(&subject) == Some(&version) {
                self.settled.insert(subject, (version, status));
            }
        }
        for (subject, key) in written.into_keys() {
            unwritten.remove(&(subject.kind(), key));
        }
        unwritten
    }

    fn unsettled(&mut self, world: &World, plan: &Plan) -> Vec<Pending> {
        let all = pending(world, plan);
        let differs: BTreeSet<_> = all.iter().map(|of| (of.subject, of.key.clone())).collect();
        self.settled.retain(|subject, _| differs.contains(subject));
        let is_settled = |of: &Pending| {
            let settled = self.settled.get(&(of.subject, of.key.clone()));
            settled.is_some_and(|(version, status)| *version == of.version && *status == of.status)
        };
        all.into_iter().filter(|of| !is_settled(of)).collect()
    }

    fn note(&mut self, results: Vec<(Subject, Key, u64, Result<u64, SendError>)>) {
        let mut failed = Vec::new();
        for (subject, key, version, result) in results {
            let (last, pause) = match result {
                Ok(_) => (Last::Written, SPACING),
                // It was deleted meanwhile.
                Err(error) if error.code() == Some(404) => (Last::Written, SPACING),
                // The event about what it is now is on its way.
                Err(error) if error.conflict() => (Last::Overtaken(version), RETRY),
                Err(error) => {
                    self.metrics.failed("status");
                    let pause = RETRY.max(error.retry_after());
                    failed.push((format!("{} {key}", subject.kind()), error));
                    (Last::Failed, pause)
                }
            };
            let until = Instant::now() + pause;
            if last != Last::Written {
                self.be_due(until);
            }
            self.holds.insert((subject, key), Hold { last, until });
        }
        if let Some((object, error)) = failed.first() {
            tracing::warn!(object, failed = failed.len(), %error, "cannot write a status");
        }
    }

    fn be_due(&mut self, at: Instant) {
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }
}

fn pending(world: &World, plan: &Plan) -> Vec<Pending> {
    let mut all = Vec::new();
    for (name, status) in &plan.statuses.meshes {
        let key = Key::cluster(name);
        let Some(row) = world.meshes.get(&key).filter(|row| row.value.status != *status) else { continue };
        let turns = turns(&row.value.status.conditions, &status.conditions);
        all.push(Pending { subject: Subject::Mesh, key, version: row.version, status: json!(status), turns });
    }
    for (key, status) in &plan.statuses.routes {
        let Some(row) = world.routes.get(key).filter(|row| row.value.status != *status) else { continue };
        let turns = turns(&row.value.status.conditions, &status.conditions);
        all.push(Pending {
            subject: Subject::Route,
            key: key.clone(),
            version: row.version,
            status: json!(status),
            turns,
        });
    }
    for (key, status) in &plan.statuses.policies {
        let Some(row) = world.policies.get(key).filter(|row| row.value.status != *status) else { continue };
        let turns = turns(&row.value.status.conditions, &status.conditions);
        all.push(Pending {
            subject: Subject::Policy,
            key: key.clone(),
            version: row.version,
            status: json!(status),
            turns,
        });
    }
    all
}

/// Whether a condition changes its status, or is about another generation.
fn turns(old: &[Condition], new: &[Condition]) -> bool {
    let essence = |c: &Condition| (c.type_.clone(), c.status.clone(), c.observed_generation);
    old.len() != new.len() || old.iter().map(essence).ne(new.iter().map(essence))
}

fn version_of(object: &DynamicObject) -> u64 {
    trim::row(&object.metadata, ()).version
}

fn take(world: &mut World, subject: Subject, object: &DynamicObject) {
    match subject {
        Subject::Mesh => {
            world.take(Change::Mesh(written(object, trim::mesh(object))));
        }
        Subject::Policy => {
            world.take(Change::Policy(Box::new(written(object, trim::policy(object)))));
        }
        Subject::Route => {
            world.take_written(Kind::MeshRoute, object.clone());
        }
    }
}
