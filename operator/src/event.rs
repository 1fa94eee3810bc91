//! Events on what a user wants to know: derived from status changes (pure), sent at a bounded rate by one task.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use vicino_crds::condition::kind;
use vicino_crds::names;

use crate::apply::answer;
use crate::metric::Metrics;
use crate::plan::Plan;
use crate::world::{Key, World};

/// Events that may wait; more are dropped and counted.
const QUEUE: usize = 64;
/// Events that may be sent at once after a quiet time.
const BURST: u32 = 20;
/// One more event may be sent after this long.
const REFILL: Duration = Duration::from_secs(1);
/// An event that takes longer is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object that it is about.
    pub regarding: ObjectReference,
    /// Whether somebody should look.
    pub warning: bool,
    /// CamelCase, bounded set.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// What was said already about things that have no status of ours.
#[derive(Clone, Debug, Default)]
pub struct Said {
    namespaces: BTreeMap<String, String>,
}

/// What `plan` changes that a user wants to know: a mesh becomes ready or ceases to be, a route is refused or put
/// right, a namespace names a mesh that does not exist.
pub fn notices(world: &World, plan: &Plan, said: &mut Said) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, status) in &plan.statuses.meshes {
        let Some(row) = world.meshes.get(&Key::cluster(name)) else { continue };
        let reference = || ours("ServiceMesh", &Key::cluster(name), &row.uid);
        let turned = turned(kind::READY, &row.value.status.conditions, &status.conditions);
        notices.extend(turned.map(|condition| notice(reference(), condition)));
    }
    for (key, status) in &plan.statuses.routes {
        let Some(row) = world.routes.get(key) else { continue };
        let turned = turned(kind::ACCEPTED, &row.value.status.conditions, &status.conditions);
        notices.extend(turned.map(|condition| notice(ours("MeshRoute", key, &row.uid), condition)));
    }
    said.namespaces.retain(|name, _| plan.validated.namespaces.contains_key(name));
    for (name, problem) in &plan.validated.namespaces {
        let Some(row) = world.namespaces.get(&Key::cluster(name)) else { continue };
        let mesh = row.value.mesh.clone().unwrap_or_default();
        if said.namespaces.insert(name.clone(), mesh.clone()) != Some(mesh) {
            let regarding = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Namespace".to_owned()),
                name: Some(name.clone()),
                // Where `kubectl describe namespace` looks.
                namespace: Some(name.clone()),
                uid: Some(row.uid.clone()),
                ..ObjectReference::default()
            };
            let reason = problem.reason.to_owned();
            notices.push(Notice { regarding, warning: true, reason, note: problem.text() });
        }
    }
    notices
}

/// A condition that changes its status; the first time only when it is worth a word.
fn turned<'a>(kind: &str, old: &[Condition], new: &'a [Condition]) -> Option<&'a Condition> {
    let find =
        |conditions: &[Condition]| conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.clone());
    let new = new.iter().find(|condition| condition.type_ == kind)?;
    let old = find(old);
    let first_good_accepted = old.is_none() && kind == kind::ACCEPTED && new.status == "True";
    let first_not_ready =
        old.is_none() && kind == kind::READY && new.status == "False" && new.reason != "NoNodes";
    let stalled_at_first = first_not_ready && !matches!(new.reason.as_str(), "Applying" | "ProxiesStarting");
    let quiet = first_good_accepted || (first_not_ready && !stalled_at_first);
    (old.as_deref() != Some(new.status.as_str()) && !quiet).then_some(new)
}

fn notice(regarding: ObjectReference, condition: &Condition) -> Notice {
    Notice {
        regarding,
        warning: condition.status != "True",
        reason: condition.reason.clone(),
        note: condition.message.clone(),
    }
}

fn ours(kind: &str, key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", names::GROUP, names::VERSION)),
        kind: Some(kind.to_owned()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// The end of the queue that the pipeline holds.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Notice>,
    metrics: Metrics,
}

impl Events {
    /// The queue's end, and the task that sends; the task ends with `stop`.
    pub fn new(
        client: Client,
        instance: String,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: names::FIELD_MANAGER.to_owned(), instance: Some(instance) };
        let task = send(Recorder::new(client, reporter), waiting, metrics.clone(), stop);
        (Self { queue, metrics }, task)
    }

    /// Sends later, or not at all when too many wait.
    pub fn tell(&self, notice: Notice) {
        if self.queue.try_send(notice).is_err() {
            self.metrics.drop_event();
        }
    }
}

async fn send(
    recorder: Recorder,
    mut waiting: mpsc::Receiver<Notice>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let (mut tokens, mut filled) = (BURST, Instant::now());
    loop {
        let notice = tokio::select! {
            () = stop.cancelled() => return,
            notice = waiting.recv() => notice,
        };
        let Some(notice) = notice else { return };
        while filled + REFILL <= Instant::now() {
            filled += REFILL;
            tokens = (tokens + 1).min(BURST);
        }
        if tokens == 0 {
            metrics.drop_event();
            continue;
        }
        tokens -= 1;
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason,
            note: Some(shorten(notice.note)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match timeout(SEND_TIMEOUT, recorder.publish(&event, &notice.regarding)).await {
            Ok(Ok(())) => metrics.wrote("Event", "create"),
            Ok(Err(error)) => {
                metrics.failed("event");
                tracing::debug!(error = answer(&error), "cannot send an event");
            }
            Err(_) => metrics.failed("event"),
        }
    }
}

/// The API accepts notes of at most 1 KiB.
fn shorten(mut note: String) -> String {
    const NOTE_BYTES_MAX: usize = 1000;
    if note.len() > NOTE_BYTES_MAX {
        let end = (0..=NOTE_BYTES_MAX).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::{Said, notices};
    use crate::fixture::{SHOP, converge, load, planned, proxy_pod, rollout, serve, world};
    use crate::world::{Rollout, World};

    /// What is said of the mesh now.
    fn told(world: &World) -> Vec<String> {
        let notices = notices(world, &planned(world), &mut Said::default());
        let of_mesh = notices.into_iter().filter(|n| n.regarding.kind.as_deref() == Some("ServiceMesh"));
        of_mesh
            .map(|n| format!("{} {}: {}", if n.warning { "Warning" } else { "Normal" }, n.reason, n.note))
            .collect()
    }

    #[test]
    fn a_node_that_loses_its_proxy_is_named_once() {
        let mut world = world(SHOP);
        converge(&mut world);
        for node in ["node1", "node2"] {
            serve(&mut world, "default", node);
        }
        converge(&mut world);
        let all = Rollout { observed: true, desired: 2, updated: 2, ready: 2 };
        rollout(&mut world, all);
        assert_eq!(told(&world), ["Normal Ready: 2 proxies are ready and everything is written"]);
        converge(&mut world);
        assert_eq!(told(&world), <[String; 0]>::default());

        let lost = proxy_pod("default", "node2", "vicino-default-node2").replace("'True'", "'False'");
        load(&mut world, &lost);
        converge(&mut world);
        rollout(&mut world, Rollout { ready: 1, ..all });
        assert_eq!(told(&world), ["Warning ProxiesNotReady: 1 of 2 proxies are ready; not: node2"]);
        converge(&mut world);
        assert_eq!(told(&world), <[String; 0]>::default());
    }
}
