//! The CRD manifests, as `config/crd/` holds them; pure, so that a test says when a file is stale.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

use crate::{MeshNode, MeshRoute, ServiceMesh};

/// File name under `config/crd/` and content, of every CRD.
pub fn manifests() -> Vec<(&'static str, String)> {
    [
        ("vicino.dev_servicemeshes.yaml", ServiceMesh::crd()),
        ("vicino.dev_meshroutes.yaml", MeshRoute::crd()),
        ("vicino.dev_meshnodes.yaml", MeshNode::crd()),
    ]
    .map(|(file, mut crd)| {
        default_spec(&mut crd);
        crd.metadata.labels = Some([("app.kubernetes.io/part-of".to_owned(), "vicino".to_owned())].into());
        let text = serde_saphyr::to_string(&crd).expect("a schema is plain data");
        (file, format!("# Generated from crds/src by `make generate`; edit there.\n{text}"))
    })
    .into()
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
