//! Connections to pods: opened, read, kept idle for the next call; it never chooses a pod.

use std::sync::Arc;
use std::time::Duration;

use vicino_wire::head::{Framing, Header, Headers, ResponseHead, UPGRADE_FIELD, Version};
use vicino_wire::hop::Kind as StreamKind;
use vicino_wire::http1::{Body, BodyDecoder, Response, parse_response, parse_upgrade_response};

use crate::connection::Kind;
use crate::core::{ConnId, Core, Event};
use crate::deadline::Time;
use crate::downstream::decode_body;
use crate::exchange::{ExchangeId, Method};
use crate::hash::FastMap;
use crate::reply::Reason;
use crate::session::Session;
use crate::snapshot::{PodSlot, Snapshot};

/// Where a pod's connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodState {
    /// A response's head is to come.
    Head,
    /// A response's body.
    Body,
    /// Plain bytes both ways.
    Opaque,
    /// HTTP/2.
    Session,
    /// No call.
    Idle,
}

/// A connection to a pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) slot: Arc<PodSlot>,
    state: PodState,
    pub(crate) exchange: Option<ExchangeId>,
    decoder: BodyDecoder,
    /// It has served a call before.
    is_reused: bool,
    /// Something of a response has come for this call.
    has_answered: bool,
    /// The pod takes another request.
    keep_alive: bool,
    /// Since when it has no call.
    idle_since: Time,
}

/// Idle connections by pod, and which pods the snapshot has.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_slot: FastMap<usize, Pool>,
}

#[derive(Debug)]
struct Pool {
    /// Keeps the slot, so that its address is not another's.
    _slot: Arc<PodSlot>,
    idle: Vec<ConnId>,
    /// Connections that speak HTTP/2, idle or not.
    sessions: Vec<ConnId>,
}

impl Pool {
    fn of(slot: &Arc<PodSlot>) -> Pool {
        Pool { _slot: Arc::clone(slot), idle: Vec::new(), sessions: Vec::new() }
    }
}

/// Connections to pods that the snapshot no longer has.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    pub(crate) idle: Vec<ConnId>,
    pub(crate) sessions: Vec<ConnId>,
}

fn key(slot: &Arc<PodSlot>) -> usize {
    Arc::as_ptr(slot).addr()
}

impl Pools {
    /// Takes over the pods of a snapshot, and hosts outside the mesh. Returns the connections of those that went which no call has to itself.
    pub(crate) fn update<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        outside: impl Iterator<Item = &'a Arc<PodSlot>>,
    ) -> Gone {
        let mut by_slot: FastMap<usize, Pool> = FastMap::default();
        let sets = snapshot.endpoints.values().flat_map(|services| services.values());
        let pods = sets.flat_map(|set| set.ports.values()).flat_map(|port| &port.local);
        for slot in pods.chain(outside) {
            let key = key(slot);
            if by_slot.contains_key(&key) {
                continue;
            }
            let pool = self.by_slot.remove(&key).unwrap_or_else(|| Pool::of(slot));
            by_slot.insert(key, pool);
        }
        let mut gone = Gone::default();
        for pool in std::mem::replace(&mut self.by_slot, by_slot).into_values() {
            gone.idle.extend(pool.idle);
            gone.sessions.extend(pool.sessions);
        }
        gone
    }

    /// Keeps connections to a host outside the mesh.
    pub(crate) fn keep(&mut self, slot: &Arc<PodSlot>) {
        self.by_slot.entry(key(slot)).or_insert_with(|| Pool::of(slot));
    }

    /// Keeps none any more when none is kept. Whether that is so.
    pub(crate) fn let_go(&mut self, slot: &Arc<PodSlot>) -> bool {
        let is_unused = |pool: &Pool| pool.idle.is_empty() && pool.sessions.is_empty();
        let is_let_go = self.by_slot.get(&key(slot)).is_none_or(is_unused);
        if is_let_go {
            self.by_slot.remove(&key(slot));
        }
        is_let_go
    }

    /// The connections to a pod that speak HTTP/2.
    pub(crate) fn sessions(&self, slot: &Arc<PodSlot>) -> &[ConnId] {
        self.by_slot.get(&key(slot)).map_or(&[], |pool| &pool.sessions)
    }

    /// Keeps a connection that speaks HTTP/2. False when the pod is gone.
    pub(crate) fn add_session(&mut self, slot: &Arc<PodSlot>, id: ConnId) -> bool {
        let pool = self.by_slot.get_mut(&key(slot));
        pool.map(|pool| pool.sessions.push(id)).is_some()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_slot.values().all(|pool| pool.idle.is_empty() && pool.sessions.is_empty())
    }

    pub(crate) fn remove(&mut self, slot: &Arc<PodSlot>, id: ConnId) {
        if let Some(pool) = self.by_slot.get_mut(&key(slot)) {
            pool.idle.retain(|idle| *idle != id);
            pool.sessions.retain(|session| *session != id);
        }
    }
}

impl Core {
    /// A connection to a pod for a call: one that has been idle for at most `idle_max` (None: no idle one will do), else one that is opened now.
    pub(crate) fn pod_connection(
        &mut self,
        slot: &Arc<PodSlot>,
        exchange: ExchangeId,
        idle_max: Option<Duration>,
        connect_timeout: Duration,
    ) -> ConnId {
        if let Some(id) = idle_max.and_then(|idle_max| self.take_idle(slot, idle_max))
            && let Some(pod) = self.net.pod(id)
        {
            pod.exchange = Some(exchange);
            pod.state = PodState::Head;
            pod.is_reused = true;
            pod.has_answered = false;
            self.net.set_due(id, Time::NEVER);
            return id;
        }
        self.dial_pod(slot, Some(exchange), connect_timeout)
    }

    /// A new connection to a pod: for one call, or (None) for HTTP/2.
    pub(crate) fn dial_pod(
        &mut self,
        slot: &Arc<PodSlot>,
        exchange: Option<ExchangeId>,
        connect_timeout: Duration,
    ) -> ConnId {
        let pod = Pod {
            slot: Arc::clone(slot),
            state: if exchange.is_some() { PodState::Head } else { PodState::Session },
            exchange,
            decoder: BodyDecoder::new(Framing::None),
            is_reused: false,
            has_answered: false,
            keep_alive: false,
            idle_since: self.now,
        };
        let id = self.net.dial(Kind::Pod(pod), slot.address);
        self.net.set_due(id, self.now + connect_timeout);
        id
    }

    /// The connection to a pod that was used last, unless that is too long ago.
    fn take_idle(&mut self, slot: &Arc<PodSlot>, idle_max: Duration) -> Option<ConnId> {
        let pool = self.pools.by_slot.get_mut(&key(slot))?;
        let id = *pool.idle.last()?;
        let is_recent = self.net.pod(id).is_some_and(|pod| self.now.since(pod.idle_since) <= idle_max);
        if is_recent { pool.idle.pop() } else { None }
    }

    /// A call is done with a connection, properly or not.
    pub(crate) fn release_pod(&mut self, id: ConnId, is_clean: bool) {
        let Some(conn) = self.net.get_mut(id) else { return };
        let is_usable = is_clean && conn.is_open && !conn.is_ended && conn.pending() == 0 && conn.owed == 0;
        let Some(pod) = conn.pod() else { return };
        pod.exchange = None;
        if is_clean && pod.state == PodState::Opaque {
            self.net.set_due(id, self.now + self.config.pool_idle_timeout);
            return self.net.close_flushed(id);
        }
        let is_usable = is_usable && pod.keep_alive && self.draining.is_none();
        let idle_max = self.config.pool_idle_max;
        let pool = self.pools.by_slot.get_mut(&key(&pod.slot));
        let Some(pool) = pool.filter(|pool| is_usable && pool.idle.len() < idle_max) else {
            return self.net.close(id);
        };
        pod.state = PodState::Idle;
        pod.idle_since = self.now;
        pool.idle.push(id);
        let timeout = self.config.pool_idle_timeout.as_nanos() as u64;
        let jitter = self.random.below(timeout / 4 + 1);
        self.net.set_due(id, self.now + Duration::from_nanos(timeout - jitter));
    }

    pub(crate) fn pod_connected(&mut self, id: ConnId) {
        self.net.set_due(id, Time::NEVER);
        if self.net.session(id).is_some() {
            return self.pod_session_connected(id);
        }
        let Some(exchange) = self.net.pod(id).and_then(|pod| pod.exchange) else { return self.net.close(id) };
        let is_opaque = self.exchanges.get(exchange).is_some_and(|e| e.kind == StreamKind::Opaque);
        if is_opaque {
            if let Some(pod) = self.net.pod(id) {
                pod.state = PodState::Opaque;
            }
            let head = ResponseHead {
                status: 200,
                reason: b"",
                version: Version::Http11,
                declared_length: None,
                headers: Headers::default(),
            };
            // Bytes that wait are flushed first: once a response has begun they are no longer kept.
            self.flush_request(exchange);
            self.respond_head(exchange, &head, Framing::UntilClose);
        } else {
            self.flush_request(exchange);
        }
    }

    pub(crate) fn pod_connect_failed(
        &mut self,
        id: ConnId,
        (pod, session): (&Pod, Option<&Session>),
        kind: std::io::ErrorKind,
    ) {
        self.tally.pods.refused.add(1);
        self.event(Event::DialFailed { address: pod.slot.address, kind });
        self.pools.remove(&pod.slot, id);
        let calls = session.map_or_else(Vec::new, Session::calls);
        for call in calls.into_iter().chain(pod.exchange) {
            self.requeue(call, Reason::ConnectFailed, true);
        }
    }

    pub(crate) fn pod_due(&mut self, id: ConnId) {
        let is_open = self.net.get(id).is_some_and(|conn| conn.is_open);
        let has_calls = self.net.session(id).is_some_and(|session| session.has_calls());
        let Some(pod) = self.net.pod(id) else { return };
        if pod.state == PodState::Idle {
            let slot = Arc::clone(&pod.slot);
            self.pools.remove(&slot, id);
            self.net.close(id);
        } else if !is_open {
            self.net.commands.push(crate::core::Command::Close { id });
            if let Some((Kind::Pod(pod), session)) = self.net.forget(id) {
                self.pod_connect_failed(id, (&pod, session.as_deref()), std::io::ErrorKind::TimedOut);
            }
        } else if pod.state == PodState::Session {
            if !has_calls {
                self.pod_session_idle(id);
            }
        } else if pod.exchange.is_none() {
            // The call is over, but the pod does not read what is left of it.
            self.net.close(id);
        }
    }

    /// Understands what came from a pod. Returns how many bytes are done with.
    pub(crate) fn pod_bytes(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let mut at = 0;
        while at < buf.len() {
            let Some(pod) = self.net.pod(id) else { return buf.len() };
            let rest = &buf[at..];
            let used = match pod.state {
                PodState::Head => self.pod_head(id, rest),
                PodState::Body => self.pod_body(id, rest),
                PodState::Opaque => self.pod_opaque(id, rest),
                PodState::Session => self.session_bytes(id, rest),
                PodState::Idle => {
                    // Nobody asked.
                    let slot = Arc::clone(&pod.slot);
                    self.pools.remove(&slot, id);
                    self.net.close(id);
                    rest.len()
                }
            };
            if used == 0 {
                return at;
            }
            at += used;
        }
        at
    }

    fn pod_head(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let Some(pod) = self.net.pod(id) else { return buf.len() };
        pod.has_answered = true;
        let Some(exchange) = pod.exchange else { return buf.len() };
        let (method, is_upgrade) =
            self.exchanges.get(exchange).map_or((Method::Other, false), |e| (e.method, e.is_upgrade));
        let mut slots = std::mem::take(&mut self.slots);
        let parse = if is_upgrade { parse_upgrade_response } else { parse_response };
        let used = match parse(buf, &mut slots, method.for_response()) {
            Ok(None) => 0,
            Ok(Some(Response { head, upgrade: Some(upgrade), len, .. })) => {
                pod.state = PodState::Opaque;
                pod.keep_alive = false;
                let field = Header { name: UPGRADE_FIELD.as_bytes(), value: upgrade };
                let fields: Vec<_> = head.headers.iter().chain([field]).collect();
                let head = ResponseHead { headers: fields[..].into(), ..head };
                self.respond_head(exchange, &head, Framing::UntilClose);
                len
            }
            Ok(Some(response)) => {
                if !response.head.is_interim() {
                    pod.keep_alive = response.keep_alive;
                    pod.decoder = BodyDecoder::new(response.framing);
                    pod.state = PodState::Body;
                }
                self.respond_head(exchange, &response.head, response.framing);
                response.len
            }
            Err(_) => {
                self.fail(exchange, Reason::BadResponse);
                buf.len()
            }
        };
        self.slots = slots;
        used
    }

    fn pod_body(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let Some(exchange) = self.net.pod(id).and_then(|pod| pod.exchange) else { return buf.len() };
        let allowance = self.response_allowance(exchange);
        let Some(pod) = self.net.pod(id) else { return buf.len() };
        let step = decode_body(&mut pod.decoder, buf, allowance);
        let is_end = pod.decoder.is_ended();
        match step {
            Ok(None) => {
                self.net.pause(id);
                0
            }
            Ok(Some((Body::Data(data), used))) => {
                self.respond_data(exchange, data, is_end);
                used
            }
            Ok(Some((Body::Trailers(trailers), used))) => {
                self.respond_end(exchange, trailers);
                used
            }
            Ok(Some((Body::End, used))) => {
                self.respond_end(exchange, Headers::default());
                used
            }
            Ok(Some((Body::More, used))) => used,
            Err(_) => {
                self.fail(exchange, Reason::BadResponse);
                buf.len()
            }
        }
    }

    fn pod_opaque(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let Some(exchange) = self.net.pod(id).and_then(|pod| pod.exchange) else { return buf.len() };
        let count = self.response_allowance(exchange).min(buf.len());
        if count == 0 {
            self.net.pause(id);
            return 0;
        }
        self.respond_data(exchange, &buf[..count], false);
        count
    }

    /// The pod sends no more, and all that it sent was looked at.
    pub(crate) fn pod_ended(&mut self, id: ConnId) {
        let Some(pod) = self.net.pod(id) else { return };
        let exchange = pod.exchange;
        if pod.state == PodState::Session {
            return self.session_ended(id);
        }
        match (pod.state, exchange) {
            (PodState::Idle, _) | (_, None) => {
                let slot = Arc::clone(&pod.slot);
                self.pools.remove(&slot, id);
                self.net.close(id);
            }
            (PodState::Body, Some(exchange)) if pod.decoder.close().is_ok() => {
                self.respond_end(exchange, Headers::default());
            }
            (PodState::Opaque, Some(exchange)) => self.respond_end(exchange, Headers::default()),
            (PodState::Head | PodState::Body | PodState::Session, Some(exchange)) => {
                let is_stale = pod.is_reused && !pod.has_answered;
                self.pod_broke(exchange, is_stale);
            }
        }
    }

    /// The connection is gone.
    pub(crate) fn pod_failed(&mut self, id: ConnId, pod: &Pod) {
        self.pools.remove(&pod.slot, id);
        if let Some(exchange) = pod.exchange {
            self.pod_broke(exchange, pod.is_reused && !pod.has_answered);
        }
    }

    fn pod_broke(&mut self, id: ExchangeId, is_stale: bool) {
        let may_retry = self.exchanges.get(id).is_some_and(|exchange| {
            is_stale
                && exchange.is_replayable()
                && !exchange.is_fresh_only
                && exchange.method != Method::Other
                && exchange.kind == StreamKind::Http
        });
        if may_retry { self.retry_stale(id) } else { self.fail(id, Reason::UpstreamClosed) }
    }

    /// Where what a pod's connection holds comes from: whose credit it is.
    pub(crate) fn exchange_of(&mut self, id: ConnId) -> Option<ExchangeId> {
        match &self.net.get(id)?.kind {
            Kind::Client(client) => client.exchange,
            Kind::Pod(pod) => pod.exchange,
            Kind::Hop(_) => None,
        }
    }

    /// Whether a call came over a hop.
    pub(crate) fn is_inbound(&self, id: ExchangeId) -> bool {
        self.exchanges.get(id).is_some_and(|exchange| !exchange.origin.is_caller())
    }
}
