//! The one owner of the inputs: takes changes in, coalesced, has the snapshot built, and says what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use vicino_crds::contract::Bootstrap;
use vicino_engine::snapshot::Snapshot;

use super::build::{Built, build};
use super::document::Good;
use super::inputs::{Inputs, Notice, Part, Place};
use super::{Change, bundle};
use crate::store::Saved;

/// After the first change, more are waited for at most this long.
const COALESCE: Duration = Duration::from_millis(20);
/// A pause this long between changes ends the wait early.
const PAUSE: Duration = Duration::from_millis(3);
/// Between two writes of the store.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Changes that may wait to be taken in; sources wait when there are more.
pub const CHANGES_MAX: usize = 1024;

/// What the inputs come to at one moment.
#[derive(Debug, Default)]
pub struct Edition {
    /// What workers serve by, once nothing is missing.
    pub snapshot: Arc<Snapshot>,
    /// What has never been heard of, so that calls can't be served yet.
    pub missing: Vec<Part>,
    /// The bootstrap in force.
    pub bootstrap: Option<Arc<Good<Bootstrap>>>,
    /// Bundles in force.
    pub bundles: Vec<BundleState>,
    /// Every document that is refused.
    pub refused: Vec<(Place, String)>,
    /// Generation of the own MeshNode in force.
    pub mesh_node_generation: Option<i64>,
    /// Endpoints left out because their node is unknown.
    pub without_node: u32,
    /// Refusals since the start.
    pub refusals: u64,
    /// Unknown fields met since the start.
    pub unknown_fields: u64,
}

/// A bundle in force.
#[derive(Debug)]
pub struct BundleState {
    /// Name of the ConfigMap or directory.
    pub name: Arc<str>,
    /// Digest of the data taken in.
    pub digest: String,
    /// Keys that are refused, and why.
    pub refused: Vec<(String, String)>,
}

/// See the module.
#[derive(Debug)]
pub struct Gatherer {
    inputs: Inputs,
    built: Built,
    refusals: u64,
    unknown_fields: u64,
    unsaved: bool,
    save_not_before: Instant,
}

impl Gatherer {
    /// Starts from what the store gave.
    pub fn new(inputs: Inputs) -> Self {
        Self {
            inputs,
            built: Built::default(),
            refusals: 0,
            unknown_fields: 0,
            unsaved: false,
            save_not_before: Instant::now(),
        }
    }

    /// Works until the sources are gone: every edition to `editions`, the inputs to `store` at most once a second.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        editions: watch::Sender<Arc<Edition>>,
        store: Option<mpsc::Sender<Saved>>,
    ) {
        editions.send_replace(Arc::new(self.edition()));
        loop {
            let save_at = (self.unsaved && store.is_some()).then_some(self.save_not_before);
            let first = match save_at {
                None => changes.recv().await,
                Some(at) => match timeout_at(at, changes.recv()).await {
                    Ok(change) => change,
                    Err(_elapsed) => {
                        self.save(store.as_ref());
                        continue;
                    }
                },
            };
            let Some(first) = first else { return };
            if self.take(first, &mut changes).await {
                // What is not complete must never replace what was.
                self.unsaved = self.inputs.missing().is_empty();
                editions.send_replace(Arc::new(self.edition()));
            }
        }
    }

    async fn take(&mut self, first: Change, changes: &mut mpsc::Receiver<Change>) -> bool {
        let end = Instant::now() + COALESCE;
        let mut changed = self.apply(first);
        loop {
            let now = Instant::now();
            if now >= end {
                return changed;
            }
            match timeout_at(end.min(now + PAUSE), changes.recv()).await {
                Ok(Some(change)) => changed |= self.apply(change),
                Ok(None) | Err(_) => return changed,
            }
        }
    }

    fn apply(&mut self, change: Change) -> bool {
        let mut notices = Vec::new();
        let changed = self.inputs.apply(change, &mut notices);
        for notice in &notices {
            self.say(notice);
        }
        changed
    }

    fn say(&mut self, notice: &Notice) {
        match notice {
            Notice::Refused { place, message, kept } => {
                self.refusals += 1;
                let stays = if *kept { "the last good one stays" } else { "there is no earlier one" };
                tracing::warn!(document = %place, reason = %message, "document refused; {stays}");
            }
            Notice::UnknownField { place, field } => {
                self.unknown_fields += 1;
                tracing::warn!(document = %place, %field, "unknown field ignored; is the operator newer than this proxy?");
            }
        }
    }

    fn save(&mut self, store: Option<&mpsc::Sender<Saved>>) {
        let Some(store) = store else { return };
        // A store that is still busy gets the newest state later.
        if let Ok(permit) = store.try_reserve() {
            permit.send(Saved::of(&self.inputs));
            self.unsaved = false;
        }
        self.save_not_before = Instant::now() + SAVE_EVERY;
    }

    fn edition(&mut self) -> Edition {
        self.built = build(&self.inputs, &self.built);
        Edition {
            snapshot: self.built.snapshot.clone(),
            missing: self.inputs.missing(),
            bootstrap: self.inputs.bootstrap().cloned(),
            bundles: self.inputs.bundles().iter().map(state).collect(),
            refused: self.inputs.refused(),
            mesh_node_generation: self.inputs.mesh_node().map(|n| n.generation),
            without_node: self.built.without_node,
            refusals: self.refusals,
            unknown_fields: self.unknown_fields,
        }
    }
}

fn state((name, bundle): (&Arc<str>, &bundle::Bundle)) -> BundleState {
    let refused = bundle.refused().into_iter().map(|(key, why)| (key.to_owned(), why.to_owned()));
    BundleState { name: name.clone(), digest: bundle.digest.clone(), refused: refused.collect() }
}
