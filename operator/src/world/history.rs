//! Which digest of a ConfigMap had which content of a key; a bounded memory of what this process has seen, no decisions.

use std::collections::{BTreeMap, VecDeque};

use sha2::{Digest, Sha256};
use vicino_crds::contract;

/// Digests of one ConfigMap that are remembered. A proxy that serves an older one counts as not serving the route.
pub const DIGESTS_MAX: usize = 64;

/// What one ConfigMap has held. Content itself is not kept: for each key, since when it is as it is now (about 100 bytes).
#[derive(Clone, Debug, Default)]
struct Record {
    now: u64,
    digests: VecDeque<(String, u64)>,
    since: BTreeMap<String, (u64, u64)>,
}

/// What the routes ConfigMaps have held, so that an unrelated change does not make a route look unprogrammed.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: BTreeMap<String, Record>,
}

impl History {
    /// The ConfigMap `name` holds `data` now.
    pub fn observe(&mut self, name: &str, data: &BTreeMap<String, String>) {
        let digest = contract::digest(data);
        let record = self.records.entry(name.to_owned()).or_default();
        if record.digests.back().is_some_and(|(last, _)| *last == digest) {
            return;
        }
        record.now += 1;
        let now = record.now;
        record.since.retain(|key, _| data.contains_key(key));
        for (key, text) in data {
            let hash = hash(text);
            match record.since.get_mut(key) {
                Some((old, _)) if *old == hash => {}
                Some(entry) => *entry = (hash, now),
                None => {
                    record.since.insert(key.clone(), (hash, now));
                }
            }
        }
        record.digests.retain(|(old, _)| *old != digest);
        record.digests.push_back((digest, now));
        while record.digests.len() > DIGESTS_MAX {
            record.digests.pop_front();
        }
    }

    /// The ConfigMap `name` is gone.
    pub fn forget(&mut self, name: &str) {
        self.records.remove(name);
    }

    /// Whether the ConfigMap `name`, at `digest`, had for `key` the content that it has now.
    pub fn is_current(&self, name: &str, digest: &str, key: &str) -> bool {
        let Some(record) = self.records.get(name) else { return false };
        let at = record.digests.iter().find(|(known, _)| known == digest).map(|(_, at)| *at);
        let since = record.since.get(key).map(|(_, since)| *since);
        at.zip(since).is_some_and(|(at, since)| since <= at)
    }
}

fn hash(text: &str) -> u64 {
    let bytes = Sha256::digest(text.as_bytes());
    u64::from_be_bytes(*bytes.first_chunk::<8>().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_unrelated_change_leaves_a_key_current_at_the_older_digest() {
        let first = data(&[("a.yaml", "1"), ("b.yaml", "1")]);
        let second = data(&[("a.yaml", "1"), ("b.yaml", "2")]);
        let mut history = History::default();
        history.observe("routes", &first);
        history.observe("routes", &second);
        let old = contract::digest(&first);
        assert!(history.is_current("routes", &old, "a.yaml"));
        assert!(!history.is_current("routes", &old, "b.yaml"));
        assert!(history.is_current("routes", &contract::digest(&second), "b.yaml"));
        assert!(!history.is_current("routes", "unknown", "a.yaml"));
        assert!(!history.is_current("other", &old, "a.yaml"));
    }

    #[test]
    fn content_that_comes_back_is_current_again_only_from_then_on() {
        let (one, two) = (data(&[("a.yaml", "1")]), data(&[("a.yaml", "2")]));
        let mut history = History::default();
        history.observe("routes", &one);
        history.observe("routes", &two);
        history.observe("routes", &one);
        assert!(history.is_current("routes", &contract::digest(&one), "a.yaml"));
        assert!(!history.is_current("routes", &contract::digest(&two), "a.yaml"));
    }

    #[test]
    fn digests_are_bounded() {
        let mut history = History::default();
        let all: Vec<_> =
            (0..=DIGESTS_MAX).map(|i| data(&[("a.yaml", "same"), ("b.yaml", &i.to_string())])).collect();
        for data in &all {
            history.observe("routes", data);
        }
        assert!(!history.is_current("routes", &contract::digest(&all[0]), "a.yaml"));
        assert!(history.is_current("routes", &contract::digest(&all[1]), "a.yaml"));
    }
}
