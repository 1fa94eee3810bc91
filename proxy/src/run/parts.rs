//! Starts everything beside the workers: sources, gatherer, store, report, probes, admin; each is a task that ends when told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vicino_crds::identity::Identity as SvidIdentity;
use vicino_engine::identify::Doubts;

use super::{HopFiles, hops};
use crate::admin::{Admin, Public};
use crate::config::freshness::Freshness;
use crate::config::gather::{CHANGES_MAX, Edition, Gatherer};
use crate::config::inputs::{Identity, Part};
use crate::config::kubernetes::{self, Seen, Source};
use crate::config::{Inputs, directory};
use crate::denials;
use crate::guard::{self, Guarded};
use crate::identity::{self, roots};
use crate::lifecycle::Life;
use crate::log::{Level, chain};
use crate::metrics::Figures;
use crate::options::{RUN_DIR, RunOptions};
use crate::report::status::Served;
use crate::report::{Reporter, ToReport};
use crate::secure::{Certificates, Hops, Manner};
use crate::store::Store;
use crate::witness::{self, Keeper, Sight};
use crate::worker::Control;
use crate::worker::chronicle::{self, NEWS_MAX};
use crate::worker::resolve::{self, WAITING_MAX};
use crate::{probe, web};

/// Between attempts to learn where the API is.
const RETRY: Duration = Duration::from_secs(2);
/// How long the look at the node's links may take before what is new is served without it; thousands of pods take tens of milliseconds.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Ends of what the parts say and are told.
#[derive(Debug)]
pub(super) struct Parts {
    /// What the inputs come to.
    pub(super) editions: watch::Receiver<Arc<Edition>>,
    /// What all workers serve, for the report.
    pub(super) served: watch::Sender<Option<Arc<Served>>>,
    /// Certificates, of the node and of others.
    pub(super) identity: identity::Watch,
    /// What hops are made with; None: nothing yet.
    pub(super) hops: watch::Receiver<Option<Arc<Hops>>>,
    /// Whether there will be some.
    pub(super) has_hops_to_come: bool,
    /// What the node's links say of its pods' addresses.
    pub(super) sight: watch::Receiver<Arc<Sight>>,
    /// What workers tell and ask.
    pub(super) control: Control,
    /// Cancelled when the drain begins: ports for people go to the successor.
    pub(super) drains: CancellationToken,
}

impl Parts {
    /// Waits until the node's links were looked at for a version of the snapshot, but not for ever.
    pub(super) async fn looked_at(&mut self, version: u64) -> Arc<Doubts> {
        let looked = timeout(LOOK_MAX, self.sight.wait_for(|sight| sight.looked_at >= version)).await.is_ok();
        if !looked {
            tracing::warn!(
                version,
                "the node's links were not looked at in time: who calls is told by the MeshNode alone"
            );
        }
        self.sight.borrow().doubts.clone()
    }
}

/// Starts them all.
pub(super) fn start(
    (options, files): (&RunOptions, Option<HopFiles>),
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
    let identity = own_identity(options);
    let store = options.state_dir.as_ref().map(|directory| Store::new(directory, &options.pod_name));
    let (inputs, since) = remembered((options, &identity), store.as_ref());
    let (mut gatherer, freshness) = (Gatherer::new(inputs), Freshness::new(since));
    let (changes, to_gather) = mpsc::channel(CHANGES_MAX);
    let (editions_sender, editions) = watch::channel(gatherer.first());
    let (control, for_workers) = for_workers(options);
    let (served, to_report) = watch::channel(None);
    let (saved, to_store) = mpsc::channel(1);
    let (guarded, guard) = watch::channel(Arc::<Guarded>::default());
    let saves = store.map(|store| {
        until_end(Box::pin(store.keep(to_store, freshness.clone())));
        saved
    });
    until_end(Box::pin(gatherer.run(to_gather, editions_sender, saves)));
    until_end(Box::pin(for_workers));
    let sight = witness::start(editions.clone(), keeper(options), life.clone(), end.clone());
    if let Some(directory) = &options.config_dir {
        until_end(Box::pin(directory::follow(directory.clone(), changes, freshness.clone())));
    } else {
        let bootstrap =
            directory::follow_bootstrap(options.bootstrap.clone(), changes.clone(), freshness.clone());
        until_end(Box::pin(bootstrap));
        let namespace = options.namespace.clone();
        let source = Source { identity, namespace, changes, freshness: freshness.clone() };
        let (seen, to_reporter) = watch::channel(Seen::default());
        let told = (editions.clone(), freshness.clone());
        tasks.spawn(guard::keep(told, to_reporter.clone(), guarded, end.clone()));
        let denials = denied(life, tasks, end);
        let to_report = ToReport { served: to_report, guard: guard.clone(), sight: sight.clone(), denials };
        until_end(Box::pin(api(source, options.pod_name.clone(), to_report, (seen, to_reporter))));
    }
    if let Some(directory) = run_dir(options) {
        until_end(Box::pin(probes(directory, life.clone())));
    }
    let drains = end.child_token();
    let certificates = match files {
        Some(files) => of_files(files, &options.node),
        None => certificates(options, editions.clone(), tasks, end),
    };
    let (made, hops) = watch::channel(None);
    let source = hops::Source {
        certificates: certificates.certificates.clone(),
        roots: certificates.roots.clone(),
        editions: editions.clone(),
        // Who brings certificates in files brings those of nodes.
        manner: Manner { is_strict: options.hop_strict, is_shared: options.hop_certificate.is_some() },
    };
    until_end(Box::pin(hops::keep(source, made)));
    let has_hops_to_come = options.hop_certificate.is_some() || authority(options).is_some();
    let figures = Figures {
        life: life.clone(),
        editions: editions.clone(),
        freshness,
        identity: certificates.clone(),
        guard,
        sight: sight.clone(),
    };
    sites(options, &figures, level, tasks, &drains);
    Parts { editions, served, identity: certificates, hops, has_hops_to_come, sight, control, drains }
}

/// What policies were against.
fn denied(
    life: &Life,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> watch::Receiver<Arc<denials::ByPolicy>> {
    let (told, denied) = watch::channel(Arc::default());
    tasks.spawn(end.clone().run_until_cancelled_owned(denials::keep(life.clone(), told)));
    denied
}

fn own_identity(options: &RunOptions) -> Identity {
    Identity {
        node: options.node.as_str().into(),
        mesh: options.mesh.as_str().into(),
        mesh_uid: options.mesh_uid.as_str().into(),
    }
}

/// What is done for workers, until they are gone.
fn for_workers(options: &RunOptions) -> (Control, impl Future<Output = ()> + use<>) {
    let (news, to_chronicle) = mpsc::channel(NEWS_MAX);
    let (questions, to_resolve) = mpsc::channel(WAITING_MAX);
    let answers = resolve::answer(to_resolve, options.dns_servers.clone());
    let work = async {
        tokio::join!(chronicle::write(to_chronicle), answers);
    };
    (Control { news, questions }, work)
}

/// The address that the kubelet says the API server has; the endpoints of its Service are known from their slices.
fn api_server(options: &RunOptions) -> Option<IpAddr> {
    let host = options.api_server.as_ref().filter(|host| !host.is_empty())?;
    let address = host.parse().ok();
    if address.is_none() {
        tracing::warn!(
            host,
            "the API server's host is no address: only its endpoints are never called for pods"
        );
    }
    address
}

/// Where the authority is, when one is named.
fn authority(options: &RunOptions) -> Option<&String> {
    options.authority.as_ref().filter(|address| !address.is_empty())
}

/// The node's certificate and the roots of the others, as they stay.
fn of_files(files: HopFiles, node: &str) -> identity::Watch {
    let found = &files.credentials.svid().identity;
    // Whether it is that node is for the others to say.
    let own = SvidIdentity::node(found.trust_domain(), node);
    let of_node = (own.unwrap_or_else(|_| found.clone()), files.credentials);
    identity::Watch::of([of_node].into(), Some(files.roots))
}

/// The certificates that the node has, and the roots; none when no authority is named.
fn certificates(
    options: &RunOptions,
    mut editions: watch::Receiver<Arc<Edition>>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> identity::Watch {
    let Some(address) = authority(options).cloned() else {
        return identity::Watch::of(Certificates::default(), None);
    };
    let (told, certificates) = watch::channel(Arc::default());
    let (roots_told, roots) = watch::channel(None);
    let (problem, roots_problem) = watch::channel(None);
    let (skew_told, skew) = watch::channel(None);
    let source = identity::Source {
        address,
        token: options.authority_token.clone(),
        roots: options.authority_roots.clone(),
    };
    let (wants, wanted) = watch::channel(BTreeSet::new());
    tasks.spawn(end.clone().run_until_cancelled_owned(async move {
        loop {
            let now = identity::wanted(&editions.borrow_and_update().snapshot);
            wants.send_if_modified(|before| {
                let is_news = *before != now;
                *before = now;
                is_news
            });
            if editions.changed().await.is_err() {
                return;
            }
        }
    }));
    let clock = || Timestamp::now().into();
    let (issuer_told, issuer) = watch::channel(None);
    let of_files = roots::Told { roots: roots_told, problem, issuer: issuer_told };
    let follow = roots::follow(options.authority_roots.clone(), of_files);
    tasks.spawn(end.clone().run_until_cancelled_owned(follow));
    tasks.spawn(identity::keep(
        source,
        (wanted, issuer),
        (told, skew_told),
        (clock, fastrand::f64),
        end.clone(),
    ));
    identity::Watch { certificates, roots, roots_problem, skew }
}

/// Where what is known of links is kept, when anything is.
fn keeper(options: &RunOptions) -> Option<Keeper> {
    options.state_dir.as_ref().map(|directory| Keeper::new(directory, &options.pod_name))
}

/// What the store gave, and since when it may be behind.
fn remembered((options, identity): (&RunOptions, &Identity), store: Option<&Store>) -> (Inputs, Instant) {
    let mut inputs = Inputs::new(identity.clone()).never_calling(api_server(options));
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
async fn api(
    source: Source,
    pod: String,
    to_report: ToReport,
    (seen, to_reporter): (watch::Sender<Seen>, watch::Receiver<Seen>),
) {
    let client = api_client(&source).await;
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
