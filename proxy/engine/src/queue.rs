//! Calls that wait for a pod with a limit: one line for each port of a Service, shared by the workers of a proxy; who is first is served first, but for pods at which it has failed,
//! and calls that are in line elsewhere, too, only when nobody else is: a pod that waits for those to come would be idle.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use vicino_wire::hop::Reset;

use crate::breaker::Standing;
use crate::core::Core;
use crate::deadline::Time;
use crate::exchange::{Exchange, ExchangeId};
use crate::plan::Choice;
use crate::reply::Reason;
use crate::snapshot::{Concurrency, PodSlot, ServiceName};

/// How often a free pod is looked for again after another worker was faster, before the call lines up.
const RACES_MAX: u32 = 16;

/// The line in front of one port of a Service. The same object lives on through snapshots while the port does.
#[derive(Debug, Default)]
pub struct Queue {
    /// As many as there are in line, to be read without the lock.
    waiting: AtomicU32,
    /// Those of them that are for whichever pod is free.
    for_any: AtomicU32,
    line: Mutex<VecDeque<Waiter>>,
    /// Since when there is one, in the engine's time.
    since: AtomicU64,
    /// Whose turn it is, where pods, or the nodes that have them, are asked one after the other.
    pub(crate) turn_of_pods: AtomicU32,
    pub(crate) turn_of_nodes: AtomicU32,
}

/// A call in line, of whichever worker.
#[derive(Debug)]
struct Waiter {
    mailbox: Arc<Mailbox>,
    exchange: ExchangeId,
    /// The only pod that is meant.
    pod: Option<IpAddr>,
    /// Pods at which it has failed: not those.
    tried_pods: Box<[SocketAddr]>,
    /// A pod that is left out will do.
    is_last_resort: bool,
    /// The call is in line elsewhere, too, and has to come from there first.
    is_reservation: bool,
}

/// A slot that was taken for a call.
#[derive(Debug)]
pub(crate) struct Grant {
    exchange: ExchangeId,
    pub(crate) slot: Arc<PodSlot>,
    limit: Arc<Limit>,
    pub(crate) is_probe: bool,
}

/// Where a worker finds the slots that others took for its calls.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    has_mail: AtomicBool,
    grants: Mutex<Vec<Grant>>,
    bell: OnceLock<Waker>,
}

/// A limit, and the line of those who wait because of it.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Whose pods have it: a Service, and one of its ports by the name in EndpointSlices.
    pub(crate) service: ServiceName,
    pub(crate) port_name: Arc<str>,
    pub(crate) concurrency: Concurrency,
    /// Pods that fail are left out.
    pub(crate) has_breaker: bool,
    pub(crate) queue: Arc<Queue>,
}

/// All lines are alike: what waits is no part of what was configured.
impl PartialEq for Queue {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Queue {
    /// Calls in line now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    fn line(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiter>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long there has been a line without a break.
    fn standing(&self, now: Time) -> Duration {
        if self.waiting() == 0 { Duration::ZERO } else { now.since(Time(self.since.load(Ordering::Relaxed))) }
    }

    /// Lines a call up; false when the line is as long as it may be. Calls to a certain pod count by themselves.
    fn push(&self, waiter: Waiter, length_max: u32, now: Time) -> bool {
        let mut line = self.line();
        let for_any = self.for_any.load(Ordering::SeqCst);
        let length = if waiter.pod.is_none() { for_any } else { self.waiting() - for_any };
        let has_room = length < length_max;
        if has_room {
            if line.is_empty() {
                self.since.store(now.0, Ordering::Relaxed);
            }
            self.for_any.fetch_add(u32::from(waiter.pod.is_none()), Ordering::SeqCst);
            line.push_back(waiter);
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        has_room
    }

    /// Takes a call out of the line; false when it is not there: a slot was taken for it.
    pub(crate) fn remove(&self, mailbox: &Arc<Mailbox>, exchange: ExchangeId) -> bool {
        let mut line = self.line();
        let is_it = |waiter: &Waiter| waiter.exchange == exchange && Arc::ptr_eq(&waiter.mailbox, mailbox);
        let found = line.iter().position(is_it);
        found.and_then(|at| self.take(&mut line, at)).is_some()
    }

    /// Takes the one in that place out.
    fn take(&self, line: &mut VecDeque<Waiter>, at: usize) -> Option<Waiter> {
        let waiter = line.remove(at)?;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.for_any.fetch_sub(u32::from(waiter.pod.is_none()), Ordering::SeqCst);
        Some(waiter)
    }

    /// Whether somebody is in line before a call to any pod, or to a certain one: those who wait for one keep nobody from the others.
    fn has_line(&self, pod: Option<IpAddr>) -> bool {
        let count = if pod.is_none() { &self.for_any } else { &self.waiting };
        count.load(Ordering::SeqCst) > 0
    }
}

impl Mailbox {
    /// Puts a grant in, and rings when that is another worker's.
    fn post(self: &Arc<Self>, grant: Grant, own: &Arc<Mailbox>) {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner).push(grant);
        self.has_mail.store(true, Ordering::SeqCst);
        if !Arc::ptr_eq(self, own)
            && let Some(bell) = self.bell.get()
        {
            bell.wake_by_ref();
        }
    }

    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::SeqCst)
    }

    fn take(&self) -> Vec<Grant> {
        self.has_mail.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.grants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Limit {
    /// Takes slots of `pods` for those in line, while there are both. Whoever frees a slot calls this after it, and whoever lines up
    /// after that: whichever is later sees what the other did.
    pub(crate) fn serve(self: &Arc<Self>, pods: &[Arc<PodSlot>], turn: (&Arc<Mailbox>, Time)) {
        self.serve_those(|_| true, pods, turn);
    }

    /// Likewise, of only some of those in line.
    fn serve_those(
        self: &Arc<Self>,
        is_meant: impl Fn(&Waiter) -> bool,
        pods: &[Arc<PodSlot>],
        (own, now): (&Arc<Mailbox>, Time),
    ) {
        let Limit { concurrency, has_breaker, queue, .. } = &**self;
        if queue.waiting() == 0 {
            return;
        }
        let mut line = queue.line();
        while let Some((next, slot)) = self.next((&line, &is_meant), pods, now) {
            if !slot.acquire_below(slot.limit(concurrency)) {
                continue;
            }
            let Some(waiter) = queue.take(&mut line, next) else { return slot.release() };
            let Waiter { mailbox, exchange, pod, .. } = waiter;
            let is_probe = *has_breaker
                && pod.is_none()
                && slot.health.standing(now) == Standing::Probe
                && slot.health.begin_probe();
            mailbox.post(Grant { exchange, slot: Arc::clone(slot), limit: Arc::clone(self), is_probe }, own);
        }
    }

    /// The first in line that may have one of the pods that are free, and that pod.
    fn next<'p>(
        &self,
        (line, is_meant): (&VecDeque<Waiter>, impl Fn(&Waiter) -> bool),
        pods: &'p [Arc<PodSlot>],
        now: Time,
    ) -> Option<(usize, &'p Arc<PodSlot>)> {
        let has_room = |pod: &PodSlot| pod.in_flight() < pod.limit(&self.concurrency);
        let is_in = |pod: &PodSlot| !self.has_breaker || pod.health.standing(now) != Standing::Out;
        // Most often none is free, and the line is not looked through.
        if !pods.iter().any(|pod| has_room(pod)) {
            return None;
        }
        let has_any_in = pods.iter().any(|pod| has_room(pod) && is_in(pod));
        let best = |waiter: &Waiter| {
            let may_have = |pod: &PodSlot| {
                waiter.pod.is_none_or(|only| only == pod.address.ip())
                    && (waiter.is_last_resort || is_in(pod))
                    && !waiter.tried_pods.contains(&pod.address)
            };
            // Nor are all pods for each of a long line when all that is free is left out.
            let pods = if has_any_in || waiter.is_last_resort { pods } else { &[] };
            pods.iter().filter(|pod| has_room(pod) && may_have(pod)).min_by_key(|pod| pod.in_flight())
        };
        let first = |is_reservation: bool| {
            let is_next = |waiter: &Waiter| waiter.is_reservation == is_reservation && is_meant(waiter);
            let mut waiters = line.iter().enumerate().filter(|(_, waiter)| is_next(waiter));
            waiters.find_map(|(at, waiter)| Some((at, best(waiter)?)))
        };
        // A pod is held idle until a reservation's call has come, so that is for pods that would be idle anyway.
        first(false).or_else(|| first(true))
    }

    /// Lines a call up, or, with `is_reservation`, one that is in line elsewhere, too. False when the line is full, to a reservation when it is
    /// half full: room is for calls that have no other place.
    pub(crate) fn line_up(
        &self,
        (mailbox, id): (&Arc<Mailbox>, ExchangeId),
        (exchange, is_reservation): (&Exchange, bool),
        now: Time,
    ) -> bool {
        let pod = exchange.plan.choices[exchange.choice].pod;
        let waiter = Waiter {
            mailbox: Arc::clone(mailbox),
            exchange: id,
            pod,
            tried_pods: exchange.tried_pods.as_slice().into(),
            // Whoever means one pod gets that one, however it is.
            is_last_resort: exchange.is_last_resort || pod.is_some(),
            is_reservation,
        };
        let length_max = self.concurrency.queue_length / if is_reservation { 2 } else { 1 };
        self.queue.push(waiter, length_max, now)
    }

    /// How long a call that lines up now may wait. A line that does not end for long is no burst that the next moment takes away, and whoever joined it would wait for as long as all others: then calls wait for a
    /// short time only, so that those that are served are served soon (Maurer, "Fail at Scale", ACM Queue 13(8), 2015, after CoDel, RFC 8289).
    fn patience(&self, now: Time) -> Duration {
        let Concurrency { queue_timeout_ns, standing_timeout_ns, .. } = self.concurrency;
        let wait = Duration::from_nanos(queue_timeout_ns);
        let is_standing = standing_timeout_ns > 0 && self.queue.standing(now) >= wait;
        if is_standing { Duration::from_nanos(standing_timeout_ns).min(wait) } else { wait }
    }
}

/// What came of looking for a slot.
#[derive(Debug)]
pub(crate) enum Found {
    /// This one was taken.
    Slot(Arc<PodSlot>),
    /// The call is in line.
    Waits,
    /// No pod may have it, and whoever sent it has been told.
    Refused,
    /// Neither.
    Nothing(Reason),
}

impl Core {
    /// Rings when another worker has taken a slot for a call of this one; [`Core::granted`] is to be called then.
    pub fn hang_bell(&mut self, bell: Waker) {
        // A second bell would be a second driver.
        let _ = self.mailbox.bell.set(bell);
    }

    /// Slots were taken for calls that wait here.
    pub fn granted(&mut self, now: Time) {
        self.now = now;
        self.settle();
    }

    /// Gives calls what was taken for them.
    pub(crate) fn read_mail(&mut self) {
        for grant in self.mailbox.take() {
            let id = grant.exchange;
            let Some(exchange) = self.exchanges.get_mut(id).filter(|exchange| exchange.queued.is_some())
            else {
                if let Some(grant) = self.granted_here(id, grant) {
                    self.return_grant(grant);
                }
                continue;
            };
            exchange.queued = None;
            exchange.is_probe = grant.is_probe;
            if exchange.is_reservation {
                self.hold_pod(id, &grant.slot);
                continue;
            }
            self.tally.queued.sub(1);
            self.set_attempt_due(id);
            self.say_started(id);
            self.deliver(id, &grant.slot, None);
        }
    }

    /// Nobody needs a slot that was taken: the next in line gets it.
    pub(crate) fn return_grant(&self, grant: Grant) {
        let Grant { slot, limit, is_probe, .. } = grant;
        slot.release();
        slot.health.end_probe(is_probe);
        self.freed(&limit, &slot);
    }

    /// A slot was given back: the first in line gets it. Where its pod has left, which is to come to an end, only those get it that have nowhere
    /// else to go: who means that pod, and anybody when it was the last one.
    pub(crate) fn freed(&self, limit: &Arc<Limit>, slot: &Arc<PodSlot>) {
        if limit.queue.waiting() == 0 {
            return;
        }
        let ServiceName { namespace, name } = &limit.service;
        let local = self.snapshot.endpoints(namespace, name, &limit.port_name).map(|port| &port.local[..]);
        let is_here =
            |local: &[Arc<PodSlot>]| local.is_empty() || local.iter().any(|pod| Arc::ptr_eq(pod, slot));
        let is_for_all = local.is_none_or(is_here);
        let pods = std::slice::from_ref(slot);
        limit.serve_those(|waiter| is_for_all || waiter.pod.is_some(), pods, (&self.mailbox, self.now));
    }

    /// A slot of the least busy pod that is below its limit, or a place in line. Nobody passes those who are in line.
    pub(crate) fn find_slot(
        &mut self,
        id: ExchangeId,
        choice: usize,
        (limit, of): (&Arc<Limit>, &Choice),
    ) -> Found {
        let pods = &of.pods[..];
        let now = self.now;
        let Some(exchange) = self.exchanges.get_mut(id) else { return Found::Waits };
        let Limit { concurrency, queue, .. } = &**limit;
        let standing = |exchange: &Exchange, pod: &PodSlot| exchange.standing(pod, choice, now);
        let has_any = pods.iter().any(|pod| standing(exchange, pod) != Standing::Out);
        if !has_any && pods.iter().any(|pod| !exchange.has_tried(pod)) {
            exchange.meet_ejected();
            return Found::Nothing(Reason::PodsEjected);
        }
        let has_line = || queue.has_line(of.pod);
        if !has_line() {
            let probes: Vec<_> = pods.iter().filter(|pod| exchange.may_probe(pod, choice, now)).collect();
            for pod in probes.into_iter().filter(|pod| pod.health.begin_probe()) {
                if pod.acquire_below(pod.limit(concurrency)) {
                    exchange.is_probe = true;
                    return Found::Slot(Arc::clone(pod));
                }
                pod.health.end_probe(true);
            }
        }
        // Calls that belong together stay together as long as their pod has room.
        if !has_line()
            && let Some(home) = exchange.home(pods, |pod| standing(exchange, pod) == Standing::In)
            && pods[home].acquire_below(pods[home].limit(concurrency))
        {
            return Found::Slot(Arc::clone(&pods[home]));
        }
        let load = of.load_of_pods(now);
        let mut races = 0;
        while !has_line() && races < RACES_MAX {
            let loads = pods.iter().enumerate().map(|(i, pod)| {
                let is_in = standing(exchange, pod) == Standing::In;
                (is_in && pod.in_flight() < pod.limit(concurrency)).then(|| load(i, pod))
            });
            let Some(picked) = crate::balance::pick_pod(loads, &mut self.random) else { break };
            if pods[picked].acquire_below(pods[picked].limit(concurrency)) {
                return Found::Slot(Arc::clone(&pods[picked]));
            }
            races += 1;
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return Found::Waits };
        exchange.choice = choice;
        // There is none, or it has failed at each.
        if !has_any {
            return Found::Nothing(if pods.is_empty() { Reason::NoEndpoint } else { exchange.failure });
        }
        self.line_up(id, limit, pods)
    }

    /// A place in line, for a call that any of the pods may have.
    fn line_up(&mut self, id: ExchangeId, limit: &Arc<Limit>, pods: &[Arc<PodSlot>]) -> Found {
        let now = self.now;
        let is_reservation = self.exchanges.get(id).is_some_and(|exchange| exchange.is_reservation);
        // Of a call that waits elsewhere nothing is here to be judged; it was judged where it lined up.
        let refusal = if is_reservation { None } else { self.refusal(id, pods) };
        if let Some(reason) = refusal {
            self.fail(id, reason);
            return Found::Refused;
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return Found::Waits };
        let origin = exchange.origin;
        let due = exchange.deadline.min(now + limit.patience(now));
        if !limit.line_up((&self.mailbox, id), (exchange, is_reservation), now) {
            return Found::Nothing(Reason::QueueFull);
        }
        exchange.queued = Some(Arc::clone(&limit.queue));
        self.exchanges.set_due(id, due);
        self.tally.queued.add(u64::from(!is_reservation));
        self.say_waits(origin);
        limit.serve(pods, (&self.mailbox, now));
        Found::Waits
    }

    /// A call leaves the line without a slot.
    pub(crate) fn leave_queue(&mut self, id: ExchangeId) {
        let queue = self.exchanges.get_mut(id).and_then(|exchange| exchange.queued.take());
        if let Some(queue) = queue {
            let is_call = self.exchanges.get(id).is_some_and(|exchange| !exchange.is_reservation);
            self.tally.queued.sub(u64::from(is_call));
            // When a slot was taken for it just now, that is found in the mailbox and goes to the next.
            queue.remove(&self.mailbox, id);
        }
    }

    /// A call has waited as long as it may: another node may take it when it came from a caller, else whoever sent it is told.
    pub(crate) fn queue_due(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        match () {
            () if exchange.is_reservation => self.give_up_reservation(id, Reset::Unprocessed),
            () if exchange.deadline <= self.now => self.fail(id, Reason::Timeout),
            () if exchange.origin.is_caller() => {
                // What was due until now was the end of the wait.
                self.set_attempt_due(id);
                self.requeue(id, Reason::QueueTimeout, true);
            }
            () => self.fail(id, Reason::QueueTimeout),
        }
    }

    /// Another configuration: there may be pods now for those who wait, or no limit any more.
    pub(crate) fn serve_queues(&mut self) {
        for (namespace, sets) in &self.snapshot.endpoints {
            for (name, set) in sets {
                for (port_name, port) in set.ports.iter().filter(|(_, port)| port.queue.waiting() > 0) {
                    let service = self.snapshot.service(namespace, name);
                    let unlimited = Concurrency { per_pod: u32::MAX, ..Concurrency::default() };
                    let limit = Limit {
                        service: ServiceName { namespace: Arc::clone(namespace), name: Arc::clone(name) },
                        port_name: Arc::clone(port_name),
                        concurrency: service.and_then(|service| service.concurrency).unwrap_or(unlimited),
                        has_breaker: service.is_some_and(|service| service.breaker.is_some()),
                        queue: Arc::clone(&port.queue),
                    };
                    Arc::new(limit).serve(&port.local, (&self.mailbox, self.now));
                }
            }
        }
    }
}
