//! The ConfigMap with the proxies' bootstrap, mounted as a file.

use vicino_crds::contract::{self, Bootstrap, CompiledIdentity};
use vicino_crds::mesh::IdentityMode;
use vicino_crds::names;

use super::Rendered;
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind};

pub(super) fn render(mesh: &AcceptedMesh) -> Rendered {
    let proxy = &mesh.spec.proxy;
    // The schema keeps both at 0 or above.
    let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
    let identity = CompiledIdentity {
        trust_domain: mesh.spec.trust_domain().to_owned(),
        strict: mesh.spec.identity.mode == IdentityMode::Strict,
    };
    let default_action = mesh.spec.policy.default_action;
    let bootstrap = Bootstrap {
        version: Bootstrap::version_of(Some(&identity), default_action),
        mesh: mesh.name.clone(),
        cluster_domain: mesh.spec.cluster_domain.clone(),
        workers: unsigned(proxy.workers),
        log_level: proxy.log_level.as_str().to_owned(),
        drain_seconds: unsigned(proxy.drain_seconds),
        identity: Some(identity),
        default_action,
    };
    let data = [(names::BOOTSTRAP_KEY.to_owned(), contract::write(&bootstrap))].into();
    let digest = contract::digest(&data);
    let key = Key::new(names::PROXY_NAMESPACE, &names::mesh_object(&mesh.name));
    Rendered::new(mesh, Kind::ConfigMap, key, Body::Data(data))
        .label(names::LABEL_CONFIG, names::CONFIG_BOOTSTRAP)
        .annotation(names::ANNOTATION_DIGEST, digest)
}
