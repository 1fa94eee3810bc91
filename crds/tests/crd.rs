//! The manifests in `config/crd/` are the ones that the types generate, and they keep to what the API server wants.

use std::path::Path;

const CRD_BYTES_MAX: usize = 256 * 1024;

#[test]
fn manifests_are_fresh() {
    for (file, text) in vicino_crds::generate::manifests() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/crd").join(file);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "config/crd/{file} is stale: run `make generate`");
        assert!(text.len() < CRD_BYTES_MAX, "{file} has {} bytes", text.len());
    }
}

/// Every property of ours has a description: `kubectl explain` must read well.
#[test]
fn every_field_is_described() {
    use kube::CustomResourceExt;
    for crd in [
        vicino_crds::ServiceMesh::crd(),
        vicino_crds::MeshRoute::crd(),
        vicino_crds::MeshPolicy::crd(),
        vicino_crds::MeshNode::crd(),
    ] {
        let value = serde_json::to_value(&crd).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            described(&schema[part], part);
        }
    }
}

fn described(schema: &serde_json::Value, path: &str) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(property["description"].is_string(), "{path} has no description");
        for word in ["unsigned", "float", "uint32", "uint16", "double"] {
            assert_ne!(property["format"], word, "{path}: the API conventions want int32 or int64");
        }
        described(property, &path);
        described(&property["items"], &path);
    }
}
