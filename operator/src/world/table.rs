//! One kind of objects as last seen: what is newer wins, what this process deleted stays deleted; no trimming, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<T> {
    /// `metadata.uid`; empty for objects that come from a file.
    pub uid: String,
    /// `metadata.resourceVersion` as a number; 0 for objects that come from a file. Comparable within one kind of one cluster.
    pub version: u64,
    /// What is kept of the object.
    pub value: T,
}

/// What a watch says about one kind.
#[derive(Clone, Debug)]
pub enum Step<T> {
    /// A full listing begins.
    Listing,
    /// An object as it is now.
    Put(Key, Row<T>),
    /// An object as the answer to a write of this process has it.
    Written(Key, Row<T>),
    /// An object is gone (or no longer of interest); the UID says which incarnation.
    Gone(Key, String),
    /// The listing is complete: what it did not name does not exist.
    Listed,
}

/// Objects of one kind by name.
///
/// A write's response enters at once, so that the operator never acts on a cache older than its own last write: an
/// event with a lower version than the row's is from before that write and is ignored, and so is an event about an
/// incarnation that this process has deleted. A listing is as new as what was written before it began: a lower version in it is
/// the truth of a cluster that was restored from a backup.
#[derive(Clone, Debug)]
pub struct Table<T> {
    rows: BTreeMap<Key, Row<T>>,
    listing: Option<Listing>,
    buried: BTreeMap<Key, String>,
    synced: bool,
}

/// A listing that is under way.
#[derive(Clone, Debug, Default)]
struct Listing {
    /// What it named so far.
    seen: BTreeSet<Key>,
    /// What this process wrote meanwhile.
    written: BTreeSet<Key>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), listing: None, buried: BTreeMap::new(), synced: false }
    }
}

impl<T: PartialEq> Table<T> {
    /// Takes in one step of a watch; true when the content changed.
    pub fn step(&mut self, step: Step<T>) -> bool {
        match step {
            Step::Listing => {
                self.listing = Some(Listing::default());
                false
            }
            Step::Put(key, row) => {
                if let Some(listing) = &mut self.listing {
                    listing.seen.insert(key.clone());
                    // `put` keeps what is newer.
                    if let Some(old) = self.rows.get_mut(&key).filter(|_| !listing.written.contains(&key)) {
                        old.version = old.version.min(row.version);
                    }
                }
                self.put(key, row)
            }
            Step::Written(key, row) => {
                if let Some(listing) = &mut self.listing {
                    listing.written.insert(key.clone());
                    listing.seen.insert(key.clone());
                }
                self.put(key, row)
            }
            Step::Gone(key, uid) => self.gone(&key, &uid),
            Step::Listed => self.finish_listing(),
        }
    }

    /// Takes in an object, from a watch or from the response to a write; true when the content changed.
    pub fn put(&mut self, key: Key, row: Row<T>) -> bool {
        if self.buried.get(&key) == Some(&row.uid) && !row.uid.is_empty() {
            return false;
        }
        match self.rows.get_mut(&key) {
            Some(old) if row.version < old.version => false,
            Some(old) => {
                let changed = old.value != row.value || old.uid != row.uid;
                *old = row;
                changed
            }
            None => {
                self.rows.insert(key, row);
                true
            }
        }
    }

    /// The incarnation `uid` was deleted by this process: later events about it are echoes.
    pub fn bury(&mut self, key: &Key, uid: &str) {
        if self.rows.get(key).is_some_and(|row| row.uid == uid) {
            self.rows.remove(key);
        }
        self.buried.insert(key.clone(), uid.to_owned());
    }

    fn gone(&mut self, key: &Key, uid: &str) -> bool {
        if self.buried.get(key).is_some_and(|buried| buried == uid) {
            self.buried.remove(key);
        }
        let matches = self.rows.get(key).is_some_and(|row| row.uid == uid);
        if matches {
            self.rows.remove(key);
        }
        matches
    }

    fn finish_listing(&mut self) -> bool {
        let first = !self.synced;
        self.synced = true;
        let Some(Listing { seen, .. }) = self.listing.take() else { return first };
        self.buried.retain(|key, _| seen.contains(key));
        let before = self.rows.len();
        self.rows.retain(|key, _| seen.contains(key));
        first || before != self.rows.len()
    }
}

impl<T> Table<T> {
    /// Whether a full listing has been taken in.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Row<T>> {
        self.rows.get(key)
    }

    /// All of them, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Row<T>)> {
        self.rows.iter()
    }

    /// Those of one namespace, by name.
    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Row<T>)> {
        let first = Key { namespace: namespace.to_owned(), name: String::new() };
        self.rows.range(first..).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("demo", "web")
    }

    fn row(uid: &str, version: u64, value: &'static str) -> Row<&'static str> {
        Row { uid: uid.to_owned(), version, value }
    }

    fn value(table: &Table<&'static str>) -> Option<&'static str> {
        table.get(&key()).map(|row| row.value)
    }

    #[test]
    fn an_event_from_before_our_own_write_is_ignored() {
        let mut table = Table::default();
        table.put(key(), row("a", 9, "written"));
        assert!(!table.step(Step::Put(key(), row("a", 7, "older"))));
        assert_eq!(value(&table), Some("written"));
    }

    #[test]
    fn what_was_deleted_here_does_not_come_back_by_an_echo_but_a_successor_does() {
        let mut table = Table::default();
        table.put(key(), row("a", 3, "first"));
        table.bury(&key(), "a");
        assert!(!table.step(Step::Put(key(), row("a", 4, "echo"))));
        assert_eq!(value(&table), None);
        assert!(table.step(Step::Put(key(), row("b", 6, "second"))));
        assert!(
            !table.step(Step::Gone(key(), "a".to_owned())),
            "the late deletion is of another incarnation"
        );
        assert_eq!(value(&table), Some("second"));
    }

    #[test]
    fn a_listing_drops_what_it_does_not_name() {
        let mut table = Table::default();
        table.put(key(), row("a", 3, "first"));
        table.step(Step::Listing);
        let other = Key::new("demo", "other");
        table.step(Step::Put(other.clone(), row("b", 4, "other")));
        assert_eq!(value(&table), Some("first"), "until the listing is complete the old rows stay");
        assert!(table.step(Step::Listed));
        assert_eq!(value(&table), None);
        assert!(table.synced() && table.get(&other).is_some());
    }

    #[test]
    fn a_listing_of_a_cluster_from_a_backup_is_the_truth_but_not_what_was_written_meanwhile() {
        let mut table = Table::default();
        table.put(key(), row("a", 9, "lost"));
        table.step(Step::Listing);
        assert!(table.step(Step::Put(key(), row("a", 5, "restored"))));
        table.step(Step::Listed);
        assert_eq!((value(&table), table.get(&key()).map(|row| row.version)), (Some("restored"), Some(5)));

        table.step(Step::Listing);
        table.step(Step::Written(key(), row("a", 6, "written")));
        assert!(!table.step(Step::Put(key(), row("a", 5, "restored"))));
        table.step(Step::Listed);
        assert_eq!(value(&table), Some("written"));
    }

    #[test]
    fn a_newer_version_with_the_same_content_is_no_change() {
        let mut table = Table::default();
        table.put(key(), row("a", 3, "same"));
        assert!(!table.put(key(), row("a", 5, "same")));
        assert_eq!(table.get(&key()).map(|r| r.version), Some(5));
    }
}
