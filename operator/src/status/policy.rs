//! The status of one MeshPolicy: is it valid, what is it about, and which proxies do not enforce it yet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vicino_crds::MeshPolicyStatus;
use vicino_crds::condition::{self, Wanted, kind};
use vicino_crds::contract::{self, CompiledPolicy};
use vicino_crds::mesh::Tally;
use vicino_crds::policy::PENDING_NODES_MAX;

use super::programmed::{Progress, conditions, nodes, programmed};
use super::{Context, wanted};
use crate::validate::{PolicyVerdict, Problem};
use crate::world::{Key, Policy};

pub(super) fn status(context: &Context<'_>, key: &Key, policy: &Policy, now: &Time) -> MeshPolicyStatus {
    let verdict = context.input.validated.policies.get(key).expect("every MeshPolicy has a verdict");
    let progress = progress(context, key, verdict);
    let ready = verdict.mesh.as_deref().and_then(|mesh| context.reports.get(mesh));
    let problem = verdict.outcome.problem().or(verdict.missing.as_ref());
    let mut conditions = conditions(problem, progress.condition);
    if let Some(accepted) = conditions.iter_mut().find(|one| one.kind == kind::ACCEPTED)
        && let Some(more) = elsewhere(&verdict.unjudged)
    {
        accepted.message += &more;
    }
    let mut pending: Vec<String> = progress.missing.into_iter().map(str::to_owned).collect();
    pending.truncate(PENDING_NODES_MAX);
    MeshPolicyStatus {
        observed_generation: Some(policy.generation),
        conditions: condition::merge(&policy.status.conditions, &conditions, policy.generation, now),
        mesh: verdict.mesh.clone(),
        target: Some(verdict.target.clone()),
        targets: i32::try_from(verdict.targets).unwrap_or(i32::MAX),
        programmed: ready.map(|reports| Tally::new(progress.serving, reports.ready.len())),
        pending_nodes: pending,
        denials: context.denials.get(&(key.namespace.as_str(), key.name.as_str())).cloned(),
    }
}

fn progress<'a>(context: &'a Context<'_>, key: &Key, verdict: &PolicyVerdict) -> Progress<'a> {
    let data_key = vicino_crds::names::data_key(&key.name);
    if let Some(problem) = verdict.outcome.problem() {
        let live =
            verdict.mesh.as_deref().and_then(|mesh| context.live.policy(mesh, &key.namespace, &data_key));
        let live = live.and_then(|text| contract::read::<CompiledPolicy>(text.as_bytes()).ok());
        let condition = not_accepted(problem, live.map(|read| read.document.generation));
        return Progress { condition, serving: 0, missing: Vec::new() };
    }
    let placed = context.placed_policies.get(&(key.namespace.as_str(), data_key.as_str())).copied();
    let mut progress = programmed(context, None, verdict.mesh.as_deref(), placed);
    if progress.condition.reason == "Programming"
        && let Some(condition) = too_old(context, &progress.missing)
    {
        progress.condition = condition;
    }
    progress
}

/// That calls go past the policy, where the routes of its Services send them.
fn elsewhere(services: &[Key]) -> Option<String> {
    let names: Vec<_> = services.iter().map(ToString::to_string).collect();
    let names = nodes(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let message = format!(
        "; what routes send to other Services is judged by the policies of these, and there is none for: {names}"
    );
    (!services.is_empty()).then_some(message)
}

fn not_accepted(problem: &Problem, in_force: Option<i64>) -> Wanted {
    let message = match in_force {
        Some(generation) => format!("not accepted; proxies go on with generation {generation}"),
        None => {
            "not accepted, and there is no earlier version to go on with: no call is judged by it".to_owned()
        }
    };
    wanted(kind::PROGRAMMED, false, problem.reason, message)
}

/// A proxy of a release without policies looks for none, so that it does not refuse one either.
fn too_old(context: &Context<'_>, missing: &[&str]) -> Option<Wanted> {
    let proxy = |node| {
        let row = context.input.world.neighbourhoods.get(&Key::cluster(node))?;
        let proxy = row.value.status.proxy.as_ref()?;
        (proxy.contract < CompiledPolicy::VERSION).then_some((node, proxy))
    };
    let (node, proxy) = missing.iter().copied().find_map(proxy)?;
    let message = format!(
        "the proxy of node {node:?}, of version {:?}, does not know policies and enforces none: it reads contract version {}, policies are of version {}; upgrade it",
        proxy.version,
        proxy.contract,
        CompiledPolicy::VERSION
    );
    Some(wanted(kind::PROGRAMMED, false, "ProxyTooOld", message))
}
