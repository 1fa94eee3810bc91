//! What `check` says of the nodes' witnesses: where who calls is told by the list of pods alone, or that list is behind; pure.

use kube::ResourceExt;
use vicino_crds::{MeshNode, names};

use super::super::Finding;
use super::super::facts::Facts;

/// One line for each node that has something to complain of.
pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    facts.nodes.iter().flatten().filter_map(complaint).collect()
}

fn complaint(node: &MeshNode) -> Option<Finding> {
    let conditions = &node.status.as_ref()?.conditions;
    let witnessed = conditions.iter().find(|condition| condition.type_ == names::CONDITION_WITNESSED)?;
    if witnessed.status == "True" {
        return None;
    }
    let detail =
        format!("who calls is not told by the node's links: {}: {}", witnessed.reason, witnessed.message);
    let todo = format!("kubectl describe meshnode {}", node.name_any());
    Some(Finding::ok("identity", node.name_any(), "").warning(detail, todo))
}
