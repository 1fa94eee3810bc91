//! Statuses → the API server: only those that changed, and none of them in a torrent; decides nothing about content.

use std::collections::BTreeMap;
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
use crate::world::{Change, Key, Kind, Step, World, trim};

/// Counts in the status of one object are written at most once in this time; a condition that turns is written at once.
const SPACING: Duration = Duration::from_millis(500);
/// After a failed write of a status, the next attempt.
const RETRY: Duration = Duration::from_secs(2);

/// Whose status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Mesh,
    Route,
}

impl Subject {
    fn kind(self) -> &'static str {
        match self {
            Self::Mesh => "ServiceMesh",
            Self::Route => "MeshRoute",
        }
    }

    fn resource(self) -> ApiResource {
        match self {
            Self::Mesh => {
                let gvk = GroupVersionKind::gvk(names::GROUP, names::VERSION, self.kind());
                ApiResource::from_gvk_with_plural(&gvk, "servicemeshes")
            }
            Self::Route => Kind::MeshRoute.resource(),
        }
    }
}

/// A status that differs from the live one.
struct Pending {
    subject: Subject,
    key: Key,
    status: Value,
    turns: bool,
}

/// Writes statuses.
#[derive(Debug)]
pub struct StatusWriter {
    sender: Sender,
    metrics: Metrics,
    not_before: BTreeMap<(Subject, Key), Instant>,
    due_at: Option<Instant>,
}

impl StatusWriter {
    /// Writes through `sender` and counts in `metrics`.
    pub fn new(sender: Sender, metrics: Metrics) -> Self {
        Self { sender, metrics, not_before: BTreeMap::new(), due_at: None }
    }

    /// When a status that was held back may be written.
    pub fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// Writes every status of `plan` that differs and is due, and takes the responses into `world`.
    pub async fn write(&mut self, world: &mut World, plan: &Plan) {
        let now = Instant::now();
        self.not_before.retain(|_, until| *until > now);
        self.due_at = None;
        let mut due = Vec::new();
        for pending in pending(world, plan) {
            match self.not_before.get(&(pending.subject, pending.key.clone())) {
                Some(until) if !pending.turns => {
                    self.due_at = Some(self.due_at.map_or(*until, |due| due.min(*until)));
                }
                _ => due.push(pending),
            }
        }
        let sender = &self.sender;
        let mut writes = futures::stream::iter(due)
            .map(async |pending| {
                let result =
                    sender.apply_status(&pending.subject.resource(), &pending.key, pending.status).await;
                (pending.subject, pending.key, result)
            })
            .buffer_unordered(CONCURRENCY);
        let mut failed = Vec::new();
        while let Some((subject, key, result)) = writes.next().await {
            self.metrics.wrote(subject.kind(), "status");
            match result {
                Ok(object) => take(world, subject, &object),
                // It was deleted meanwhile.
                Err(error) if error.code() == Some(404) => {}
                Err(error) => failed.push((subject, key.clone(), error)),
            }
            self.not_before.insert((subject, key), Instant::now() + SPACING);
        }
        drop(writes);
        self.note_failures(failed);
    }

    fn note_failures(&mut self, failed: Vec<(Subject, Key, SendError)>) {
        let Some((subject, key, error)) = failed.first() else { return };
        tracing::warn!(object = %format!("{} {key}", subject.kind()), failed = failed.len(), %error, "cannot write a status");
        let until = Instant::now() + RETRY;
        self.due_at = Some(self.due_at.map_or(until, |due| due.min(until)));
        for (subject, key, _) in failed {
            self.metrics.failed("status");
            self.not_before.insert((subject, key), until);
        }
    }
}

fn pending(world: &World, plan: &Plan) -> Vec<Pending> {
    let mut all = Vec::new();
    for (name, status) in &plan.statuses.meshes {
        let key = Key::cluster(name);
        let Some(row) = world.meshes.get(&key).filter(|row| row.value.status != *status) else { continue };
        let turns = turns(&row.value.status.conditions, &status.conditions);
        all.push(Pending { subject: Subject::Mesh, key, status: json!(status), turns });
    }
    for (key, status) in &plan.statuses.routes {
        let Some(row) = world.routes.get(key).filter(|row| row.value.status != *status) else { continue };
        let turns = turns(&row.value.status.conditions, &status.conditions);
        all.push(Pending { subject: Subject::Route, key: key.clone(), status: json!(status), turns });
    }
    all
}

/// Whether a condition changes its status, or is about another generation.
fn turns(old: &[Condition], new: &[Condition]) -> bool {
    let essence = |c: &Condition| (c.type_.clone(), c.status.clone(), c.observed_generation);
    old.len() != new.len() || old.iter().map(essence).ne(new.iter().map(essence))
}

fn take(world: &mut World, subject: Subject, object: &DynamicObject) {
    match subject {
        Subject::Mesh => {
            let row = trim::row(&object.metadata, trim::mesh(object));
            world.take(Change::Mesh(Step::Put(trim::key(&object.metadata), row)));
        }
        Subject::Route => {
            world.take_written(Kind::MeshRoute, object.clone());
        }
    }
}
