//! The proxies' ServiceAccount.

use serde_json::json;
use vicino_crds::names;

use super::Rendered;
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind};

pub(super) fn render(mesh: &AcceptedMesh) -> Rendered {
    let key = Key::new(names::PROXY_NAMESPACE, &names::mesh_object(&mesh.name));
    Rendered::new(mesh, Kind::ServiceAccount, key, Body::Fields(json!({}))).stamped()
}
