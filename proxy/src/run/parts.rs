//! Starts everything beside the workers: sources, gatherer, store, report, probes, admin; each is a task that ends when told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{Admin, Public};
use crate::config::freshness::Freshness;
use crate::config::gather::{CHANGES_MAX, Edition, Gatherer};
use crate::config::inputs::{Identity, Part};
use crate::config::kubernetes::{self, Seen, Source};
use crate::config::{Inputs, directory};
use crate::lifecycle::Life;
use crate::log::{Level, chain};
use crate::metrics::Figures;
use crate::options::{RUN_DIR, RunOptions};
use crate::report::Reporter;
use crate::report::status::Served;
use crate::store::Store;
use crate::worker::chronicle::{self, NEWS_MAX, News};
use crate::{probe, web};

/// Between attempts to learn where the API is.
const RETRY: Duration = Duration::from_secs(2);

/// Ends of what the parts say and are told.
#[derive(Debug)]
pub(super) struct Parts {
    /// What the inputs come to.
    pub(super) editions: watch::Receiver<Arc<Edition>>,
    /// What all workers serve, for the report.
    pub(super) served: watch::Sender<Option<Arc<Served>>>,
    /// What workers tell.
    pub(super) news: mpsc::Sender<News>,
    /// Cancelled when the drain begins: ports for people go to the successor.
    pub(super) drains: CancellationToken,
}

/// Starts them all.
pub(super) fn start(
    options: &RunOptions,
    life: &Life,
    level: Option<&Level>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> Parts {
    let until_end = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let end = end.clone();
        tasks.spawn(async move {
            let _cut = end.run_until_cancelled(task).await;
        });
    };
    let identity = Identity {
        node: options.node.as_str().into(),
        mesh: options.mesh.as_str().into(),
        mesh_uid: options.mesh_uid.as_str().into(),
    };
    let store = options.state_dir.as_ref().map(|directory| Store::new(directory, &options.pod_name));
    let (inputs, since) = remembered(&identity, store.as_ref());
    let freshness = Freshness::new(since);
    let (changes, to_gather) = mpsc::channel(CHANGES_MAX);
    let mut gatherer = Gatherer::new(inputs);
    let (editions_sender, editions) = watch::channel(gatherer.first());
    let (news, to_chronicle) = mpsc::channel(NEWS_MAX);
    let (served, to_report) = watch::channel(None);
    let (saved, to_store) = mpsc::channel(1);
    let saves = store.map(|store| {
        until_end(Box::pin(store.keep(to_store, freshness.clone())));
        saved
    });
    until_end(Box::pin(gatherer.run(to_gather, editions_sender, saves)));
    until_end(Box::pin(chronicle::write(to_chronicle)));
    if let Some(directory) = &options.config_dir {
        until_end(Box::pin(directory::follow(directory.clone(), changes, freshness.clone())));
    } else {
        let bootstrap =
            directory::follow_bootstrap(options.bootstrap.clone(), changes.clone(), freshness.clone());
        until_end(Box::pin(bootstrap));
        let source =
            Source { identity, namespace: options.namespace.clone(), changes, freshness: freshness.clone() };
        until_end(Box::pin(api(source, options.pod_name.clone(), to_report)));
    }
    if let Some(directory) = run_dir(options) {
        until_end(Box::pin(probes(directory, life.clone())));
    }
    let drains = end.child_token();
    let figures = Figures { life: life.clone(), editions: editions.clone(), freshness };
    sites(options, &figures, level, tasks, &drains);
    Parts { editions, served, news, drains }
}

/// What the store gave, and since when it may be behind.
fn remembered(identity: &Identity, store: Option<&Store>) -> (Inputs, Instant) {
    let mut inputs = Inputs::new(identity.clone());
    let now = Instant::now();
    let (saved, at) = match store.map_or(Ok(None), |store| store.load(identity)) {
        Ok(Some(kept)) => kept,
        Ok(None) => return (inputs, now),
        Err(e) => {
            tracing::warn!(error = %chain(&e), "kept configuration not used");
            return (inputs, now);
        }
    };
    let age = SystemTime::from(Timestamp::now()).duration_since(at).unwrap_or_default();
    for change in saved.into_changes() {
        inputs.apply(change, &mut Vec::new());
    }
    tracing::info!(
        age_seconds = age.as_secs(),
        "serving by the kept configuration until the source is heard of"
    );
    (inputs, now.checked_sub(age).unwrap_or(now))
}

/// Everything that needs the API. Nothing here is waited for by anything that serves.
async fn api(source: Source, pod: String, to_report: watch::Receiver<Option<Arc<Served>>>) {
    let client = api_client(&source).await;
    let (seen, to_reporter) = watch::channel(Seen::default());
    let reporter = Reporter::new(client.clone(), &source.identity.node, &pod, to_reporter);
    tokio::join!(
        kubernetes::follow_config_maps(client.clone(), source.clone()),
        kubernetes::follow_slices(client.clone(), source.clone()),
        kubernetes::follow_mesh_node(client, source, seen),
        reporter.run(to_report),
    );
}

async fn api_client(source: &Source) -> Client {
    loop {
        match kubernetes::client().await {
            Ok(client) => return client,
            Err(e) => {
                for part in [Part::Bundles, Part::Slices, Part::MeshNode] {
                    source.freshness.failed(part, Instant::now());
                }
                tracing::warn!(error = %chain(&e), "no way to the API known; tried again");
                sleep(RETRY).await;
            }
        }
    }
}

/// In a pod the socket is needed; outside, two proxies on one machine would fight for it.
fn run_dir(options: &RunOptions) -> Option<PathBuf> {
    let default = || options.config_dir.is_none().then(|| PathBuf::from(RUN_DIR));
    options.run_dir.clone().or_else(default)
}

async fn probes(directory: PathBuf, life: Life) {
    loop {
        match probe::listen(&directory) {
            Ok(listener) => probe::answer(listener, life.clone()).await,
            Err(e) => {
                tracing::error!(directory = %directory.display(), error = %e, "probes can't be answered; tried again");
                sleep(RETRY).await;
            }
        }
    }
}

fn sites(
    options: &RunOptions,
    figures: &Figures,
    level: Option<&Level>,
    tasks: &TaskTracker,
    drains: &CancellationToken,
) {
    let everywhere = options.listen_ip.unwrap_or_else(everywhere);
    if options.metrics_port != 0 {
        let site = Arc::new(Public { figures: figures.clone() });
        let address = SocketAddr::new(everywhere, options.metrics_port);
        tasks.spawn(web::serve(address, site, drains.clone()));
    }
    if options.admin_port != 0 {
        let site = Arc::new(Admin { figures: figures.clone(), level: level.cloned() });
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), options.admin_port);
        tasks.spawn(web::serve(address, site, drains.clone()));
    }
}

/// `[::]` takes IPv4 as well, but a node without IPv6 has only `0.0.0.0`.
fn everywhere() -> IpAddr {
    let six = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
