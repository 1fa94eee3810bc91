//! How far a compiled route or policy has come: written, and served by which ready proxies; and the conditions that say so.

use vicino_crds::condition::{Wanted, kind};

use super::{Context, Placed, reconciling, stalled, wanted};
use crate::validate::Problem;
use crate::world::{Body, Kind, ObjectId};

/// Nodes that a message names; more are counted.
const NODES_SHOWN: usize = 3;

/// How far it has come.
pub(super) struct Progress<'a> {
    pub(super) condition: Wanted,
    /// Ready proxies that serve it as it is now.
    pub(super) serving: usize,
    /// Nodes with a ready proxy that does not, by name.
    pub(super) missing: Vec<&'a str>,
}

/// Of what is `placed` for the proxies of `mesh`; where `own`, which is written as well, could not be, that is said.
pub(super) fn programmed<'a>(
    context: &'a Context<'_>,
    own: Option<&ObjectId>,
    mesh: Option<&str>,
    placed: Option<Placed<'a>>,
) -> Progress<'a> {
    let mesh = mesh.unwrap_or_default();
    let reports = context.reports.get(mesh);
    let no = |reason, message: String| Progress {
        condition: wanted(kind::PROGRAMMED, false, reason, message),
        serving: 0,
        missing: reports.map(|reports| reports.ready.iter().copied().collect()).unwrap_or_default(),
    };
    let (Some(placed), Some(reports)) = (placed, reports) else {
        return no("Pending", "not written to the proxies' configuration yet".to_owned());
    };
    if !is_live(context, &placed) {
        let failures = &context.input.world.failures;
        return match failures.get(placed.config_map).or_else(|| own.and_then(|own| failures.get(own))) {
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
    Progress { condition, serving: count, missing: progress.missing }
}

/// Whether the ConfigMap of the cluster has it as it was compiled now.
fn is_live(context: &Context<'_>, placed: &Placed<'_>) -> bool {
    let live = context.input.world.children.of(Kind::ConfigMap).get(&placed.config_map.key);
    match live.map(|row| &row.value.body) {
        Some(Body::Data(data)) => data.get(placed.data_key).is_some_and(|text| text == placed.text),
        _ => false,
    }
}

/// All conditions of an object that is compiled.
pub(super) fn conditions(problem: Option<&Problem>, programmed: Wanted) -> Vec<Wanted> {
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

/// Some of them by name, the rest counted.
pub(super) fn nodes(names: &[&str]) -> String {
    let shown = names.iter().take(NODES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NODES_SHOWN);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
