//! The one task that owns the World: takes in changes, and when they pause, runs the pipeline once over all of it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::apply::{Applier, Stage};
use crate::authority::reports::Reports;
use crate::event::{self, Events, Said};
use crate::metric::Metrics;
use crate::plan::{Plan, plan};
use crate::report::StatusWriter;
use crate::serve::Health;
use crate::world::{self, Change, World};

/// Changes are gathered until none has come for this long …
const QUIET: Duration = Duration::from_millis(20);
/// … or until the first of them is this old.
const GATHER_MAX: Duration = Duration::from_millis(100);

/// Everything that a pass needs.
#[derive(Debug)]
pub struct Reconciler {
    /// The cluster, empty at first.
    pub world: World,
    /// What watches see.
    pub changes: mpsc::Receiver<Change>,
    /// How the authority is, once that is known.
    pub authority: watch::Receiver<Option<world::Authority>>,
    /// Told what proxies report of their certificates.
    pub reported: watch::Sender<Option<Reports>>,
    /// Writes objects.
    pub applier: Applier,
    /// Writes statuses.
    pub statuses: StatusWriter,
    /// Tells users.
    pub events: Events,
    /// Counts.
    pub metrics: Metrics,
    /// Says how it goes.
    pub health: Health,
    /// The time of day, for conditions.
    pub clock: fn() -> Timestamp,
}

impl Reconciler {
    /// Runs until `stop`. A pass that is under way then is abandoned: what it wrote is found again at the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut said, mut again) = (Said::default(), false);
        loop {
            let go_on = tokio::select! {
                () = stop.cancelled() => return,
                go_on = self.gather(again) => go_on,
            };
            if !go_on {
                return;
            }
            if !self.world.synced() {
                continue;
            }
            again = tokio::select! {
                () = stop.cancelled() => return,
                again = self.pass(&mut said) => again,
            };
        }
    }

    /// Waits until there is something to do, not at all when that is known. False when the watches have ended.
    async fn gather(&mut self, known: bool) -> bool {
        let due = [self.applier.retry_at(), self.statuses.due_at(), known.then(Instant::now)];
        let due = due.into_iter().flatten().min();
        loop {
            let change = tokio::select! {
                change = self.changes.recv() => change,
                // Nobody tells it where there is none.
                Ok(()) = self.authority.changed() => {
                    let authority = self.authority.borrow_and_update().clone();
                    let Some(authority) = authority else { continue };
                    Some(Change::Authority(authority))
                }
                () = wait_until(due) => return true,
            };
            match change {
                Some(change) => {
                    if self.world.take(change) {
                        break;
                    }
                }
                None => return false,
            }
        }
        let latest = Instant::now() + GATHER_MAX;
        let mut quiet = Instant::now() + QUIET;
        while let Ok(change) = timeout_at(quiet.min(latest), self.changes.recv()).await {
            let Some(change) = change else { return false };
            if self.world.take(change) {
                quiet = Instant::now() + QUIET;
            }
        }
        true
    }

    /// Runs the pipeline once. True when it has to run again at once: what a write's answer shows enters the World here,
    /// and the event about it will be no news.
    async fn pass(&mut self, said: &mut Said) -> bool {
        let started = Instant::now();
        self.health.begin_pass();
        let mut plan = self.plan();
        let mut outcome = self.applier.apply(&mut self.world, &plan, Stage::Routes, started).await;
        if outcome.written > 0 {
            plan = self.plan();
        }
        let rest = self.applier.apply(&mut self.world, &plan, Stage::Rest, started).await;
        if rest.written + rest.failed + outcome.failed > 0 {
            plan = self.plan();
        }
        outcome += rest;
        let notices = event::notices(&self.world, &plan, said);
        let unwritten = self.statuses.write(&mut self.world, &plan).await;
        // What a status does not say yet is found again, and told once it does.
        for notice in notices.into_iter().filter(|notice| !notice.is_about(&unwritten)) {
            self.events.tell(notice);
        }
        let reports = Some(Reports::of(&self.world));
        self.reported.send_if_modified(|before| {
            let is_news = *before != reports;
            *before = reports;
            is_news
        });
        for (kind, count) in self.world.sizes() {
            self.metrics.hold(kind, count);
        }
        self.metrics.reconciled(started.elapsed());
        self.health.end_pass();
        // What failed has its own time.
        outcome.written > 0 && outcome.failed == 0 && self.applier.has_due(&plan)
    }

    fn plan(&self) -> Plan {
        let now = (self.clock)();
        // Times of the API have whole seconds.
        let whole =
            Timestamp::from_second(now.as_second()).expect("a second that a clock has shown is in range");
        let plan = plan(&self.world, &Time(whole));
        for (mesh, faults) in &plan.faults {
            self.metrics.failed("check");
            for fault in faults {
                tracing::error!(mesh, object = fault.object, problem = fault.problem, "refusing to write");
            }
        }
        plan
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
