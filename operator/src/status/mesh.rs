//! The status of one ServiceMesh: is it accepted, is it written, do its proxies run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vicino_crds::condition::{self, Wanted, kind};
use vicino_crds::mesh::{IdentityMode, Tally};
use vicino_crds::{MeshRouteStatus, ServiceMeshStatus, names};

use super::{Context, egress, identity, programmed, reconciling, stalled, wanted};
use crate::validate::{AcceptedMesh, MeshVerdict, Problem};
use crate::world::{Key, Kind, Mesh, ObjectId, Rollout};

/// Nodes that a message names; more are counted.
const NODES_SHOWN: usize = 3;

/// Conditions that are always there: `Ready` and `Accepted`.
const FIXED: usize = 2;

/// How a mesh is, in one word and one sentence.
struct Summary {
    state: State,
    reason: &'static str,
    message: String,
}

/// kstatus' three.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Reconciling,
    Stalled,
}

pub(super) fn status(
    context: &Context<'_>,
    name: &str,
    mesh: &Mesh,
    routes: &BTreeMap<Key, MeshRouteStatus>,
    now: &Time,
) -> ServiceMeshStatus {
    let verdict = context.input.validated.meshes.get(name).expect("every ServiceMesh has a verdict");
    let rollout = rollout(context, name);
    let (accepted, summary) = match verdict {
        MeshVerdict::Accepted(accepted) => match verdict.problem() {
            Some(problem) => (Some(problem), refused(problem)),
            None => (None, summary(context, accepted, rollout)),
        },
        MeshVerdict::Rejected(problem) => (Some(problem), refused(problem)),
        MeshVerdict::Blocked(problem) => (None, refused(problem)),
        MeshVerdict::Deleting => {
            let message = "is being deleted; what it owns is collected".to_owned();
            (None, Summary { state: State::Reconciling, reason: "Deleting", message })
        }
    };
    // What a mesh cannot do without that is well otherwise.
    let summary = match no_identity(context, name, mesh, now) {
        Some(worse) if summary.state == State::Ready => worse,
        _ => summary,
    };
    let mut conditions = conditions(accepted, &summary);
    // Before those that are there at times only.
    let own = [
        Some(identity::condition(context.input.world, (name, mesh), now)),
        egress::condition(context, name, mesh, verdict),
    ];
    conditions.splice(FIXED..FIXED, own.into_iter().flatten());
    let selected = match verdict {
        MeshVerdict::Accepted(mesh) => mesh.nodes.len(),
        _ => 0,
    };
    let proxies =
        rollout.map_or((0, selected), |rollout| (rollout.ready, rollout.desired.max(rollout.ready)));
    let (programmed, all) = tally(context, name, routes);
    let namespaces = context.input.world.namespaces.iter();
    let namespaces = namespaces.filter(|(_, row)| row.value.mesh.as_deref() == Some(name)).count();
    let clamp = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    ServiceMeshStatus {
        observed_generation: Some(mesh.generation),
        conditions: condition::merge(&mesh.status.conditions, &conditions, mesh.generation, now),
        proxies: Some(Tally::new(proxies.0, proxies.1)),
        routes: Some(Tally::new(programmed, all)),
        services: clamp(all),
        namespaces: clamp(namespaces),
    }
}

fn rollout(context: &Context<'_>, mesh: &str) -> Option<Rollout> {
    let key = Key::new(names::PROXY_NAMESPACE, &names::mesh_object(mesh));
    let live = context.input.world.children.of(Kind::DaemonSet).get(&key)?;
    let rollout = live.value.rollout.filter(|rollout| rollout.observed)?;
    let id = ObjectId::new(Kind::DaemonSet, key);
    Some(Rollout { observed: !context.pending.contains(&id), ..rollout })
}

/// Routes of the mesh: programmed and all.
fn tally(context: &Context<'_>, mesh: &str, routes: &BTreeMap<Key, MeshRouteStatus>) -> (usize, usize) {
    let verdicts = context.input.validated.routes.iter();
    let wanted = verdicts.filter(|(_, verdict)| verdict.wanted && verdict.mesh.as_deref() == Some(mesh));
    wanted.fold((0, 0), |(programmed, all), (key, _)| {
        let conditions = routes.get(key).map(|status| status.conditions.as_slice()).unwrap_or_default();
        let is = condition::is_true(conditions, kind::PROGRAMMED);
        (programmed + usize::from(is), all + 1)
    })
}

fn refused(problem: &Problem) -> Summary {
    Summary { state: State::Stalled, reason: problem.reason, message: problem.text() }
}

fn summary(context: &Context<'_>, mesh: &AcceptedMesh, rollout: Option<Rollout>) -> Summary {
    let say = |state, reason, message: String| Summary { state, reason, message };
    if let Some(fault) = context.input.faults.get(&mesh.name).and_then(|faults| faults.first()) {
        return say(
            State::Stalled,
            "CheckFailed",
            format!("nothing is written: {} {}", fault.object, fault.problem),
        );
    }
    if mesh.nodes.is_empty() {
        let message =
            "spec.proxy.nodeSelector: no Linux node has these labels: label nodes, or select others";
        return say(State::Stalled, "NoNodes", message.to_owned());
    }
    let of_mesh = |id: &&ObjectId| context.mesh_of(id) == Some(mesh.name.as_str());
    let failed: Vec<_> = context.input.world.failures.iter().filter(|(id, _)| of_mesh(id)).collect();
    let worst = failed.iter().find(|(_, failure)| !failure.transient).or(failed.first());
    if let Some((id, failure)) = worst {
        let state = if failure.transient { State::Reconciling } else { State::Stalled };
        let more = if failed.len() > 1 { format!(" (and {} more)", failed.len() - 1) } else { String::new() };
        let verb = if context.input.objects.contains_key(*id) { "write" } else { "delete" };
        return say(state, "ApplyFailed", format!("cannot {verb} {id}: {}{more}", failure.message));
    }
    let pending = context.pending.iter().filter(|id| of_mesh(id)).count();
    if pending > 0 {
        return say(
            State::Reconciling,
            "Applying",
            format!("{pending} objects are still to be written or deleted"),
        );
    }
    proxies(context, mesh, rollout)
}

fn proxies(context: &Context<'_>, mesh: &AcceptedMesh, rollout: Option<Rollout>) -> Summary {
    let say = |state, reason, message: String| Summary { state, reason, message };
    let Some(rollout) = rollout.filter(|rollout| rollout.observed) else {
        return say(State::Reconciling, "ProxiesStarting", "the DaemonSet has no pods yet".to_owned());
    };
    if rollout.desired == 0 {
        let message =
            "spec.proxy.tolerations: none of the selected nodes lets a proxy run: tolerate their taints";
        return say(State::Stalled, "NoNodes", message.to_owned());
    }
    if rollout.updated < rollout.desired {
        let message = format!("{} of {} proxies are of the newest spec", rollout.updated, rollout.desired);
        return say(State::Reconciling, "ProxiesRolling", message);
    }
    if rollout.ready < rollout.desired {
        let ready = context.reports.get(mesh.name.as_str()).map(|reports| &reports.ready);
        let missing: Vec<_> = mesh
            .nodes
            .iter()
            .map(String::as_str)
            .filter(|node| ready.is_none_or(|ready| !ready.contains(node)))
            .take(NODES_SHOWN)
            .collect();
        let message = format!(
            "{} of {} proxies are ready; not: {}",
            rollout.ready,
            rollout.desired,
            missing.join(", ")
        );
        return say(State::Reconciling, "ProxiesNotReady", message);
    }
    if mesh.spec.identity.mode == IdentityMode::Strict
        && let Some(summary) = not_guarded(context, mesh)
    {
        return summary;
    }
    let message = format!("{} proxies are ready and everything is written", rollout.ready);
    say(State::Ready, "Ready", message)
}

/// A node whose proxy does not refuse what comes around the mesh: one that says why before those that have not said anything.
fn not_guarded(context: &Context<'_>, mesh: &AcceptedMesh) -> Option<Summary> {
    let ready = &context.reports.get(mesh.name.as_str())?.ready;
    let mut silent = Vec::new();
    for node in ready {
        let row = context.input.world.neighbourhoods.get(&Key::cluster(node));
        let conditions = row.map(|row| row.value.status.conditions.as_slice()).unwrap_or_default();
        match conditions.iter().find(|condition| condition.type_ == names::CONDITION_GUARDED) {
            Some(guarded) if guarded.status == "True" => {}
            Some(guarded) => {
                let message = format!(
                    "spec.identity.mode: Strict does not hold on node {node:?}: {}: {}",
                    guarded.reason, guarded.message
                );
                return Some(Summary { state: State::Stalled, reason: "NotGuarded", message });
            }
            None => silent.push(*node),
        }
    }
    silent.truncate(NODES_SHOWN);
    let message = format!(
        "spec.identity.mode: no word yet that Strict holds for connections around the mesh from the nodes: {}",
        silent.join(", ")
    );
    (!silent.is_empty()).then_some(Summary { state: State::Reconciling, reason: "NotGuarded", message })
}

/// Nodes of a strict mesh whose proxies have no certificate that is good: their calls to other nodes fail, and those from there.
fn no_identity(context: &Context<'_>, name: &str, mesh: &Mesh, now: &Time) -> Option<Summary> {
    mesh.spec.as_ref().ok().filter(|spec| spec.identity.mode == IdentityMode::Strict)?;
    let has_none = |node: &&str| {
        let row = context.input.world.neighbourhoods.get(&Key::cluster(node));
        let certificates = row.and_then(|row| row.value.status.certificates.as_ref());
        let first = certificates.and_then(|certificates| certificates.expires.as_ref());
        first.is_none_or(|first| first.0 <= now.0)
    };
    let nodes: Vec<_> = context.reports.get(name)?.ready.iter().copied().filter(has_none).collect();
    let message = format!(
        "spec.identity.mode: Strict takes calls between nodes only with certificates, and proxies have none that are good on the nodes: {}",
        programmed::nodes(&nodes)
    );
    (!nodes.is_empty()).then_some(Summary { state: State::Stalled, reason: "NoIdentity", message })
}

fn conditions(problem: Option<&Problem>, summary: &Summary) -> Vec<Wanted> {
    let Summary { state, reason, message } = summary;
    let mut all = vec![
        wanted(kind::READY, *state == State::Ready, reason, message.clone()),
        match problem {
            Some(problem) => wanted(kind::ACCEPTED, false, problem.reason, problem.text()),
            None => wanted(kind::ACCEPTED, true, "Accepted", "the spec is valid"),
        },
    ];
    match state {
        State::Ready => {}
        State::Reconciling => all.push(reconciling(reason, message)),
        State::Stalled => all.push(stalled(reason, message)),
    }
    all
}
