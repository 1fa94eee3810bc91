//! What the ready proxies of a mesh say that they serve, arranged so that one route is a few lookups on hundreds of nodes; pure.

use std::collections::{BTreeMap, BTreeSet};

use vicino_crds::names;
use vicino_crds::node::{REJECTED_MAX, ServedConfig};

use super::Placed;
use crate::world::{Key, World};

/// Reports of the ready proxies of one mesh.
pub(super) struct Reports<'a> {
    /// Nodes with a ready proxy.
    pub(super) ready: BTreeSet<&'a str>,
    configs: BTreeMap<&'a str, Served<'a>>,
}

/// One ConfigMap, as the nodes serve it.
#[derive(Default)]
struct Served<'a> {
    whole: BTreeMap<&'a str, Vec<&'a str>>,
    rejecting: Vec<(&'a str, &'a ServedConfig)>,
}

/// How far a route has come.
pub(super) struct Progress<'a> {
    /// Nodes whose ready proxy serves it as it is now.
    pub(super) serving: usize,
    /// Ready nodes that do not yet, by name; filled only when some do not.
    pub(super) missing: Vec<&'a str>,
    /// A node that refuses it, and why.
    pub(super) rejected: Option<(&'a str, &'a str)>,
}

impl<'a> Reports<'a> {
    pub(super) fn new(world: &'a World, mesh: &str) -> Self {
        let mut proxies: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (key, row) in world.pods.in_namespace(names::PROXY_NAMESPACE) {
            if row.value.ready && row.value.proxy_of.as_deref() == Some(mesh) {
                proxies.entry(&row.value.node).or_default().push(&key.name);
            }
        }
        let mut configs: BTreeMap<&str, Served<'_>> = BTreeMap::new();
        for (node, pods) in &proxies {
            let Some(row) = world.neighbourhoods.get(&Key::cluster(node)) else { continue };
            let status = &row.value.status;
            // While two proxies live on a node, only the word of one that is ready counts.
            if !status.proxy.as_ref().is_some_and(|proxy| pods.contains(&proxy.pod.as_str())) {
                continue;
            }
            for config in &status.configs {
                let served = configs.entry(&config.name).or_default();
                if config.rejected.is_empty() {
                    served.whole.entry(&config.digest).or_default().push(node);
                } else {
                    served.rejecting.push((node, config));
                }
            }
        }
        Self { ready: proxies.into_keys().collect(), configs }
    }

    /// Nodes whose ready proxy serves anything of a ConfigMap, by name.
    pub(super) fn serving_any(&self, config_map: &str) -> Vec<&'a str> {
        let Some(served) = self.configs.get(config_map) else { return Vec::new() };
        let rejecting = served.rejecting.iter().map(|(node, _)| node);
        let nodes: BTreeSet<&str> = served.whole.values().flatten().chain(rejecting).copied().collect();
        nodes.into_iter().collect()
    }

    pub(super) fn progress(&self, world: &World, placed: &Placed<'_>) -> Progress<'a> {
        let name = &placed.config_map.key.name;
        let current = |digest: &str| world.history.is_current(name, digest, placed.data_key);
        let mut serving: Vec<&str> = Vec::new();
        let mut rejected = None;
        if let Some(served) = self.configs.get(name.as_str()) {
            for (digest, nodes) in &served.whole {
                if current(digest) {
                    serving.extend(nodes.iter().copied());
                }
            }
            for (node, config) in &served.rejecting {
                match config.rejected.iter().find(|rejected| rejected.key == placed.data_key) {
                    Some(culprit) => rejected = rejected.or(Some((*node, culprit.message.as_str()))),
                    // A full list does not say which other keys were refused.
                    None if config.rejected.len() < REJECTED_MAX && current(&config.digest) => {
                        serving.push(node);
                    }
                    None => {}
                }
            }
        }
        let mut missing = Vec::new();
        if serving.len() < self.ready.len() {
            let serving: BTreeSet<&str> = serving.iter().copied().collect();
            missing.extend(self.ready.difference(&serving).copied());
        }
        Progress { serving: serving.len(), missing, rejected }
    }
}
