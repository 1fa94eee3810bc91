//! The last good inputs on local disk, so that a proxy that restarts while the API is away serves at once; decides nothing.
//!
//! One file, `inputs`: a line with format version and SHA-256, then JSON. It is written beside and renamed, so a reader
//! sees the old one or the new one; a file that is cut off or altered is ignored.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use vicino_crds::MeshNodeSpec;

use crate::config::bundle::BundleKind;
use crate::config::freshness::Freshness;
use crate::config::inputs::{Identity, Inputs};
use crate::config::{Change, OwnNode, RawBundle, Slice};
use crate::log::chain;

/// Changes when an older proxy could not read what a newer one wrote.
const FORMAT: &str = "vicino-inputs 1";
/// How exact the age of a kept configuration is.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);
/// A longer file is not read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why the store did not work. It is never needed: without it a proxy waits for its source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be read.
    #[error("can't read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can't be written.
    #[error("can't write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not one of ours, or damaged, or from another version, or another proxy's.
    #[error("{path} is not usable: {problem}")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What is kept of the inputs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    node: Arc<str>,
    mesh: Arc<str>,
    mesh_uid: Arc<str>,
    bootstrap: Option<Arc<str>>,
    bundles: Vec<SavedBundle>,
    /// Bundles of policies: apart, so that a proxy that knows none reads the rest.
    #[serde(default)]
    policies: Vec<SavedBundle>,
    /// Bundles of egress, apart for the same reason.
    #[serde(default)]
    egress: Vec<SavedBundle>,
    slices: Vec<Arc<Slice>>,
    mesh_node: Option<SavedNode>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedBundle {
    name: Arc<str>,
    /// Absent for egress and nodes.
    namespace: Option<Arc<str>>,
    data: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedNode {
    generation: i64,
    spec: MeshNodeSpec,
}

impl Saved {
    /// What is in force now; cheap, the texts are shared.
    pub fn of(inputs: &Inputs) -> Self {
        let Identity { node, mesh, mesh_uid } = inputs.identity().clone();
        let bundle = |(name, bundle): (&Arc<str>, &crate::config::bundle::Bundle)| SavedBundle {
            name: name.clone(),
            namespace: match &bundle.kind {
                BundleKind::Routes { namespace } | BundleKind::Policies { namespace } => {
                    Some(namespace.clone())
                }
                BundleKind::Egress | BundleKind::Nodes => None,
            },
            data: bundle.good_texts(),
        };
        let of = |is_wanted: fn(&BundleKind) -> bool| {
            let all = inputs.bundles().iter().filter(|(_, bundle)| is_wanted(&bundle.kind));
            all.map(bundle).collect()
        };
        Self {
            node,
            mesh,
            mesh_uid,
            bootstrap: inputs.bootstrap().map(|good| good.text.clone()),
            bundles: of(|kind| matches!(kind, BundleKind::Routes { .. } | BundleKind::Nodes)),
            policies: of(|kind| matches!(kind, BundleKind::Policies { .. })),
            egress: of(|kind| matches!(kind, BundleKind::Egress)),
            slices: inputs.services().values().flat_map(|slices| slices.values().cloned()).collect(),
            mesh_node: inputs
                .mesh_node()
                .map(|node| SavedNode { generation: node.generation, spec: node.spec.clone() }),
        }
    }

    /// The changes that make fresh inputs what they were. Documents are read anew, so what this version does not accept
    /// is refused here as well.
    pub fn into_changes(self) -> Vec<Change> {
        let bundle = |of: fn(Option<Arc<str>>) -> BundleKind, bundle: SavedBundle| RawBundle {
            name: bundle.name,
            kind: of(bundle.namespace),
            data: bundle.data.iter().map(|(key, text)| (key.to_string(), text.to_string())).collect(),
        };
        let slices = self.slices.into_iter().map(Arc::unwrap_or_clone).collect();
        let routes = |namespace: Option<Arc<str>>| {
            namespace.map_or(BundleKind::Nodes, |namespace| BundleKind::Routes { namespace })
        };
        let policies =
            |namespace: Option<Arc<str>>| BundleKind::Policies { namespace: namespace.unwrap_or_default() };
        let bundles = self.bundles.into_iter().map(|one| bundle(routes, one));
        let bundles = bundles.chain(self.policies.into_iter().map(|one| bundle(policies, one)));
        let bundles = bundles.chain(self.egress.into_iter().map(|one| bundle(|_| BundleKind::Egress, one)));
        let mut changes = vec![Change::AllBundles(bundles.collect()), Change::AllSlices(slices)];
        changes.extend(self.bootstrap.map(|text| Change::Bootstrap(text.as_bytes().to_vec())));
        changes.extend(
            self.mesh_node
                .map(|node| Change::MeshNode(OwnNode { generation: node.generation, spec: node.spec })),
        );
        changes
    }
}

/// The file in the state directory.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    beside: PathBuf,
}

impl Store {
    /// In `directory`, which is made when it is not there. `writer` tells proxies of one node apart: two of them overlap
    /// during an upgrade, so each writes a file of its own before the rename.
    pub fn new(directory: &Path, writer: &str) -> Self {
        Self { path: directory.join("inputs"), beside: directory.join(format!("inputs.{writer}.new")) }
    }

    /// What was saved, and when it was last known to be in step; `None` when nothing was.
    pub fn load(&self, identity: &Identity) -> Result<Option<(Saved, SystemTime)>, StoreError> {
        let failed = |source| StoreError::Read { path: self.path.clone(), source };
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let at = file.metadata().and_then(|metadata| metadata.modified()).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let unusable = |problem: String| StoreError::Unusable { path: self.path.clone(), problem };
        let saved = decode(&bytes).map_err(unusable)?;
        if saved.node != identity.node || saved.mesh != identity.mesh {
            return Err(unusable(format!("it is of node {} in mesh {}", saved.node, saved.mesh)));
        }
        if saved.mesh_uid != identity.mesh_uid {
            return Err(unusable(format!("it is of an earlier mesh {}, UID {}", saved.mesh, saved.mesh_uid)));
        }
        Ok(Some((saved, at)))
    }

    /// Replaces what was saved.
    pub fn save(&self, saved: &Saved) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write { path: self.path.clone(), source };
        let directory = self.path.parent().expect("joined to a directory in new()");
        std::fs::create_dir_all(directory).map_err(failed)?;
        let write = || {
            let mut file = std::fs::File::create(&self.beside)?;
            file.write_all(&encode(saved))?;
            file.sync_all()?;
            std::fs::rename(&self.beside, &self.path)
        };
        write().map_err(failed)
    }

    /// Says that what was saved is still in step now: the file's time.
    pub fn confirm(&self, now: SystemTime) -> Result<(), StoreError> {
        let failed = |source| StoreError::Write { path: self.path.clone(), source };
        match std::fs::File::options().append(true).open(&self.path) {
            Ok(file) => file.set_modified(now).map_err(failed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Saves what comes, and confirms it now and then while `freshness` says so, until the sender is gone. A failure is
    /// logged; the next one is tried all the same.
    pub async fn keep(self, mut saved: mpsc::Receiver<Saved>, freshness: Freshness) {
        loop {
            let next = match timeout(CONFIRM_EVERY, saved.recv()).await {
                Ok(Some(next)) => Some(next),
                Ok(None) => return,
                Err(_elapsed) if freshness.age(Instant::now()).is_zero() => None,
                Err(_elapsed) => continue,
            };
            let store = self.clone();
            let work = move || match next {
                Some(next) => store.save(&next),
                None => store.confirm(Timestamp::now().into()),
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    tracing::warn!(error = %chain(&e), "snapshot not kept on disk");
                }
                Err(e) => tracing::error!(error = %e, "writing the store did not end well"),
            }
        }
    }
}

fn encode(saved: &Saved) -> Vec<u8> {
    let body = serde_json::to_vec(saved).expect("plain data with string keys");
    let mut file = format!("{FORMAT} {}\n", hex(&body)).into_bytes();
    file.extend_from_slice(&body);
    file
}

fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let end = bytes.iter().take(FORMAT.len() + 80).position(|b| *b == b'\n').ok_or("it has no first line")?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|e| e.to_string())?;
    let sum = head.strip_prefix(FORMAT).ok_or_else(|| format!("its first line is not `{FORMAT} …`"))?;
    if sum.trim() != hex(body) {
        return Err("its checksum does not fit: it is cut off or damaged".to_owned());
    }
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

fn hex(body: &[u8]) -> String {
    Sha256::digest(body).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests;
