//! The status of one MeshRoute: is it valid, what does it come to, and who serves it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vicino_crds::MeshRouteStatus;
use vicino_crds::condition::{self, Wanted, kind};
use vicino_crds::contract::{self, CompiledBackend, CompiledRoute};
use vicino_crds::mesh::Tally;

use super::{Context, Placed, reconciling, stalled, wanted};
use crate::validate::{Outcome, Problem, RouteVerdict};
use crate::world::{Body, Key, Kind, ObjectId, Route};

/// Backends that the column names; more are counted.
const BACKENDS_SHOWN: usize = 8;
/// Nodes that a message names; more are counted.
const NODES_SHOWN: usize = 3;

pub(super) fn status(context: &Context<'_>, key: &Key, route: &Route, now: &Time) -> MeshRouteStatus {
    let verdict = context.input.validated.routes.get(key).expect("every MeshRoute has a verdict");
    let data_key = vicino_crds::names::data_key(&key.name);
    let placed = context.placed.get(&(key.namespace.as_str(), data_key.as_str())).copied();
    let live = || context.live.route(verdict.mesh.as_deref()?, &key.namespace, &data_key);
    let in_force =
        in_force(&verdict.outcome, placed.map(|placed| placed.text).or_else(|| live().map(String::as_str)));
    let ready =
        verdict.mesh.as_deref().and_then(|mesh| context.reports.get(mesh)).map_or(0, |r| r.ready.len());
    let (programmed, serving) = match verdict.outcome.problem() {
        Some(problem) => (not_accepted(problem, in_force.as_ref()), 0),
        None => programmed(context, key, verdict, placed),
    };
    let conditions = conditions(verdict.outcome.problem(), programmed);
    MeshRouteStatus {
        observed_generation: Some(route.generation),
        conditions: condition::merge(&route.status.conditions, &conditions, route.generation, now),
        mesh: verdict.mesh.clone().filter(|_| verdict.wanted),
        protocol: in_force.as_ref().map(protocols),
        backends: in_force.as_ref().map(backends),
        endpoints: in_force.as_ref().map(|route| endpoints(context, route)),
        programmed: verdict.wanted.then(|| Tally::new(serving, ready)),
    }
}

/// What proxies are told: the route as compiled now, or as it was when it was last valid.
fn in_force(outcome: &Outcome, kept: Option<&str>) -> Option<CompiledRoute> {
    match outcome {
        Outcome::Compiled(route) => Some((**route).clone()),
        Outcome::Kept(_) => kept.and_then(|text| contract::read(text.as_bytes()).ok()).map(|r| r.document),
        Outcome::Nothing(_) => None,
    }
}

fn not_accepted(problem: &Problem, in_force: Option<&CompiledRoute>) -> Wanted {
    let message = match in_force {
        Some(route) => format!("not accepted; proxies go on with generation {}", route.generation),
        None => "not accepted, and there is no earlier version to go on with".to_owned(),
    };
    wanted(kind::PROGRAMMED, false, problem.reason, message)
}

fn programmed(
    context: &Context<'_>,
    key: &Key,
    verdict: &RouteVerdict,
    placed: Option<Placed<'_>>,
) -> (Wanted, usize) {
    let no = |reason, message: String| (wanted(kind::PROGRAMMED, false, reason, message), 0);
    let mesh = verdict.mesh.as_deref().unwrap_or_default();
    let (Some(placed), Some(reports)) = (placed, context.reports.get(mesh)) else {
        return no("Pending", "not written to the proxies' configuration yet".to_owned());
    };
    if !is_live(context, &placed) {
        let failures = &context.input.world.failures;
        let own = ObjectId::new(Kind::MeshRoute, key.clone());
        return match failures.get(placed.config_map).or_else(|| failures.get(&own)) {
            Some(failure) => {
                no("ApplyFailed", format!("cannot write {}: {}", placed.config_map, failure.message))
            }
            None => no("Pending", format!("not written to {} yet", placed.config_map)),
        };
    }
    if reports.ready.is_empty() {
        return no("NoReadyProxy", format!("no proxy of the mesh {mesh:?} is ready"));
    }
    let progress = reports.progress(context.input.world, &placed);
    let (count, total) = (progress.serving, reports.ready.len());
    let condition = if let Some((node, why)) = progress.rejected {
        wanted(kind::PROGRAMMED, false, "Rejected", format!("the proxy of node {node:?} refuses it: {why}"))
    } else if count < total {
        let message =
            format!("{count} of {total} ready proxies serve it; not yet: {}", nodes(&progress.missing));
        wanted(kind::PROGRAMMED, false, "Programming", message)
    } else {
        wanted(kind::PROGRAMMED, true, "Programmed", "every ready proxy serves it")
    };
    (condition, count)
}

/// Whether the ConfigMap of the cluster has the route as it was compiled now.
fn is_live(context: &Context<'_>, placed: &Placed<'_>) -> bool {
    let live = context.input.world.children.of(Kind::ConfigMap).get(&placed.config_map.key);
    match live.map(|row| &row.value.body) {
        Some(Body::Data(data)) => data.get(placed.data_key).is_some_and(|text| text == placed.text),
        _ => false,
    }
}

fn conditions(problem: Option<&Problem>, programmed: Wanted) -> Vec<Wanted> {
    if let Some(problem) = problem {
        let text = problem.text();
        return vec![
            wanted(kind::READY, false, problem.reason, text.clone()),
            wanted(kind::ACCEPTED, false, problem.reason, text.clone()),
            programmed,
            stalled(problem.reason, &text),
        ];
    }
    let accepted = wanted(kind::ACCEPTED, true, "Accepted", "the spec is valid and what it names exists");
    if programmed.status == Some(true) {
        return vec![wanted(kind::READY, true, "Ready", "every ready proxy serves it"), accepted, programmed];
    }
    let ready = wanted(kind::READY, false, programmed.reason, programmed.message.clone());
    let state = match programmed.reason {
        "Rejected" => stalled(programmed.reason, &programmed.message),
        reason => reconciling(reason, &programmed.message),
    };
    vec![ready, accepted, programmed, state]
}

/// Each once, in the order of the ports.
fn protocols(route: &CompiledRoute) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in route.ports.iter().map(|port| port.protocol.as_str()) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(",")
}

fn backends(route: &CompiledRoute) -> String {
    let mut names: Vec<String> = Vec::new();
    for backend in route.backends() {
        let name = match &*backend.namespace {
            "" => format!("{}:{}", backend.service, backend.port),
            namespace => format!("{namespace}/{}:{}", backend.service, backend.port),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(BACKENDS_SHOWN);
    names.truncate(BACKENDS_SHOWN);
    let shown = names.join(",");
    if more == 0 { shown } else { format!("{shown},+{more}") }
}

fn endpoints(context: &Context<'_>, route: &CompiledRoute) -> Tally {
    let namespace = |backend: &'_ CompiledBackend| match &*backend.namespace {
        "" => route.namespace.clone(),
        other => other.to_owned(),
    };
    let mut services: Vec<_> = route.backends().map(|b| (namespace(b), b.service.as_str())).collect();
    services.sort_unstable();
    services.dedup();
    let counts =
        services.iter().filter_map(|(namespace, name)| context.endpoints.get(&(&**namespace, *name)));
    let (ready, total) = counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    Tally::new(ready, total)
}

fn nodes(names: &[&str]) -> String {
    let shown = names.iter().take(NODES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NODES_SHOWN);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
