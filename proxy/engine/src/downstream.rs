//! A caller's connection: HTTP/1.1 requests one at a time, or a tunnel; it knows neither routes nor pods.

mod ask;
mod begin;
mod rule;
mod tunnel;

pub(crate) use ask::{Ask, Asker};
pub(crate) use begin::{HOPS_MAX, Verdict};
pub(crate) use tunnel::ServersFirst;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use vicino_wire::head::Headers;
use vicino_wire::http1::{Body, BodyDecoder, Reject, parse_request};
use vicino_wire::http2::PREFACE;

use crate::account::AccountIndex;
use crate::connection::Kind;
use crate::core::{ConnId, Core, Event};
use crate::deadline::Time;
use crate::exchange::{ExchangeId, Origin};
use crate::identify::Caller;
use crate::reply::{
    DirectReply, Manner, Reason, Reply, with_direct, write_direct, write_direct_on_stream, write_grpc_reply,
};
use crate::snapshot::Neighbour;

/// Bytes of a body that nobody wants which are read so that the connection can be used again, or so that our answer arrives.
const DISCARD_BYTES_MAX: u64 = 256 * 1024;

/// No number of [`Core::judges`].
const NOT_JUDGED: u64 = u64::MAX;

/// Where a caller's connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientState {
    /// A request's head is to come.
    Head,
    /// A request waits for its caller to be known.
    Held,
    /// A request is being served.
    Call,
    /// CONNECT was answered; the first bytes will tell what is spoken.
    Detect,
    /// Plain bytes both ways.
    Opaque,
    /// HTTP/2.
    Session,
    /// The answer is out; so many bytes of the request's body may still be thrown away.
    Discard(u64),
    /// FIN is out; so many bytes are still read and thrown away.
    Linger(u64),
}

/// A caller's connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about a request")]
pub(crate) struct Client {
    pub(crate) state: ClientState,
    pub(crate) exchange: Option<ExchangeId>,
    /// The caller wants to send another request; of the request that is served.
    pub(crate) keep_alive: bool,
    /// It speaks HTTP/1.0.
    is_old: bool,
    /// It has not asked for anything yet: it may still speak HTTP/2.
    is_new: bool,
    caller: Caller,
    /// The pod that it was when it was known first.
    pod: Option<Arc<Neighbour>>,
    /// Under whose name its calls go to other nodes.
    account: AccountIndex,
    /// The snapshot and the doubts that said who calls, as [`Core::judges`] numbers them; [`NOT_JUDGED`]: none have.
    judged_by: u64,
    /// The caller's address, as it stands in `X-Forwarded-For`.
    address: Rc<str>,
    /// Body of the request that is served, while it has not ended.
    decoder: Option<BodyDecoder>,
    /// What CONNECT asked for.
    tunnel: Option<Box<str>>,
    is_head_begun: bool,
    /// In a tunnel out of the mesh: its first bytes are still to be looked at.
    is_unread: bool,
    /// In a tunnel: the application may speak first by now.
    has_raced: bool,
    is_hold_over: bool,
    /// Until when its request waits for its being known; NEVER when none does.
    hold_until: Time,
}

impl Client {
    /// Who it is, as far as it was asked.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// UID of the pod that it is, as far as it was asked.
    pub(crate) fn pod(&self) -> Option<&str> {
        self.pod.as_ref().map(|pod| &*pod.uid)
    }

    /// Under whose name its calls go to other nodes.
    pub(crate) fn account(&self) -> AccountIndex {
        self.account
    }

    /// Whether its request has waited as long as it may.
    pub(crate) fn is_hold_over(&self) -> bool {
        self.is_hold_over
    }

    fn new(peer: SocketAddr) -> Self {
        Client {
            state: ClientState::Head,
            exchange: None,
            keep_alive: false,
            is_old: false,
            is_new: true,
            caller: Caller::Unknown,
            pod: None,
            account: AccountIndex::NODE,
            judged_by: NOT_JUDGED,
            address: peer.ip().to_canonical().to_string().into(),
            decoder: None,
            tunnel: None,
            // The first head has to come in a time that begins with the connection.
            is_head_begun: true,
            is_unread: false,
            has_raced: false,
            is_hold_over: false,
            hold_until: Time::NEVER,
        }
    }
}

/// Takes the next step of a body over at most `allowance` bytes of data. None: data is next, and none of it may be taken; what is no
/// data, up to the body's end, needs no allowance.
pub(crate) fn decode_body<'b>(
    decoder: &mut BodyDecoder,
    buf: &'b [u8],
    allowance: usize,
) -> Result<Option<(Body<'b>, usize)>, Reject> {
    if allowance == 0 {
        let mut ahead = decoder.clone();
        let step = ahead.decode(buf)?;
        if matches!(step.0, Body::Data(_)) {
            return Ok(None);
        }
        *decoder = ahead;
        return Ok(Some(step));
    }
    let part = &buf[..buf.len().min(allowance)];
    let (body, used) = decoder.decode(part)?;
    if body == Body::More && used < part.len() && part.len() < buf.len() {
        // Trailers are looked at as a whole; they are no data, so the allowance does not cut them.
        let (body, more) = decoder.decode(&buf[used..])?;
        return Ok(Some((body, used + more)));
    }
    Ok(Some((body, used)))
}

impl Core {
    pub(crate) fn accept_client(&mut self, peer: SocketAddr) -> ConnId {
        let id = self.net.accept(Kind::Client(Client::new(peer)), peer);
        self.net.set_due(id, self.now + self.config.first_head_timeout);
        // Its address may be another pod's by the time that it asks for something.
        self.verdict(id);
        id
    }

    /// Understands what came from a caller. Returns how many bytes are done with.
    pub(crate) fn client_bytes(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let mut at = 0;
        while let Some(client) = self.net.client(id) {
            let state = client.state;
            let rest = &buf[at..];
            let used = match state {
                _ if rest.is_empty() => break,
                ClientState::Head if self.net.room(id) == 0 => {
                    self.wait_for_reader(id);
                    break;
                }
                ClientState::Head => self.client_head(id, rest),
                ClientState::Held => break,
                ClientState::Call | ClientState::Discard(_) => self.client_body(id, rest),
                ClientState::Detect => self.detect(id, rest),
                ClientState::Opaque => self.client_opaque(id, rest),
                ClientState::Session => self.session_bytes(id, rest),
                ClientState::Linger(_) => self.linger_bytes(id, rest.len()),
            };
            at += used;
            if used == 0 && self.net.client(id).is_some_and(|client| client.state == state) {
                return at;
            }
        }
        if self.net.get(id).is_none() { buf.len() } else { at }
    }

    /// A caller that does not read its answers gets no more of them.
    fn wait_for_reader(&mut self, id: ConnId) {
        if let Some(conn) = self.net.get_mut(id) {
            conn.blocks_source = true;
        }
        self.net.pause(id);
    }

    fn client_head(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let is_new = self.net.client(id).is_some_and(|client| client.is_new);
        if is_new && PREFACE.starts_with(&buf[..buf.len().min(PREFACE.len())]) {
            return self.client_preface(id, buf.len());
        }
        let mut slots = std::mem::take(&mut self.slots);
        let used = match parse_request(buf, &mut slots) {
            Ok(Some(request)) => self.begin(id, &request),
            Ok(None) => {
                let is_later =
                    self.net.client(id).is_some_and(|c| !std::mem::replace(&mut c.is_head_begun, true));
                if is_later {
                    self.net.set_due(id, self.now + self.config.head_timeout);
                }
                0
            }
            Err(reject) => {
                self.answer_as(Asker::of_client(id, false), Reason::BadRequest, reject.into());
                buf.len()
            }
        };
        self.slots = slots;
        used
    }

    /// What came begins as HTTP/2 does.
    fn client_preface(&mut self, id: ConnId, count: usize) -> usize {
        if count < PREFACE.len() {
            return 0;
        }
        if let Some(client) = self.net.client(id) {
            client.state = ClientState::Session;
        }
        self.begin_session(id);
        PREFACE.len()
    }

    fn client_body(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let Some(client) = self.net.client(id) else { return buf.len() };
        let exchange = client.exchange;
        let Some(mut decoder) = client.decoder.take() else { return 0 };
        let allowance = match exchange {
            Some(exchange) => self.request_allowance(exchange),
            None => usize::MAX,
        };
        let step = decode_body(&mut decoder, buf, allowance);
        let is_end = decoder.is_ended();
        if !is_end && let Some(client) = self.net.client(id) {
            client.decoder = Some(decoder);
        }
        match (step, exchange) {
            (Ok(None), _) => {
                self.net.pause(id);
                0
            }
            (Ok(Some((body, used))), Some(exchange)) => {
                match body {
                    Body::Data(data) => self.request_data(exchange, data, is_end),
                    Body::Trailers(trailers) => self.request_end(exchange, trailers),
                    Body::End => self.request_end(exchange, Headers::default()),
                    Body::More => {}
                }
                used
            }
            (Ok(Some((_, used))), None) => {
                self.discarded(id, used, is_end);
                used
            }
            (Err(reject), exchange) => {
                self.body_rejected(id, exchange, reject);
                buf.len()
            }
        }
    }

    /// The request's body breaks the rules: the caller is told when nothing has been answered yet.
    fn body_rejected(&mut self, id: ConnId, exchange: Option<ExchangeId>, reject: Reject) {
        let is_begun =
            exchange.and_then(|e| self.exchanges.get(e)).is_none_or(|exchange| exchange.response.status != 0);
        if let Some(exchange) = exchange {
            self.abandon(exchange);
        }
        if is_begun {
            return self.client_cut(id);
        }
        self.answer_as(Asker::of_client(id, false), Reason::BadRequest, reject.into());
    }

    fn discarded(&mut self, id: ConnId, used: usize, is_end: bool) {
        let Some(client) = self.net.client(id) else { return };
        let ClientState::Discard(left) = client.state else { return };
        if is_end {
            return self.client_answered(id, true, true);
        }
        match left.checked_sub(used as u64) {
            Some(left) => client.state = ClientState::Discard(left),
            None => self.linger(id),
        }
    }

    fn linger_bytes(&mut self, id: ConnId, count: usize) -> usize {
        let Some(client) = self.net.client(id) else { return count };
        let ClientState::Linger(left) = client.state else { return count };
        match left.checked_sub(count as u64) {
            Some(left) => client.state = ClientState::Linger(left),
            None => self.net.close(id),
        }
        count
    }

    /// An answer that a rule gives to the request that is served.
    fn answer_directly(&mut self, asker: Asker, reply: &DirectReply<'_>) {
        let Asker { origin, is_head, is_ended, .. } = asker;
        match origin {
            Origin::Client(id) => {
                let is_draining = self.draining.is_some();
                let Some(client) = self.net.client(id) else { return };
                let keep_alive = client.keep_alive && is_ended && !is_draining;
                let manner = Manner { keep_alive, is_head, is_old: client.is_old };
                if let Some(out) = self.net.out(id) {
                    write_direct(out, reply, manner);
                }
                self.client_answered(id, keep_alive, is_ended);
            }
            Origin::Session(id, stream) => {
                if let Some(out) = self.net.session_out(id) {
                    write_direct_on_stream(out, stream, reply, is_head);
                }
                self.stream_answered((id, stream), is_ended);
            }
            Origin::Stream(..) | Origin::Mirror | Origin::Hedge(_) => {}
        }
    }

    /// An answer of our own to the request that is served.
    pub(crate) fn answer(&mut self, asker: Asker, reason: Reason) {
        self.answer_as(asker, reason, reason.into());
    }

    /// The same in other words.
    pub(crate) fn answer_as(&mut self, asker: Asker, reason: Reason, reply: Reply) {
        self.tally.reply(reason);
        let peer = asker.origin.caller().and_then(|id| self.net.get(id)).map(|conn| conn.peer.ip());
        if let Some(peer) = peer {
            self.event(Event::Refused { peer, status: reply.status, reason: reply.word });
        }
        if let (true, Origin::Session(id, stream)) = (asker.is_grpc, asker.origin) {
            if let Some(out) = self.net.session_out(id) {
                write_grpc_reply(out, stream, reply);
            }
            return self.stream_answered((id, stream), asker.is_ended);
        }
        with_direct(reply, |direct| self.answer_directly(asker, direct));
    }

    /// The answer is written: the connection waits for another request, or ends.
    pub(crate) fn client_answered(&mut self, id: ConnId, keep_alive: bool, is_request_ended: bool) {
        let is_draining = self.draining.is_some();
        let Some(client) = self.net.client(id) else { return };
        client.exchange = None;
        client.is_hold_over = false;
        client.hold_until = Time::NEVER;
        if !keep_alive && is_request_ended {
            return self.client_over(id);
        }
        if !keep_alive {
            return self.linger(id);
        }
        if is_request_ended {
            client.state = ClientState::Head;
            client.decoder = None;
            client.is_head_begun = false;
            client.is_old = false;
            let wait =
                if is_draining { self.config.drain_idle_grace } else { self.config.keep_alive_timeout };
            self.net.set_due(id, self.now + wait);
        } else {
            client.state = ClientState::Discard(DISCARD_BYTES_MAX);
            self.net.set_due(id, self.now + self.config.head_timeout);
        }
        self.net.resume(id);
    }

    /// Nothing more is to come either way: the connection closes when all is written, or when the caller takes too long to read it.
    pub(crate) fn client_over(&mut self, id: ConnId) {
        let Some(client) = self.net.client(id) else { return };
        client.state = ClientState::Linger(DISCARD_BYTES_MAX);
        self.net.set_due(id, self.now + self.config.keep_alive_timeout);
        self.net.close_flushed(id);
    }

    /// Sends FIN, and reads a little more so that what was written is not lost to a reset.
    fn linger(&mut self, id: ConnId) {
        let Some(client) = self.net.client(id) else { return };
        client.state = ClientState::Linger(DISCARD_BYTES_MAX);
        client.decoder = None;
        client.exchange = None;
        self.net.set_due(id, self.now + self.config.linger_timeout);
        self.net.shutdown_write(id);
        self.net.resume(id);
    }

    /// The application has switched protocols: what the caller sends is passed through from now on, what it sent already too.
    pub(crate) fn client_switches(&mut self, id: ConnId) {
        let Some(client) = self.net.client(id) else { return };
        client.state = ClientState::Opaque;
        client.is_unread = false;
        client.keep_alive = false;
        self.net.set_due(id, Time::NEVER);
        self.net.resume(id);
    }

    /// The response cannot be finished: the caller sees that it is cut short.
    pub(crate) fn client_cut(&mut self, id: ConnId) {
        if let Some(client) = self.net.client(id) {
            client.exchange = None;
            client.decoder = None;
            client.state = ClientState::Linger(0);
        }
        self.net.set_due(id, self.now + self.config.linger_timeout);
        self.net.close_flushed(id);
    }

    /// The caller sends no more, and all that it sent was looked at.
    pub(crate) fn client_ended(&mut self, id: ConnId) {
        let is_session = self.net.session(id).is_some();
        let Some(conn) = self.net.get_mut(id) else { return };
        let has_spoken = !conn.input.is_empty();
        let Some(client) = conn.client() else { return };
        let exchange = client.exchange;
        match client.state {
            ClientState::Session | ClientState::Held if is_session => self.session_ended(id),
            // Half closed, so that the answer still goes out, or closed: FIN says the same of both. Whoever is there still gets
            // its answer when that begins in time.
            ClientState::Held => {}
            ClientState::Call if client.decoder.is_none() => {
                self.net.set_due(id, self.now + self.config.half_close_timeout);
            }
            ClientState::Opaque => {
                if let Some(exchange) = exchange {
                    self.request_end(exchange, Headers::default());
                }
            }
            ClientState::Call => {
                if let Some(exchange) = exchange {
                    self.abandon(exchange);
                }
                // Answers to requests before this one may be on their way.
                self.client_cut(id);
            }
            ClientState::Detect if exchange.is_some() => {
                self.be_opaque(id);
                if let Some(exchange) = exchange {
                    self.request_end(exchange, Headers::default());
                }
            }
            // That is all that it says: no request of HTTP will come of it. It is passed on, and then the end is.
            ClientState::Detect if has_spoken => self.be_opaque(id),
            ClientState::Head
            | ClientState::Detect
            | ClientState::Session
            | ClientState::Discard(_)
            | ClientState::Linger(_) => {
                self.net.close_flushed(id);
            }
        }
    }

    pub(crate) fn client_due(&mut self, id: ConnId) {
        let Some(conn) = self.net.get_mut(id) else { return };
        let is_begun = !conn.input.is_empty();
        let Some(client) = conn.client() else { return };
        match client.state {
            ClientState::Head if is_begun => {
                client.keep_alive = false;
                self.answer(Asker::of_client(id, false), Reason::HeadTimeout);
            }
            ClientState::Held => {
                client.is_hold_over = true;
                self.unhold(id);
            }
            ClientState::Detect => self.detect_due(id),
            ClientState::Call => self.half_closed_due(id),
            ClientState::Session => self.session_due(id),
            ClientState::Opaque => self.opaque_due(id),
            ClientState::Head | ClientState::Discard(_) | ClientState::Linger(_) => self.net.close(id),
        }
    }

    /// A caller sent FIN a while ago. Once a response is on its way, writing it tells whether somebody reads.
    fn half_closed_due(&mut self, id: ConnId) {
        let Some(conn) = self.net.get_mut(id) else { return };
        let is_ended = conn.is_ended;
        let exchange = conn.client().and_then(|client| client.exchange);
        let waiting = exchange.filter(|id| self.exchanges.get(*id).is_some_and(|e| e.response.status == 0));
        if let Some(exchange) = waiting.filter(|_| is_ended) {
            self.abandon(exchange);
            self.net.close(id);
        }
    }

    /// The proxy stops: an idle connection has a moment for one last request.
    pub(crate) fn client_drained(&mut self, id: ConnId) {
        if self.net.session(id).is_some() {
            return self.warn_session(id);
        }
        let Some(client) = self.net.client(id) else { return };
        if client.state == ClientState::Head {
            let due = (self.now + self.config.drain_idle_grace).min(self.net.table.due(id));
            self.net.set_due(id, due);
        }
    }

    /// Lets a held request be judged again.
    pub(crate) fn unhold(&mut self, id: ConnId) {
        let is_session = self.net.session(id).is_some();
        let Some(client) = self.net.client(id) else { return };
        if client.state == ClientState::Held {
            client.state = if is_session { ClientState::Session } else { ClientState::Head };
            self.tally.held.sub(1);
            if is_session {
                self.set_session_due(id);
            }
            self.net.resume(id);
        }
    }
}
