//! What pods answer over HTTP/2: connections that are shared by the calls of a worker to one pod.

use std::sync::Arc;
use std::time::Duration;

use vicino_wire::http2::{ErrorCode, Fault, Refused, encode_preface, read_response, read_trailers};

use super::{STREAM_MAX, Session};
use crate::core::{ConnId, Core};
use crate::exchange::{ExchangeId, Half, Method, Target};
use crate::reply::Reason;
use crate::snapshot::PodSlot;

impl Core {
    /// A connection to a pod that takes another stream, dialled now if there is none; the stream's number, and the window that it begins with.
    pub(crate) fn open_session_stream(
        &mut self,
        slot: &Arc<PodSlot>,
        exchange: ExchangeId,
        is_fresh_only: bool,
        connect_timeout: Duration,
    ) -> (ConnId, u32, u32) {
        let streams_max = self.config.session_streams_max;
        let net = &self.net;
        let is_usable = |id: &ConnId| {
            let session = net.get(*id).and_then(|conn| conn.session.as_ref());
            session.is_some_and(|session| {
                let max = session.peer_streams_max.min(streams_max) as usize;
                !session.is_draining && session.streams.len() < max && session.last_stream < STREAM_MAX - 2
            })
        };
        let known = self.pools.sessions(slot).iter().copied().find(is_usable);
        let id = match known.filter(|_| !is_fresh_only) {
            Some(id) => id,
            None => self.dial_session(slot, connect_timeout),
        };
        let Some(session) = self.net.session(id) else { return (id, 1, 0) };
        // The first is 1.
        let stream = if session.last_stream == 0 { 1 } else { session.last_stream + 2 };
        session.last_stream = stream;
        let window = session.peer_window;
        self.add_session_stream(id, stream, exchange);
        (id, stream, window)
    }

    fn dial_session(&mut self, slot: &Arc<PodSlot>, connect_timeout: Duration) -> ConnId {
        let id = self.dial_pod(slot, None, connect_timeout);
        let mut session = Session::new(&self.config, self.now);
        // A pod that is gone from the snapshot has no pool: the connection serves this one call.
        session.is_draining = !self.pools.add_session(slot, id);
        if let Some(conn) = self.net.get_mut(id) {
            conn.session = Some(session);
        }
        if let Some(out) = self.net.out(id) {
            encode_preface(out);
        }
        self.say_settings(id);
        id
    }

    /// It stands: what waits is sent.
    pub(crate) fn pod_session_connected(&mut self, id: ConnId) {
        let Some(session) = self.net.session(id) else { return };
        let calls = session.calls();
        self.set_session_due(id);
        for call in calls {
            self.go_on(call, Half::Request);
        }
    }

    pub(super) fn pod_block(
        &mut self,
        id: ConnId,
        (stream, is_end): (u32, bool),
        block: &[u8],
    ) -> Result<(), Fault> {
        let call = self.session_call(id, stream)?;
        let known = call.and_then(|call| Some((call, self.exchanges.get(call)?)));
        let known = known.map(|(call, exchange)| (call, exchange.method, exchange.has_head()));
        let mut slots = std::mem::take(&mut self.fields);
        let session = self.net.session(id).ok_or(Fault::Connection(ErrorCode::Internal))?;
        let handled = match known {
            Some((call, method, false)) => {
                let read =
                    read_response(&mut session.decoder, block, is_end, method.for_response(), &mut slots);
                match read {
                    Ok(response) => {
                        session.reused_from = session.reused_from.min(session.last_stream + 1);
                        self.respond_head(call, &response.head, response.framing);
                        Ok(())
                    }
                    Err(refused) => Err(refused),
                }
            }
            _ => match read_trailers(&mut session.decoder, block, &mut slots) {
                Ok(trailers) if is_end => {
                    if let Some((call, ..)) = known {
                        let is_short = self.exchanges.get(call).is_some_and(|e| e.response.left > 0);
                        if is_short {
                            self.fail(call, Reason::BadResponse);
                        } else {
                            self.respond_end(call, trailers);
                        }
                    }
                    Ok(())
                }
                Err(Refused::Connection(code)) => Err(Refused::Connection(code)),
                // Of a stream that is over nothing matters but what it says for the blocks after it.
                _ if known.is_none() => Ok(()),
                Ok(_) => Err(Refused::Malformed),
                Err(refused) => Err(refused),
            },
        };
        self.fields = slots;
        handled.map_err(|refused| match refused {
            Refused::Connection(code) => Fault::Connection(code),
            Refused::Malformed | Refused::Reject(_) => Fault::Stream(stream, ErrorCode::Protocol),
        })
    }

    /// The pod gave a stream up.
    pub(super) fn pod_reset(&mut self, call: ExchangeId, code: u32) {
        let Some(exchange) = self.exchanges.get(call) else { return };
        match () {
            // The answer is complete, and still on its way.
            () if exchange.response.is_ended => {}
            () if code == ErrorCode::RefusedStream as u32 => self.requeue(call, Reason::Overloaded, false),
            () => self.fail(call, Reason::UpstreamClosed),
        }
    }

    /// GOAWAY: a pod takes no more streams; those that it has not looked at are placed again.
    pub(super) fn go_away_frame(&mut self, id: ConnId, last_stream: u32) {
        let is_caller = self.net.client(id).is_some();
        self.retire_session(id);
        let Some(session) = self.net.session(id).filter(|session| !is_caller && session.has_calls()) else {
            return;
        };
        let mut unseen: Vec<(u32, ExchangeId)> =
            session.streams.iter().filter(|(s, _)| **s > last_stream).map(|(s, id)| (*s, *id)).collect();
        unseen.sort_unstable_by_key(|(stream, _)| *stream);
        self.forget_pod_session(id);
        for (stream, call) in unseen {
            self.remove_session_stream(id, stream);
            self.requeue(call, Reason::Overloaded, false);
        }
    }

    /// No call for so long.
    pub(crate) fn pod_session_idle(&mut self, id: ConnId) {
        if self.net.session(id).is_some_and(|session| session.is_draining) {
            // It was told, and does not read.
            return self.net.close(id);
        }
        self.end_session(id, ErrorCode::NoError);
    }

    /// The connection is gone with a call on it. Where it had answered something before it was given this call, it may have died of itself
    /// (RFC 9113 §8.7); else the call may have been what it died of, and whether that is repeated is the retry policy's.
    pub(super) fn pod_session_broke(&mut self, call: ExchangeId, reused_from: u32) {
        let Some(exchange) = self.exchanges.get(call) else { return };
        let is_reused = matches!(exchange.target, Target::Session(_, stream) if stream >= reused_from);
        let may_retry = is_reused
            && exchange.is_replayable()
            && !exchange.is_fresh_only
            && exchange.method != Method::Other;
        match () {
            () if exchange.response.is_ended => {}
            () if may_retry => self.retry_stale(call),
            () => self.fail(call, Reason::UpstreamClosed),
        }
    }

    pub(super) fn forget_pod_session(&mut self, id: ConnId) {
        if let Some(slot) = self.net.pod(id).map(|pod| Arc::clone(&pod.slot)) {
            self.pools.remove(&slot, id);
        }
    }
}
