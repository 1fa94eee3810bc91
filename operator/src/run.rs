//! The operator's life: connect, stand by, lead, stop; owns every task and decides nothing about meshes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apply::{Applier, Sender};
use crate::authority::{self, reports::Reports};
use crate::event::Events;
use crate::lease::{Candidate, LeaseError};
use crate::metric::Metrics;
use crate::reconcile::Reconciler;
use crate::report::StatusWriter;
use crate::serve::{self, Health};
use crate::watch;
use crate::world::{self, Settings};

/// Where health and metrics are served unless told otherwise.
const PORT: u16 = 8080;
/// Tasks have this long to end once they are told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the process is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is rendered.
    pub settings: Settings,
    /// Where health and metrics are served; none: at port 8080 of every address.
    pub listen: Option<SocketAddr>,
    /// Where certificates are issued, and the namespace of the Secret with the authority; none issues none.
    pub authority: Option<(SocketAddr, String)>,
    /// Namespace of the Lease; none leads without asking.
    pub lease_namespace: Option<String>,
    /// Name of this replica, unique among them.
    pub identity: String,
}

/// Why the operator ends other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kubeconfig or the service account is of no use.
    #[error("cannot find out how to reach the API server: {0}")]
    Config(String),
    /// The client cannot be made.
    #[error("cannot make a client of the API server")]
    Client(#[source] Box<kube::Error>),
    /// The port is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another replica leads.
    #[error("leads no longer")]
    Lease(#[source] LeaseError),
    /// Cannot happen while the tasks are not told to stop.
    #[error("the pipeline ended by itself")]
    Ended,
}

/// A client for the cluster that the environment names, whose connections are given up when they are silent for too long.
pub async fn client() -> Result<Client, RunError> {
    let mut config = kube::Config::infer().await.map_err(|error| RunError::Config(error.to_string()))?;
    config.read_timeout = Some(watch::SILENCE_MAX);
    config.connect_timeout = Some(Duration::from_secs(5));
    // Every caller has pauses of its own, which are short and told. The library would try 15 times in silence, with a
    // pause of 82 s before the last.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| RunError::Client(Box::new(error)))
}

/// `[::]` takes IPv4 callers as well; a node without IPv6 has only `0.0.0.0`. The kubelet's probes come to the pod's first
/// address, whichever family that is.
async fn listen(given: Option<SocketAddr>) -> Result<TcpListener, RunError> {
    let any = |ip: IpAddr| SocketAddr::new(ip, PORT);
    let first = given.unwrap_or_else(|| any(Ipv6Addr::UNSPECIFIED.into()));
    match TcpListener::bind(first).await {
        Ok(listener) => Ok(listener),
        Err(_) if given.is_none() => {
            let address = any(Ipv4Addr::UNSPECIFIED.into());
            TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })
        }
        Err(source) => Err(RunError::Listen { address: first, source }),
    }
}

/// Runs until `stop`, or until the lease is lost.
pub async fn run(client: Client, options: Options, stop: CancellationToken) -> Result<(), RunError> {
    let listener = listen(options.listen).await?;
    let (metrics, exposition) = Metrics::new();
    let health = Health::default();
    let (tasks, all) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(serve::serve(listener, health.clone(), Arc::new(exposition), all.clone()));
    let (told, known_authority) = channel::channel(None);
    let (reported, reports) = channel::channel(None);
    if let Some((address, namespace)) = options.authority.clone() {
        let (events, sending) =
            Events::new(client.clone(), options.identity.clone(), metrics.clone(), all.clone());
        tasks.spawn(sending);
        let links =
            authority::Links { client: client.clone(), metrics: metrics.clone(), events, told, reports };
        let clock = || Timestamp::now().into();
        tasks.spawn(authority::run(links, (address, namespace), (clock, all.clone())));
    }
    let candidate = options
        .lease_namespace
        .as_deref()
        .map(|namespace| Candidate::new(client.clone(), namespace, options.identity.clone(), Timestamp::now));
    let known = ((known_authority, reported), metrics, health);
    let result = lead(client, options, candidate, known, (&tasks, &all, &stop)).await;
    all.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "some tasks did not end in time");
    }
    if let Ok(Some(candidate)) = result {
        candidate.release().await;
        return Ok(());
    }
    result.map(drop)
}

/// How the authority is, and what it is told of what proxies report.
type Identities = (channel::Receiver<Option<world::Authority>>, channel::Sender<Option<Reports>>);

/// Waits for the lease, then runs the pipeline. Returns the lease when it is still held.
async fn lead(
    client: Client,
    options: Options,
    mut candidate: Option<Candidate>,
    ((mut authority, reported), metrics, health): (Identities, Metrics, Health),
    (tasks, all, stop): (&TaskTracker, &CancellationToken, &CancellationToken),
) -> Result<Option<Candidate>, RunError> {
    if let Some(candidate) = &mut candidate {
        tracing::info!(identity = options.identity, "standing by for the lease");
        if !candidate.acquire(stop).await {
            return Ok(None);
        }
    }
    tracing::info!(identity = options.identity, "leading");
    metrics.lead(true);
    health.lead();
    let (events, sending) = Events::new(client.clone(), options.identity, metrics.clone(), all.clone());
    tasks.spawn(sending);
    let sender = Sender::new(client.clone(), health.clone());
    // They may be known already.
    authority.mark_changed();
    let reconciler = Reconciler {
        world: watch::empty(options.settings),
        changes: watch::start(&client, &metrics, tasks, all),
        authority,
        reported,
        applier: Applier::new(sender.clone(), metrics.clone()),
        statuses: StatusWriter::new(sender, metrics.clone()),
        events,
        metrics: metrics.clone(),
        health,
        clock: Timestamp::now,
    };
    let holding = async {
        if let Some(candidate) = &mut candidate {
            return candidate.hold(stop).await;
        }
        stop.cancelled().await;
        Ok(())
    };
    // The pipeline is not spawned: when the lease is lost, it is dropped where it stands.
    let held = tokio::select! {
        held = holding => held.map_err(RunError::Lease),
        () = reconciler.run(all.clone()) => Err(RunError::Ended),
    };
    metrics.lead(false);
    held.map(|()| candidate)
}
