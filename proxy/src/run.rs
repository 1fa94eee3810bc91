//! The order of a process's life: sources, first snapshot, listeners, service, drain, end; each part does its own work elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::gather::Edition;
use crate::identity::Known;
use crate::lifecycle::{Life, Phase};
use crate::log::{Level, chain};
use crate::options::RunOptions;
use crate::report::status::{Served, State};
use crate::secure::{Credentials, Hops, SecureError};
use crate::worker::Crew;

mod hops;
mod parts;
mod plan;

use parts::Parts;

/// Between attempts to open the listeners.
const RETRY: Duration = Duration::from_secs(1);
/// Workers end by themselves at the deadline of a drain; this much later they are made to.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);
/// For what else has to end: the last report, the last answers.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// While there are no certificates, a mesh that is not strict begins without them after this time.
const CERTIFICATES_WAIT: Duration = Duration::from_secs(5);
/// Seconds of a drain while no bootstrap says how many.
const DRAIN_SECONDS: u32 = 30;

/// Why a process ends other than well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A required flag is missing.
    #[error("--node (VICINO_NODE) is required: the name of the node that this proxy serves")]
    NoNode,
    /// Signals can't be heard.
    #[error("can't listen for signals")]
    Signals(#[source] std::io::Error),
    /// A file that hops need is not there.
    #[error("can't read {0}, which hops need")]
    HopFile(String, #[source] std::io::Error),
    /// What is in them is of no use.
    #[error("hops can't be made with TLS by --hop-certificate, --hop-key and --hop-roots")]
    Hops(#[source] SecureError),
    /// Workers ended that nobody told to.
    #[error("a worker ended unasked")]
    WorkerEnded,
}

/// What ended a wait.
enum Woken<T> {
    By(T),
    Signal,
}

/// SIGTERM and SIGINT: the first asks for a drain, the second for an end.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let hear = |kind| signal(kind).map_err(RunError::Signals);
        Ok(Self { terminate: hear(SignalKind::terminate())?, interrupt: hear(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn or<T>(&mut self, other: impl Future<Output = T>) -> Woken<T> {
        tokio::select! {
            value = other => Woken::By(value),
            () = self.next() => Woken::Signal,
        }
    }
}

/// Runs until a signal has been obeyed.
pub async fn run(options: RunOptions, level: Option<Level>) -> Result<(), RunError> {
    if options.node.is_empty() {
        return Err(RunError::NoNode);
    }
    let mut signals = Signals::new()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = options.node,
        mesh = options.mesh,
        descriptors = plan::raise_descriptors(),
        "proxy starts"
    );
    let life = Life::default();
    let tasks = TaskTracker::new();
    let end = CancellationToken::new();
    let files = HopFiles::read(&options)?;
    let parts = parts::start((&options, files), &life, level.as_ref(), &tasks, &end);
    let outcome = live(&options, &life, parts, level.as_ref(), &mut signals).await;
    end.cancel();
    tasks.close();
    // What does not end in time ends with the process.
    let _late = timeout(LAST_WORDS, tasks.wait()).await;
    tracing::info!("proxy ends");
    outcome
}

async fn live(
    options: &RunOptions,
    life: &Life,
    mut parts: Parts,
    level: Option<&Level>,
    signals: &mut Signals,
) -> Result<(), RunError> {
    let crew = match signals.or(begin(options, life, &mut parts)).await {
        Woken::By(crew) => crew?,
        Woken::Signal => return Ok(()),
    };
    let mut follower = Follower { options, level, applied_level: None };
    let ended = match signals.or(serve(&crew, life, &mut parts, &mut follower)).await {
        Woken::Signal => Ok(()),
        Woken::By(error) => Err(error),
    };
    life.enter(Phase::Draining);
    parts.drains.cancel();
    if ended.is_ok() {
        drain(&crew, &mut parts, signals).await;
    }
    ended
}

/// A node's certificate and the roots of the others, from files, where no authority gives them.
#[derive(Debug)]
struct HopFiles {
    credentials: Arc<Credentials>,
    roots: Arc<str>,
}

impl HopFiles {
    /// None: there are none.
    fn read(options: &RunOptions) -> Result<Option<Self>, RunError> {
        let (Some(certificate), Some(key), Some(roots)) =
            (&options.hop_certificate, &options.hop_key, &options.hop_roots)
        else {
            return Ok(None);
        };
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| RunError::HopFile(path.display().to_string(), error))
        };
        let (certificate, key, roots) = (read(certificate)?, read(key)?, read(roots)?);
        let credentials = Arc::new(Credentials::new(&certificate, &key).map_err(RunError::Hops)?);
        Ok(Some(Self { credentials, roots: roots.into() }))
    }
}

/// Waits for a first snapshot, then opens the listeners; only then can a connection come, so none meets a proxy that knows
/// nothing.
async fn begin(options: &RunOptions, life: &Life, parts: &mut Parts) -> Result<Arc<Crew>, RunError> {
    let mut told = String::new();
    loop {
        let edition = parts.editions.borrow_and_update().clone();
        if edition.missing.is_empty() {
            wait_for_hops(life, parts, edition.snapshot.is_strict).await;
            let plan = plan::workers(options, edition.bootstrap.as_ref().map_or(0, |b| b.value.workers));
            let hops = parts.hops.borrow_and_update().clone();
            let doubts = parts.looked_at(edition.snapshot.version).await;
            match Crew::start(&plan, (&edition.snapshot, &doubts, hops.as_ref()), &parts.control) {
                Ok(crew) => {
                    let crew = Arc::new(crew);
                    life.set_crew(crew.clone());
                    // What came between has reached nobody.
                    crew.doubt(&parts.sight.borrow().doubts);
                    tracing::info!(workers = crew.len(), "listening");
                    return Ok(crew);
                }
                Err(e) => {
                    tracing::error!(error = %chain(&e), "workers can't start; tried again");
                    life.enter(Phase::Starting(e.to_string()));
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        let missing: Vec<_> = edition.missing.iter().map(|part| part.name()).collect();
        let why = format!("waiting for {}", missing.join(", "));
        if told != why {
            tracing::info!("{why}");
            told.clone_from(&why);
        }
        life.enter(Phase::Starting(why));
        if parts.editions.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Others dial a node that had certificates with TLS, so one that starts again has them before it listens. A strict mesh waits for them as long as it takes.
async fn wait_for_hops(life: &Life, parts: &mut Parts, is_strict: bool) {
    if parts.has_hops_to_come && parts.hops.borrow().is_none() {
        tracing::info!("waiting for certificates");
        life.enter(Phase::Starting("waiting for certificates".to_owned()));
        let come = parts.hops.wait_for(Option::is_some);
        if is_strict {
            // Nobody will send any: that is the end of this process, too.
            let _gone = come.await;
        } else if timeout(CERTIFICATES_WAIT, come).await.is_err() {
            tracing::warn!("no certificates yet: hops are made without TLS until there are some");
        }
    }
}

/// Hands every edition to the workers and, once all serve by it, to the report. Ends only when a worker does.
async fn serve(crew: &Crew, life: &Life, parts: &mut Parts, follower: &mut Follower<'_>) -> RunError {
    let mut given: Option<Arc<Hops>> = None;
    loop {
        let edition = parts.editions.borrow_and_update().clone();
        follower.follow(&edition);
        let hops = parts.hops.borrow_and_update().clone();
        // Those that the crew has are not given to it with each edition.
        if let Some(hops) = &hops
            && given.as_ref().is_none_or(|given| !Arc::ptr_eq(given, hops))
        {
            crew.secure(hops);
            given = Some(hops.clone());
        }
        // The witness has told the crew by then.
        parts.looked_at(edition.snapshot.version).await;
        crew.serve(&edition.snapshot);
        crew.serves(edition.snapshot.version).await;
        if crew.ended() > 0 {
            return RunError::WorkerEnded;
        }
        life.enter(Phase::Serving);
        tracing::debug!(version = edition.snapshot.version, "all workers serve");
        let known = parts.identity.known();
        tell(&parts.served, (&edition, &known, hops.is_some()), State::Ready);
        tokio::select! {
            () = parts.identity.changed() => {}
            Ok(()) = parts.hops.changed() => {}
            changed = parts.editions.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = crew.one_ends() => return RunError::WorkerEnded,
        }
    }
}

fn tell(
    served: &watch::Sender<Option<Arc<Served>>>,
    (edition, known, is_secure): (&Edition, &Known, bool),
    state: State,
) {
    let now = Some(Arc::new(Served { is_secure, ..Served::of(edition, known, state) }));
    served.send_if_modified(|before| {
        let news = *before != now;
        *before = now;
        news
    });
}

/// What of the bootstrap is followed while running.
struct Follower<'a> {
    options: &'a RunOptions,
    level: Option<&'a Level>,
    applied_level: Option<String>,
}

impl Follower<'_> {
    fn follow(&mut self, edition: &Edition) {
        let wanted = edition.bootstrap.as_ref().map(|good| good.value.log_level.clone());
        if self.options.log_level.is_some() || wanted == self.applied_level {
            return;
        }
        if let (Some(level), Some(wanted)) = (self.level, &wanted)
            && let Err(e) = level.set(wanted)
        {
            tracing::warn!(error = %chain(&e), "log level of the bootstrap not taken");
        }
        self.applied_level = wanted;
    }
}

async fn drain(crew: &Crew, parts: &mut Parts, signals: &mut Signals) {
    let edition = parts.editions.borrow().clone();
    let seconds = edition.bootstrap.as_ref().map_or(DRAIN_SECONDS, |good| good.value.drain_seconds);
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    tracing::info!(seconds, "draining: no new connections, open calls are finished");
    let known = parts.identity.known();
    let is_secure = parts.hops.borrow().is_some();
    tell(&parts.served, (&edition, &known, is_secure), State::Draining);
    crew.drain(deadline);
    let limit = deadline + AFTER_DEADLINE;
    match signals.or(tokio::time::timeout_at(limit, crew.end())).await {
        Woken::By(Ok(())) => tracing::info!("drained"),
        Woken::By(Err(_late)) => tracing::warn!("drain ended by its deadline"),
        Woken::Signal => tracing::warn!("drain ended by a second signal"),
    }
    crew.stop();
    // The reporter lets go of its end when it has said so.
    let _late = timeout(LAST_WORDS, parts.served.closed()).await;
}
