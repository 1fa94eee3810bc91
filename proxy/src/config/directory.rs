//! The configuration directory as a source: files → changes, on start and whenever one is written; understands no document.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vicino_crds::MeshNode;
use vicino_crds::contract::DOCUMENT_BYTES_MAX;

use super::bundle::{BundleKind, RawBundle};
use super::freshness::Freshness;
use super::inotify::{Touched, Watched};
use super::inputs::Part;
use super::{Change, OwnNode, Slice, SliceKey};
use crate::log::chain;

/// A manifest longer than this is refused, in bytes.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Between two attempts to watch a directory that is not there.
const RETRY: Duration = Duration::from_secs(1);

/// Why a source can't be followed now.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It can't be watched.
    #[error("can't watch {path}")]
    Watch {
        /// Which.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
    /// It can't be read.
    #[error("can't read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A part of the directory that is read as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Bootstrap,
    Routes(Arc<str>),
    Policies(Arc<str>),
    Egress,
    Nodes,
    Slices,
    MeshNode,
}

/// Follows a directory laid out as the contract says, until nobody listens.
pub async fn follow(root: PathBuf, changes: mpsc::Sender<Change>, freshness: Freshness) {
    let mut reader = Reader { root, slices: BTreeMap::new() };
    loop {
        if let Err(e) = reader.follow(&changes, &freshness).await {
            for part in Part::ALL {
                freshness.failed(part, Instant::now());
            }
            tracing::warn!(
                error = %chain(&e),
                "configuration directory is away; what was read stays"
            );
        }
        if changes.is_closed() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Follows one file, the mounted bootstrap, until nobody listens.
pub async fn follow_bootstrap(path: PathBuf, changes: mpsc::Sender<Change>, freshness: Freshness) {
    let directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    loop {
        match Watched::new(&directory, false) {
            Ok(mut watched) => loop {
                match read_file(&path, DOCUMENT_BYTES_MAX) {
                    Ok(bytes) => {
                        freshness.heard(Part::Bootstrap);
                        if changes.send(Change::Bootstrap(bytes)).await.is_err() {
                            return;
                        }
                    }
                    Err(e) => tracing::warn!(error = %chain(&e), "bootstrap can't be read"),
                }
                tokio::select! {
                    _ = watched.touched() => {}
                    () = changes.closed() => return,
                }
            },
            Err(source) => {
                let e = DirectoryError::Watch { path: directory.clone(), source };
                tracing::warn!(error = %chain(&e), "bootstrap is away");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[derive(Debug)]
struct Reader {
    root: PathBuf,
    /// Which slice a file held when it was last good.
    slices: BTreeMap<PathBuf, SliceKey>,
}

impl Reader {
    async fn follow(
        &mut self,
        changes: &mpsc::Sender<Change>,
        freshness: &Freshness,
    ) -> Result<(), DirectoryError> {
        let path = self.root.clone();
        let mut watched = Watched::new(&path, true)
            .map_err(|source| DirectoryError::Watch { path: path.clone(), source })?;
        let mut touched = Touched::Anything;
        loop {
            let news = match touched {
                Touched::Anything => self.everything()?,
                Touched::Paths(paths) => self.units(&paths)?,
            };
            for part in Part::ALL {
                freshness.heard(part);
            }
            for change in news {
                if changes.send(change).await.is_err() {
                    return Ok(());
                }
            }
            touched = tokio::select! {
                touched = watched.touched() => touched,
                () = changes.closed() => return Ok(()),
            };
        }
    }

    fn everything(&mut self) -> Result<Vec<Change>, DirectoryError> {
        // A root that is away must not read like a root that is empty.
        std::fs::read_dir(&self.root)
            .map_err(|source| DirectoryError::Read { path: self.root.clone(), source })?;
        let mut all = self.bootstrap()?;
        let mut bundles = Vec::new();
        for namespace in names(&self.root.join("routes"), Kind::Directory)? {
            bundles.extend(self.bundle(&Unit::Routes(Arc::from(&*namespace)))?);
        }
        for namespace in names(&self.root.join("policies"), Kind::Directory)? {
            bundles.extend(self.bundle(&Unit::Policies(Arc::from(&*namespace)))?);
        }
        bundles.extend(self.bundle(&Unit::Egress)?);
        bundles.extend(self.bundle(&Unit::Nodes)?);
        all.push(Change::AllBundles(bundles));
        all.extend(self.endpoint_slices()?);
        all.extend(self.mesh_node()?);
        Ok(all)
    }

    fn units(&mut self, paths: &BTreeSet<PathBuf>) -> Result<Vec<Change>, DirectoryError> {
        let units: Option<BTreeSet<Unit>> =
            paths.iter().filter_map(|p| p.strip_prefix(&self.root).ok()).map(unit).collect();
        let Some(units) = units else { return self.everything() };
        let mut all = Vec::new();
        for unit in units {
            match &unit {
                Unit::Bootstrap => all.extend(self.bootstrap()?),
                Unit::Slices => all.extend(self.endpoint_slices()?),
                Unit::MeshNode => all.extend(self.mesh_node()?),
                Unit::Routes(_) | Unit::Policies(_) | Unit::Egress | Unit::Nodes => {
                    all.push(match self.bundle(&unit)? {
                        Some(bundle) => Change::Bundle(bundle),
                        None => Change::BundleGone(bundle_name(&unit)),
                    });
                }
            }
        }
        Ok(all)
    }

    fn bootstrap(&self) -> Result<Vec<Change>, DirectoryError> {
        let bytes = optional(read_file(&self.root.join("bootstrap.yaml"), DOCUMENT_BYTES_MAX))?;
        Ok(bytes.into_iter().map(Change::Bootstrap).collect())
    }

    /// `None` when there is no such directory.
    fn bundle(&self, unit: &Unit) -> Result<Option<RawBundle>, DirectoryError> {
        let name = bundle_name(unit);
        let kind = match unit {
            Unit::Routes(namespace) => BundleKind::Routes { namespace: namespace.clone() },
            Unit::Policies(namespace) => BundleKind::Policies { namespace: namespace.clone() },
            Unit::Egress => BundleKind::Egress,
            _ => BundleKind::Nodes,
        };
        let directory = self.root.join(&*name);
        if !directory.is_dir() {
            return Ok(None);
        }
        let mut data = BTreeMap::new();
        for file in names(&directory, Kind::Yaml)? {
            if let Some(bytes) = optional(read_file(&directory.join(&file), DOCUMENT_BYTES_MAX))? {
                data.insert(file, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(Some(RawBundle { name, kind, data }))
    }

    fn endpoint_slices(&mut self) -> Result<Vec<Change>, DirectoryError> {
        let directory = self.root.join("endpointslices");
        let files = names(&directory, Kind::Yaml)?;
        let mut changes = Vec::new();
        let mut good = Vec::new();
        let mut now = BTreeMap::new();
        for path in files.iter().map(|file| directory.join(file)) {
            let Some(bytes) = optional(read_file(&path, MANIFEST_BYTES_MAX))? else { continue };
            match manifest::<EndpointSlice>(&bytes) {
                Ok(slice) => {
                    let slice = Slice::trim(&slice);
                    now.insert(path, slice.key.clone());
                    good.push(slice);
                }
                Err(message) => {
                    let file = path.file_name().unwrap_or_default().to_string_lossy();
                    let known = self.slices.get(&path).cloned();
                    let key = known.unwrap_or_else(|| SliceKey::new("endpointslices", &file));
                    now.insert(path, key.clone());
                    changes.push(Change::SliceRefused(key, message));
                }
            }
        }
        let held: BTreeSet<&SliceKey> = now.values().collect();
        let gone = self.slices.values().filter(|key| !held.contains(key)).cloned();
        changes.extend(gone.map(Change::SliceGone));
        changes.push(Change::AllSlices(good));
        self.slices = now;
        Ok(changes)
    }

    fn mesh_node(&self) -> Result<Vec<Change>, DirectoryError> {
        let Some(bytes) = optional(read_file(&self.root.join("meshnode.yaml"), MANIFEST_BYTES_MAX))? else {
            return Ok(Vec::new());
        };
        Ok(vec![match manifest::<MeshNode>(&bytes) {
            Ok(node) => Change::MeshNode(OwnNode {
                generation: node.metadata.generation.unwrap_or(0),
                spec: node.spec,
            }),
            Err(message) => Change::MeshNodeRefused(message),
        }])
    }
}

fn manifest<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(format!("manifest has more than {MANIFEST_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

fn bundle_name(unit: &Unit) -> Arc<str> {
    match unit {
        Unit::Routes(namespace) => Arc::from(format!("routes/{namespace}")),
        Unit::Policies(namespace) => Arc::from(format!("policies/{namespace}")),
        Unit::Egress => Arc::from("egress"),
        _ => Arc::from("nodes"),
    }
}

/// What a path below the root belongs to; `None`: can't say, look at everything.
fn unit(path: &Path) -> Option<Unit> {
    let mut parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    match (parts.next()?, parts.next()) {
        ("bootstrap.yaml", None) => Some(Unit::Bootstrap),
        ("meshnode.yaml", None) => Some(Unit::MeshNode),
        ("egress", _) => Some(Unit::Egress),
        ("nodes", _) => Some(Unit::Nodes),
        ("endpointslices", _) => Some(Unit::Slices),
        ("routes", Some(namespace)) => Some(Unit::Routes(Arc::from(namespace))),
        ("policies", Some(namespace)) => Some(Unit::Policies(Arc::from(namespace))),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Yaml,
}

/// Names in a directory, sorted; hidden ones are left out, a directory that is not there is empty.
fn names(directory: &Path, kind: Kind) -> Result<Vec<String>, DirectoryError> {
    let failed = |source| DirectoryError::Read { path: directory.to_path_buf(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let fits = match kind {
            Kind::Directory => entry.path().is_dir(),
            Kind::Yaml => Path::new(&name).extension().is_some_and(|e| e == "yaml"),
        };
        if fits && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// At most one byte more than `max`, so that the reader of the document sees that it is too long.
pub(crate) fn read_file(path: &Path, max: usize) -> Result<Vec<u8>, DirectoryError> {
    let failed = |source| DirectoryError::Read { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn optional<T>(result: Result<T, DirectoryError>) -> Result<Option<T>, DirectoryError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(DirectoryError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
