//! Pods that fail again and again are left out for a while (circuit breaking, also called outlier detection), judged on their own node, where all of their calls are
//! known. While every pod of a Service is out, all of them are in.
//!
//! That never more than a share of a Service is out, whichever nodes its pods are on, is seen to by who calls: a node says with its answers how many of its pods are out, and where these are too many in all, calls
//! go to some of the nodes as if none were.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vicino_wire::head::Headers;
use vicino_wire::hop::encode_ejected;

use crate::core::{ConnId, Core, Event};
use crate::deadline::Time;
use crate::exchange::{Exchange, ExchangeId};
use crate::grpc;
use crate::hash::FastMap;
use crate::hop::node::NodeIndex;
use crate::plan::{Choice, Plan, Share};
use crate::reply::Reason;
use crate::snapshot::PodSlot;

/// The share of failures is counted over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// What another node said of its pods holds for so long.
const EJECTED_KNOWN: Duration = Duration::from_secs(1);

/// When a pod is left out, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Statuses that are failures, whether the pod answers so or the proxy had to; gRPC's count as what they mean in HTTP.
    pub codes: Vec<u16>,
    /// So many failures in a row put a pod out.
    pub consecutive_failures: u32,
    /// So many failures of a hundred calls do, too; 0: their share does not matter.
    pub failure_percent: u32,
    /// The share of fewer calls than these in ten seconds says nothing.
    pub minimum_calls: u32,
    /// Nanoseconds that a pod is out for the first time; twice as long each time that it fails again at once …
    pub ejection_ns: u64,
    /// … and at most so long.
    pub ejection_max_ns: u64,
    /// Of a Service's pods at most this share is out, and of each node's; one may always be.
    pub ejected_percent: u32,
}

/// What is known of a pod's failures, by all workers together.
#[derive(Debug, Default)]
pub struct Health {
    /// Until when it is out, in the engine's time; 0: it is in.
    out_until: AtomicU64,
    /// One call tries whether it is well again.
    is_probed: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    /// How often it was put out; forgotten one by one while it is well.
    ejections: u32,
    calm_from: Time,
    window_from: Time,
    calls: u32,
    failed: u32,
}

/// Whether a pod may have a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    In,
    /// It was out long enough: one call tries it.
    Probe,
    Out,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Failed,
    /// Its caller gave up: that says nothing of the pod.
    Unknown,
}

impl Outcome {
    fn of(status: u16, failures: &[u16]) -> Outcome {
        match status {
            0 => Outcome::Unknown,
            status if failures.contains(&status) => Outcome::Failed,
            _ => Outcome::Good,
        }
    }
}

impl Health {
    pub(crate) fn standing(&self, now: Time) -> Standing {
        match self.out_until.load(Ordering::Relaxed) {
            0 => Standing::In,
            until if until > now.0 || self.is_probed.load(Ordering::Relaxed) => Standing::Out,
            _ => Standing::Probe,
        }
    }

    fn is_out(&self) -> bool {
        self.out_until.load(Ordering::Relaxed) != 0
    }

    /// For how long it is still out; zero once a call may try it.
    fn out_for(&self, now: Time) -> Option<Duration> {
        let until = Some(self.out_until.load(Ordering::Relaxed)).filter(|until| *until != 0);
        until.map(|until| Time(until).since(now))
    }

    /// Takes the one call that tries whether it is well. False when another has.
    pub(crate) fn begin_probe(&self) -> bool {
        !self.is_probed.swap(true, Ordering::Relaxed)
    }

    /// The call that was to try it did not come about.
    pub(crate) fn end_probe(&self, is_probe: bool) {
        if is_probe {
            self.is_probed.store(false, Ordering::Relaxed);
        }
    }

    /// Takes in what became of a call. For how long it puts the pod out, when it does.
    fn note(
        &self,
        (outcome, is_probe): (Outcome, bool),
        policy: &Breaker,
        now: Time,
        may_eject: impl Fn() -> bool,
    ) -> Option<Duration> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = match outcome {
            Outcome::Unknown => false,
            Outcome::Good if is_probe => {
                self.out_until.store(0, Ordering::Relaxed);
                record.begin_again(policy, now);
                false
            }
            Outcome::Failed if is_probe => true,
            // Calls that began before it was put out say nothing new.
            _ if self.is_out() => false,
            outcome => record.count(outcome == Outcome::Failed, policy, now) && may_eject(),
        };
        let time = is_over.then(|| record.eject(policy));
        if let Some(time) = time {
            self.out_until.store((now + time).0, Ordering::Relaxed);
        }
        self.end_probe(is_probe);
        time
    }
}

impl Record {
    fn begin_again(&mut self, policy: &Breaker, now: Time) {
        *self = Record { ejections: self.ejections, ..Record::default() };
        self.window_from = now;
        self.calm_from = now + Duration::from_nanos(policy.ejection_ns);
    }

    /// Counts a call. Whether it is one failure too many.
    fn count(&mut self, is_failed: bool, policy: &Breaker, now: Time) -> bool {
        if now.since(self.window_from) > WINDOW {
            (self.window_from, self.calls, self.failed) = (now, 0, 0);
        }
        self.calls += 1;
        self.failed += u32::from(is_failed);
        self.failures = if is_failed { self.failures + 1 } else { 0 };
        if !is_failed && self.ejections > 0 && self.calm_from <= now {
            self.ejections -= 1;
            self.calm_from = now + Duration::from_nanos(policy.ejection_ns);
        }
        let share = u64::from(self.failed) * 100 >= u64::from(policy.failure_percent) * u64::from(self.calls);
        let is_share = policy.failure_percent > 0 && self.calls >= policy.minimum_calls && share;
        is_failed && (self.failures >= policy.consecutive_failures || is_share)
    }

    fn eject(&mut self, policy: &Breaker) -> Duration {
        let times = 1_u64.checked_shl(self.ejections).unwrap_or(u64::MAX);
        *self = Record { ejections: (self.ejections + 1).min(63), ..Record::default() };
        Duration::from_nanos(policy.ejection_ns.saturating_mul(times).min(policy.ejection_max_ns))
    }
}

/// How many pods other nodes said lately are out, by backend and node.
#[derive(Debug, Default)]
pub(crate) struct EjectedElsewhere(FastMap<(u64, u32), (u32, Time)>);

impl EjectedElsewhere {
    fn get(&self, backend: u64, node: NodeIndex, now: Time) -> u32 {
        self.0.get(&(backend, node.0)).filter(|(_, until)| *until > now).map_or(0, |(count, _)| *count)
    }

    /// Forgets what no longer holds.
    pub(crate) fn forget(&mut self, now: Time) {
        self.0.retain(|_, (_, until)| *until > now);
    }
}

impl Breaker {
    /// How many of so many pods of a Service may be out.
    fn ejected_max(&self, pods: u64) -> u64 {
        (pods * u64::from(self.ejected_percent) / 100).max(1)
    }

    /// Whether one more of these pods may be out.
    fn may_eject(&self, pods: &[Arc<PodSlot>]) -> bool {
        let out = pods.iter().filter(|pod| pod.health.is_out()).count() as u64;
        (out + 1) * 100 <= u64::from(self.ejected_percent) * pods.len() as u64 || out == 0
    }
}

impl Exchange {
    /// Notes what a final head, or trailers, say of the call and its pod.
    pub(crate) fn note_status(&mut self, status: u16, headers: Headers<'_>) {
        if self.is_grpc || (self.pod.is_some() && self.plan.choices[self.choice].breaker.is_some()) {
            self.outcome = grpc::status_in_http(headers).unwrap_or(status);
        }
    }

    /// Notes that the pod, and nobody else, made the call fail.
    pub(crate) fn note_failure(&mut self, reason: Reason) {
        let is_pods = matches!(
            reason,
            Reason::ConnectFailed | Reason::UpstreamClosed | Reason::BadResponse | Reason::Timeout
        );
        if is_pods && self.pod.is_some() {
            self.outcome = reason.status();
        }
    }

    /// Which statuses are failures of its pod: by its rule, which L1 knows and tells L2, or else by the Service's breaker.
    fn failures<'a>(&'a self, breaker: &'a Breaker) -> &'a [u16] {
        let of_rule = self.plan.rule.as_ref().and_then(|rule| rule.failures.as_deref());
        let told = || self.aside.as_ref().and_then(|aside| aside.failures.as_deref());
        of_rule.or_else(told).unwrap_or(&breaker.codes)
    }

    /// Here is no pod that is not left out.
    pub(crate) fn meet_ejected(&mut self) {
        self.has_met_ejected = true;
        self.failure = Reason::PodsEjected;
    }

    /// Whether a pod may have this call.
    pub(crate) fn standing(&self, pod: &PodSlot, choice: usize, now: Time) -> Standing {
        let has_breaker = self.plan.choices[choice].breaker.is_some();
        match () {
            () if self.has_tried(pod) => Standing::Out,
            () if has_breaker && !self.is_last_resort => pod.health.standing(now),
            () => Standing::In,
        }
    }
}

impl Exchange {
    /// Whether the call may try a pod that was out long enough. One that takes what is out as a last resort does, too, or nobody would find out.
    pub(crate) fn may_probe(&self, pod: &PodSlot, choice: usize, now: Time) -> bool {
        let has_breaker = self.plan.choices[choice].breaker.is_some();
        has_breaker && !self.has_tried(pod) && pod.health.standing(now) == Standing::Probe
    }
}

impl PodSlot {
    /// For how long its failures leave it out still; zero: a call tries it next, or does so now. Means nothing where its Service has no breaker.
    pub fn left_out_for(&self, now: Time) -> Option<Duration> {
        self.health.out_for(now)
    }
}

/// How many of these are out.
fn ejected(pods: &[Arc<PodSlot>]) -> u32 {
    u32::try_from(pods.iter().filter(|pod| pod.health.is_out()).count()).unwrap_or(u32::MAX)
}

impl Core {
    /// Says on a stream how many of the pods that its call may go to are out.
    pub(crate) fn say_ejected(&mut self, (hop, stream): (ConnId, u32), plan: &Plan) {
        let of = &plan.choices[0];
        let count = if of.breaker.is_some() { ejected(&of.pods) } else { 0 };
        if count > 0
            && let Some(out) = self.net.out(hop)
        {
            encode_ejected(out, stream, count);
        }
    }

    /// The node that has a call said so.
    pub(crate) fn note_ejected(&mut self, id: ExchangeId, count: u32) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let choice = &exchange.plan.choices[exchange.choice];
        if let Some(node) = exchange.counted.filter(|_| choice.breaker.is_some()) {
            self.ejected.0.insert((choice.key, node.0), (count, self.now + EJECTED_KNOWN));
        }
    }

    /// A call is about to go to a node: as a last resort when there, and on those before it, more pods are out than may be. In which order they are is the same on every proxy, so
    /// that the same ones are left out everywhere.
    pub(crate) fn believe_or_not(&mut self, id: ExchangeId, of: &Choice, to: Share) {
        let Some(breaker) = &of.breaker else { return };
        let out = |share: &Share| {
            let count =
                if share.is_own { ejected(&of.pods) } else { self.ejected.get(of.key, share.node, self.now) };
            u64::from(count.min(share.pods_in_all))
        };
        if out(&to) == 0 {
            return;
        }
        let rank = |share: &Share| (share.place ^ of.key, share.node.0);
        let before = of.shares.iter().filter(|share| rank(share) < rank(&to)).map(out).sum::<u64>();
        let pods = of.shares.iter().map(|share| u64::from(share.pods_in_all)).sum();
        if before + out(&to) > breaker.ejected_max(pods)
            && let Some(exchange) = self.exchanges.get_mut(id)
        {
            exchange.is_last_resort = true;
        }
    }

    /// A call leaves its pod.
    pub(crate) fn judge_pod(&mut self, id: ExchangeId, pod: &PodSlot) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (status, is_probe) =
            (std::mem::take(&mut exchange.outcome), std::mem::take(&mut exchange.is_probe));
        let choice = &exchange.plan.choices[exchange.choice];
        let Some(breaker) = &choice.breaker else { return };
        let outcome = (Outcome::of(status, exchange.failures(breaker)), is_probe);
        let out = pod.health.note(outcome, breaker, self.now, || breaker.may_eject(&choice.pods));
        if let Some(time) = out {
            self.tally.ejections.add(1);
            self.event(Event::Ejected { address: pod.address, time });
        }
    }

    /// The call that tries a pod has an answer that may go on for long: that it was begun says enough.
    pub(crate) fn probe_is_answered(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id).filter(|exchange| exchange.is_probe) else { return };
        let (Some(pod), Some(breaker)) = (&exchange.pod, &exchange.plan.choices[exchange.choice].breaker)
        else {
            return;
        };
        if Outcome::of(exchange.outcome, exchange.failures(breaker)) == Outcome::Good {
            pod.health.note((Outcome::Good, true), breaker, self.now, || false);
            exchange.is_probe = false;
        }
    }

    /// Every node that was asked has put its pods out: then one of them has to do, once.
    pub(crate) fn may_resort(&mut self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        if !exchange.has_met_ejected || exchange.is_last_resort {
            return false;
        }
        exchange.is_last_resort = true;
        exchange.tried_nodes.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Breaker {
        Breaker {
            codes: vec![500, 503],
            consecutive_failures: 3,
            failure_percent: 0,
            minimum_calls: 10,
            ejection_ns: 1_000,
            ejection_max_ns: 5_000,
            ejected_percent: 50,
        }
    }

    fn note(health: &Health, outcome: Outcome, is_probe: bool, now: u64) -> Option<u64> {
        let time = health.note((outcome, is_probe), &policy(), Time(now), || true);
        time.map(|time| u64::try_from(time.as_nanos()).unwrap())
    }

    #[test]
    fn failures_in_a_row_put_it_out_and_one_success_between_them_does_not() {
        let health = Health::default();
        for outcome in [Outcome::Failed, Outcome::Failed, Outcome::Good, Outcome::Failed, Outcome::Failed] {
            assert_eq!(note(&health, outcome, false, 1), None);
        }
        assert_eq!((health.standing(Time(1)), health.out_for(Time(1))), (Standing::In, None));
        assert_eq!(note(&health, Outcome::Failed, false, 1), Some(1_000));
        assert_eq!(health.standing(Time(1_000)), Standing::Out);
        assert_eq!(health.out_for(Time(900)), Some(Duration::from_nanos(101)));
        assert_eq!(note(&health, Outcome::Failed, false, 2), None, "calls that began before say nothing new");
        assert_eq!(health.standing(Time(1_001)), Standing::Probe);
        assert_eq!(health.out_for(Time(1_002)), Some(Duration::ZERO));
    }

    #[test]
    fn one_call_tries_it_and_decides() {
        let health = Health::default();
        for _ in 0..3 {
            note(&health, Outcome::Failed, false, 0);
        }
        let mut out_until = 1_000;
        // Twice as long each time, up to the longest.
        for time in [2_000, 4_000, 5_000, 5_000] {
            assert!(health.begin_probe());
            assert!(!health.begin_probe() && health.standing(Time(out_until)) == Standing::Out);
            assert_eq!(note(&health, Outcome::Failed, true, out_until), Some(time));
            out_until += time;
        }
        assert!(health.begin_probe());
        assert_eq!(note(&health, Outcome::Unknown, true, out_until), None);
        assert_eq!(
            health.standing(Time(out_until)),
            Standing::Probe,
            "a caller that gave up decides nothing"
        );
        assert!(health.begin_probe());
        assert_eq!(note(&health, Outcome::Good, true, out_until), None);
        assert_eq!(health.standing(Time(out_until)), Standing::In);
        // It is remembered for a while that it was out.
        for _ in 0..2 {
            note(&health, Outcome::Failed, false, out_until);
        }
        assert_eq!(note(&health, Outcome::Failed, false, out_until), Some(5_000));
    }

    #[test]
    fn a_share_of_failures_counts_when_there_are_enough_calls() {
        let policy = Breaker { failure_percent: 40, consecutive_failures: 100, ..policy() };
        let health = Health::default();
        let mut out = None;
        let mut calls = 0;
        while out.is_none() && calls < 100 {
            let outcome = if calls % 2 == 0 { Outcome::Failed } else { Outcome::Good };
            out = health.note((outcome, false), &policy, Time(1), || true);
            calls += 1;
        }
        assert_eq!(calls, 11, "ten are enough, and the tenth was good");
    }
}
