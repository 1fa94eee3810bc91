//! The ConfigMaps with the compiled routes of a namespace, one data key for each Service.

use std::collections::BTreeMap;

use vicino_crds::contract::{self, CompiledRoute};
use vicino_crds::names;

use super::{Rendered, parts};
use crate::validate::{AcceptedMesh, Outcome, Validated};
use crate::world::{Body, Key, Kind};

pub(super) fn render(validated: &Validated, mesh: &AcceptedMesh, live: &parts::Live<'_>) -> Vec<Rendered> {
    let mut by_namespace: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for (key, verdict) in &validated.routes {
        if verdict.mesh.as_deref() != Some(mesh.name.as_str()) {
            continue;
        }
        let data_key = names::data_key(&key.name);
        let text = match &verdict.outcome {
            Outcome::Compiled(route) => Some(contract::write(&**route)),
            Outcome::Kept(_) => live.route(&mesh.name, &key.namespace, &data_key).cloned(),
            Outcome::Nothing(_) => None,
        };
        if let Some(text) = text {
            by_namespace.entry(&key.namespace).or_default().insert(data_key, text);
        }
    }
    for (key, (_, alias)) in validated.aliases.iter().filter(|(_, (of, _))| *of == mesh.name) {
        let text = contract::write(&CompiledRoute::of_alias(&key.namespace, &key.name, alias.clone()));
        by_namespace.entry(&key.namespace).or_default().insert(names::data_key(&key.name), text);
    }
    let mut objects = Vec::new();
    for (namespace, documents) in by_namespace {
        let assigned =
            parts::assign(documents, &live.routes(&mesh.name, namespace), names::CONFIG_MAP_BYTES_MAX);
        objects.extend(assigned.into_iter().map(|(part, data)| config_map(mesh, namespace, part, data)));
    }
    objects
}

fn config_map(mesh: &AcceptedMesh, namespace: &str, part: usize, data: BTreeMap<String, String>) -> Rendered {
    let key = Key::new(names::PROXY_NAMESPACE, &names::routes_config_map(&mesh.name, namespace, part));
    let digest = contract::digest(&data);
    Rendered::new(mesh, Kind::ConfigMap, key, Body::Data(data))
        .label(names::LABEL_CONFIG, names::CONFIG_ROUTES)
        .label(names::LABEL_ROUTES_NAMESPACE, namespace)
        .annotation(names::ANNOTATION_DIGEST, digest)
}
