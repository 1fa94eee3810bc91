//! Which part of a split ConfigMap a key is in: a key keeps its part while it fits, so that a change rewrites one ConfigMap.

use std::collections::BTreeMap;

use vicino_crds::contract::{self, CompiledBackend, CompiledRoute};
use vicino_crds::names;

use crate::world::{Body, Key, Kind, World};

type Data = BTreeMap<String, String>;

type Parts<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<usize, &'a Data>>;

/// The live parts of every split ConfigMap, by mesh, namespace of the routes or policies (empty for nodes) and number.
pub(crate) struct Live<'a> {
    world: &'a World,
    parts: Parts<'a>,
    policies: Parts<'a>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let (mut parts, mut policies) = (Parts::new(), Parts::new());
        for (key, row) in world.children.of(Kind::ConfigMap).iter() {
            let Body::Data(data) = &row.value.body else { continue };
            let label = |name: &str| row.value.labels.get(name).map(String::as_str);
            let Some(mesh) = label(names::LABEL_MESH) else { continue };
            let namespace = label(names::LABEL_ROUTES_NAMESPACE).or(label(names::LABEL_POLICIES_NAMESPACE));
            let (to, namespace, first) = match (label(names::LABEL_CONFIG), namespace) {
                (Some(names::CONFIG_ROUTES), Some(namespace)) => {
                    (&mut parts, namespace, names::routes_config_map(mesh, namespace, 0))
                }
                (Some(names::CONFIG_POLICIES), Some(namespace)) => {
                    (&mut policies, namespace, names::policies_config_map(mesh, namespace, 0))
                }
                (Some(names::CONFIG_NODES), _) => (&mut parts, "", names::nodes_config_map(mesh, 0)),
                _ => continue,
            };
            if let Some(number) = number(&key.name, &first) {
                to.entry((mesh, namespace)).or_default().insert(number, data);
            }
        }
        Self { world, parts, policies }
    }

    pub(super) fn routes(&self, mesh: &str, namespace: &str) -> BTreeMap<usize, &'a Data> {
        self.parts.get(&(mesh, namespace)).cloned().unwrap_or_default()
    }

    pub(super) fn policies(&self, mesh: &str, namespace: &str) -> BTreeMap<usize, &'a Data> {
        self.policies.get(&(mesh, namespace)).cloned().unwrap_or_default()
    }

    /// What proxies are told of a policy now.
    pub(crate) fn policy(&self, mesh: &str, namespace: &str, data_key: &str) -> Option<&'a String> {
        self.policies.get(&(mesh, namespace))?.values().find_map(|data| data.get(data_key))
    }

    pub(super) fn nodes(&self, mesh: &str) -> BTreeMap<usize, &'a Data> {
        self.routes(mesh, "")
    }

    /// What proxies are told about a Service now, as far as they may go on with it: not when it names a Service of another namespace that does not grant that any more.
    pub(crate) fn route(&self, mesh: &str, namespace: &str, data_key: &str) -> Option<&'a String> {
        let text = self.parts.get(&(mesh, namespace))?.values().find_map(|data| data.get(data_key))?;
        // The document has the word once for itself.
        if text.matches("namespace: ").nth(1).is_none() {
            return Some(text);
        }
        let route = contract::read::<CompiledRoute>(text.as_bytes()).ok()?.document;
        let mut foreign = route.backends().filter(|backend| !backend.namespace.is_empty());
        let is_granted = |backend: &CompiledBackend| {
            self.world.is_granted(namespace, &Key::new(&backend.namespace, &backend.service))
        };
        foreign.all(is_granted).then_some(text)
    }
}

/// The part that a ConfigMap is, by its name and the name of part 0.
fn number(name: &str, first: &str) -> Option<usize> {
    let rest = name.strip_prefix(first)?;
    if rest.is_empty() { Some(0) } else { rest.strip_prefix('.')?.parse().ok().filter(|number| *number > 0) }
}

/// Puts documents into parts of at most `bytes_max` bytes of keys and values (a longer document has a part to itself).
pub(super) fn assign(
    documents: Data,
    live: &BTreeMap<usize, &Data>,
    bytes_max: usize,
) -> BTreeMap<usize, Data> {
    let mut parts: BTreeMap<usize, (usize, Data)> = BTreeMap::new();
    let mut homeless = Vec::new();
    for (key, text) in documents {
        let size = key.len() + text.len();
        let home = live.iter().find(|(_, data)| data.contains_key(&key)).map(|(number, _)| *number);
        match home {
            Some(number) if fits(&parts, number, size, bytes_max) => put(&mut parts, number, (key, text)),
            _ => homeless.push((key, text)),
        }
    }
    for (key, text) in homeless {
        let size = key.len() + text.len();
        // Of one part more than there are, one does not exist yet, and that one has room.
        let number = (0..=parts.len()).find(|number| fits(&parts, *number, size, bytes_max));
        put(&mut parts, number.expect("a part that does not exist yet always has room"), (key, text));
    }
    parts.into_iter().map(|(number, (_, data))| (number, data)).collect()
}

fn fits(parts: &BTreeMap<usize, (usize, Data)>, number: usize, size: usize, bytes_max: usize) -> bool {
    parts.get(&number).is_none_or(|(used, _)| used + size <= bytes_max)
}

fn put(parts: &mut BTreeMap<usize, (usize, Data)>, number: usize, (key, text): (String, String)) {
    let (used, data) = parts.entry(number).or_default();
    *used += key.len() + text.len();
    data.insert(key, text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn borrow(parts: &BTreeMap<usize, Data>) -> BTreeMap<usize, &Data> {
        parts.iter().map(|(number, data)| (*number, data)).collect()
    }

    #[test]
    fn a_part_is_told_from_a_namespace_that_ends_in_a_number() {
        let first = names::routes_config_map("m", "shop", 0);
        assert_eq!(number(&names::routes_config_map("m", "shop", 3), &first), Some(3));
        assert_eq!(number(&names::routes_config_map("m", "shop-3", 0), &first), None);
        assert_eq!(number(&first, &first), Some(0));
    }

    proptest! {
        #[test]
        fn every_document_is_in_one_part_and_stays_there(
            documents in proptest::collection::btree_map("[a-z]{1,4}", "x{0,40}", 0..60),
            added in "[a-z]{5}",
        ) {
            let first = assign(documents.clone(), &BTreeMap::new(), 100);
            prop_assert!(first.values().all(|data| data.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= 100));
            let merged: Data = first.values().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
            prop_assert_eq!(&merged, &documents);
            prop_assert_eq!(first.values().map(BTreeMap::len).sum::<usize>(), documents.len());
            prop_assert_eq!(&assign(documents.clone(), &borrow(&first), 100), &first);

            let mut more = documents;
            more.insert(added, "x".repeat(30));
            let second = assign(more, &borrow(&first), 100);
            let changed = second.iter().filter(|(number, data)| first.get(number) != Some(data)).count();
            prop_assert_eq!(changed, 1);
        }
    }
}
