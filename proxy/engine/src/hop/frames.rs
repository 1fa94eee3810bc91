//! Frames that came over a hop, in the order that the specification allows; what it does not allow ends a stream or the hop.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use vicino_wire::head::{DEBUG_FIELD, Framing, Headers, RequestHead, Version};
use vicino_wire::hop::{
    DEADLINE_MS_NONE, Destination, Frame, Kind, RequestFrame, Reset, ResponseFrame, decode, encode_pong,
    encode_reset,
};

use super::HopState;
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::downstream::HOPS_MAX;
use crate::exchange::{ExchangeId, Fresh, Half, Method, Origin, take_length};
use crate::grpc;
use crate::plan::{Plan, inbound};
use crate::reply::Reason;
use crate::snapshot::PodSlot;

/// Bytes that wait for a peer that asks without reading, beyond which it is given up.
const ANSWERS_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a frame broke.
enum Fault {
    /// The hop ends.
    Connection,
    /// The stream ends.
    Stream,
}

type Handled = Result<(), Fault>;

impl Core {
    /// Understands what came over a hop. Returns how many bytes are done with.
    pub(crate) fn hop_bytes(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let now = self.now;
        if let Some(hop) = self.net.hop(id) {
            hop.heard = now;
            hop.silent_looks = 0;
        }
        let mut at = 0;
        loop {
            let Some(hop) = self.net.hop(id) else { return buf.len() };
            let state = hop.state;
            let rest = &buf[at..];
            let (frame, used) = match decode(rest) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => return at,
                Err(error) => {
                    self.hop_lost(id, error.reason());
                    return buf.len();
                }
            };
            match (state, &frame) {
                (HopState::Hello, Frame::Hello(hello)) => self.hop_opened(id, hello),
                (HopState::Open, _) => {
                    if self.hop_frame(id, frame, &rest[..used]).is_err() {
                        self.hop_lost(id, "protocol");
                        return buf.len();
                    }
                }
                _ => {
                    self.hop_lost(id, "no-hello");
                    return buf.len();
                }
            }
            at += used;
        }
    }

    fn hop_frame(&mut self, id: ConnId, frame: Frame<'_>, raw: &[u8]) -> Handled {
        let (stream, handled) = match frame {
            Frame::Request { stream, request, .. } => return self.request_frame(id, stream, &request, raw),
            Frame::Hello(_) => return Err(Fault::Connection),
            Frame::Ping(number) => return self.ping_frame(id, number),
            Frame::Pong(_) | Frame::Skipped { .. } => return Ok(()),
            Frame::Drain => {
                self.retire_hop(id);
                return Ok(());
            }
            Frame::Malformed { stream, .. } => return self.malformed_frame(id, stream),
            Frame::Reserve { stream, is_last_resort, to } => {
                return self.reserve_frame(id, stream, &to, is_last_resort);
            }
            Frame::Data { stream, .. }
            | Frame::Response { stream, .. }
            | Frame::Trailers { stream, .. }
            | Frame::Reset { stream, .. }
            | Frame::Window { stream, .. }
            | Frame::Grant { stream }
            | Frame::Cancel { stream }
            | Frame::Failures { stream, .. }
            | Frame::Ejected { stream, .. }
            | Frame::Wait { stream }
            | Frame::Started { stream } => {
                let Some(exchange) = self.stream(id, stream)? else { return Ok(()) };
                if self.is_reservation_stream(exchange, id, stream) {
                    return self.reservation_frame(id, stream, exchange, frame);
                }
                (stream, (exchange, self.stream_frame(id, exchange, frame)))
            }
        };
        match handled {
            (_, Ok(())) => Ok(()),
            (_, Err(Fault::Connection)) => Err(Fault::Connection),
            (exchange, Err(Fault::Stream)) => {
                self.stream_fault(id, stream, exchange);
                Ok(())
            }
        }
    }

    /// The call on a stream; None when the stream is closed. A stream that never was is a fault.
    fn stream(&mut self, id: ConnId, stream: u32) -> Result<Option<ExchangeId>, Fault> {
        let hop = self.net.hop(id).ok_or(Fault::Connection)?;
        match hop.streams.get(&stream) {
            Some(exchange) => Ok(Some(*exchange)),
            None if stream <= hop.last_stream => Ok(None),
            None => Err(Fault::Connection),
        }
    }

    fn stream_fault(&mut self, id: ConnId, stream: u32, exchange: ExchangeId) {
        self.remove_stream(id, stream);
        if let Some(out) = self.net.out(id) {
            encode_reset(out, stream, Reset::Protocol);
        }
        if self.is_inbound(exchange) {
            self.abandon(exchange);
        } else {
            self.fail(exchange, Reason::HopProtocol);
        }
    }

    fn ping_frame(&mut self, id: ConnId, number: u64) -> Handled {
        self.is_read(id)?;
        if let Some(out) = self.net.out(id) {
            encode_pong(out, number);
        }
        Ok(())
    }

    /// A peer that asks for more while it reads nothing is given up: heads and refusals are under no credit.
    fn is_read(&self, id: ConnId) -> Handled {
        let is_full = self.net.get(id).is_some_and(|conn| conn.pending() > ANSWERS_OUTPUT_BYTES_MAX);
        if is_full { Err(Fault::Connection) } else { Ok(()) }
    }

    fn malformed_frame(&mut self, id: ConnId, stream: u32) -> Handled {
        self.is_read(id)?;
        let hop = self.net.hop(id).ok_or(Fault::Connection)?;
        if hop.node.is_none() && stream > hop.last_stream {
            // A REQUEST that was malformed uses its number up.
            hop.last_stream = stream;
            if let Some(out) = self.net.out(id) {
                encode_reset(out, stream, Reset::Protocol);
            }
            return Ok(());
        }
        if let Some(exchange) = self.stream(id, stream)? {
            self.stream_fault(id, stream, exchange);
        }
        Ok(())
    }

    /// A stream is opened: the call is taken in and given to a pod.
    fn request_frame(&mut self, id: ConnId, stream: u32, request: &RequestFrame<'_>, raw: &[u8]) -> Handled {
        self.is_read(id)?;
        let hop = self.net.hop(id).ok_or(Fault::Connection)?;
        let held = match hop.streams.get(&stream).copied() {
            _ if hop.node.is_some() => return Err(Fault::Connection),
            Some(reservation) => Some(self.claim(reservation, request)?),
            // It has crossed the RESET of its reservation.
            None if stream <= hop.last_stream => return Ok(()),
            None => None,
        };
        let plan = match &held {
            Some((plan, ..)) => Rc::clone(plan),
            None => match self.open_inbound(id, stream, &request.to, request.hops)? {
                Ok(plan) => plan,
                Err(reset) => {
                    self.tally.reply(Reason::of_reset(reset));
                    if let Some(out) = self.net.out(id) {
                        encode_reset(out, stream, reset);
                    }
                    return Ok(());
                }
            },
        };
        self.say_ejected((id, stream), &plan);
        let mut kept = self.net.buffers.take();
        kept.extend_from_slice(raw);
        let mut exchange = self.exchange(Origin::Stream(id, stream), &plan, kept, request);
        exchange.is_grpc = request.head.version == Version::Http2 && grpc::is_spoken(request.head.headers);
        exchange.affinity = plan.key(&request.head, request.caller);
        exchange.wants_path = request.head.headers.get(DEBUG_FIELD) == Some(b"path");
        let due = match request.deadline_ms {
            DEADLINE_MS_NONE => Time::NEVER,
            ms => self.now + Duration::from_millis(u64::from(ms)),
        };
        let fresh = Some(Fresh { frame: request, extra: &[] });
        match held {
            Some((_, slot, is_probe)) => {
                exchange.is_probe = is_probe;
                self.start_on(exchange, due, (&slot, fresh));
            }
            None => self.start(exchange, due, fresh),
        }
        Ok(())
    }

    /// Takes the pod that was held for a call that comes now. A stream that is no such reservation is not to be opened again.
    fn claim(
        &mut self,
        id: ExchangeId,
        request: &RequestFrame<'_>,
    ) -> Result<(Rc<Plan>, Arc<PodSlot>, bool), Fault> {
        let held = self.exchanges.get_mut(id).filter(|exchange| {
            let held = exchange.plan.choices[0].destination();
            // The port is told by its name; its number may have changed meanwhile.
            let is_same = held == Destination { port: held.port, ..request.to };
            exchange.is_reservation && is_same
        });
        let exchange = held.ok_or(Fault::Connection)?;
        let slot = exchange.pod.take().ok_or(Fault::Connection)?;
        let (plan, is_probe) = (Rc::clone(&exchange.plan), exchange.is_probe);
        if let Origin::Stream(hop, stream) = exchange.origin {
            self.remove_stream(hop, stream);
        }
        self.exchanges.remove(id);
        Ok((plan, slot, is_probe))
    }

    /// A number is used up, for a call or a place in line: what is wanted there, or why it is not to be had.
    fn open_inbound(
        &mut self,
        id: ConnId,
        stream: u32,
        to: &Destination<'_>,
        hops: u8,
    ) -> Result<Result<Rc<Plan>, Reset>, Fault> {
        let (streams_max, now) = (self.config.streams_max as usize, self.now);
        let hop = self.net.hop(id).ok_or(Fault::Connection)?;
        if hop.node.is_some() || stream <= hop.last_stream {
            return Err(Fault::Connection);
        }
        hop.last_stream = stream;
        if hop.party_until <= now {
            // Who it is has to be proved anew, on another hop.
            if !std::mem::replace(&mut hop.is_draining, true) {
                self.tell_draining(id);
            }
            return Ok(Err(Reset::Draining));
        }
        Ok(match () {
            () if hop.streams.len() >= streams_max => Err(Reset::Overloaded),
            () if hops > HOPS_MAX + 1 => Err(Reset::Internal),
            () => self.plan_inbound(to).ok_or(Reset::NoEndpoint),
        })
    }

    /// A call that waits at another node asks for a place in line.
    fn reserve_frame(
        &mut self,
        id: ConnId,
        stream: u32,
        to: &Destination<'_>,
        is_last_resort: bool,
    ) -> Handled {
        self.is_read(id)?;
        let plan = match self.open_inbound(id, stream, to, 0)? {
            Ok(plan) => plan,
            Err(reset) => {
                if let Some(out) = self.net.out(id) {
                    encode_reset(out, stream, reset);
                }
                return Ok(());
            }
        };
        let frame = RequestFrame {
            to: *to,
            kind: Kind::Opaque,
            deadline_ms: DEADLINE_MS_NONE,
            hops: 0,
            is_last_resort,
            caller: None,
            head: RequestHead::opaque(),
            framing: Framing::UntilClose,
        };
        let mut exchange = self.exchange(Origin::Stream(id, stream), &plan, Vec::new(), &frame);
        exchange.is_reservation = true;
        let exchange = self.exchanges.insert(exchange);
        self.add_stream(id, stream, exchange);
        self.place_reservation(exchange);
        Ok(())
    }

    /// What the other node says of another place of a call of ours.
    fn reservation_frame(
        &mut self,
        id: ConnId,
        stream: u32,
        exchange: ExchangeId,
        frame: Frame<'_>,
    ) -> Handled {
        match frame {
            Frame::Grant { .. } => self.granted_there(exchange, id, stream),
            // It is in line there, too.
            Frame::Wait { .. } => self.reserve(exchange),
            Frame::Reset { .. } => {
                self.remove_stream(id, stream);
                self.reservation_lost(exchange, id, stream);
            }
            _ => return Err(Fault::Connection),
        }
        Ok(())
    }

    fn plan_inbound(&mut self, to: &Destination<'_>) -> Option<Rc<Plan>> {
        let Core { plans_inbound, snapshot, nodes, tally, .. } = self;
        let pod = to.pod.map(|pod| pod.to_string()).unwrap_or_default();
        let texts = [to.namespace, to.service, to.port_name, &pod];
        if let Some(plan) = plans_inbound.get(&texts) {
            return Some(Rc::clone(plan));
        }
        // The number is the peer's word, the name decides: else one peer's word would hold for the calls of all.
        let port = snapshot.port_number(to.namespace, to.service, to.port_name);
        let told = Destination { port: port.unwrap_or(to.port), ..*to };
        let plan = Rc::new(inbound(snapshot, &told, nodes, tally)?);
        if port.is_some() {
            plans_inbound.put(&texts, &plan);
        }
        Some(plan)
    }

    fn stream_frame(&mut self, id: ConnId, exchange: ExchangeId, frame: Frame<'_>) -> Handled {
        let (is_inbound, is_reservation) = self
            .exchanges
            .get(exchange)
            .map_or((false, false), |call| (!call.origin.is_caller(), call.is_reservation));
        match frame {
            // That a place is not needed is nothing unusual.
            Frame::Reset { stream, .. } if is_reservation => {
                self.remove_stream(id, stream);
                self.abandon(exchange);
                Ok(())
            }
            _ if is_reservation => Err(Fault::Connection),
            Frame::Cancel { .. } if is_inbound => {
                self.give_back(exchange);
                Ok(())
            }
            Frame::Failures { codes, .. } if is_inbound => {
                if let Some(call) = self.exchanges.get_mut(exchange) {
                    call.aside.get_or_insert_default().failures = Some(codes.iter().collect());
                }
                Ok(())
            }
            Frame::Ejected { .. } | Frame::Wait { .. } | Frame::Started { .. } if !is_inbound => {
                self.progress_frame(exchange, &frame);
                Ok(())
            }
            Frame::Response { response, .. } if !is_inbound => self.response_frame(exchange, &response),
            Frame::Response { .. }
            | Frame::Cancel { .. }
            | Frame::Failures { .. }
            | Frame::Ejected { .. }
            | Frame::Wait { .. }
            | Frame::Started { .. }
            | Frame::Grant { .. } => Err(Fault::Connection),
            Frame::Data { end, bytes, .. } if is_inbound => self.request_data_frame(exchange, bytes, end),
            Frame::Data { end, bytes, .. } => self.response_data_frame(exchange, bytes, end),
            Frame::Trailers { headers, .. } if is_inbound => {
                let call = self.exchanges.get(exchange).ok_or(Fault::Connection)?;
                check_end(call.request.is_ended, call.request.framing, call.request.left)?;
                self.request_end(exchange, headers);
                Ok(())
            }
            Frame::Trailers { headers, .. } => {
                let call = self.exchanges.get(exchange).ok_or(Fault::Connection)?;
                if !call.has_head() || call.response.left > 0 {
                    return Err(Fault::Stream);
                }
                self.respond_end(exchange, headers);
                Ok(())
            }
            Frame::Reset { stream, reason } => {
                let (now, max) = (self.now, self.config.resets_per_second_max);
                // Whoever answers may refuse as many as were asked.
                let is_bearable =
                    !is_inbound || self.net.hop(id).is_none_or(|hop| hop.resets.count(now, max));
                self.remove_stream(id, stream);
                self.reset_frame(exchange, reason);
                if is_bearable { Ok(()) } else { Err(Fault::Connection) }
            }
            Frame::Window { credit, .. } => {
                let call = self.exchanges.get_mut(exchange).ok_or(Fault::Connection)?;
                let half = if is_inbound { Half::Response } else { Half::Request };
                call.send(half).grant(credit).map_err(|_| Fault::Connection)?;
                self.go_on(exchange, half);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// How a call of ours is faring before it is answered.
    fn progress_frame(&mut self, id: ExchangeId, frame: &Frame<'_>) {
        match frame {
            Frame::Ejected { count, .. } => self.note_ejected(id, *count),
            Frame::Wait { .. } => self.reserve(id),
            _ => self.drop_reservations(id),
        }
    }

    fn response_frame(&mut self, id: ExchangeId, response: &ResponseFrame<'_>) -> Handled {
        let call = self.exchanges.get(id).ok_or(Fault::Connection)?;
        // The frame does not say to what it answers: that an answer to HEAD has no body is to be seen here only, and the caller
        // would take one for the answer to its next call.
        let has_body = response.framing != Framing::None && response.head.status != 101;
        if call.has_head() || (has_body && call.method == Method::Head) {
            return Err(Fault::Stream);
        }
        self.respond_head(id, &response.head, response.framing);
        Ok(())
    }

    fn request_data_frame(&mut self, id: ExchangeId, bytes: &[u8], is_end: bool) -> Handled {
        let call = self.exchanges.get_mut(id).ok_or(Fault::Connection)?;
        if call.request.is_ended {
            return Err(Fault::Connection);
        }
        call.request.receive.receive(bytes.len()).map_err(|_| Fault::Connection)?;
        check_length(&mut call.request.left, call.request.framing, bytes.len(), is_end)?;
        if bytes.is_empty() {
            self.request_end(id, Headers::default());
        } else {
            self.request_data(id, bytes, is_end);
        }
        Ok(())
    }

    fn response_data_frame(&mut self, id: ExchangeId, bytes: &[u8], is_end: bool) -> Handled {
        let call = self.exchanges.get_mut(id).ok_or(Fault::Connection)?;
        if call.response.is_ended {
            return Err(Fault::Connection);
        }
        if !call.has_head() {
            return Err(Fault::Stream);
        }
        call.response.receive.receive(bytes.len()).map_err(|_| Fault::Connection)?;
        check_length(&mut call.response.left, call.response.framing, bytes.len(), is_end)?;
        if bytes.is_empty() {
            self.respond_end(id, Headers::default());
        } else {
            let is_opaque = call.kind == Kind::Opaque;
            self.respond_data(id, bytes, is_end && !is_opaque);
            if is_end && is_opaque {
                self.respond_end(id, Headers::default());
            }
        }
        Ok(())
    }

    /// The peer gave a stream up.
    fn reset_frame(&mut self, id: ExchangeId, reason: Reset) {
        let Some(call) = self.exchanges.get(id) else { return };
        if let Origin::Stream(..) = call.origin {
            return self.abandon(id);
        }
        let word = Reason::of_reset(reason);
        if reason.is_requeue_safe() && self.take_reservation(id) {
            return;
        }
        if reason == Reset::Unprocessed && self.was_asked_back(id) {
            return self.place_again(id);
        }
        if reason.is_requeue_safe() {
            // A proxy that drains has, or will have, a successor on the same node.
            self.requeue(id, word, reason != Reset::Draining);
        } else {
            self.fail(id, word);
        }
    }
}

fn check_length(left: &mut u64, framing: Framing, count: usize, is_end: bool) -> Handled {
    if take_length(left, framing, count, is_end) { Ok(()) } else { Err(Fault::Stream) }
}

fn check_end(is_ended: bool, framing: Framing, left: u64) -> Handled {
    match framing {
        _ if is_ended => Err(Fault::Connection),
        Framing::Length(_) if left > 0 => Err(Fault::Stream),
        _ => Ok(()),
    }
}
