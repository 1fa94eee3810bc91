//! The one owner of the inputs: takes changes in, coalesced, has the snapshot built, and says what came of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use vicino_crds::contract::Bootstrap;
use vicino_engine::snapshot::Snapshot;

use super::build::{Built, build, routes};
use super::document::Good;
use super::inputs::{Inputs, Notice, Part, Place};
use super::{Change, bundle};
use crate::guard::plan::{LocalPorts, Plan, plan};
use crate::store::Saved;
use crate::witness::bindings::Tenants;
use crate::witness::tenants;

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
    /// What becomes of connections around the mesh. The same object while it says the same.
    pub guard: Arc<Plan>,
    /// Which pod is at which address, as the own MeshNode has it.
    pub tenants: Tenants,
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
    local_ports: LocalPorts,
    guard: Arc<Plan>,
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
            local_ports: LocalPorts::default(),
            guard: Arc::default(),
            refusals: 0,
            unknown_fields: 0,
            unsaved: false,
            save_not_before: Instant::now(),
        }
    }

    /// What the inputs come to now.
    pub fn first(&mut self) -> Arc<Edition> {
        Arc::new(self.edition())
    }

    /// Works until the sources are gone: every further edition to `editions`, the inputs to `store` at most once a second.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        editions: watch::Sender<Arc<Edition>>,
        store: Option<mpsc::Sender<Saved>>,
    ) {
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
        let guard = plan(&self.inputs, routes(&self.inputs), &mut self.local_ports);
        if *self.guard != guard {
            self.guard = Arc::new(guard);
        }
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
            guard: self.guard.clone(),
            tenants: tenants(&self.inputs, &self.built.snapshot),
        }
    }
}

fn state((name, bundle): (&Arc<str>, &bundle::Bundle)) -> BundleState {
    let refused = bundle.refused().into_iter().map(|(key, why)| (key.to_owned(), why.to_owned()));
    BundleState { name: name.clone(), digest: bundle.digest.clone(), refused: refused.collect() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{mpsc, watch};
    use tokio::time::{Instant, sleep};

    use super::{COALESCE, Edition, Gatherer, PAUSE};
    use crate::config::inputs::Identity;
    use crate::config::slice::{Slice, SliceKey};
    use crate::config::{Change, Inputs};

    fn news(name: &str) -> Change {
        let key = SliceKey::new("demo", name);
        Change::Slice(Slice { key, service: "web".into(), ports: vec![], endpoints: vec![] })
    }

    /// A gatherer at work, its changes and its editions.
    fn gatherer() -> (mpsc::Sender<Change>, watch::Receiver<std::sync::Arc<Edition>>, impl Future<Output = ()>)
    {
        let (changes, to_gather) = mpsc::channel(8);
        let inputs =
            Inputs::new(Identity { node: "n1".into(), mesh: "default".into(), mesh_uid: "u1".into() });
        let mut gatherer = Gatherer::new(inputs);
        let (sender, editions) = watch::channel(gatherer.first());
        (changes, editions, gatherer.run(to_gather, sender, None))
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_are_one_edition_and_a_lone_one_waits_little() {
        let (changes, mut editions, work) = gatherer();
        let test = async move {
            let before = editions.borrow_and_update().snapshot.version;
            let start = Instant::now();
            for name in ["a", "b", "c"] {
                changes.send(news(name)).await.unwrap();
            }
            editions.changed().await.unwrap();
            assert!(start.elapsed() <= PAUSE + Duration::from_millis(1), "{:?}", start.elapsed());
            assert_eq!(editions.borrow_and_update().snapshot.version, before + 1);
        };
        tokio::join!(work, test);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_without_end_do_not_put_editions_off() {
        let (changes, mut editions, work) = gatherer();
        let flood = async move {
            for number in 0..200 {
                changes.send(news(&format!("s{number}"))).await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
        };
        let test = async move {
            let mut last = Instant::now();
            while editions.changed().await.is_ok() {
                let now = Instant::now();
                assert!(now - last <= COALESCE + PAUSE, "{:?} between editions", now - last);
                last = now;
            }
        };
        tokio::join!(work, flood, test);
    }
}
