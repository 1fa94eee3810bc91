//! One call, from where it came to where it goes: what was taken in, sent, kept for another try; and how it ends.

mod flow;
mod hedge;
mod judge;
mod late;
mod mirror;
mod place;
mod request;
mod response;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use vicino_wire::head::{Framing, Version};
use vicino_wire::hop::{Kind, ReceiveCredit, Reset, SendCredit, encode_reset};
use vicino_wire::http2::ErrorCode;

use crate::account::AccountIndex;
use crate::affinity;
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::downstream::Asker;
use crate::hop::node::NodeIndex;
use crate::latency::Took;
use crate::plan::Plan;
use crate::queue::Queue;
use crate::reply::{Reason, Reply};
use crate::rules::CorsFields;
use crate::snapshot::{PodSlot, Protocol};
use crate::table::Id;

pub(crate) use flow::{Blocked, Half};
pub(crate) use late::Late;
#[cfg(test)]
pub(crate) use mirror::MIRRORS_MAX;
pub(crate) use place::{Fresh, Loads};

/// An exchange of one core. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExchangeId {
    slot: u32,
    generation: u32,
}

impl Id for ExchangeId {
    fn new(slot: u32, generation: u32) -> Self {
        ExchangeId { slot, generation }
    }
    fn slot(self) -> u32 {
        self.slot
    }
    fn generation(self) -> u32 {
        self.generation
    }
}

/// Where a call came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A caller's connection that carries one call at a time (L1).
    Client(ConnId),
    /// A stream of a caller's HTTP/2 connection (L1).
    Session(ConnId, u32),
    /// A stream of a hop that was accepted (L2).
    Stream(ConnId, u32),
    /// It is a copy of another call (L1): nobody waits for its answer.
    Mirror,
    /// It is a second attempt of that call (L1), which has the caller.
    Hedge(ExchangeId),
}

impl Origin {
    /// Whether no hop is at the other end: it is L1 then that has the call.
    pub(crate) fn is_caller(self) -> bool {
        !matches!(self, Origin::Stream(..))
    }

    /// The caller's connection.
    pub(crate) fn caller(self) -> Option<ConnId> {
        match self {
            Origin::Client(id) | Origin::Session(id, _) => Some(id),
            Origin::Stream(..) | Origin::Mirror | Origin::Hedge(_) => None,
        }
    }
}

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Not placed.
    None,
    /// A hop that does not stand yet.
    Waiting(ConnId),
    /// A stream of a hop that was dialled (L1).
    Stream(ConnId, u32),
    /// A stream of a pod's HTTP/2 connection, perhaps not open yet.
    Session(ConnId, u32),
    /// A pod's connection that carries one call at a time, perhaps not open yet.
    Pod(ConnId),
}

/// What matters of a request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Idempotent,
    Other,
}

impl Method {
    /// RFC 9110 §9.2.2.
    pub(crate) fn of(method: &str) -> Method {
        match method {
            "HEAD" => Method::Head,
            "GET" | "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Method::Idempotent,
            _ => Method::Other,
        }
    }

    /// A method that frames a response in the same way.
    pub(crate) fn for_response(self) -> &'static str {
        if self == Method::Head { "HEAD" } else { "GET" }
    }
}

/// The request's way from origin to target.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about a request")]
pub(crate) struct RequestSide {
    pub(crate) framing: Framing,
    /// Bytes of a body of known length that a hop still has to bring.
    pub(crate) left: u64,
    /// The origin has given all of it.
    pub(crate) is_ended: bool,
    /// The target has been given all of it.
    pub(crate) is_sent: bool,
    /// The caller waits for `100 Continue` before it sends a body.
    pub(crate) is_expecting: bool,
    /// The request as a REQUEST frame, and the body after it: all of it while `is_kept`, else what waits to be sent.
    pub(crate) kept: Vec<u8>,
    /// Where the body begins in `kept`.
    pub(crate) body_at: usize,
    /// Up to where `kept` was sent to the target.
    pub(crate) sent_to: usize,
    /// `kept` is complete, so that the call can be placed again.
    pub(crate) is_kept: bool,
    /// Bytes of the body that were passed on in this attempt, and in whichever attempt most were.
    pub(crate) passed: u64,
    pub(crate) credited: u64,
    /// What the target takes, where it says that itself.
    pub(crate) send: SendCredit,
    /// What the origin may still send, where it has credit.
    pub(crate) receive: ReceiveCredit,
    /// It waits for a shared connection to take more.
    pub(crate) is_blocked: bool,
    /// How many bytes the hop's socket will have taken before it takes the REQUEST.
    pub(crate) hop_offset: u64,
    /// An encoded TRAILERS frame.
    pub(crate) trailers: Vec<u8>,
}

impl RequestSide {
    /// Whether something that was taken in waits for the target.
    pub(crate) fn has_backlog(&self) -> bool {
        self.sent_to < self.kept.len()
    }
}

/// The response's way back.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about a response")]
pub(crate) struct ResponseSide {
    /// Status of the final head; 0 until it was passed on.
    pub(crate) status: u16,
    /// Interim heads that came before it.
    pub(crate) interims: u8,
    /// How the body is framed towards the origin.
    pub(crate) framing: Framing,
    /// Bytes of a body of known length that a hop still has to bring.
    pub(crate) left: u64,
    /// The target has given all of it.
    pub(crate) is_ended: bool,
    /// The origin has been given all of it.
    pub(crate) is_sent: bool,
    /// Whether the caller's connection lives on.
    pub(crate) keep_alive: bool,
    /// What the origin takes, where it says that itself.
    pub(crate) send: SendCredit,
    /// What the target may still send, where it has credit.
    pub(crate) receive: ReceiveCredit,
    /// It waits for a shared connection to take more.
    pub(crate) is_blocked: bool,
    /// What came with credit and waits for the origin's.
    pub(crate) backlog: Vec<u8>,
    /// How much of it the origin has been given.
    pub(crate) backlog_at: u32,
    /// An encoded TRAILERS frame that comes after it.
    pub(crate) trailers: Vec<u8>,
}

/// A call waits before it is placed: a rule delays it, or an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) until: Time,
    /// What it is answered with then; None: it is placed.
    pub(crate) abort: Option<u16>,
}

/// What few calls have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aside {
    /// The `Set-Cookie` that the answer has.
    pub(crate) set_cookie: Option<Box<str>>,
    /// What the answer says of pages of other origins, instead of what the application does.
    pub(crate) cors: Option<CorsFields>,
    /// Which answers are failures of the pod, by the word of L1; None: as the breaker says.
    pub(crate) failures: Option<Box<[u16]>>,
    /// Where a copy of the call goes once all of it has come.
    pub(crate) mirror: Option<Rc<Plan>>,
    /// A final head, as a RESPONSE frame, that is not passed on yet: trailers may follow at once that make the call one to be repeated.
    pub(crate) head: Option<Vec<u8>>,
}

/// One call.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about a call")]
pub(crate) struct Exchange {
    pub(crate) origin: Origin,
    /// Under whose name it goes to other nodes.
    pub(crate) account: AccountIndex,
    pub(crate) target: Target,
    pub(crate) plan: Rc<Plan>,
    /// Which of the plan's choices; drawn once, and kept while it has an endpoint left.
    pub(crate) choice: usize,
    /// The choice that the kept REQUEST is addressed to.
    pub(crate) addressed_to: usize,
    pub(crate) kind: Kind,
    /// The caller asked to switch protocols; once the application has, `kind` is opaque.
    pub(crate) is_upgrade: bool,
    pub(crate) method: Method,
    /// What the caller speaks.
    pub(crate) version: Version,
    /// The caller speaks gRPC: answers of our own do, too, and a call has gone as its gRPC status says.
    pub(crate) is_grpc: bool,
    /// The caller asked which way its call goes.
    pub(crate) wants_path: bool,
    pub(crate) request: RequestSide,
    pub(crate) response: ResponseSide,
    /// The node whose count of calls in flight this one is in.
    pub(crate) counted: Option<NodeIndex>,
    /// The pod whose count this one is in.
    pub(crate) pod: Option<Arc<PodSlot>>,
    pub(crate) tried_nodes: Vec<(usize, NodeIndex)>,
    pub(crate) tried_pods: Vec<SocketAddr>,
    /// How often it may be placed again.
    pub(crate) requeues_left: u32,
    /// How often it was repeated.
    pub(crate) retries: u32,
    /// When there is nowhere else, where it failed before will do.
    pub(crate) may_try_again: bool,
    /// When the call has to be over, however often it is repeated.
    pub(crate) deadline: Time,
    /// Calls with the same one go to the same pod.
    pub(crate) affinity: Option<u64>,
    /// A tunnel in which neither side has spoken yet, opened because the caller took so long.
    pub(crate) is_silent: bool,
    /// It asked for this choice itself, and goes nowhere else.
    pub(crate) is_pinned: bool,
    /// What few calls have.
    pub(crate) aside: Option<Box<Aside>>,
    /// It is not placed yet.
    pub(crate) wait: Option<Wait>,
    /// It waits there for a pod.
    pub(crate) queued: Option<Arc<Queue>>,
    /// When it is sent once more, should it have no answer by then.
    pub(crate) hedge_at: Time,
    /// When the attempt has to have an answer.
    pub(crate) attempt_due: Time,
    /// The second attempt.
    pub(crate) hedge: Option<ExchangeId>,
    /// Its places in other lines.
    pub(crate) late: Option<Box<Late>>,
    /// It is a place for a call that waits at another node too, and has not come here.
    pub(crate) is_reservation: bool,
    /// Idle connections have proved dead: take a new one.
    pub(crate) is_fresh_only: bool,
    /// What its pod has made of it, as an HTTP status; 0: nothing yet, or nobody asks.
    pub(crate) outcome: u16,
    /// It tries whether a pod that was left out is well again.
    pub(crate) is_probe: bool,
    /// A node has no pod that is not left out.
    pub(crate) has_met_ejected: bool,
    /// A pod that is left out will do.
    pub(crate) is_last_resort: bool,
    /// Why it was not served where it was placed last.
    pub(crate) failure: Reason,
    pub(crate) started: Time,
    /// When it was given to its node, and to its pod.
    pub(crate) placed: Time,
    pub(crate) delivered: Time,
    /// When something of it came last, from either side.
    pub(crate) moved: Time,
}

impl Exchange {
    /// When its time is over or it is to be placed, idleness aside.
    fn next_due(&self) -> Time {
        self.wait.map_or(self.attempt_due.min(self.hedge_at), |wait| wait.until.min(self.deadline))
    }

    /// When it has been idle for too long, should nothing come by then.
    fn idle_due(&self) -> Time {
        let is_on_its_way = self.wait.is_none() && self.queued.is_none() && self.origin.is_caller();
        match self.plan.idle_timeout {
            Some(timeout) if is_on_its_way => self.moved.max(self.placed).max(self.delivered) + timeout,
            _ => Time::NEVER,
        }
    }

    /// The connection that the response is read from, which can be paused.
    pub(crate) fn response_source(&self) -> Option<ConnId> {
        if let Target::Pod(pod) = self.target { Some(pod) } else { None }
    }

    /// The connection that the request is read from, which can be paused.
    pub(crate) fn request_source(&self) -> Option<ConnId> {
        if let Origin::Client(client) = self.origin { Some(client) } else { None }
    }

    /// Whether it has failed at this pod.
    pub(crate) fn has_tried(&self, pod: &PodSlot) -> bool {
        self.tried_pods.contains(&pod.address)
    }

    /// The pod that its key leads to among those that may have it; None without a key, too.
    pub(crate) fn home(&self, pods: &[Arc<PodSlot>], may_have: impl Fn(&PodSlot) -> bool) -> Option<usize> {
        let places = pods.iter().map(|pod| {
            let place = || (affinity::of_pod(pod.address), 1, u64::from(pod.in_flight()));
            may_have(pod).then(place)
        });
        affinity::pick_bounded(self.affinity?, self.plan.affinity_load_percent, &places)
    }

    /// Where it is, it has failed: the pod, or else the node.
    pub(crate) fn note_tried(&mut self) {
        match (&self.pod, self.counted) {
            (Some(pod), _) => self.tried_pods.push(pod.address),
            (None, Some(node)) => self.tried_nodes.push((self.choice, node)),
            (None, None) => {}
        }
    }

    /// Whether the pod is spoken to in HTTP/2: the port says so, or says nothing and the caller speaks it.
    fn speaks_http2(&self) -> bool {
        let is_http2 = match self.plan.choices[self.choice].protocol {
            Protocol::Http2 => true,
            Protocol::Http => self.version == Version::Http2,
            Protocol::Http1 | Protocol::Opaque => false,
        };
        is_http2 && self.kind == Kind::Http && !self.is_upgrade
    }

    /// Whom an answer of our own would go to.
    fn asker(&self) -> Asker {
        Asker {
            origin: self.origin,
            is_head: self.method == Method::Head,
            is_grpc: self.is_grpc,
            is_ended: self.request.is_ended,
        }
    }

    /// Whether a final head has come.
    pub(crate) fn has_head(&self) -> bool {
        self.response.status != 0 || self.aside.as_ref().is_some_and(|aside| aside.head.is_some())
    }

    /// Nothing of a response has been passed on, and all of the request is still here.
    pub(crate) fn is_replayable(&self) -> bool {
        self.response.status == 0 && self.request.is_kept
    }
}

/// Counts a body of known length down. False: more came than was said, or an end before, which would put the rest into the next message.
pub(crate) fn take_length(left: &mut u64, framing: Framing, count: usize, is_end: bool) -> bool {
    match framing {
        Framing::Length(_) => {
            let rest = left.checked_sub(count as u64);
            *left = rest.unwrap_or(0);
            rest.is_some_and(|rest| rest == 0 || !is_end)
        }
        Framing::None => count == 0,
        Framing::Chunked | Framing::UntilClose => true,
    }
}

impl Core {
    /// Both halves are through: the call is over.
    pub(crate) fn complete(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let is_http = exchange.kind == Kind::Http || exchange.is_upgrade;
        let status = match exchange.response.status {
            _ if !is_http => 0,
            _ if exchange.is_grpc && exchange.outcome != 0 => exchange.outcome,
            status => status,
        };
        let Some(exchange) = self.conclude(id, status, Reset::Cancelled) else { return };
        match exchange.origin {
            Origin::Client(client) if exchange.kind == Kind::Http => {
                self.client_answered(client, exchange.response.keep_alive, exchange.request.is_ended);
            }
            Origin::Client(client) => self.client_over(client),
            Origin::Session(conn, stream) => {
                if !exchange.request.is_ended {
                    self.reset_session_stream(conn, stream, ErrorCode::NoError);
                }
            }
            Origin::Mirror | Origin::Hedge(_) => {}
            Origin::Stream(hop, stream) => {
                if !exchange.request.is_ended
                    && let Some(out) = self.net.out(hop)
                {
                    encode_reset(out, stream, Reset::Cancelled);
                }
            }
        }
        self.net.buffers.give(exchange.request.kept);
    }

    /// Sets when something has to be done about a call that is neither in line nor a place for one.
    pub(crate) fn set_exchange_due(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let due = exchange.next_due().min(exchange.idle_due());
        self.exchanges.set_due(id, due);
    }

    /// The time of a call has come: to be placed after a wait, or to be over.
    pub(crate) fn exchange_due(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.queued.is_some() {
            return self.queue_due(id);
        }
        if exchange.is_reservation {
            return self.give_up_reservation(id, Reset::Unprocessed);
        }
        if exchange.next_due() > self.now {
            let is_idle = exchange.idle_due() <= self.now;
            return if is_idle { self.fail(id, Reason::Timeout) } else { self.set_exchange_due(id) };
        }
        if exchange.hedge_at <= self.now && exchange.deadline > self.now && exchange.wait.is_none() {
            return self.hedge(id);
        }
        let wait = exchange.wait.take();
        let Some(wait) = wait.filter(|_| exchange.deadline > self.now) else {
            return self.fail(id, Reason::Timeout);
        };
        if let Some(status) = wait.abort {
            return self.fail_with(id, Reason::FaultInjected, Reply::fault(status));
        }
        self.set_attempt_due(id);
        self.place(id, None);
    }

    /// The call cannot be served: it is repeated when its route says so, else the caller is told, or cut off when a response has begun.
    pub(crate) fn fail(&mut self, id: ExchangeId, reason: Reason) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.note_failure(reason);
            if exchange.is_silent && reason == Reason::PolicyDenied {
                // What the caller speaks may still be HTTP, of which more is allowed.
                return self.abandon(id);
            }
        }
        if self.leave_to_hedge(id) || self.retry(id, reason.status()) {
            return;
        }
        self.fail_with(id, reason, reason.into());
    }

    fn fail_with(&mut self, id: ExchangeId, reason: Reason, reply: Reply) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let begun = exchange.response.status;
        let status = if begun == 0 && exchange.kind == Kind::Http { reply.status } else { begun };
        let Some(exchange) = self.conclude(id, status, Reset::Cancelled) else { return };
        match exchange.origin {
            Origin::Client(_) | Origin::Session(..) if begun == 0 && exchange.kind == Kind::Http => {
                self.answer_as(exchange.asker(), reason, reply);
            }
            Origin::Mirror | Origin::Hedge(_) => {}
            Origin::Client(client) => self.client_cut(client),
            Origin::Session(conn, stream) => self.session_stream_cut((conn, stream), &exchange, reply),
            Origin::Stream(hop, stream) => {
                self.tally.reply(reason);
                // It was written to an idle connection that died: whether the application saw it nobody knows.
                let is_doubtful = exchange.is_fresh_only && reason.to_reset().is_requeue_safe();
                let reset = if is_doubtful { Reset::UpstreamClosed } else { reason.to_reset() };
                if let Some(out) = self.net.out(hop) {
                    encode_reset(out, stream, reset);
                }
            }
        }
        self.net.buffers.give(exchange.request.kept);
    }

    /// The origin is gone: nobody waits for the call any more.
    pub(crate) fn abandon(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let status = exchange.response.status;
        if let Some(exchange) = self.conclude(id, status, Reset::Cancelled) {
            self.net.buffers.give(exchange.request.kept);
        }
    }

    /// Takes a call out of all tables and counts; what its origin is told is the caller's.
    fn conclude(&mut self, id: ExchangeId, status: u16, to_target: Reset) -> Option<Exchange> {
        self.detach(id, to_target);
        let exchange = self.exchanges.remove(id)?;
        match exchange.origin {
            Origin::Stream(hop, stream) => {
                self.remove_stream(hop, stream);
            }
            Origin::Session(conn, stream) => {
                self.remove_session_stream(conn, stream);
            }
            Origin::Client(client) => {
                if let Some(client) = self.net.client(client) {
                    client.exchange = None;
                }
            }
            Origin::Mirror => self.mirrors -= 1,
            Origin::Hedge(first) => {
                if let Some(first) = self.exchanges.get_mut(first).filter(|first| first.hedge == Some(id)) {
                    first.hedge = None;
                }
            }
        }
        let duration = self.now.since(exchange.started);
        if let Some(hedge) = exchange.hedge {
            self.abandon(hedge);
        }
        if let Origin::Hedge(_) = exchange.origin {
            // Its call is counted where the caller is.
            exchange.plan.tally.open.sub(1);
        } else if !exchange.is_reservation {
            exchange.plan.tally.finish(status, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        }
        Some(exchange)
    }

    /// Takes a call away from where it was placed.
    pub(crate) fn detach(&mut self, id: ExchangeId, reset: Reset) {
        self.leave_queue(id);
        self.drop_reservations(id);
        if self.exchanges.get(id).is_some_and(|exchange| exchange.response.status == 0) {
            self.note_latency(id, Took::AtLeast);
            self.note_pace(id, false);
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if let Some(aside) = &mut exchange.aside {
            aside.head = None;
        }
        let is_clean = exchange.request.is_sent && exchange.response.is_ended;
        let target = std::mem::replace(&mut exchange.target, Target::None);
        let counted = exchange.counted.take();
        let plan = Rc::clone(&exchange.plan);
        let choice = &plan.choices[exchange.choice];
        let key = choice.key;
        if let Some(pod) = exchange.pod.take() {
            pod.release();
            if choice.breaker.is_some() {
                self.judge_pod(id, &pod);
            }
            if let Some(limit) = &choice.limit {
                self.freed(limit, &pod);
            }
        }
        if let Some(node) = counted {
            self.loads.release(key, node);
        }
        match target {
            // A hop that comes up looks whether those who waited still do.
            Target::None | Target::Waiting(_) => {}
            Target::Stream(hop, stream) => {
                if self.remove_stream(hop, stream)
                    && !is_clean
                    && let Some(out) = self.net.out(hop)
                {
                    encode_reset(out, stream, reset);
                }
            }
            Target::Session(conn, stream) => {
                if self.remove_session_stream(conn, stream) && !is_clean {
                    self.reset_session_stream(conn, stream, ErrorCode::Cancel);
                }
            }
            Target::Pod(pod) => self.release_pod(pod, is_clean),
        }
    }
}
