//! Threads that turn: each owns its sockets and its engine, and shares neither; control gives orders and hears how they are.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use vicino_engine::identify::Doubts;
use vicino_engine::snapshot::Snapshot;
use vicino_engine::tally::Tally;
use vicino_engine::{CoreConfig, Time};

pub mod chronicle;
mod driver;
pub mod listen;
mod post;
mod ready;
pub mod resolve;
mod socket;
mod table;

use crate::secure::Hops;
use chronicle::News;
use listen::{ListenError, listen};
use post::{Line, State};
use resolve::Question;

/// How long a worker may take to show that it turns.
const ANSWER: Duration = Duration::from_secs(1);

/// What workers are made with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many.
    pub workers: u32,
    /// Address to listen on; `None` is all.
    pub ip: Option<IpAddr>,
    /// Port of L1.
    pub l1_port: u16,
    /// Port of L2.
    pub l2_port: u16,
    /// For every worker's engine.
    pub core: CoreConfig,
}

/// What workers have control's thread do for them, so that they never wait.
#[derive(Clone, Debug)]
pub struct Control {
    /// To be written down.
    pub news: mpsc::Sender<News>,
    /// For DNS.
    pub questions: mpsc::Sender<Question>,
}

/// Why workers do not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket does not listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No thread or runtime.
    #[error("can't start worker {worker}")]
    Thread {
        /// Which.
        worker: u32,
        /// Why.
        source: io::Error,
    },
}

/// What time it is for all workers; the beginning of their time while there was none.
pub fn time() -> Time {
    driver::time()
}

/// All workers.
#[derive(Debug)]
pub struct Crew {
    lines: Vec<Line>,
    tallies: Vec<Arc<Tally>>,
    question: AtomicU64,
}

impl Crew {
    /// Opens every socket, then starts every thread; serves by `snapshot` and `doubts` from the first connection on, and makes hops with `hops`, or without TLS.
    pub fn start(
        plan: &Plan,
        (snapshot, doubts, hops): (&Arc<Snapshot>, &Arc<Doubts>, Option<&Arc<Hops>>),
        control: &Control,
    ) -> Result<Self, StartError> {
        let mut sockets = Vec::new();
        for _ in 0..plan.workers.max(1) {
            sockets.push((listen(plan.ip, plan.l1_port)?, listen(plan.ip, plan.l2_port)?));
        }
        let mut crew = Self { lines: Vec::new(), tallies: Vec::new(), question: AtomicU64::new(0) };
        for (worker, (l1, l2)) in (0..).zip(sockets) {
            let (line, desk) = post::line();
            let setting = driver::Setting {
                worker,
                core: plan.core.clone(),
                snapshot: snapshot.clone(),
                doubts: doubts.clone(),
                hops: hops.cloned(),
                l1,
                l2,
                desk,
                control: control.clone(),
            };
            let tally = start(setting).map_err(|source| StartError::Thread { worker, source })?;
            crew.tallies.push(tally);
            crew.lines.push(line);
        }
        Ok(crew)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Has all serve by `snapshot`, soon.
    pub fn serve(&self, snapshot: &Arc<Snapshot>) {
        for line in &self.lines {
            line.order(|orders| orders.serve = Some(snapshot.clone()));
        }
    }

    /// Has all take these pods for gone from their addresses, soon.
    pub fn doubt(&self, doubts: &Arc<Doubts>) {
        for line in &self.lines {
            line.order(|orders| orders.doubt = Some(doubts.clone()));
        }
    }

    /// Has all make hops with `hops`, soon.
    pub fn secure(&self, hops: &Arc<Hops>) {
        for line in &self.lines {
            line.order(|orders| orders.secure = Some(hops.clone()));
        }
    }

    /// Waits until all that have not ended serve by `version` or a later one.
    pub async fn serves(&self, version: u64) {
        self.all(|state| state.served >= version).await;
    }

    /// Has all show that they turn; an error names those that did not within a second.
    pub async fn answer(&self) -> Result<(), String> {
        let question = self.question.fetch_add(1, Ordering::Relaxed) + 1;
        for line in &self.lines {
            line.order(|orders| orders.answer = Some(question));
        }
        let Err(_elapsed) = timeout(ANSWER, self.all(|state| state.answered >= question)).await else {
            return Ok(());
        };
        let silent = |line: &Line| line.state().borrow().answered < question;
        let names: Vec<_> = (0..self.lines.len()).filter(|i| silent(&self.lines[*i])).collect();
        Err(format!("worker {names:?} does not turn"))
    }

    /// Each worker's counters.
    pub fn tallies(&self) -> &[Arc<Tally>] {
        &self.tallies
    }

    /// The lowest version of a snapshot that a worker serves by.
    pub fn served(&self) -> u64 {
        self.lines.iter().map(|line| line.state().borrow().served).min().unwrap_or(0)
    }

    /// Has all accept no more and end when nothing is open, or at `deadline`.
    pub fn drain(&self, deadline: Instant) {
        for line in &self.lines {
            line.order(|orders| orders.drain = Some(deadline));
        }
    }

    /// Waits until all have ended.
    pub async fn end(&self) {
        self.all(|_| false).await;
    }

    /// Waits until one has ended.
    pub async fn one_ends(&self) {
        let ends = self.lines.iter().map(|line| {
            let mut state = line.state();
            Box::pin(async move {
                let _gone = state.wait_for(|state| state.ended).await;
            })
        });
        futures::future::select_all(ends).await;
    }

    /// How many have ended.
    pub fn ended(&self) -> usize {
        self.lines.iter().filter(|line| line.state().borrow().ended).count()
    }

    /// Has all end at once.
    pub fn stop(&self) {
        for line in &self.lines {
            line.order(|orders| orders.stop = true);
        }
    }

    async fn all(&self, reached: impl Fn(&State) -> bool) {
        for line in &self.lines {
            let mut state = line.state();
            // An error is a worker that is gone, which is as good as ended.
            let _gone = state.wait_for(|state| state.ended || reached(state)).await;
        }
    }
}

/// Turns between two looks at the poller while a worker has more to do than one turn takes: it must not keep others waiting.
const EVENT_INTERVAL: u32 = 4;

/// Starts a thread; returns once it has its engine, whose counters it hands out. The engine never leaves its thread.
fn start(setting: driver::Setting) -> io::Result<Arc<Tally>> {
    let thread = std::thread::Builder::new().name(format!("worker-{}", setting.worker));
    let (tell, hear) = std::sync::mpsc::sync_channel(1);
    thread.spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_io().enable_time().event_interval(EVENT_INTERVAL);
        match runtime.build_local(tokio::runtime::LocalOptions::default()) {
            Ok(runtime) => driver::run(&runtime, setting, &tell),
            // Whoever waits has gone: there is nobody to tell.
            Err(e) => drop(tell.send(Err(e))),
        }
    })?;
    let gone = |_| io::Error::other("its thread ended at once");
    hear.recv().map_err(gone)?
}
