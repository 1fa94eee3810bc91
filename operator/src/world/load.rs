//! Objects from files into a World: any manifest of a kind that the pipeline looks at; others are said to be ignored.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vicino_crds::names;

use super::{Change, Key, Kind, Step, World, trim};

/// Why a manifest is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not of the schema of its kind.
    #[error("{kind} {key}: {problem}")]
    Malformed {
        /// Its kind.
        kind: String,
        /// Its name.
        key: Key,
        /// Where and why.
        problem: String,
    },
    /// It has no `apiVersion`, `kind` or `metadata.name`.
    #[error("not a Kubernetes object: {0}")]
    NotAnObject(String),
}

impl World {
    /// Takes in one manifest, as a file has it. Namespaced objects that name no namespace get `default`. Returns false
    /// when the pipeline does not look at its kind.
    pub fn load(&mut self, manifest: Value) -> Result<bool, LoadError> {
        let not_an_object = |problem: &str| LoadError::NotAnObject(problem.to_owned());
        let text = |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, group) = (text("/kind"), text("/apiVersion"));
        let mut key = Key { namespace: text("/metadata/namespace"), name: text("/metadata/name") };
        if kind.is_empty() || group.is_empty() || key.name.is_empty() {
            return Err(not_an_object("apiVersion, kind and metadata.name must be given"));
        }
        let ours = group.starts_with(names::GROUP);
        let malformed =
            |problem: String| LoadError::Malformed { kind: kind.clone(), key: key.clone(), problem };
        let change = match kind.as_str() {
            "ServiceMesh" if ours => dynamic(manifest).map(|o| Change::Mesh(put(&o, trim::mesh(&o)))),
            "MeshRoute" if ours => {
                dynamic(manifest).map(|o| Change::Route(Box::new(put(&o, trim::route(&o)))))
            }
            "MeshPolicy" if ours => {
                dynamic(manifest).map(|o| Change::Policy(Box::new(put(&o, trim::policy(&o)))))
            }
            "MeshNode" if ours => {
                dynamic(manifest).map(|o| Change::Neighbourhood(put(&o, trim::neighbourhood(&o))))
            }
            "Namespace" => read(manifest).map(|o: core::Namespace| {
                Change::Namespace(trim::put(&o.metadata, Some(trim::namespace(&o))))
            }),
            "Service" if group == "v1" => read(manifest)
                .map(|o: core::Service| Change::Service(trim::put(&o.metadata, Some(trim::service(&o))))),
            "EndpointSlice" => {
                read(manifest).map(|o: EndpointSlice| Change::Slice(trim::put(&o.metadata, trim::slice(&o))))
            }
            "ReferenceGrant" => {
                dynamic(manifest).map(|o| Change::Grant(trim::put(&o.metadata, trim::grant(&o))))
            }
            "Node" => {
                read(manifest).map(|o: core::Node| Change::Node(trim::put(&o.metadata, Some(trim::node(&o)))))
            }
            "Pod" => read(manifest).map(|o: core::Pod| Change::Pod(trim::put(&o.metadata, trim::pod(&o)))),
            _ => return Ok(false),
        };
        let mut change = change.map_err(malformed)?;
        if key.namespace.is_empty() {
            "default".clone_into(&mut key.namespace);
            place(&mut change, key);
        }
        self.take(change);
        Ok(true)
    }

    /// Takes in what the API server answered to a write of a generated kind; true when that changes anything.
    pub fn take_written(&mut self, kind: Kind, object: DynamicObject) -> bool {
        let change = match kind {
            Kind::MeshRoute => Change::Route(Box::new(written(&object, trim::route(&object)))),
            Kind::MeshNode => Change::Neighbourhood(written(&object, trim::neighbourhood(&object))),
            kind => {
                let (key, meta) = (trim::key(&object.metadata), object.metadata.clone());
                Change::Child(kind, Step::Written(key, trim::row(&meta, trim::child(kind, object))))
            }
        };
        self.take(change)
    }
}

fn put<T>(object: &DynamicObject, value: T) -> Step<T> {
    trim::put(&object.metadata, Some(value))
}

pub(crate) fn written<T>(object: &DynamicObject, value: T) -> Step<T> {
    Step::Written(trim::key(&object.metadata), trim::row(&object.metadata, value))
}

fn read<T: DeserializeOwned>(manifest: Value) -> Result<T, String> {
    serde_json::from_value(manifest).map_err(|error| error.to_string())
}

fn dynamic(manifest: Value) -> Result<DynamicObject, String> {
    read(manifest)
}

/// Gives a namespaced object from a file its namespace.
fn place(change: &mut Change, to: Key) {
    fn rename<T>(step: &mut Step<T>, to: Key) {
        if let Step::Put(key, _) | Step::Written(key, _) | Step::Gone(key, _) = step
            && key.namespace.is_empty()
        {
            *key = to;
        }
    }
    match change {
        Change::Route(step) => rename(&mut **step, to),
        Change::Policy(step) => rename(&mut **step, to),
        Change::Service(step) => rename(step, to),
        Change::Slice(step) => rename(step, to),
        Change::Grant(step) => rename(step, to),
        Change::Pod(step) => rename(step, to),
        Change::Mesh(_)
        | Change::Neighbourhood(_)
        | Change::Namespace(_)
        | Change::Node(_)
        | Change::Child(..)
        | Change::Authority(_) => {}
    }
}
