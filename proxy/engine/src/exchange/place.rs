//! Where a call goes, and where it goes next when that failed; the choices themselves are `balance`'s.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use vicino_wire::head::Header;
use vicino_wire::hop::{
    DEADLINE_MS_NONE, Frame, Kind, ReceiveCredit, RequestFrame, Reset, decode, encode_failures,
    encode_request, encode_request_again,
};
use vicino_wire::http1::write_request_head;

use super::{Exchange, ExchangeId, Method, RequestSide, Target};
use crate::affinity;
use crate::balance::{Algorithm, Candidate, draw_node, next_node, pick_node, pick_pod, pick_weighted};
use crate::breaker::Standing;
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::hash::FastMap;
use crate::hop::node::{NodeIndex, Nodes};
use crate::plan::{Choice, Plan, Share};
use crate::queue::Found;
use crate::reply::Reason;
use crate::snapshot::{Edits, PodSlot};

/// Calls of this worker in flight, by backend and node; lives on through snapshots.
#[derive(Debug, Default)]
pub(crate) struct Loads(FastMap<(u64, u32), u32>);

impl Loads {
    pub(super) fn get(&self, backend: u64, node: NodeIndex) -> u32 {
        self.0.get(&(backend, node.0)).copied().unwrap_or(0)
    }

    pub(super) fn acquire(&mut self, backend: u64, node: NodeIndex) {
        *self.0.entry((backend, node.0)).or_default() += 1;
    }

    pub(crate) fn release(&mut self, backend: u64, node: NodeIndex) {
        if let Some(count) = self.0.get_mut(&(backend, node.0)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&(backend, node.0));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A request that was parsed just now, so that it need not be decoded from what was kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh<'a> {
    pub(crate) frame: &'a RequestFrame<'a>,
    pub(crate) extra: &'a [Header<'a>],
}

/// Where a call of L1 goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    choice: usize,
    share: Share,
}

const GRADE_NEVER: u8 = 0;
/// Failed lately.
const GRADE_BAD: u8 = 1;
pub(super) const GRADE_FAR: u8 = 2;
const GRADE_BEST: u8 = 3;

/// How good a node is for a call: see [`Candidate::grade`].
pub(super) fn grade(exchange: &Exchange, choice: usize, share: Share, nodes: &Nodes, now: Time) -> u8 {
    let good = if share.is_near { GRADE_BEST } else { GRADE_FAR };
    if share.is_own {
        if exchange.tried_nodes.contains(&(choice, share.node)) {
            return GRADE_NEVER;
        }
        let pods = &exchange.plan.choices[choice].pods;
        let is_left = pods.iter().any(|pod| !exchange.has_tried(pod));
        return if is_left { good } else { GRADE_NEVER };
    }
    let node = nodes.get(share.node);
    match () {
        () if exchange.tried_nodes.contains(&(choice, share.node)) || node.addresses.is_empty() => {
            GRADE_NEVER
        }
        () if node.is_good(now) => good,
        () => GRADE_BAD,
    }
}

impl Core {
    /// Finds a place for a call that has none, or fails it.
    pub(crate) fn place(&mut self, id: ExchangeId, fresh: Option<Fresh<'_>>) {
        loop {
            let Some(exchange) = self.exchanges.get(id) else { return };
            let plan = Rc::clone(&exchange.plan);
            if let Some(outside) = &plan.outside {
                return self.place_outside(id, outside, fresh);
            }
            let place = if exchange.origin.is_caller() {
                let failure = exchange.failure;
                let place = self.choose(id, &plan);
                if place.is_none() && (self.may_try_again(id) || self.may_resort(id)) {
                    continue;
                }
                let Some(place) = place else { return self.fail(id, failure) };
                self.believe_or_not(id, &plan.choices[place.choice], place.share);
                Some(place)
            } else {
                None
            };
            let is_placed = match place {
                Some(Place { choice, share }) if !share.is_own => {
                    self.place_on_hop(id, &plan, choice, share.node)
                }
                Some(Place { choice, share }) => {
                    let is_placed = self.place_on_pod(id, &plan, choice, fresh);
                    self.count_own(id, share.node);
                    if self.exchanges.get(id).is_some_and(|exchange| exchange.queued.is_some()) {
                        self.reserve(id);
                    }
                    if !is_placed && let Some(exchange) = self.exchanges.get_mut(id) {
                        exchange.tried_nodes.push((choice, share.node));
                    }
                    is_placed
                }
                None => {
                    if !self.place_on_pod(id, &plan, 0, fresh) {
                        let failure = self.exchanges.get(id).map_or(Reason::NoEndpoint, |e| e.failure);
                        self.fail(id, failure);
                    }
                    true
                }
            };
            if is_placed {
                return;
            }
        }
    }

    /// A call that is repeated has nowhere else to go: once, it may go where it has failed.
    fn may_try_again(&mut self, id: ExchangeId) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        exchange.tried_pods.clear();
        exchange.tried_nodes.clear();
        std::mem::take(&mut exchange.may_try_again)
    }

    /// Whether a call that waits for its node, and may be placed again, has one that has not failed lately.
    pub(crate) fn has_better_place(&self, id: ExchangeId) -> bool {
        let Core { exchanges, nodes, now, .. } = self;
        let Some(exchange) = exchanges.get(id) else { return false };
        let Some(here) = exchange.counted else { return false };
        let is_good = |choice: usize, share: &Share| {
            let is_here = (choice, share.node) == (exchange.choice, here);
            !is_here && grade(exchange, choice, *share, nodes, *now) > GRADE_BAD
        };
        let is_open = |(i, choice): (usize, &Choice)| {
            let may_be = i == exchange.choice || (!exchange.is_pinned && choice.weight > 0);
            may_be && choice.shares.iter().any(|share| is_good(i, share))
        };
        let is_allowed = exchange.is_replayable() && exchange.requeues_left > 0;
        is_allowed && exchange.plan.choices.iter().enumerate().any(is_open)
    }

    /// The backend that was drawn, or by weight another one that has a node left; then the node.
    fn choose(&mut self, id: ExchangeId, plan: &Plan) -> Option<Place> {
        let Core { exchanges, nodes, loads, latencies, random, now, .. } = self;
        let exchange = exchanges.get(id)?;
        let (nodes, now) = (&*nodes, *now);
        let candidates = |choice: usize| {
            plan.choices[choice].shares.iter().map(move |share| Candidate {
                pods: share.pods,
                grade: grade(exchange, choice, *share, nodes, now),
            })
        };
        let is_possible = |choice: usize| candidates(choice).any(|c| c.grade > GRADE_NEVER);
        let choice = if is_possible(exchange.choice) {
            exchange.choice
        } else if exchange.is_pinned {
            return None;
        } else {
            let weight = |i: usize| if is_possible(i) { u64::from(plan.choices[i].weight) } else { 0 };
            pick_weighted((0..plan.choices.len()).map(weight), random)?
        };
        let of = &plan.choices[choice];
        if let Some(key) = exchange.affinity {
            let best = candidates(choice).map(|c| c.grade).max().unwrap_or(GRADE_NEVER);
            let place = |(share, c): (&Share, Candidate)| {
                let load = || u64::from(loads.get(of.key, share.node));
                (c.grade == best).then(|| (share.place, share.pods, load()))
            };
            let places = of.shares.iter().zip(candidates(choice)).map(place);
            let node = affinity::pick_bounded(key, plan.affinity_load_percent, &places)?;
            return Some(Place { choice, share: of.shares[node] });
        }
        let load = |i: usize| {
            let share = of.shares[i];
            of.load_of_node(share, loads.get(of.key, share.node), (latencies, now))
        };
        let is_best = |i: usize| grade(exchange, choice, of.shares[i], nodes, now) == GRADE_BEST;
        let drawn = match of.algorithm {
            Algorithm::RoundRobin => next_node(&of.cumulative, is_best, || of.next_turn()),
            _ => draw_node(&of.cumulative, is_best, load, random),
        };
        let node = drawn.or_else(|| pick_node(&candidates(choice), load, random))?;
        Some(Place { choice, share: of.shares[node] })
    }

    fn place_on_hop(&mut self, id: ExchangeId, plan: &Plan, choice: usize, node: NodeIndex) -> bool {
        let Some(account) = self.exchanges.get(id).map(|exchange| exchange.account) else { return true };
        let hop = self.hop_to(node, account);
        let Some(exchange) = self.exchanges.get_mut(id) else { return true };
        let hop = match hop {
            Ok(hop) => hop,
            Err(reason) => {
                exchange.tried_nodes.push((choice, node));
                exchange.failure = reason;
                return false;
            }
        };
        exchange.choice = choice;
        exchange.counted = Some(node);
        exchange.placed = self.now;
        if exchange.addressed_to != choice {
            exchange.addressed_to = choice;
            readdress(&mut exchange.request, &plan.choices[choice]);
        }
        self.loads.acquire(plan.choices[choice].key, node);
        exchange.target = Target::Waiting(hop);
        if !self.open_stream(hop, id) {
            self.detach(id, Reset::Cancelled);
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.tried_nodes.push((choice, node));
                exchange.failure = Reason::Overloaded;
            }
            return false;
        }
        true
    }

    /// Writes the call's REQUEST on a hop that stands, on the stream of that number.
    pub(crate) fn send_on_stream(&mut self, id: ExchangeId, hop: ConnId, stream: u32, window: u32) {
        let deadline_ms = match self.exchanges.get(id).map_or(Time::NEVER, |exchange| exchange.deadline) {
            Time::NEVER => DEADLINE_MS_NONE,
            due => u32::try_from(due.since(self.now).as_millis()).unwrap_or(u32::MAX).max(1),
        };
        let offset = self.net.get_mut(hop).map_or(0, |conn| {
            let pending = conn.pending() as u64;
            conn.hop().map_or(0, |hop| hop.written + pending)
        });
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.request.hop_offset = offset;
        exchange.target = Target::Stream(hop, stream);
        exchange.response.receive = ReceiveCredit::new(self.config.stream_window);
        let request = &mut exchange.request;
        request.begin_attempt(window);
        request.is_sent = request.framing.is_empty();
        let edits = exchange.plan.choices[exchange.choice].edits.as_deref();
        if let Some(out) = self.net.out(hop) {
            let is_last_resort = exchange.is_last_resort;
            if let Some(edits) = edits {
                with_edits(&exchange.request, edits, |frame| {
                    let frame = RequestFrame { deadline_ms, is_last_resort, ..*frame };
                    // It fits: that was seen to when it came.
                    let _ = encode_request(out, stream, &frame, &[]);
                });
            } else {
                let kept = &exchange.request.kept[..exchange.request.body_at];
                encode_request_again(out, kept, stream, (deadline_ms, is_last_resort));
            }
            if let Some(codes) = exchange.plan.rule.as_ref().and_then(|rule| rule.failures.as_deref()) {
                // As many as a rule may have.
                let _ = encode_failures(out, stream, codes);
            }
        }
        self.flush_request(id);
    }

    /// The best of the pods of the own node that were not tried, or a place in line for them. False when there is neither.
    fn place_on_pod(&mut self, id: ExchangeId, plan: &Plan, choice: usize, fresh: Option<Fresh<'_>>) -> bool {
        if let Some(limit) = &plan.choices[choice].limit {
            return match self.find_slot(id, choice, (limit, &plan.choices[choice])) {
                Found::Waits | Found::Refused => true,
                Found::Slot(slot) => {
                    self.choose_pod(id, choice, &slot, fresh);
                    true
                }
                Found::Nothing(reason) => {
                    if let Some(exchange) = self.exchanges.get_mut(id) {
                        exchange.failure = reason;
                    }
                    false
                }
            };
        }
        let now = self.now;
        let Some(exchange) = self.exchanges.get_mut(id) else { return true };
        let pods = &plan.choices[choice].pods;
        let standing = |pod: &PodSlot| exchange.standing(pod, choice, now);
        let is_in = |pod: &PodSlot| standing(pod) == Standing::In;
        let load = plan.choices[choice].load_of_pods(now);
        let loads = pods.iter().enumerate().map(|(i, pod)| is_in(pod).then(|| load(i, pod)));
        let is_probed = |pod: &PodSlot| exchange.may_probe(pod, choice, now) && pod.health.begin_probe();
        let probed = pods.iter().position(|pod| is_probed(pod));
        let picked =
            probed.or_else(|| exchange.home(pods, is_in)).or_else(|| pick_pod(loads, &mut self.random));
        let Some(picked) = picked else {
            if pods.iter().any(|pod| !exchange.has_tried(pod)) {
                exchange.meet_ejected();
            }
            return false;
        };
        exchange.is_probe = probed.is_some();
        let slot = Arc::clone(&pods[picked]);
        slot.acquire();
        self.choose_pod(id, choice, &slot, fresh);
        true
    }

    fn choose_pod(&mut self, id: ExchangeId, choice: usize, slot: &Arc<PodSlot>, fresh: Option<Fresh<'_>>) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.choice = choice;
        }
        self.deliver(id, slot, fresh);
    }

    /// Gives a call to a pod in which it has been counted.
    pub(crate) fn deliver(&mut self, id: ExchangeId, slot: &Arc<PodSlot>, fresh: Option<Fresh<'_>>) {
        let is_own = self.is_own_listener(slot.address);
        let Some(exchange) = self.exchanges.get_mut(id) else { return slot.release() };
        exchange.pod = Some(Arc::clone(slot));
        exchange.delivered = self.now;
        if is_own {
            return self.fail(id, Reason::SelfCall);
        }
        if self.is_from_anyone(id) {
            return self.fail(id, Reason::NoIdentity);
        }
        if !self.is_allowed(id, std::slice::from_ref(slot), true) {
            return self.fail(id, Reason::PolicyDenied);
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let connect_timeout = exchange.plan.connect_timeout;
        if exchange.speaks_http2() {
            return self.deliver_on_session(id, slot, (connect_timeout, fresh));
        }
        let idle_max = match () {
            () if exchange.kind == Kind::Opaque || exchange.is_fresh_only => None,
            // It cannot be sent again should the pod be closing the connection just now.
            () if exchange.method == Method::Other => Some(self.config.pool_idle_once),
            () => Some(self.config.pool_idle_timeout),
        };
        let pod = self.pod_connection(slot, id, idle_max, connect_timeout);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.target = Target::Pod(pod);
        exchange.request.begin_attempt(0);
        exchange.request.is_sent = exchange.kind == Kind::Http && exchange.request.framing.is_empty();
        if exchange.kind == Kind::Http
            && let Some(out) = self.net.out(pod)
        {
            if let Some(edits) = exchange.plan.choices[exchange.choice].edits.as_deref() {
                with_edits(&exchange.request, edits, |frame| {
                    write_request_head(out, &frame.head, frame.framing, &[], true);
                });
            } else {
                write_head(out, &exchange.request.kept[..exchange.request.body_at], fresh);
            }
        }
        self.flush_request(id);
    }

    /// Gives a call to a pod that speaks HTTP/2.
    fn deliver_on_session(
        &mut self,
        id: ExchangeId,
        slot: &Arc<PodSlot>,
        (connect_timeout, fresh): (Duration, Option<Fresh<'_>>),
    ) {
        let is_fresh_only = self.exchanges.get(id).is_some_and(|exchange| exchange.is_fresh_only);
        let (conn, stream, window) = self.open_session_stream(slot, id, is_fresh_only, connect_timeout);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.target = Target::Session(conn, stream);
        exchange.response.receive = ReceiveCredit::new(self.config.session_stream_window);
        let request = &mut exchange.request;
        request.begin_attempt(window);
        request.is_sent = request.framing.is_empty();
        let Some((out, session)) = self.net.session_out(conn) else { return };
        if let Some(edits) = exchange.plan.choices[exchange.choice].edits.as_deref() {
            with_edits(&exchange.request, edits, |frame| {
                session.encoder.request(out, stream, (&frame.head, frame.framing), &[]);
            });
        } else if let Some(Fresh { frame, extra }) = fresh {
            session.encoder.request(out, stream, (&frame.head, frame.framing), extra);
        } else if let Ok(Some((Frame::Request { request, .. }, _))) = decode(&request.kept[..request.body_at])
        {
            session.encoder.request(out, stream, (&request.head, request.framing), &[]);
        }
        self.flush_request(id);
    }

    /// Counts a call in that went to a pod of the own node without a hop: for the choice of nodes it is a node like others.
    fn count_own(&mut self, id: ExchangeId, node: NodeIndex) {
        if let Some(exchange) = self.exchanges.get_mut(id)
            && (exchange.pod.is_some() || exchange.queued.is_some())
            && exchange.counted.is_none()
        {
            exchange.counted = Some(node);
            exchange.placed = self.now;
            self.loads.acquire(exchange.plan.choices[exchange.choice].key, node);
        }
    }

    /// Whether dialling an address would be calling ourselves.
    fn is_own_listener(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.config.own_ports.contains(&address.port())
            && (ip.is_loopback()
                || self.snapshot.node_addresses.contains(&ip)
                || self.config.own_addresses.contains(&ip))
    }

    /// Where it was placed, nothing of the call reached an application: it is placed again when it is still all here and may be.
    /// `is_excluded`: not where it was.
    pub(crate) fn requeue(&mut self, id: ExchangeId, reason: Reason, is_excluded: bool) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.failure = reason;
        // A node without endpoints is news that has come there before it came here: to ask the others costs nothing, and
        // each is asked once. Else a Service that is scaled down would fail calls while its last pods are ready.
        let is_known_there = matches!(reason, Reason::NoEndpoint | Reason::PodsEjected);
        exchange.has_met_ejected |= reason == Reason::PodsEjected;
        exchange.note_failure(reason);
        let is_news = is_known_there && is_excluded && exchange.pod.is_none();
        if !exchange.is_replayable() || (exchange.requeues_left == 0 && !is_news) {
            return self.fail(id, reason);
        }
        exchange.requeues_left -= u32::from(!is_news);
        if is_excluded {
            exchange.note_tried();
        }
        self.tally.requeues.add(1);
        self.detach(id, Reset::Cancelled);
        self.place(id, None);
    }

    /// Where it was, it was not begun, and it was taken back from there: it is placed as if it were new.
    pub(crate) fn place_again(&mut self, id: ExchangeId) {
        if self.exchanges.get(id).is_some_and(|exchange| !exchange.is_replayable()) {
            return self.fail(id, Reason::Overloaded);
        }
        self.detach(id, Reset::Cancelled);
        self.place(id, None);
    }

    /// An idle connection had died before the call reached it: once more, on a new one. Costs no requeue, and happens once.
    pub(crate) fn retry_stale(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.is_fresh_only = true;
        self.tally.stale_retries.add(1);
        self.detach(id, Reset::Cancelled);
        self.place(id, None);
    }
}

/// Makes the kept REQUEST one to another backend's Service.
fn readdress(request: &mut RequestSide, to: &Choice) {
    let mut kept = Vec::with_capacity(request.kept.len() + 64);
    let Ok(Some((Frame::Request { request: frame, .. }, _))) = decode(&request.kept) else { return };
    let frame = RequestFrame { to: to.destination(), ..frame };
    if encode_request(&mut kept, 1, &frame, &[]).is_ok() {
        let head = kept.len();
        kept.extend_from_slice(&request.kept[request.body_at..]);
        request.body_at = head;
        request.sent_to = head;
        request.kept = kept;
    }
}

/// Gives what was kept of a request, as one backend gets it, to whoever writes it.
fn with_edits(request: &RequestSide, edits: &Edits, write: impl FnOnce(&RequestFrame<'_>)) {
    let kept = &request.kept[..request.body_at];
    let Ok(Some((Frame::Request { request: mut frame, .. }, _))) = decode(kept) else { return };
    let mut fields = Vec::new();
    edits.request.apply(frame.head.headers, &mut fields);
    frame.head.headers = (&fields[..]).into();
    write(&frame);
}

/// Appends the request's head as HTTP/1.1, from what was parsed just now or from what was kept.
fn write_head(out: &mut Vec<u8>, kept: &[u8], fresh: Option<Fresh<'_>>) {
    if let Some(Fresh { frame, extra }) = fresh {
        return write_request_head(out, &frame.head, frame.framing, extra, true);
    }
    if let Ok(Some((Frame::Request { request, .. }, _))) = decode(kept) {
        write_request_head(out, &request.head, request.framing, &[], true);
    }
}

/// Where the pod that serves a call is, for whoever asked for its path.
pub(crate) fn pod_address(pod: Option<&Arc<PodSlot>>) -> Option<SocketAddr> {
    pod.map(|pod| pod.address)
}
