//! The certificates of this node: for each service account that has a pod here, and for the node itself; asked of the authority, renewed in time, forgotten when the last such pod is gone.
//! Keys are made here and stay in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vicino_crds::identity::{Identity, REQUESTS_MAX};
use vicino_engine::snapshot::Snapshot;

use crate::log::chain;
use crate::secure::{Certificates, Credentials, Svid};

mod ask;
pub mod roots;

pub use ask::{Answer, AskError, Authority};

/// A certificate is renewed when two thirds of its time are over, or up to a tenth of it before, by chance.
const RENEW_AFTER: (u32, u32) = (2, 3);
const JITTER: u32 = 10;
/// Those that another authority has signed than the one that issues now are renewed after this part of their life, or half of it, by chance: a node's in one request, nodes at different times.
const REPLACE_AFTER: u32 = 1000;
/// What was refused, or failed, is asked for again after this time at first …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … and at most so long after.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Where certificates come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// `address:port` of the authority.
    pub address: String,
    /// File of the token that is shown to it.
    pub token: PathBuf,
    /// File of the roots by which it is known.
    pub roots: PathBuf,
}

/// Tells what time it is.
pub type Clock = fn() -> SystemTime;
/// Gives a number from 0 up to 1, by chance.
pub type Chance = fn() -> f64;

/// When the first of them ends; None when there is none.
pub fn first_to_end(certificates: &Certificates) -> Option<SystemTime> {
    certificates.values().map(|held| held.svid().not_after).min()
}

/// What a proxy knows of certificates, its own and those of others.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its own.
    pub certificates: Arc<Certificates>,
    /// The roots that it knows others by, in PEM.
    pub roots: Option<Arc<str>>,
    /// What is wrong with the roots that it was given last, where those are not in force.
    pub roots_problem: Option<Arc<str>>,
    /// Seconds that the authority's clock was ahead of this one when it last answered; negative: behind.
    pub skew_seconds: Option<i64>,
}

/// [`Known`], as it changes. What nobody tells of stays as it is.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The certificates that the node has.
    pub certificates: watch::Receiver<Arc<Certificates>>,
    /// The roots that others' are known by.
    pub roots: roots::Roots,
    /// What is wrong with newer ones.
    pub roots_problem: roots::Problem,
    /// How far the authority's clock is ahead, in seconds.
    pub skew: watch::Receiver<Option<i64>>,
}

impl Watch {
    /// Of certificates and roots that stay.
    pub fn of(certificates: Certificates, roots: Option<Arc<str>>) -> Self {
        Self {
            certificates: watch::channel(Arc::new(certificates)).1,
            roots: watch::channel(roots).1,
            roots_problem: watch::channel(None).1,
            skew: watch::channel(None).1,
        }
    }

    /// What is known now. Changes up to here are seen.
    pub fn known(&mut self) -> Known {
        Known {
            certificates: self.certificates.borrow_and_update().clone(),
            roots: self.roots.borrow_and_update().clone(),
            roots_problem: self.roots_problem.borrow_and_update().clone(),
            skew_seconds: *self.skew.borrow_and_update(),
        }
    }

    /// Ends with the next change; never, where nobody tells of any.
    pub async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.certificates.changed() => {}
            Ok(()) = self.roots.changed() => {}
            Ok(()) = self.roots_problem.changed() => {}
            Ok(()) = self.skew.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// Which identities a proxy needs: its node's, and those of the pods that live there.
pub fn wanted(snapshot: &Snapshot) -> BTreeSet<Identity> {
    let domain = &*snapshot.trust_domain;
    let of_pods = snapshot.neighbours.values();
    let of_pods = of_pods.map(|pod| Identity::workload(domain, &pod.namespace, &pod.service_account));
    // What Kubernetes calls otherwise has no identity.
    of_pods.chain([Identity::node(domain, &snapshot.node)]).filter_map(Result::ok).collect()
}

/// What is held, what is wanted, and when to ask. Knows no clock.
#[derive(Debug, Default)]
struct Keeper {
    wanted: BTreeMap<Identity, Wanted>,
    /// The authority that issues now, as far as that is known.
    issuer: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Wanted {
    held: Option<Arc<Credentials>>,
    /// When to ask for it; None: now.
    ask_at: Option<SystemTime>,
    /// How often it has failed since it was had.
    failures: u32,
}

impl Wanted {
    /// Is asked for soon when another authority has signed what is held.
    fn replace(&mut self, issuer: &str, (now, chance): (SystemTime, f64)) {
        let Some(held) = self.held.as_ref().filter(|held| &*held.svid().issuer != issuer) else { return };
        let Svid { not_before, not_after, .. } = held.svid();
        let pause = not_after.duration_since(*not_before).unwrap_or_default() / REPLACE_AFTER;
        let earlier = (pause / 2).mul_f64(chance.clamp(0.0, 1.0));
        let at = now + pause.saturating_sub(earlier).max(RETRY_FIRST);
        self.ask_at = self.ask_at.map(|before| before.min(at));
    }
}

impl Keeper {
    /// Forgets what is not wanted any more. Whether anything was held of it.
    fn want(&mut self, wanted: &BTreeSet<Identity>) -> bool {
        let before = self.held().count();
        self.wanted.retain(|identity, _| wanted.contains(identity));
        for identity in wanted {
            self.wanted.entry(identity.clone()).or_default();
        }
        self.held().count() != before
    }

    fn held(&self) -> impl Iterator<Item = (&Identity, &Arc<Credentials>)> {
        self.wanted.iter().filter_map(|(identity, wanted)| Some((identity, wanted.held.as_ref()?)))
    }

    /// What to ask for now, as much as one request may have.
    fn due(&self, now: SystemTime) -> Vec<Identity> {
        let due = self.wanted.iter().filter(|(_, wanted)| wanted.ask_at.is_none_or(|at| at <= now));
        due.map(|(identity, _)| identity.clone()).take(REQUESTS_MAX).collect()
    }

    /// How long nothing is due; None: for ever.
    fn pause(&self, now: SystemTime) -> Option<Duration> {
        let times = self.wanted.values().map(|wanted| wanted.ask_at.unwrap_or(now));
        times.min().map(|at| at.duration_since(now).unwrap_or_default())
    }

    /// A certificate came. `chance` is from 0 up to 1.
    fn take(&mut self, identity: &Identity, credentials: Credentials, (now, chance): (SystemTime, f64)) {
        // It may have left meanwhile.
        let Some(wanted) = self.wanted.get_mut(identity) else { return };
        let left = credentials.svid().not_after.duration_since(now).unwrap_or_default();
        let (share, of) = RENEW_AFTER;
        let earlier = (left / JITTER).mul_f64(chance.clamp(0.0, 1.0));
        wanted.ask_at = Some(now + (left * share / of).saturating_sub(earlier).max(RETRY_FIRST));
        wanted.failures = 0;
        wanted.held = Some(Arc::new(credentials));
        if let Some(issuer) = &self.issuer {
            wanted.replace(issuer, (now, chance));
        }
    }

    /// This authority issues now: what it has not signed is renewed soon.
    fn prefer(&mut self, issuer: &str, at: (SystemTime, f64)) {
        self.issuer = Some(issuer.into());
        for wanted in self.wanted.values_mut() {
            wanted.replace(issuer, at);
        }
    }

    /// It did not come. What is held of it stays, as long as it is good.
    fn fail(&mut self, identity: &Identity, (now, chance): (SystemTime, f64)) {
        let Some(wanted) = self.wanted.get_mut(identity) else { return };
        let pause = RETRY_FIRST.saturating_mul(1 << wanted.failures.min(10)).min(RETRY_MAX);
        wanted.failures += 1;
        wanted.ask_at = Some(now + pause - (pause / 2).mul_f64(chance.clamp(0.0, 1.0)));
    }

    /// Drops what is good no longer. Whether there was any.
    fn expire(&mut self, now: SystemTime) -> bool {
        let mut has_any = false;
        for wanted in self.wanted.values_mut() {
            let is_over = wanted.held.as_ref().is_some_and(|held| held.svid().not_after <= now);
            has_any |= is_over;
            if is_over {
                wanted.held = None;
            }
        }
        has_any
    }

    fn certificates(&self) -> Certificates {
        self.held().map(|(identity, held)| (identity.clone(), held.clone())).collect()
    }
}

/// Keeps the certificates that are wanted, and tells of each change, until `stop`.
pub async fn keep(
    source: Source,
    (mut snapshots, mut issuer): (watch::Receiver<BTreeSet<Identity>>, roots::Issuer),
    (told, skew): (watch::Sender<Arc<Certificates>>, watch::Sender<Option<i64>>),
    (clock, chance): (Clock, Chance),
    stop: CancellationToken,
) {
    let (authority, mut keeper) = (Authority::new(source), Keeper::default());
    loop {
        let mut has_changed = keeper.want(&snapshots.borrow_and_update().clone());
        has_changed |= keeper.expire(clock());
        let due = keeper.due(clock());
        if !due.is_empty() {
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = authority.ask(&due) => answer,
            };
            if let Ok(Answer { time: Some(time), .. }) = &answer {
                skew.send_replace(Some(seconds_between(clock(), *time)));
            }
            let issued = answer.map(|answer| answer.issued);
            has_changed |= settle(&mut keeper, &due, issued, (clock(), &mut { chance }));
        }
        if has_changed {
            told.send_replace(Arc::new(keeper.certificates()));
        }
        let pause = keeper.pause(clock()).unwrap_or(Duration::MAX);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            Ok(()) = issuer.changed() => {
                if let Some(issuer) = issuer.borrow_and_update().as_deref() {
                    keeper.prefer(issuer, (clock(), chance()));
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// From one time to another; negative when the other is before.
fn seconds_between(one: SystemTime, other: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match other.duration_since(one) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

/// Takes an answer in. Whether there is a new certificate. Those that came together are renewed at times of their own; what did not come
/// is asked for again together.
fn settle(
    keeper: &mut Keeper,
    asked: &[Identity],
    answer: Result<Vec<(Identity, Credentials)>, AskError>,
    (now, chance): (SystemTime, &mut dyn FnMut() -> f64),
) -> bool {
    let (mut left, mut has_new) = (asked.iter().collect::<BTreeSet<_>>(), false);
    match answer {
        Ok(issued) => {
            for (identity, credentials) in issued {
                // Of what was asked for, and nothing else.
                if asked.contains(&identity) {
                    left.remove(&identity);
                    keeper.take(&identity, credentials, (now, chance()));
                    has_new = true;
                }
            }
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), count = asked.len(), "no certificates; tried again");
        }
    }
    let at = (now, chance());
    for identity in left {
        keeper.fail(identity, at);
    }
    has_new
}

#[cfg(test)]
mod tests;
