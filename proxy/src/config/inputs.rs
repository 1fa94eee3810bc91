//! Everything that the proxy was told, per document the last good value; takes changes in, decides nothing about calls.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use vicino_crds::contract::Bootstrap;

use super::bundle::{Bundle, RawBundle};
use super::document::{Good, Offer, Slot};
use super::slice::{Slice, SliceKey};
use super::{Change, OwnNode};

/// Unknown fields beyond this many are not remembered, so a flood of them is reported more than once, never kept.
const UNKNOWN_FIELDS_MAX: usize = 1024;

/// Who this proxy is; documents for others are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the own node.
    pub node: Arc<str>,
    /// Name of the mesh.
    pub mesh: Arc<str>,
    /// Its UID; empty outside Kubernetes.
    pub mesh_uid: Arc<str>,
}

/// Where a document lies, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The bootstrap file.
    Bootstrap,
    /// A key of a ConfigMap, or a file.
    Key {
        /// Name of the ConfigMap or directory.
        bundle: Arc<str>,
        /// The key or file name.
        key: Arc<str>,
    },
    /// An EndpointSlice's manifest.
    Slice(SliceKey),
    /// The own MeshNode.
    MeshNode,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bootstrap => f.write_str("bootstrap"),
            Self::Key { bundle, key } => write!(f, "{bundle}/{key}"),
            Self::Slice(key) => write!(f, "endpointslice {}/{}", key.namespace, key.name),
            Self::MeshNode => f.write_str("meshnode"),
        }
    }
}

/// What somebody should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A document is not taken.
    Refused {
        /// Which.
        place: Place,
        /// Where it is wrong and what would be right.
        message: String,
        /// Whether an earlier, good one stays in force.
        kept: bool,
    },
    /// A document has a field that this version does not know.
    UnknownField {
        /// Which document.
        place: Place,
        /// Path of the field.
        field: String,
    },
}

/// Slices of one Service, copied when one of them changes, so that an unchanged one is recognised by its pointer.
pub type ServiceSlices = Arc<BTreeMap<Box<str>, Arc<Slice>>>;
/// Namespace and name of a Service.
pub type ServiceKey = (Box<str>, Box<str>);

/// See the module.
#[derive(Debug)]
pub struct Inputs {
    identity: Identity,
    never_called: Vec<IpAddr>,
    bootstrap: Slot<Bootstrap>,
    bundles: BTreeMap<Arc<str>, Bundle>,
    services: BTreeMap<ServiceKey, ServiceSlices>,
    slice_owner: HashMap<SliceKey, Box<str>>,
    refused_slices: BTreeMap<SliceKey, String>,
    mesh_node: Option<Arc<OwnNode>>,
    refused_mesh_node: Option<String>,
    complete: BTreeSet<Part>,
    unknown_seen: HashSet<(Place, String)>,
}

/// What must have been heard of once before calls can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The bootstrap.
    Bootstrap,
    /// Routes, policies and nodes.
    Bundles,
    /// EndpointSlices.
    Slices,
    /// The own MeshNode.
    MeshNode,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bootstrap, Self::Bundles, Self::Slices, Self::MeshNode];

    /// For readiness and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Bundles => "routes and nodes",
            Self::Slices => "EndpointSlices",
            Self::MeshNode => "own MeshNode",
        }
    }
}

impl Inputs {
    /// Nothing heard yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            never_called: Vec::new(),
            bootstrap: Slot::default(),
            bundles: BTreeMap::new(),
            services: BTreeMap::new(),
            slice_owner: HashMap::new(),
            refused_slices: BTreeMap::new(),
            mesh_node: None,
            refused_mesh_node: None,
            complete: BTreeSet::new(),
            unknown_seen: HashSet::new(),
        }
    }

    /// With addresses that the process itself knows to be none for pods to call: that of the API server.
    #[must_use]
    pub fn never_calling(self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { never_called: addresses.into_iter().collect(), ..self }
    }

    /// Takes a change in; says whether anything changed that a snapshot or a report is made of.
    pub fn apply(&mut self, change: Change, notices: &mut Vec<Notice>) -> bool {
        let from = notices.len();
        let complete = self.complete.len();
        let changed = match change {
            Change::Bootstrap(bytes) => self.take_bootstrap(&bytes, notices),
            Change::Bundle(raw) => self.take_bundle(raw, notices),
            Change::BundleGone(name) => self.bundles.remove(&name).is_some(),
            Change::AllBundles(all) => self.take_all_bundles(all, notices),
            Change::Slice(slice) => self.take_slice(slice),
            Change::SliceGone(key) => self.drop_slice(&key),
            Change::AllSlices(all) => self.take_all_slices(all),
            Change::SliceRefused(key, message) => {
                let kept = self.slice_owner.contains_key(&key);
                let place = Place::Slice(key.clone());
                let news = self.refused_slices.insert(key, message.clone()).as_ref() != Some(&message);
                notices.extend(news.then_some(Notice::Refused { place, message, kept }));
                news
            }
            Change::MeshNode(node) => self.take_mesh_node(node, notices),
            Change::MeshNodeRefused(message) => self.refuse_mesh_node(message, notices),
        };
        self.only_first_time(notices, from);
        // A refusal changes nothing that is in force, but it is reported.
        changed || notices.len() != from || self.complete.len() != complete
    }

    fn take_bootstrap(&mut self, bytes: &[u8], notices: &mut Vec<Notice>) -> bool {
        let mesh = self.identity.mesh.clone();
        let offer = self.bootstrap.offer(bytes, |b| {
            if *b.mesh == *mesh { Ok(()) } else { Err(format!("mesh: must be {mesh}, not {}", b.mesh)) }
        });
        if self.bootstrap.good().is_some() {
            self.complete.insert(Part::Bootstrap);
        }
        match offer {
            Offer::Same => false,
            Offer::Accepted(unknown) => {
                let place = Place::Bootstrap;
                notices.extend(
                    unknown.into_iter().map(|field| Notice::UnknownField { place: place.clone(), field }),
                );
                true
            }
            Offer::Refused(message) => {
                let kept = self.bootstrap.good().is_some();
                notices.push(Notice::Refused { place: Place::Bootstrap, message, kept });
                false
            }
        }
    }

    fn take_bundle(&mut self, raw: RawBundle, notices: &mut Vec<Notice>) -> bool {
        let RawBundle { name, kind, data } = raw;
        if self.bundles.get(&name).is_some_and(|bundle| bundle.kind != kind) {
            self.bundles.remove(&name);
        }
        let new = !self.bundles.contains_key(&name);
        let bundle = self.bundles.entry(name.clone()).or_insert_with(|| Bundle::new(kind));
        bundle.take(&name, &self.identity.mesh, &data, notices) || new
    }

    fn take_all_bundles(&mut self, all: Vec<RawBundle>, notices: &mut Vec<Notice>) -> bool {
        let names: HashSet<Arc<str>> = all.iter().map(|raw| raw.name.clone()).collect();
        let before = self.bundles.len();
        self.bundles.retain(|name, _| names.contains(name));
        let mut changed = self.bundles.len() != before;
        for raw in all {
            changed |= self.take_bundle(raw, notices);
        }
        self.complete.insert(Part::Bundles);
        changed
    }

    fn take_slice(&mut self, slice: Slice) -> bool {
        let cured = self.refused_slices.remove(&slice.key).is_some();
        let owner = self.slice_owner.get(&slice.key);
        if owner.is_some_and(|owner| *owner != slice.service) {
            self.drop_slice(&slice.key.clone());
        }
        let service = (slice.key.namespace.clone(), slice.service.clone());
        let slices = self.services.entry(service).or_default();
        if slices.get(&slice.key.name).is_some_and(|old| **old == slice) {
            return cured;
        }
        self.slice_owner.insert(slice.key.clone(), slice.service.clone());
        Arc::make_mut(slices).insert(slice.key.name.clone(), Arc::new(slice));
        true
    }

    fn drop_slice(&mut self, key: &SliceKey) -> bool {
        let cured = self.refused_slices.remove(key).is_some();
        let Some(owner) = self.slice_owner.remove(key) else { return cured };
        let service = (key.namespace.clone(), owner);
        if let Some(slices) = self.services.get_mut(&service) {
            Arc::make_mut(slices).remove(&key.name);
            if slices.is_empty() {
                self.services.remove(&service);
            }
        }
        true
    }

    fn take_all_slices(&mut self, all: Vec<Slice>) -> bool {
        let keys: HashSet<&SliceKey> = all.iter().map(|slice| &slice.key).collect();
        // A refused one is not listed, but its last good content stays.
        let known = self.slice_owner.keys().filter(|key| !self.refused_slices.contains_key(key));
        let gone: Vec<SliceKey> = known.filter(|key| !keys.contains(key)).cloned().collect();
        let mut changed = false;
        for key in &gone {
            changed |= self.drop_slice(key);
        }
        for slice in all {
            changed |= self.take_slice(slice);
        }
        self.complete.insert(Part::Slices);
        changed
    }

    fn take_mesh_node(&mut self, node: OwnNode, notices: &mut Vec<Notice>) -> bool {
        if *node.spec.mesh != *self.identity.mesh {
            let message = format!("spec.mesh: must be {}, not {}", self.identity.mesh, node.spec.mesh);
            return self.refuse_mesh_node(message, notices);
        }
        let cured = self.refused_mesh_node.take().is_some();
        if self.mesh_node.as_ref().is_some_and(|old| **old == node) {
            return cured;
        }
        self.mesh_node = Some(Arc::new(node));
        self.complete.insert(Part::MeshNode);
        true
    }

    fn refuse_mesh_node(&mut self, message: String, notices: &mut Vec<Notice>) -> bool {
        if self.refused_mesh_node.as_ref() == Some(&message) {
            return false;
        }
        let kept = self.mesh_node.is_some();
        notices.push(Notice::Refused { place: Place::MeshNode, message: message.clone(), kept });
        self.refused_mesh_node = Some(message);
        true
    }

    fn only_first_time(&mut self, notices: &mut Vec<Notice>, from: usize) {
        let mut index = 0;
        notices.retain(|notice| {
            index += 1;
            match notice {
                Notice::UnknownField { place, field } if index > from => {
                    let room = self.unknown_seen.len() < UNKNOWN_FIELDS_MAX;
                    let seen = (place.clone(), field.clone());
                    if room { self.unknown_seen.insert(seen) } else { !self.unknown_seen.contains(&seen) }
                }
                _ => true,
            }
        });
    }
}

/// What others read.
impl Inputs {
    /// Who this proxy is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// See [`Self::never_calling`].
    pub fn never_called(&self) -> &[IpAddr] {
        &self.never_called
    }

    /// The bootstrap in force.
    pub fn bootstrap(&self) -> Option<&Arc<Good<Bootstrap>>> {
        self.bootstrap.good()
    }

    /// Bundles by name.
    pub fn bundles(&self) -> &BTreeMap<Arc<str>, Bundle> {
        &self.bundles
    }

    /// Slices by Service; those of no Service under the empty name.
    pub fn services(&self) -> &BTreeMap<ServiceKey, ServiceSlices> {
        &self.services
    }

    /// The own MeshNode in force.
    pub fn mesh_node(&self) -> Option<&Arc<OwnNode>> {
        self.mesh_node.as_ref()
    }

    /// What has not been heard of yet.
    pub fn missing(&self) -> Vec<Part> {
        Part::ALL.into_iter().filter(|part| !self.complete.contains(part)).collect()
    }

    /// Every document that is refused now, and why.
    pub fn refused(&self) -> Vec<(Place, String)> {
        let mut all = Vec::new();
        all.extend(self.bootstrap.refused().map(|m| (Place::Bootstrap, m.to_owned())));
        for (bundle, content) in &self.bundles {
            let place = |key: &str| Place::Key { bundle: bundle.clone(), key: Arc::from(key) };
            all.extend(content.refused().into_iter().map(|(key, m)| (place(key), m.to_owned())));
        }
        all.extend(self.refused_slices.iter().map(|(key, m)| (Place::Slice(key.clone()), m.clone())));
        all.extend(self.refused_mesh_node.iter().map(|m| (Place::MeshNode, m.clone())));
        all
    }
}

#[cfg(test)]
mod tests;
