//! Follows the Secret of the authority, in every replica: reads it at intervals, decides by [`rotation`](super::rotation), takes the steps where this replica leads, and tells what is in force.
//! It is read rather than watched: `get` on one name is all that the operator's role allows on Secrets beside changing that one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ca::{Authority, Texts};
use super::reports::Reports;
use super::rotation::{Kept, Verdict, decide};
use super::store::{SECRET, Store, StoreError};
use super::{Clock, chain};
use crate::metric::Metrics;
use crate::world;

/// Between two looks at the Secret.
const EVERY: Duration = Duration::from_secs(5);
/// And at least so long, however often proxies report.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows the Secret.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    metrics: Metrics,
    told: watch::Sender<Option<world::Authority>>,
    in_force: watch::Sender<Option<Arc<Authority>>>,
    /// What is in force here.
    last: Option<Texts>,
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// There is more to do.
    AtOnce,
    /// After a while.
    Later,
}

impl Follower {
    /// One that has seen nothing.
    pub fn new(
        store: Store,
        metrics: Metrics,
        (told, in_force): (watch::Sender<Option<world::Authority>>, watch::Sender<Option<Arc<Authority>>>),
    ) -> Self {
        Self { store, metrics, told, in_force, last: None }
    }

    /// Follows until `stop`.
    pub async fn run(
        mut self,
        mut reports: watch::Receiver<Option<Reports>>,
        (clock, stop): (Clock, CancellationToken),
    ) {
        loop {
            let known = reports.borrow_and_update().clone();
            let began = Instant::now();
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = self.look(known.as_ref(), clock()) => next,
            };
            let next = next.unwrap_or_else(|error| self.failed(&error));
            let pause = if next == Next::AtOnce { PAUSE } else { EVERY };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(began + pause) => {}
                Ok(()) = reports.changed() => sleep_until(began + PAUSE).await,
            }
        }
    }

    async fn look(&mut self, reports: Option<&Reports>, now: SystemTime) -> Result<Next, StoreError> {
        let Some((kept, version)) = self.store.read().await? else {
            return self.make(reports.is_some(), now).await;
        };
        let Verdict { active, told, step } = decide(&kept, self.last.as_ref(), reports, now);
        self.take(active);
        self.tell(told);
        let Some(step) = step else { return Ok(Next::Later) };
        let text = step.text();
        match step.take(&kept, now) {
            Ok(after) => {
                self.store.change((&kept, &version), &after).await?;
                tracing::info!(secret = SECRET, "{text}");
            }
            Err(error) => tracing::error!(%error, "no root can be made"),
        }
        Ok(Next::AtOnce)
    }

    /// Makes a root, since there is no Secret. What is in force stays so until every node has the new root.
    async fn make(&mut self, leads: bool, now: SystemTime) -> Result<Next, StoreError> {
        if self.last.is_some() && !leads {
            return Ok(Next::Later);
        }
        match Authority::make(now) {
            Ok(made) => {
                self.store.create(&Kept::new(made, self.last.clone())).await?;
                tracing::info!(secret = SECRET, "made a root of the mesh, since there was none");
            }
            Err(error) => tracing::error!(%error, "no root can be made"),
        }
        Ok(Next::AtOnce)
    }

    fn take(&mut self, active: Option<(Texts, Authority)>) {
        let (texts, authority) = active.unzip();
        if self.last != texts || self.in_force.borrow().is_none() {
            let key = authority.as_ref().map(Authority::key_id);
            if let Some(key) = key {
                tracing::info!(issuer = key, "certificates are issued by the authority with this key");
            }
            if let Some(authority) = &authority {
                self.metrics.authority_ends(authority.not_after());
            }
            self.in_force.send_replace(authority.map(Arc::new));
            // One that has ended is of no use, and what was good last is remembered.
            self.last = texts.or(self.last.take());
        }
    }

    fn tell(&self, told: world::Authority) {
        if let Some(problem) = &told.problem {
            self.metrics.failed("authority");
            tracing::error!(secret = SECRET, problem, "the authority that the Secret has is of no use");
        }
        self.told.send_if_modified(|before| {
            let is_news = before.as_ref() != Some(&told);
            if is_news {
                if let Some(waits) = &told.waits {
                    tracing::info!(secret = SECRET, "{waits}");
                }
                *before = Some(told);
            }
            is_news
        });
    }

    fn failed(&mut self, error: &StoreError) -> Next {
        if error.is_conflict() {
            return Next::AtOnce;
        }
        self.metrics.failed("authority");
        let error_text = chain(error);
        tracing::error!(error = error_text, "the authority cannot be followed");
        if error.is_forbidden() {
            let before = self.told.borrow().clone().unwrap_or_default();
            let told = world::Authority { problem: Some(error_text), ..before };
            self.told.send_if_modified(|before| {
                let is_news = before.as_ref() != Some(&told);
                *before = Some(told);
                is_news
            });
        }
        Next::Later
    }
}
