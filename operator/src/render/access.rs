//! What proxies may do: read configuration in their namespace, endpoints and neighbourhoods everywhere, and report.
//!
//! The operator can grant only what it has itself, so its own ClusterRole has to hold each of these rules. That a proxy
//! writes the status of its own node's MeshNode only is a ValidatingAdmissionPolicy's to say, since RBAC cannot.

use serde_json::{Value, json};
use vicino_crds::names;

use super::Rendered;
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind};

const API_GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn render(mesh: &AcceptedMesh) -> Vec<Rendered> {
    let name = names::mesh_object(&mesh.name);
    let (here, everywhere) = (Key::new(names::PROXY_NAMESPACE, &name), Key::cluster(&name));
    let object =
        |kind, key: &Key, fields| Rendered::new(mesh, kind, key.clone(), Body::Fields(fields)).stamped();
    vec![
        object(Kind::ClusterRole, &everywhere, json!({ "rules": everywhere_rules() })),
        object(Kind::ClusterRoleBinding, &everywhere, binding("ClusterRole", &name)),
        object(Kind::Role, &here, json!({ "rules": [rule("", "configmaps", &["list", "watch"])] })),
        object(Kind::RoleBinding, &here, binding("Role", &name)),
    ]
}

fn everywhere_rules() -> Value {
    json!([
        rule("discovery.k8s.io", "endpointslices", &["list", "watch"]),
        rule(names::GROUP, "meshnodes", &["list", "watch"]),
        rule(names::GROUP, "meshnodes/status", &["patch"]),
    ])
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
}

fn binding(role: &str, name: &str) -> Value {
    json!({
        "roleRef": { "apiGroup": API_GROUP, "kind": role, "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": names::PROXY_NAMESPACE }],
    })
}
