//! A ConfigMap or directory of documents, key by key; a bad key holds up no other key and loses nothing that was good.

use std::collections::BTreeMap;
use std::sync::Arc;

use vicino_crds::contract::{CompiledEgress, CompiledNode, CompiledPolicy, CompiledRoute, Document, digest};
use vicino_crds::names::EGRESS_KEY;

use super::document::{Offer, Slot};
use super::inputs::{Notice, Place};

/// Files and keys end with this.
const SUFFIX: &str = ".yaml";

/// What a source read, not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBundle {
    /// Name of the ConfigMap, or the directory's path below the configuration directory.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: BundleKind,
    /// Its keys, or file names, and contents. Bytes that are no UTF-8 arrive with replacement characters.
    pub data: BTreeMap<String, String>,
}

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleKind {
    /// Compiled routes of the Services of one namespace.
    Routes {
        /// That namespace.
        namespace: Arc<str>,
    },
    /// Compiled policies of one namespace.
    Policies {
        /// That namespace.
        namespace: Arc<str>,
    },
    /// What may be called outside the mesh.
    Egress,
    /// Neighbourhoods.
    Nodes,
}

/// A bundle as it is in force.
#[derive(Debug)]
pub struct Bundle {
    /// What it holds.
    pub kind: BundleKind,
    /// Digest of the data that was taken in, as the operator computes it.
    pub digest: String,
    /// Its documents.
    pub documents: Documents,
}

/// Documents by key.
#[derive(Debug)]
pub enum Documents {
    /// Of a [`BundleKind::Routes`].
    Routes(BTreeMap<Arc<str>, Slot<CompiledRoute>>),
    /// Of a [`BundleKind::Policies`].
    Policies(BTreeMap<Arc<str>, Slot<CompiledPolicy>>),
    /// Of a [`BundleKind::Egress`].
    Egress(BTreeMap<Arc<str>, Slot<CompiledEgress>>),
    /// Of a [`BundleKind::Nodes`].
    Nodes(BTreeMap<Arc<str>, Slot<CompiledNode>>),
}

impl Bundle {
    /// An empty bundle.
    pub fn new(kind: BundleKind) -> Self {
        let documents = match kind {
            BundleKind::Routes { .. } => Documents::Routes(BTreeMap::new()),
            BundleKind::Policies { .. } => Documents::Policies(BTreeMap::new()),
            BundleKind::Egress => Documents::Egress(BTreeMap::new()),
            BundleKind::Nodes => Documents::Nodes(BTreeMap::new()),
        };
        Self { kind, digest: String::new(), documents }
    }

    /// Takes in new data of the own mesh; says whether anything that is in force changed.
    pub fn take(
        &mut self,
        name: &Arc<str>,
        mesh: &str,
        data: &BTreeMap<String, String>,
        notices: &mut Vec<Notice>,
    ) -> bool {
        let now = digest(data);
        if now == self.digest {
            return false;
        }
        self.digest = now;
        match (&mut self.documents, &self.kind) {
            (Documents::Routes(slots), BundleKind::Routes { namespace }) => {
                take(slots, name, data, notices, |key, route: &CompiledRoute| {
                    belongs("service", key, &route.service)?;
                    is("namespace", namespace, &route.namespace)
                })
            }
            (Documents::Policies(slots), BundleKind::Policies { namespace }) => {
                take(slots, name, data, notices, |key, policy: &CompiledPolicy| {
                    belongs("name", key, &policy.name)?;
                    is("namespace", namespace, &policy.namespace)
                })
            }
            (Documents::Egress(slots), _) => {
                take(slots, name, data, notices, |key, egress: &CompiledEgress| {
                    if key != EGRESS_KEY {
                        return Err(format!("key must be {EGRESS_KEY}, not {key}"));
                    }
                    is("mesh", mesh, &egress.mesh)
                })
            }
            (Documents::Nodes(slots), _) => {
                take(slots, name, data, notices, |key, node: &CompiledNode| belongs("name", key, &node.name))
            }
            (Documents::Routes(_) | Documents::Policies(_), _) => {
                unreachable!("new() pairs kind and documents")
            }
        }
    }

    /// Keys that are refused, and why.
    pub fn refused(&self) -> Vec<(&str, &str)> {
        match &self.documents {
            Documents::Routes(slots) => refused(slots),
            Documents::Policies(slots) => refused(slots),
            Documents::Egress(slots) => refused(slots),
            Documents::Nodes(slots) => refused(slots),
        }
    }

    /// Texts in force, by key.
    pub fn good_texts(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        match &self.documents {
            Documents::Routes(slots) => good_texts(slots),
            Documents::Policies(slots) => good_texts(slots),
            Documents::Egress(slots) => good_texts(slots),
            Documents::Nodes(slots) => good_texts(slots),
        }
    }
}

fn take<D: Document>(
    slots: &mut BTreeMap<Arc<str>, Slot<D>>,
    name: &Arc<str>,
    data: &BTreeMap<String, String>,
    notices: &mut Vec<Notice>,
    check: impl Fn(&str, &D) -> Result<(), String>,
) -> bool {
    let before = slots.len();
    slots.retain(|key, _| data.contains_key(&**key));
    let mut changed = slots.len() != before;
    for (key, text) in data {
        if !slots.contains_key(key.as_str()) {
            slots.insert(Arc::from(key.as_str()), Slot::default());
        }
        let slot = slots.get_mut(key.as_str()).expect("inserted just above");
        let place = || Place::Key { bundle: name.clone(), key: Arc::from(key.as_str()) };
        match slot.offer(text.as_bytes(), |document| check(key, document)) {
            Offer::Same => {}
            Offer::Accepted(unknown) => {
                changed = true;
                notices
                    .extend(unknown.into_iter().map(|field| Notice::UnknownField { place: place(), field }));
            }
            Offer::Refused(message) => {
                let kept = slot.good().is_some();
                notices.push(Notice::Refused { place: place(), message, kept });
            }
        }
    }
    changed
}

fn belongs(field: &str, key: &str, value: &str) -> Result<(), String> {
    match key.strip_suffix(SUFFIX) {
        Some(expected) => is(field, expected, value),
        None => Err(format!("key {key} does not end with {SUFFIX}")),
    }
}

fn is(field: &str, expected: &str, value: &str) -> Result<(), String> {
    if value == expected {
        Ok(())
    } else {
        Err(format!("{field}: must be {expected}, where this document lies, not {value}"))
    }
}

fn refused<D: Document>(slots: &BTreeMap<Arc<str>, Slot<D>>) -> Vec<(&str, &str)> {
    slots.iter().filter_map(|(key, slot)| Some((&**key, slot.refused()?))).collect()
}

fn good_texts<D: Document>(slots: &BTreeMap<Arc<str>, Slot<D>>) -> BTreeMap<Arc<str>, Arc<str>> {
    slots.iter().filter_map(|(key, slot)| Some((key.clone(), slot.good()?.text.clone()))).collect()
}
