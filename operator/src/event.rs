//! Events on what a user wants to know: derived from status changes (pure), sent at a bounded rate by one task.

use std::collections::{BTreeMap, BTreeSet};
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

/// What the pipeline does when it finds what an event tells.
const RECONCILE: &str = "Reconcile";

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The object that it is about.
    pub regarding: ObjectReference,
    /// Whether somebody should look.
    pub warning: bool,
    /// CamelCase, bounded set.
    pub reason: String,
    /// What was done when it happened. Events of one object that differ in nothing but the note are counted as the first of them, so this has to tell apart what people want to see apart.
    pub action: &'static str,
    /// For people.
    pub note: String,
}

impl Notice {
    /// Whether it regards one of these, by kind and name.
    pub fn is_about(&self, objects: &BTreeSet<(&'static str, Key)>) -> bool {
        let said = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = Key { namespace: said(&self.regarding.namespace), name: said(&self.regarding.name) };
        objects.iter().any(|(kind, object)| *object == key && self.regarding.kind.as_deref() == Some(*kind))
    }
}

/// What was said already about things that have no status of ours.
#[derive(Clone, Debug, Default)]
pub struct Said {
    namespaces: BTreeMap<String, String>,
    pods: BTreeSet<PodProblem>,
}

/// Namespace of pods, reason, and what is wrong with them.
type PodProblem = (String, &'static str, String);

/// What `plan` changes that a user wants to know: a mesh becomes ready or ceases to be, or its authority does, a route or a policy is refused or put
/// right, a namespace names a mesh that does not exist, a pod has an annotation that cannot be read or labels that are too long.
pub fn notices(world: &World, plan: &Plan, said: &mut Said) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, status) in &plan.statuses.meshes {
        let Some(row) = world.meshes.get(&Key::cluster(name)) else { continue };
        let reference = || ours("ServiceMesh", &Key::cluster(name), &row.uid);
        let turned = turned(kind::READY, &row.value.status.conditions, &status.conditions);
        notices.extend(turned.map(|condition| notice(reference(), condition)));
        let turned = self::turned(kind::IDENTITY_READY, &row.value.status.conditions, &status.conditions);
        notices.extend(turned.map(|condition| notice(reference(), condition)));
    }
    for (key, status) in &plan.statuses.routes {
        let Some(row) = world.routes.get(key) else { continue };
        let turned = turned(kind::ACCEPTED, &row.value.status.conditions, &status.conditions);
        notices.extend(turned.map(|condition| notice(ours("MeshRoute", key, &row.uid), condition)));
    }
    for (key, status) in &plan.statuses.policies {
        let Some(row) = world.policies.get(key) else { continue };
        let turned = turned(kind::ACCEPTED, &row.value.status.conditions, &status.conditions);
        notices.extend(turned.map(|condition| notice(ours("MeshPolicy", key, &row.uid), condition)));
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
            let note = problem.text();
            notices.push(Notice { regarding, warning: true, reason, action: RECONCILE, note });
        }
    }
    notices.extend(pods(world, said));
    notices
}

/// Pods of one workload have the same labels and annotations, so the first with each mistake in a namespace speaks for all, as long as there is one.
fn pods(world: &World, said: &mut Said) -> Vec<Notice> {
    let mut first: BTreeMap<PodProblem, (&Key, &str)> = BTreeMap::new();
    for (key, row) in world.pods.iter().filter(|(_, row)| !row.value.ips.is_empty()) {
        let plain_ports = row.value.plain_ports.problem.as_ref();
        let plain_ports = plain_ports.map(|problem| {
            ("InvalidAnnotation", format!("annotation {}: {problem}", names::ANNOTATION_PLAIN_PORTS))
        });
        let labels = row.value.labels_problem.clone().map(|problem| ("LabelsTooLong", problem));
        let is_meshed = || {
            let namespace = world.namespaces.get(&Key::cluster(&key.namespace));
            namespace.is_some_and(|row| row.value.mesh.is_some())
        };
        for (reason, note) in plain_ports.into_iter().chain(labels).filter(|_| is_meshed()) {
            first.entry((key.namespace.clone(), reason, note)).or_insert((key, &row.uid));
        }
    }
    said.pods.retain(|one| first.contains_key(one));
    let mut notices = Vec::new();
    for (one, (key, uid)) in first {
        let (_, reason, note) = one.clone();
        if said.pods.insert(one) {
            let regarding = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            };
            let reason = reason.to_owned();
            notices.push(Notice { regarding, warning: true, reason, action: RECONCILE, note });
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
    // Whether there is an authority is no news before there was one that became useless.
    let was_known = old.as_deref().is_some_and(|old| old != "Unknown");
    let identity_begins = kind == kind::IDENTITY_READY && !was_known && new.reason != "SecretUnusable";
    let quiet = first_good_accepted || (first_not_ready && !stalled_at_first) || identity_begins;
    (old.as_deref() != Some(new.status.as_str()) && !quiet).then_some(new)
}

fn notice(regarding: ObjectReference, condition: &Condition) -> Notice {
    Notice {
        regarding,
        warning: condition.status != "True",
        reason: condition.reason.clone(),
        action: RECONCILE,
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
            action: notice.action.to_owned(),
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

    #[test]
    fn an_annotation_that_cannot_be_read_is_told_once_for_a_workload() {
        let mut world = world(SHOP);
        let pod = |name: &str, namespace: &str, ports: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, uid: u-{name}, annotations: {{vicino.dev/plain-ports: '{ports}'}}}}\nspec: {{nodeName: node1, containers: []}}\nstatus: {{phase: Running, podIPs: [{{ip: 10.1.0.1}}]}}\n"
            )
        };
        let mut said = Said::default();
        let mut told = |world: &World| {
            let notices = notices(world, &planned(world), &mut said).into_iter();
            let of_pods = notices.filter(|n| n.regarding.kind.as_deref() == Some("Pod"));
            of_pods.map(|n| (n.regarding.name.unwrap(), n.reason, n.note)).collect::<Vec<_>>()
        };
        for (name, namespace, ports) in
            [("a", "shop", "http"), ("b", "shop", "http"), ("c", "shop", "9090"), ("d", "elsewhere", "http")]
        {
            load(&mut world, &pod(name, namespace, ports));
        }
        let note = "annotation vicino.dev/plain-ports: \"http\" is no port: write numbers from 1 to 65535, separated by commas, as in 9090,8443";
        assert_eq!(told(&world), [("a".to_owned(), "InvalidAnnotation".to_owned(), note.to_owned())]);
        assert_eq!(told(&world), []);
        for name in ["a", "b"] {
            load(&mut world, &pod(name, "shop", "80"));
        }
        assert_eq!(told(&world), []);
        load(&mut world, &pod("b", "shop", "http"));
        assert_eq!(told(&world).len(), 1, "and again when it comes back");
    }

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
