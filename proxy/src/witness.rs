//! The node's own witness to which pod is at which address, so that an address that another pod got never yields the old one's identity.
//!
//! The MeshNode says which pod has which address, and it is behind while the operator or the API server are slow or away. What cannot be
//! behind is the node's kernel: behind each address is a link of its pod (its veth), and a pod that is gone has taken its link with it. So
//! this module binds each pod, at each of its addresses, to the link behind it, hears from the kernel (rtnetlink) what becomes of links,
//! routes and neighbours, and tells the workers of pods that are not behind their addresses any more ([`Doubts`]), see [`bindings`] for
//! the rules. Their connections are cut; who calls from there is held for as long as new pods are, and is nobody then, until the MeshNode
//! has another pod there.
//!
//! Why links: the index of a socket's incoming interface would say the same at each connection, but only where no bridge is between, and
//! costs a system call at each; process and cgroup of a caller would say most, but need the node's process tree, which the proxy does not get;
//! names and folders of network namespaces are each runtime's own affair. Links are events, of which there are as many as pods come and go, and all CNIs
//! that connect pods by pairs of devices have them.
//!
//! # Where a link is found
//!
//! | network | behind an address is |
//! |---|---|
//! | routes to each pod (ptp, Calico, GKE, EKS, Cilium with endpoint routes) | the veth or netkit device that the route ends at |
//! | a bridge (bridge, flannel, k3s) | the bridge's port with the hardware address that the neighbour table has, once pod and node have spoken |
//! | others (Cilium without endpoint routes, OVN, macvlan, ipvlan, SR-IOV) | nothing: the MeshNode alone decides, `Witnessed` says so |
//!
//! # The order of things
//!
//! Each edition is looked at here before workers serve by it, so a list that comes late names no pod that has lost its link. A list that is so late
//! that its pod was gone before it came is told by time: the pod's `networkSince` and when its link was made. All links are listed at the
//! start and whenever the kernel says that it has dropped events (`ENOBUFS`). What is known is kept beside the store, for the next
//! process of the same boot.
//!
//! # Limits, stated
//!
//! - Between the kernel's event and the workers are two threads, as a rule less than a millisecond; a pod's network takes a hundred times that to be made.
//!   A process that is stopped, or starved of CPU, is late by as long as that.
//! - A pod whose network stood for less than two seconds, and that was gone before the list that named it came, cannot be told from its successor.
//! - Without `networkSince` (an operator of before this release) nothing is known of times: rule 1 takes any link, and a pod whose
//!   sandbox is made again at the very same address stays nobody until it is replaced.
//! - A clock that is set is allowed for, as far as either reading of it makes sense.
//! - It is about who calls. A call that is delivered to an address goes to whoever has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;
use vicino_engine::identify::Doubts;
use vicino_engine::snapshot::Snapshot;

use crate::config::Inputs;
use crate::config::gather::Edition;
use crate::config::inputs::Part;
use crate::lifecycle::Life;
use crate::log::chain;

pub mod bindings;
mod kernel;
mod record;

use bindings::{Bindings, Count, Moment, Span, Tenant, Tenants};
use kernel::{Drained, Event, Kernel};
pub use record::Keeper;

/// How exactly it is known when a link was made, at worst: the kernel is asked this often whether anything has happened.
const TICK: Duration = Duration::from_millis(250);
/// Between two writes of what is known.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// What did not change is written anew this often, so that what is made later is known to be younger.
const CONFIRM_EVERY: Duration = Duration::from_secs(30);
/// A pod that is not behind its address for so long is told of: the MeshNode should have said long ago that it is gone.
const LASTING: Duration = Duration::from_mins(1);
/// Between attempts after the kernel could not be asked.
const RETRY: Duration = Duration::from_secs(5);
/// Addresses that a message names; all are counted.
const SHOWN: usize = 3;

/// What the witness has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sight {
    /// Pods that are not behind their addresses.
    pub doubts: Arc<Doubts>,
    /// The version of the snapshot that was looked at last.
    pub looked_at: u64,
    /// Addresses of own pods.
    pub count: Count,
    /// How often a link has gone from behind an address that the MeshNode still had, or another one was there.
    pub lost: u64,
    /// Whether it sees.
    pub state: State,
}

/// Whether the witness sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing has been looked at yet.
    #[default]
    Unknown,
    /// It does.
    Sees,
    /// There are pods, and no link is found behind any of them.
    Blind,
    /// These addresses have not been their pods' for long, and how many more.
    Stale(Vec<IpAddr>, usize),
    /// The kernel can't be asked.
    Fails(String),
}

impl Sight {
    /// Status, reason and message of the MeshNode's condition; None while nothing is known.
    pub fn condition(&self) -> Option<(&'static str, &'static str, String)> {
        Some(match &self.state {
            State::Unknown => return None,
            State::Sees => ("True", "Seen", "Links of pods are found behind their addresses.".to_owned()),
            State::Blind => (
                "False",
                "NoLinks",
                "This node's network has no link of a pod's own behind its address, so who calls is told by spec.pods alone, which may be behind while operator or API server are away.".to_owned(),
            ),
            State::Stale(shown, more) => {
                let shown: Vec<_> = shown.iter().map(IpAddr::to_string).collect();
                let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
                let message = format!(
                    "The pods that spec.pods has at {}{more} are not there any more: callers from there have no identity until spec.pods says whose these addresses are. Is the operator there?",
                    shown.join(", ")
                );
                ("False", "AddressesStale", message)
            }
            State::Fails(why) => ("False", "Failed", format!("The node's links can't be watched, so who calls is told by spec.pods alone: {why}")),
        })
    }
}

/// Who is where, as the inputs have it: the neighbours of the snapshot that was made of them.
pub fn tenants(inputs: &Inputs, snapshot: &Snapshot) -> Tenants {
    let pods = inputs.mesh_node().map(|node| node.spec.pods.as_slice()).unwrap_or_default();
    let since = pods.iter().filter_map(|pod| Some((&*pod.uid, pod.network_since.as_ref()?.0.as_second())));
    let since: HashMap<&str, i64> = since.collect();
    let tenant = |uid: &Arc<str>| Tenant { uid: uid.clone(), since: since.get(&**uid).copied() };
    snapshot.neighbours.iter().map(|(address, pod)| (*address, tenant(&pod.uid))).collect()
}

/// Kernel and bindings, brought together turn by turn.
#[derive(Debug)]
pub struct Witness {
    kernel: Kernel,
    bindings: Bindings,
    /// When it was last known that nothing had happened that was not taken in.
    quiet: Moment,
    /// Addresses that are to be looked at.
    wanted: BTreeSet<IpAddr>,
    doubts: Arc<Doubts>,
    /// Since when, in milliseconds since the machine has started.
    doubted: BTreeMap<IpAddr, (Arc<str>, i64)>,
    /// Since when there have been pods and no link of any.
    blind: Option<i64>,
}

impl Witness {
    /// Sees from now on what happens in the calling thread's network namespace, and knows what an earlier process kept.
    pub fn begin(keeper: Option<&Keeper>) -> io::Result<Self> {
        let mut kernel = Kernel::open()?;
        let now = moment();
        let mut bindings = Bindings::default();
        let kept = keeper.map_or(Ok(None), Keeper::load).unwrap_or_else(|e| {
            tracing::warn!(error = %chain(&e), "what was kept of links is not used");
            None
        });
        // The machine has started: no link is older.
        let mut made = Span { after: Moment { wall_ms: now.wall_ms - now.boot_ms, boot_ms: 0 }, by: now };
        if let Some(kept) = kept {
            made.after = kept.saved;
            bindings.remember(kept.links, kept.bonds);
        }
        bindings.list(kernel.links()?, made);
        Ok(Self {
            kernel,
            bindings,
            quiet: now,
            wanted: BTreeSet::new(),
            doubts: Arc::default(),
            doubted: BTreeMap::new(),
            blind: None,
        })
    }

    /// Sees again after the kernel could not be asked; what was known until then holds as far as it still fits.
    fn resume(&mut self) -> io::Result<()> {
        self.kernel = Kernel::open()?;
        let made = Span { after: self.quiet, by: moment() };
        self.bindings.list(self.kernel.links()?, made);
        self.wanted.extend(self.bindings.addresses());
        Ok(())
    }

    /// Takes in what has happened and, when it is given, who is where; looks where that is needed. True: there is more to take in.
    pub fn turn(&mut self, tenants: Option<&Tenants>) -> io::Result<bool> {
        let (before, mut events) = (moment(), Vec::new());
        let drained = self.kernel.drain(&mut events)?;
        let now = moment();
        let made = Span { after: self.quiet, by: now };
        for event in events {
            self.take(event, made);
        }
        if drained == Drained::Overrun {
            tracing::info!("the kernel has dropped events of links: they are listed anew");
            self.bindings.list(self.kernel.links()?, made);
            self.wanted.extend(self.bindings.addresses());
        }
        if drained == Drained::All {
            self.quiet = before;
        }
        if let Some(tenants) = tenants {
            self.wanted.extend(self.bindings.name(tenants));
            self.kernel.retain(|address| tenants.contains_key(&address));
        }
        for address in std::mem::take(&mut self.wanted) {
            let link = self.kernel.behind(address);
            if !self.bindings.found(address, link, now) {
                // It is younger than what was taken in, which the next turn is for.
                self.wanted.insert(address);
            }
        }
        self.doubt(now);
        let count = self.bindings.count();
        let is_blind = count.unseen > 0 && count.bound + count.doubted == 0;
        self.blind = is_blind.then(|| self.blind.unwrap_or(now.boot_ms));
        Ok(drained != Drained::All)
    }

    fn take(&mut self, event: Event, made: Span) {
        match event {
            Event::Link(index, face) => self.bindings.appeared(index, face, made),
            Event::LinkGone(index) => self.bindings.went(index),
            Event::Route(address) => {
                if self.bindings.link_of(address).is_some() {
                    self.wanted.insert(address);
                }
            }
            Event::Neighbour(address, mac) => {
                let Some(link) = self.bindings.link_of(address) else { return };
                if link.is_none() || self.kernel.station(address).is_some_and(|known| *known != *mac) {
                    self.wanted.insert(address);
                }
            }
            Event::Station(mac, port) => {
                let moved = self.kernel.at_station(&mac);
                let moved = moved.filter(|address| self.bindings.link_of(*address) != Some(Some(port)));
                let moved: Vec<_> = moved.collect();
                self.wanted.extend(moved);
            }
        }
    }

    fn doubt(&mut self, now: Moment) {
        let pods = self.bindings.doubted();
        if pods == self.doubts.pods {
            return;
        }
        self.doubted.retain(|address, (uid, _)| pods.get(address) == Some(uid));
        for (address, uid) in &pods {
            self.doubted.entry(*address).or_insert_with(|| {
                tracing::debug!(%address, uid = &**uid, "pod is not behind its address any more");
                (uid.clone(), now.boot_ms)
            });
        }
        self.doubts = Arc::new(Doubts { version: self.doubts.version + 1, pods });
    }

    /// Pods that are not behind their addresses.
    pub fn doubts(&self) -> &Arc<Doubts> {
        &self.doubts
    }

    /// How many addresses stand how.
    pub fn count(&self) -> Count {
        self.bindings.count()
    }

    fn state(&self) -> State {
        let limit = moment().boot_ms - i64::try_from(LASTING.as_millis()).unwrap_or(i64::MAX);
        let stale: Vec<_> = self.doubted.iter().filter(|(_, (_, since))| *since <= limit).collect();
        if !stale.is_empty() {
            let shown: Vec<_> = stale.iter().take(SHOWN).map(|(address, _)| **address).collect();
            let more = stale.len() - shown.len();
            return State::Stale(shown, more);
        }
        if self.blind.is_some_and(|since| since <= limit) { State::Blind } else { State::Sees }
    }

    fn sight(&self, looked_at: u64) -> Sight {
        Sight {
            doubts: self.doubts.clone(),
            looked_at,
            count: self.count(),
            lost: self.bindings.lost(),
            state: self.state(),
        }
    }

    /// Keeps what is known for the next process.
    pub fn save(&self, keeper: &Keeper) -> io::Result<()> {
        let links = self.bindings.links().iter();
        let links = links.map(|(index, link)| (*index, (link.face.clone(), link.made))).collect();
        keeper.save(self.quiet, links, self.bindings.bonds())
    }
}

fn moment() -> Moment {
    let boot = clock_gettime(ClockId::Boottime);
    Moment {
        wall_ms: Timestamp::now().as_millisecond(),
        boot_ms: boot.tv_sec * 1000 + boot.tv_nsec / 1_000_000,
    }
}

/// Starts the witness on a thread of its own, where no other work keeps it waiting; it ends at `end`.
pub fn start(
    editions: watch::Receiver<Arc<Edition>>,
    keeper: Option<Keeper>,
    life: Life,
    end: CancellationToken,
) -> watch::Receiver<Arc<Sight>> {
    let (told, sight) = watch::channel(Arc::default());
    let mut watching = Watching { editions, keeper, life, told, written: None };
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        match runtime {
            Ok(runtime) => drop(runtime.block_on(end.run_until_cancelled(watching.run()))),
            Err(e) => watching.fails(&e),
        }
    };
    if let Err(e) = std::thread::Builder::new().name("witness".to_owned()).spawn(work) {
        tracing::error!(error = %chain(&e), "no thread for the witness: who calls is told by the MeshNode alone");
    }
    sight
}

struct Watching {
    editions: watch::Receiver<Arc<Edition>>,
    keeper: Option<Keeper>,
    life: Life,
    told: watch::Sender<Arc<Sight>>,
    /// When what is known was written, and what of it.
    written: Option<(Instant, u64)>,
}

impl Watching {
    async fn run(&mut self) {
        let mut witness = None;
        loop {
            let resumed = match &mut witness {
                None => Witness::begin(self.keeper.as_ref()).map(|new| witness = Some(new)),
                Some(witness) => witness.resume(),
            };
            let failed = match (resumed, &mut witness) {
                (Ok(()), Some(witness)) => self.watch(witness).await,
                (Err(e), _) => e,
                (Ok(()), None) => return,
            };
            self.fails(&failed);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Until the kernel can't be asked.
    async fn watch(&mut self, witness: &mut Witness) -> io::Error {
        let ready = match bell(witness.kernel.as_fd()) {
            Ok(ready) => ready,
            Err(e) => return e,
        };
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        self.editions.mark_changed();
        loop {
            let is_news = self.editions.has_changed().unwrap_or(false);
            let edition = is_news.then(|| self.editions.borrow_and_update().clone());
            let edition = edition.filter(|edition| !edition.missing.contains(&Part::MeshNode));
            let more = match witness.turn(edition.as_ref().map(|edition| &edition.tenants)) {
                Ok(more) => more,
                Err(e) => return e,
            };
            let looked_at = edition.map_or(self.told.borrow().looked_at, |edition| edition.snapshot.version);
            self.tell(witness.sight(looked_at));
            self.save(witness);
            if more {
                continue;
            }
            tokio::select! {
                readable = ready.readable() => if let Err(e) = readable {
                    return e;
                } else {
                    // All that there is will be taken, so the next event is news.
                    let _asks_again = ready.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                },
                Ok(()) = self.editions.changed() => self.editions.mark_changed(),
                _ = ticks.tick() => {}
            }
        }
    }

    fn tell(&self, now: Sight) {
        let is_news = *self.told.borrow().doubts != *now.doubts;
        // Workers hear first: whoever waits for the edition to be looked at may serve by it then.
        if let Some(crew) = self.life.crew().filter(|_| is_news) {
            crew.doubt(&now.doubts);
        }
        self.told.send_if_modified(|before| {
            if before.state != now.state {
                say(&now);
            }
            let is_news = **before != now;
            if is_news {
                *before = Arc::new(now);
            }
            is_news
        });
    }

    fn save(&mut self, witness: &Witness) {
        let Some(keeper) = &self.keeper else { return };
        let (now, revision) = (Instant::now(), witness.bindings.revision());
        let is_due = self.written.is_none_or(|(at, written)| {
            let pause = if written == revision { CONFIRM_EVERY } else { SAVE_EVERY };
            now - at >= pause
        });
        if !is_due {
            return;
        }
        self.written = Some((now, revision));
        if let Err(e) = witness.save(keeper) {
            tracing::warn!(error = %chain(&e), "what is known of links is not kept on disk");
        }
    }

    /// Who was doubted still is; nobody waits for one that does not see.
    fn fails(&self, error: &io::Error) {
        let before = self.told.borrow().clone();
        self.tell(Sight { looked_at: u64::MAX, state: State::Fails(chain(error)), ..(*before).clone() });
    }
}

/// Says when a socket can be read, which is all that is asked of it: tokio takes no other kind without `unsafe`.
fn bell(socket: BorrowedFd<'_>) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(socket.try_clone_to_owned()?.into())
}

fn say(now: &Sight) {
    match now.condition() {
        Some(("True", reason, message)) => tracing::info!(reason, "{message}"),
        Some((_, reason, message)) => tracing::warn!(reason, "{message}"),
        None => {}
    }
}

#[cfg(test)]
mod tests;
