//! Manifests from files, and what a cluster would hold once they were applied; asks no cluster.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use vicino_crds::{MeshPolicySpec, MeshRouteSpec, ServiceMeshSpec, names};

use crate::world::{LoadError, Settings, World};

/// Kind of the documents with expectations of `policy test`, which lie beside manifests and are no object of a cluster.
pub const POLICY_TEST: &str = "PolicyTest";
/// What kustomize takes for its own file, in which `apiVersion` and `kind` may be left out.
const KUSTOMIZATIONS: [&str; 2] = ["kustomization.yaml", "kustomization.yml"];
/// A longer file is refused.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Folders below a folder are followed this deep.
const DEPTH_MAX: usize = 16;

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has more than [`FILE_BYTES_MAX`] bytes.
    #[error("{0} has more than {FILE_BYTES_MAX} bytes")]
    TooLong(String),
    /// No file was found where some were expected.
    #[error("{0} has no .yaml, .yml or .json file")]
    Empty(String),
    /// Neither YAML nor JSON.
    #[error("{path} is not valid: {problem}")]
    Syntax {
        /// Where.
        path: String,
        /// Line, column and what is wrong there.
        problem: String,
    },
    /// An object does not fit its kind.
    #[error("{path}")]
    Object {
        /// Where.
        path: String,
        /// Which, and what is wrong.
        #[source]
        source: LoadError,
    },
}

/// An object and where it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// A path, or `cluster`.
    pub source: String,
    /// The object.
    pub object: Value,
}

/// All objects of files, of folders with all below them, and of standard input (`-`), in order.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            manifests.extend(parse("standard input", &text("standard input", std::io::stdin())?)?);
            continue;
        }
        let mut files = Vec::new();
        collect(path, DEPTH_MAX, &mut files)?;
        if files.is_empty() {
            return Err(ManifestError::Empty(path.display().to_string()));
        }
        for file in files {
            let name = file.display().to_string();
            let open = std::fs::File::open(&file);
            let open = open.map_err(|source| ManifestError::Read { path: name.clone(), source })?;
            manifests.extend(parse(&name, &text(&name, open)?)?);
        }
    }
    Ok(manifests)
}

/// The file itself, or the manifests in a folder by name.
fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ManifestError> {
    let failed = |source| ManifestError::Read { path: path.display().to_string(), source };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, files)?;
            }
        } else if is_manifest(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    let is_for_kustomize = path.file_name().is_some_and(|name| KUSTOMIZATIONS.iter().any(|own| name == *own));
    let end = path.extension();
    !is_for_kustomize && end.is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known))
}

fn text(name: &str, from: impl Read) -> Result<String, ManifestError> {
    let mut text = String::new();
    let read = from.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let bytes = read.map_err(|source| ManifestError::Read { path: name.to_owned(), source })?;
    if bytes as u64 > FILE_BYTES_MAX { Err(ManifestError::TooLong(name.to_owned())) } else { Ok(text) }
}

/// The objects of one text. Empty documents and kustomize's own files are left out, lists are taken apart.
fn parse(source: &str, text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let wrong = |problem: String| ManifestError::Syntax { path: source.to_owned(), problem };
    let json = || serde_json::from_str(text).map(|document| vec![document]);
    let yaml = || serde_saphyr::from_multiple(text);
    let documents: Vec<Value> = if Path::new(source).extension().is_some_and(|end| end == "json") {
        json().map_err(|error| wrong(error.to_string()))?
    } else if let (true, Ok(documents)) = (text.trim_start().starts_with('{'), json()) {
        // What programs write is JSON, and long: the YAML parser would take many times as long.
        documents
    } else {
        yaml().map_err(|error| wrong(error.to_string().trim_start_matches("error: ").to_owned()))?
    };
    let mut objects = Vec::new();
    for document in documents {
        flatten(document, &mut objects);
    }
    let manifest = |object| Manifest { source: source.to_owned(), object };
    Ok(objects.into_iter().map(manifest).collect())
}

fn flatten(document: Value, objects: &mut Vec<Value>) {
    let string = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
    if document.is_null() || string("apiVersion").starts_with("kustomize.config.k8s.io/") {
        return;
    }
    match document.get("items") {
        Some(Value::Array(items)) if string("kind").ends_with("List") => {
            for item in items.clone() {
                flatten(item, objects);
            }
        }
        _ => objects.push(document),
    }
}

/// Gives namespaced objects of the kinds that matter here a namespace where they name none.
pub fn place(manifests: &mut [Manifest], namespace: &str) {
    for object in manifests.iter_mut().map(|manifest| &mut manifest.object) {
        let namespaced = matches!(
            object["kind"].as_str(),
            Some("Service" | "EndpointSlice" | "Pod" | "MeshRoute" | "MeshPolicy" | "ReferenceGrant")
        );
        if namespaced && object["metadata"].is_object() && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(namespace);
        }
    }
}

/// What a cluster that holds `live` would hold once `files` were applied: our kinds have the file's spec, in a new
/// generation where it differs, and belong to whoever applies the file; others have the file's fields over their own.
pub fn overlay(live: Vec<Manifest>, files: Vec<Manifest>) -> Vec<Manifest> {
    let mut merged: Vec<Manifest> = Vec::with_capacity(live.len() + files.len());
    let mut places: BTreeMap<[String; 4], usize> = BTreeMap::new();
    for manifest in live {
        places.insert(identity(&manifest.object), merged.len());
        merged.push(manifest);
    }
    for file in files {
        if let Some(place) = places.get(&identity(&file.object)) {
            let old = std::mem::take(&mut merged[*place].object);
            merged[*place] = Manifest { source: file.source, object: apply(old, file.object) };
        } else {
            places.insert(identity(&file.object), merged.len());
            merged.push(Manifest { source: file.source, object: created(file.object) });
        }
    }
    merged
}

/// API group, kind, namespace and name.
fn identity(object: &Value) -> [String; 4] {
    let string = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = string("/apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
    [group, string("/kind"), string("/metadata/namespace"), string("/metadata/name")]
}

fn is_ours(object: &Value) -> bool {
    identity(object)[0] == names::GROUP
}

/// A new object has generation 1.
pub(super) fn created(mut object: Value) -> Value {
    if is_ours(&object) && object["metadata"].is_object() && object["metadata"]["generation"].is_null() {
        object["metadata"]["generation"] = json!(1);
    }
    object
}

fn apply(mut old: Value, mut file: Value) -> Value {
    if !is_ours(&old) {
        merge(&mut old, file);
        return old;
    }
    let empty = || json!({});
    let spec = file.get_mut("spec").map_or_else(empty, Value::take);
    let before = old.get("spec").cloned().unwrap_or_else(empty);
    if !means_the_same(old["kind"].as_str().unwrap_or_default(), &before, &spec) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        old["metadata"]["generation"] = json!(generation + 1);
    }
    for part in ["labels", "annotations"] {
        if let Some(wanted) = file.pointer_mut(&format!("/metadata/{part}")).map(Value::take) {
            merge(&mut old["metadata"][part], wanted);
        }
    }
    old["spec"] = spec;
    let by_somebody = json!({ "manager": "vicino-diff", "operation": "Apply", "fieldsV1": { "f:spec": {} } });
    match &mut old["metadata"]["managedFields"] {
        Value::Array(managers) => managers.push(by_somebody),
        absent => *absent = json!([by_somebody]),
    }
    old
}

/// Whether the API server would take two specs of ours for one: a file leaves out what the schema has defaults for.
fn means_the_same(kind: &str, a: &Value, b: &Value) -> bool {
    fn typed<'a, T: Deserialize<'a> + PartialEq>(a: &'a Value, b: &'a Value) -> bool {
        matches!((T::deserialize(a), T::deserialize(b)), (Ok(a), Ok(b)) if a == b)
    }
    a == b
        || match kind {
            "ServiceMesh" => typed::<ServiceMeshSpec>(a, b),
            "MeshRoute" => typed::<MeshRouteSpec>(a, b),
            "MeshPolicy" => typed::<MeshPolicySpec>(a, b),
            _ => false,
        }
}

/// Objects field by field, everything else whole; `null` removes.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                if value.is_null() {
                    into.remove(&name);
                } else {
                    merge(into.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

/// A World of `manifests`, and how many of them the pipeline does not look at, by kind.
pub fn world(
    settings: Settings,
    manifests: Vec<Manifest>,
) -> Result<(World, BTreeMap<String, usize>), ManifestError> {
    let mut world = World { settings, ..World::default() };
    let mut ignored = BTreeMap::new();
    for Manifest { source: path, object } in manifests {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if kind == POLICY_TEST {
            continue;
        }
        if !world.load(object).map_err(|source| ManifestError::Object { path, source })? {
            *ignored.entry(kind).or_insert(0) += 1;
        }
    }
    Ok((world, ignored))
}

#[cfg(test)]
mod tests;
