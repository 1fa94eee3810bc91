//! The node's guard: what becomes of TCP connections that come to its pods around the mesh, counted in `Permissive`, refused in `Strict`.
//!
//! The proxy runs on the network of its node. What it delivers to its pods, and what the kubelet's probes ask, leaves through the
//! node's OUTPUT path; whatever goes around the mesh to a pod of the node, from other nodes, from other pods of the node, by
//! kube-proxy's ClusterIP or NodePort, is forwarded. So one nftables table, `inet vicino` (or `vicino-b`), looks at the first packet (SYN) of every
//! TCP connection that is forwarded to a pod of the mesh, see [`table`]. Connections that stand are never looked at, nor is what is
//! not TCP.
//!
//! # What becomes of a connection
//!
//! | the pod, and the port | Strict mesh | Permissive mesh |
//! |---|---|---|
//! | namespace without the label `vicino.dev/mesh` of this node's mesh | passes, not counted | passes, not counted |
//! | port in the pod's annotation `vicino.dev/plain-ports` | passes, not counted | passes, not counted |
//! | port of a Service whose MeshRoute has `spec.identity.mode: Permissive` | passes, counted | passes, counted |
//! | port of a Service whose MeshRoute has `spec.identity.mode: Strict` | reset, counted | reset, counted |
//! | any other port | reset, counted | passes, counted |
//!
//! Ports are those of the pods, as EndpointSlices say them, whether an endpoint is ready or not. Where Services that share a port of
//! a pod differ, Permissive holds, and the condition names the port. A Service that is left out of the mesh
//! (`vicino.dev/skip`) opens nothing: its pods' annotation does.
//! Which pods there are and in which mode, the operator says in the MeshNode (`inbound`, `plainPorts`); what a MeshRoute says comes
//! with the route.
//!
//! # The table's life
//!
//! It belongs to the kernel, not to the process: while a proxy is replaced, or dead, what is refused stays refused and what stands stays.
//! Each proxy looks at the table every [`EVERY`] and after each change, and has the kernel, in one transaction, take over what
//! differs; a table that is not as this version builds it goes when another one, of the other name, is there, counters are carried over.
//! Two proxies of one node, during an upgrade, do the same by the same objects and do not disturb each other.
//! A proxy that has only its kept configuration, which may be older than what its predecessor had, leaves the table as it is until the API
//! is heard of, and renews its lease; without a table it makes one by what it has.
//! It must not outlive the mesh:
//!
//! - a proxy that ends and has seen its MeshNode go, as it does when the mesh is deleted or leaves the node, removes it;
//! - whatever else happens, it has a lease of [`table::LEASE`], which every living proxy renews. When that is over nothing is refused or
//!   counted any more. So a node whose proxy is away for an hour is not guarded; that the proxy is away, status says long before.
//!
//! The kernel could remove a table with its owner's socket (`NFT_TABLE_F_OWNER`), but then each replacement of a proxy would open
//! the pods, and the flag that keeps it (`NFT_TABLE_F_PERSIST`) needs Linux 6.9 and lets a successor do nothing before its predecessor is gone.
//!
//! # What it needs, and what happens without
//!
//! `CAP_NET_ADMIN` on the node's network, and Linux 5.7 or newer with `nf_tables`, `nft_reject_inet` and maps (modules of every
//! distribution). Without, connections are neither counted nor refused, and that is said: the MeshNode's condition `Guarded` is False
//! with the reason, `vicino_proxy_guarded` is 0, the log has an error; a Strict mesh is not Ready. The proxy goes on serving.
//!
//! # Limits, stated
//!
//! - A pod is guarded once its node's proxy knows it by the MeshNode: about a second after it has an address, more where the operator is slow or away.
//! - What comes from the node itself (processes and pods on its network, the kubelet) is not looked at: a node is trusted for its pods.
//! - A bridge between pods passes their packets by, unless `br_netfilter` hands them over (`net.bridge.bridge-nf-call-iptables=1`, which
//!   Kubernetes asks for anyway); where it does not, `Guarded` says `BridgeNotFiltered`. CNIs that route (ptp, Calico, most clouds')
//!   are as described.
//! - CNIs that deliver by eBPF past netfilter (Cilium with eBPF host routing) do not pass the table, and this is not noticed: use their policies.
//!   Nothing that the proxy can see tells it: counters that never move are what a node looks like that nobody calls around the mesh, what the proxy itself
//!   delivers goes by OUTPUT in any case, and programs at the pods' devices are there with CNIs that do pass netfilter, too. A probe would need a pod's network
//!   to come from.
//! - kube-proxy's mode `ipvs` sends what it balances on the pod's own node through OUTPUT; what comes from other nodes is forwarded and refused.
//! - A SYN that is sent again counts again.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::freshness::Freshness;
use crate::config::gather::Edition;
use crate::config::inputs::Part;
use crate::config::kubernetes::Seen;
use crate::log::chain;

mod bridge;
pub mod count;
pub mod plan;
pub mod socket;
pub mod table;

use count::{ByService, Counts};
use plan::Plan;
use socket::Socket;
use table::Elements;

/// Between two looks at the table.
pub const EVERY: Duration = Duration::from_secs(5);
/// Between two changes of it.
const PAUSE: Duration = Duration::from_millis(200);
/// Ports that a message names; all are counted.
const CONFLICTS_SHOWN: usize = 3;

/// How the guard is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guarded {
    /// Whether the table is as it has to be.
    pub state: State,
    /// Connections around the mesh.
    pub counts: ByService,
    /// Ports where Services ask for different things.
    pub conflicts: BTreeSet<SocketAddr>,
}

/// Whether the table is as it has to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing has been tried yet.
    #[default]
    Unknown,
    /// It is, and it refuses something or not.
    Holds {
        /// Whether anything is refused.
        strict: bool,
    },
    /// It is not.
    Fails {
        /// Bounded, CamelCase.
        reason: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl Guarded {
    /// Status, reason and message of the MeshNode's condition; None while nothing is known.
    pub fn condition(&self) -> Option<(&'static str, &'static str, String)> {
        match &self.state {
            State::Unknown => None,
            State::Fails { reason, message } => Some(("False", *reason, message.clone())),
            State::Holds { strict: true } => {
                let message = "Connections around the mesh are counted, and refused where Strict holds.";
                Some(("True", "Refusing", message.to_owned() + &self.conflict()))
            }
            State::Holds { strict: false } => {
                let message = "Connections around the mesh are counted.";
                Some(("True", "Counting", message.to_owned() + &self.conflict()))
            }
        }
    }

    fn conflict(&self) -> String {
        if self.conflicts.is_empty() {
            return String::new();
        }
        let shown: Vec<_> = self.conflicts.iter().take(CONFLICTS_SHOWN).map(SocketAddr::to_string).collect();
        let more = self.conflicts.len().saturating_sub(CONFLICTS_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(
            " Services that share {}{more} differ in spec.identity.mode of their MeshRoutes, so Permissive holds there: let them say the same.",
            shown.join(", ")
        )
    }
}

/// Why the table is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// No capability.
    #[error(
        "the proxy may not change its node's packet filter: its container needs the capability NET_ADMIN"
    )]
    NotPermitted(#[source] io::Error),
    /// No nftables.
    #[error(
        "the node's kernel does not take the rules: they need Linux 5.7 or newer with nf_tables and nft_reject_inet"
    )]
    NotSupported(#[source] io::Error),
    /// A bridge between pods.
    #[error(
        "connections between pods of this node pass by its packet filter over the bridge {0}: load the module br_netfilter and set net.bridge.bridge-nf-call-iptables=1"
    )]
    BridgeNotFiltered(String),
    /// More pods and ports than the plan may have.
    #[error("{0} pods and ports are left out: a node may have at most {max} in all", max = plan::ENTRIES_MAX)]
    TooMany(usize),
    /// Something else.
    #[error("the node's packet filter can't be read or changed")]
    Failed(#[source] io::Error),
}

impl GuardError {
    fn of(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(source),
            // A missing expression is "not found".
            io::ErrorKind::Unsupported | io::ErrorKind::NotFound => Self::NotSupported(source),
            _ if is_unknown_protocol(&source) => Self::NotSupported(source),
            _ => Self::Failed(source),
        }
    }

    /// For the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted(_) => "NotPermitted",
            Self::NotSupported(_) => "NotSupported",
            Self::BridgeNotFiltered(_) => "BridgeNotFiltered",
            Self::TooMany(_) => "TooMany",
            Self::Failed(_) => "Failed",
        }
    }
}

fn is_unknown_protocol(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let unknown = [Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::OPNOTSUPP];
    unknown.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Holds the table to what editions say until `end`; then, where the MeshNode has gone, removes it.
pub async fn keep(
    (mut editions, freshness): (watch::Receiver<Arc<Edition>>, Freshness),
    mut seen: watch::Receiver<Seen>,
    told: watch::Sender<Arc<Guarded>>,
    end: CancellationToken,
) {
    let mut socket = None;
    let mut counts = Counts::default();
    let mut node = Presence::default();
    // What was heard of a round ago is in the edition by now.
    let (mut heard, mut is_current) = (false, false);
    loop {
        node.see(&seen.borrow_and_update());
        let edition = editions.borrow_and_update().clone();
        if !edition.missing.contains(&Part::MeshNode) {
            let plan = edition.guard.clone();
            let held = hold(&mut socket, plan.clone(), is_current).await;
            tell(&told, &plan, held, &mut counts);
        }
        is_current = std::mem::replace(&mut heard, freshness.is_heard());
        let longest = if is_current { EVERY } else { PAUSE };
        let next = async {
            sleep(PAUSE).await;
            tokio::select! {
                () = sleep(longest) => {}
                Ok(()) = editions.changed() => {}
                Ok(()) = seen.changed() => {}
            }
        };
        if end.run_until_cancelled(next).await.is_none() {
            break;
        }
    }
    node.see(&seen.borrow_and_update());
    if node.is_gone() {
        let removed = spawn_blocking(|| table::remove(&mut Socket::open()?)).await;
        match removed.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => tracing::info!("the node has left the mesh: its guard is removed"),
            Err(e) => {
                tracing::warn!(error = %chain(&GuardError::of(e)), "guard not removed; it ends with its lease");
            }
        }
    }
}

/// Whether the own MeshNode was there, and is.
#[derive(Debug, Default)]
struct Presence {
    was_there: bool,
    is_there: bool,
}

impl Presence {
    fn see(&mut self, seen: &Seen) {
        self.is_there = !seen.resource_version.is_empty();
        self.was_there |= self.is_there;
    }

    /// What was never seen may only not have been read yet.
    fn is_gone(&self) -> bool {
        self.was_there && !self.is_there
    }
}

/// What the table held before, and what is wrong although it holds now.
async fn hold(
    socket: &mut Option<Socket>,
    plan: Arc<Plan>,
    is_current: bool,
) -> Result<(Elements, Option<GuardError>), GuardError> {
    let taken = socket.take();
    let work = move || -> Result<(Socket, Elements, Option<String>), io::Error> {
        let mut socket = taken.map_or_else(Socket::open, Ok)?;
        let held =
            if is_current { table::hold(&mut socket, &plan) } else { table::leave(&mut socket, &plan) }?;
        Ok((socket, held, bridge::unfiltered(&plan)))
    };
    let done = spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    let (kept, held, bridge) = done.map_err(GuardError::of)?;
    *socket = Some(kept);
    Ok((held, bridge.map(GuardError::BridgeNotFiltered)))
}

fn tell(
    told: &watch::Sender<Arc<Guarded>>,
    plan: &Plan,
    held: Result<(Elements, Option<GuardError>), GuardError>,
    counts: &mut Counts,
) {
    let flaw = match held {
        Ok((held, flaw)) => {
            counts.take(plan, held, Timestamp::now());
            flaw.or((plan.left_out > 0).then_some(GuardError::TooMany(plan.left_out)))
        }
        Err(e) => Some(e),
    };
    let state = flaw.map_or(State::Holds { strict: plan.is_strict() }, |flaw| failure(&flaw));
    let now = Guarded { state, counts: counts.by_service().clone(), conflicts: plan.conflicts.clone() };
    told.send_if_modified(|before| {
        if before.state != now.state {
            say(&now, plan.is_strict());
        }
        let is_news = **before != now;
        if is_news {
            *before = Arc::new(now);
        }
        is_news
    });
}

fn failure(error: &GuardError) -> State {
    State::Fails { reason: error.reason(), message: chain(error) }
}

fn say(now: &Guarded, is_strict: bool) {
    let Some((status, reason, message)) = now.condition() else { return };
    match (status, is_strict) {
        ("True", _) => tracing::info!(reason, "{message}"),
        (_, true) => {
            tracing::error!(reason, "Strict does not hold for connections around the mesh: {message}");
        }
        (_, false) => tracing::warn!(reason, "connections around the mesh are not counted: {message}"),
    }
}

#[cfg(test)]
mod tests;
