//! The CRD manifests, as `config/crd/` holds them; pure, so that a test says when a file is stale.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

use crate::{MeshNode, MeshPolicy, MeshRoute, ServiceMesh};

/// File name under `config/crd/` and content, of every CRD.
pub fn manifests() -> Vec<(&'static str, String)> {
    [
        ("vicino.dev_servicemeshes.yaml", ServiceMesh::crd()),
        ("vicino.dev_meshroutes.yaml", MeshRoute::crd()),
        ("vicino.dev_meshpolicies.yaml", MeshPolicy::crd()),
        ("vicino.dev_meshnodes.yaml", MeshNode::crd()),
    ]
    .map(|(file, mut crd)| {
        default_spec(&mut crd);
        if crd.spec.names.kind != "MeshNode" {
            default_status(&mut crd);
        }
        crd.metadata.labels = Some([("app.kubernetes.io/part-of".to_owned(), "vicino".to_owned())].into());
        let text = serde_saphyr::to_string(&crd).expect("a schema is plain data");
        (file, format!("# Generated from crds/src by `make generate`; edit there.\n{text}"))
    })
    .into()
}

/// Until the operator has looked at an object, its status is about no generation that there is. Without a word of that, kstatus
/// takes an object without conditions for one that is as it should be, and a tool that waits goes on at once, with the operator
/// away too. A MeshNode is ours, nobody waits for it.
fn default_status(crd: &mut CustomResourceDefinition) {
    for root in crd.spec.versions.iter_mut().filter_map(|v| v.schema.as_mut()?.open_api_v3_schema.as_mut()) {
        if let Some(status) = root.properties.as_mut().and_then(|p| p.get_mut("status")) {
            status.default = Some(JSON(serde_json::json!({ "observedGeneration": -1 })));
        }
    }
}

/// `spec` may be left out: every field of it has a default, so the schema says so.
fn default_spec(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        let Some(spec) = root.properties.as_mut().and_then(|p| p.get_mut("spec")) else { continue };
        if spec.required.is_none() {
            spec.default = Some(JSON(serde_json::json!({})));
            root.required = None;
        }
    }
}
