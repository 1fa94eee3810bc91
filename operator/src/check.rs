//! A linter over what was rendered: what the API server or the proxies would refuse is found before anything is written; pure.

use std::collections::{BTreeMap, BTreeSet};

use vicino_crds::contract::DOCUMENT_BYTES_MAX;
use vicino_crds::names;

use crate::render::Rendered;
use crate::world::{Body, Kind};

/// A ConfigMap above this is refused by the API server.
const CONFIG_MAP_BYTES_REFUSED: usize = 1024 * 1024;
/// Longest name of an object, a DNS subdomain.
const NAME_BYTES_MAX: usize = 253;
/// Longest label value.
const LABEL_BYTES_MAX: usize = 63;

/// Something that must not be written. It is a fault of the operator or an unlucky pair of names, never a user's field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The object, as `Kind namespace/name`.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Faults by mesh; nothing of such a mesh is written. Of two meshes that render one object, both have the fault.
pub fn check(objects: &[Rendered]) -> BTreeMap<String, Vec<Fault>> {
    let mut faults: BTreeMap<String, Vec<Fault>> = BTreeMap::new();
    let mut add = |object: &Rendered, problem: String| {
        let fault = Fault { object: object.id.to_string(), problem };
        faults.entry(object.mesh.clone()).or_default().push(fault);
    };
    for pair in objects.windows(2).filter(|pair| pair[0].id == pair[1].id) {
        for object in pair {
            add(
                object,
                "is rendered twice: rename one of the meshes or namespaces that it is named after".to_owned(),
            );
        }
    }
    let mut routed = BTreeSet::new();
    for object in objects {
        for problem in problems(object) {
            add(object, problem);
        }
        let label = |name: &str| object.labels.get(name);
        let namespace = label(names::LABEL_ROUTES_NAMESPACE).or(label(names::LABEL_POLICIES_NAMESPACE));
        if let (Body::Data(data), Some(namespace)) = (&object.body, namespace) {
            let holds = label(names::LABEL_CONFIG);
            for key in data.keys().filter(|key| !routed.insert((holds, namespace, *key))) {
                add(object, format!("has {key:?}, which another ConfigMap has too"));
            }
        }
    }
    faults
}

fn problems(object: &Rendered) -> Vec<String> {
    let mut problems = Vec::new();
    let name = &object.id.key.name;
    if !is_subdomain(name) {
        problems.push(format!("its name is not a DNS subdomain of at most {NAME_BYTES_MAX} characters"));
    }
    for (label, value) in object.labels.iter().filter(|(_, value)| !is_label_value(value)) {
        problems.push(format!("label {label} has the value {value:?}, which is not a label value"));
    }
    if object.id.kind != Kind::MeshRoute && object.owner.is_none() {
        problems.push("has no owner, so it would outlive its mesh".to_owned());
    }
    if let Body::Data(data) = &object.body {
        problems.extend(data_problems(data));
    }
    problems
}

fn data_problems(data: &BTreeMap<String, String>) -> Vec<String> {
    let mut problems = Vec::new();
    let size: usize = data.iter().map(|(key, text)| key.len() + text.len()).sum();
    if size > CONFIG_MAP_BYTES_REFUSED {
        problems.push(format!("has {size} bytes of data, at most {CONFIG_MAP_BYTES_REFUSED} are accepted"));
    }
    for (key, text) in data {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > NAME_BYTES_MAX || !key.bytes().all(allowed) {
            problems.push(format!("has {key:?}, which is not a key of a ConfigMap"));
        }
        if text.len() > DOCUMENT_BYTES_MAX {
            problems.push(format!(
                "has {} bytes in {key:?}, proxies read at most {DOCUMENT_BYTES_MAX}",
                text.len()
            ));
        }
    }
    problems
}

fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(label)
}

fn is_label_value(value: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
