//! The status of one MeshRoute: is it valid, what does it come to, and who serves it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vicino_crds::MeshRouteStatus;
use vicino_crds::condition::{self, Wanted, kind};
use vicino_crds::contract::{self, CompiledBackend, CompiledRoute};
use vicino_crds::mesh::Tally;

use super::programmed::{conditions, programmed};
use super::{Context, wanted};
use crate::validate::{Outcome, Problem};
use crate::world::{Key, Kind, ObjectId, Route};

/// Backends that the column names; more are counted.
const BACKENDS_SHOWN: usize = 8;

pub(super) fn status(context: &Context<'_>, key: &Key, route: &Route, now: &Time) -> MeshRouteStatus {
    let verdict = context.input.validated.routes.get(key).expect("every MeshRoute has a verdict");
    let data_key = vicino_crds::names::data_key(&key.name);
    let placed = context.placed.get(&(key.namespace.as_str(), data_key.as_str())).copied();
    let live = || context.live.route(verdict.mesh.as_deref()?, &key.namespace, &data_key);
    let in_force =
        in_force(&verdict.outcome, placed.map(|placed| placed.text).or_else(|| live().map(String::as_str)));
    let ready =
        verdict.mesh.as_deref().and_then(|mesh| context.reports.get(mesh)).map_or(0, |r| r.ready.len());
    let (programmed, serving) = if let Some(problem) = verdict.outcome.problem() {
        (not_accepted(problem, in_force.as_ref()), 0)
    } else {
        let own = ObjectId::new(Kind::MeshRoute, key.clone());
        let progress = programmed(context, Some(&own), verdict.mesh.as_deref(), placed);
        (progress.condition, progress.serving)
    };
    let mut conditions = conditions(verdict.outcome.problem(), programmed);
    let after_accepted =
        conditions.iter().position(|said| said.kind == kind::ACCEPTED).map_or(0, |at| at + 1);
    conditions.insert(after_accepted, resolved_refs(verdict.outcome.problem()));
    MeshRouteStatus {
        observed_generation: Some(route.generation),
        conditions: condition::merge(&route.status.conditions, &conditions, route.generation, now),
        mesh: verdict.mesh.clone().filter(|_| verdict.wanted),
        protocol: in_force.as_ref().map(protocols),
        backends: in_force.as_ref().map(backends),
        endpoints: in_force.as_ref().map(|route| endpoints(context, route)),
        programmed: verdict.wanted.then(|| Tally::new(serving, ready)),
        plain_callers: context.plain.get(&(key.namespace.as_str(), key.name.as_str())).cloned(),
    }
}

/// A route that refers to what is not there is not accepted as a whole, so that proxies go on with what they have: this says that
/// nothing else is wrong with it.
fn resolved_refs(problem: Option<&Problem>) -> Wanted {
    match problem {
        None => wanted(kind::RESOLVED_REFS, true, "ResolvedRefs", "everything that it refers to exists"),
        Some(problem) if problem.is_of_reference() => {
            wanted(kind::RESOLVED_REFS, false, problem.reason, problem.text())
        }
        Some(problem) => Wanted {
            kind: kind::RESOLVED_REFS,
            status: None,
            reason: problem.reason,
            message: "something else is wrong; see Accepted".to_owned(),
        },
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
