//! The request's body on its way to the target: credit, room, what is kept for another try, and its end.

use vicino_wire::head::{Framing, Headers};
use vicino_wire::hop::{Kind, ReceiveCredit, SendCredit, encode_trailers};
use vicino_wire::http1::{write_chunk, write_last_chunk};

use super::flow::kept_trailers;
use super::{ExchangeId, Half, RequestSide, Target};
use crate::core::Core;

/// So many bytes that were sent and need not be kept are thrown away at once.
const SENT_BYTES_MAX: usize = 64 * 1024;

impl RequestSide {
    /// Before anything of the body has come. `kept` is the REQUEST frame; `window` is what the origin may send, where it has credit.
    pub(crate) fn new(kept: Vec<u8>, framing: Framing, window: u32) -> RequestSide {
        RequestSide {
            framing,
            left: if let Framing::Length(length) = framing { length } else { 0 },
            is_ended: framing.is_empty(),
            is_sent: false,
            is_expecting: false,
            body_at: kept.len(),
            sent_to: kept.len(),
            kept,
            is_kept: true,
            passed: 0,
            credited: 0,
            send: SendCredit::new(0),
            receive: ReceiveCredit::new(window),
            is_blocked: false,
            hop_offset: 0,
            trailers: Vec::new(),
        }
    }

    /// Bytes of the body that were taken in and are still here.
    fn body_len(&self) -> usize {
        self.kept.len() - self.body_at.min(self.kept.len())
    }

    /// The call is placed: all that was kept is to be sent, to a target that takes `window` of it at first, where that says so itself.
    pub(super) fn begin_attempt(&mut self, window: u32) {
        self.sent_to = self.body_at;
        self.passed = 0;
        self.send = SendCredit::new(window);
        self.is_blocked = false;
    }

    /// Counts bytes that are passed on; how many of them for the first time, since only these bring their sender credit.
    fn pass(&mut self, count: usize) -> usize {
        let before = self.passed.max(self.credited);
        self.passed += count as u64;
        self.credited = self.credited.max(self.passed);
        (self.credited - before) as usize
    }
}

impl Core {
    /// How many bytes of the body a source that can be paused may give now. 0: it has to pause; it is resumed when that changes.
    pub(crate) fn request_allowance(&mut self, id: ExchangeId) -> usize {
        let Some(exchange) = self.exchanges.get(id) else { return usize::MAX };
        let until_replay = self.config.replay_bytes_max.saturating_sub(exchange.request.body_len());
        if exchange.request.has_backlog() || !self.is_target_open(id) {
            return until_replay;
        }
        self.request_room(id)
    }

    /// Whether the target takes bytes at all yet.
    fn is_target_open(&self, id: ExchangeId) -> bool {
        match self.exchanges.get(id).map_or(Target::None, |exchange| exchange.target) {
            Target::None | Target::Waiting(_) => false,
            Target::Stream(..) => true,
            Target::Pod(conn) | Target::Session(conn, _) => {
                self.net.get(conn).is_some_and(|conn| conn.is_open)
            }
        }
    }

    /// How many bytes the target, which is open, takes now.
    fn request_room(&mut self, id: ExchangeId) -> usize {
        let Some(exchange) = self.exchanges.get(id) else { return usize::MAX };
        if let Some(lane) = exchange.target_lane() {
            return self.lane_room(lane, id, Half::Request, exchange.request.send.available());
        }
        let Target::Pod(pod) = exchange.target else { return 0 };
        self.net.room_or_block(pod)
    }

    /// Bytes of the body came, not empty; `is_end` when they are the last. The source has asked for the allowance, or had credit.
    pub(crate) fn request_data(&mut self, id: ExchangeId, data: &[u8], is_end: bool) {
        let (now, is_open) = (self.now, self.is_target_open(id));
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.request.is_ended |= is_end;
        exchange.request.is_expecting = false;
        exchange.is_silent = false;
        exchange.moved = now;
        let is_bound = exchange.origin_lane().is_some() && exchange.target_lane().is_some();
        let has_backlog = exchange.request.has_backlog();
        let is_direct = is_open && !has_backlog && (!is_bound || self.request_room(id) >= data.len());
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let request = &mut exchange.request;
        if !is_direct {
            request.kept.extend_from_slice(data);
            if is_end {
                self.mirror(id);
            }
            return self.flush_request(id);
        }
        // While it is asked back all of it stays: the node that has it grants no more than a window.
        let is_within = request.body_len() + data.len() <= self.config.replay_bytes_max;
        if request.is_kept && (is_within || exchange.late.is_some()) {
            request.kept.extend_from_slice(data);
            request.sent_to = request.kept.len();
        } else {
            self.forget_kept(id);
        }
        if is_end {
            self.mirror(id);
        }
        let is_end = is_end && self.exchanges.get(id).is_some_and(|e| e.request.trailers.is_empty());
        self.send_request_data(id, data, is_end);
    }

    /// The body ends, after trailers or not.
    pub(crate) fn request_end(&mut self, id: ExchangeId, trailers: Headers<'_>) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.request.is_ended = true;
        if !trailers.is_empty() {
            // Kept as a frame: it may have to wait, or to be sent again. What does not fit a frame is left out; trailers may be.
            let _ = encode_trailers(&mut exchange.request.trailers, 1, trailers);
        }
        self.mirror(id);
        self.flush_request(id);
    }

    /// The call can no longer be placed again: what was kept of it goes, as far as it was sent.
    pub(crate) fn forget_kept(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let request = &mut exchange.request;
        request.is_kept = false;
        if !request.has_backlog() {
            request.body_at = 0;
            request.sent_to = 0;
            self.net.buffers.give(std::mem::take(&mut request.kept));
        } else if request.sent_to >= SENT_BYTES_MAX {
            request.kept.drain(..request.sent_to);
            request.body_at = 0;
            request.sent_to = 0;
        }
    }

    /// Sends what waits, as far as credit and room go; then lets the source go on.
    pub(crate) fn flush_request(&mut self, id: ExchangeId) {
        if !self.is_target_open(id) {
            return;
        }
        while self.exchanges.get(id).is_some_and(|exchange| exchange.request.has_backlog()) {
            // What came over a hop, or was kept, is bounded by itself; towards a connection of its own all of it goes.
            let is_own = self.exchanges.get(id).is_some_and(|exchange| exchange.target_lane().is_none());
            let room = if is_own { usize::MAX } else { self.request_room(id) };
            let Some(exchange) = self.exchanges.get_mut(id) else { return };
            let request = &mut exchange.request;
            let backlog = request.kept.len() - request.sent_to;
            let count = room.min(backlog);
            if count == 0 {
                let is_above = request.body_len() > self.config.replay_bytes_max && exchange.late.is_none();
                let is_too_long = !request.is_kept || is_above;
                return if is_too_long {
                    self.forget_kept(id);
                };
            }
            let is_last = count == backlog && request.is_ended && request.trailers.is_empty();
            let kept = std::mem::take(&mut request.kept);
            let from = request.sent_to;
            request.sent_to += count;
            self.send_request_data(id, &kept[from..from + count], is_last);
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.request.kept = kept;
            }
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let request = &exchange.request;
        let is_too_long = request.body_len() > self.config.replay_bytes_max;
        if request.is_ended && !request.is_sent {
            self.send_request_end(id);
        } else if !request.is_ended
            && let Some(source) = exchange.request_source()
        {
            self.net.resume(source);
        }
        if is_too_long {
            self.forget_kept(id);
        }
    }

    /// Puts bytes of the body into the target's output, framed as it takes them.
    fn send_request_data(&mut self, id: ExchangeId, data: &[u8], is_end: bool) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let fresh = exchange.request.pass(data.len());
        if let Some(lane) = exchange.target_lane() {
            exchange.request.is_sent |= is_end;
            exchange.request.send.take(data.len());
            self.lane_data(lane, data, is_end);
            return self.give_credit(id, Half::Request, fresh);
        }
        let Target::Pod(pod) = exchange.target else { return };
        let Some(out) = self.net.out(pod) else { return };
        match exchange.request.framing {
            Framing::Chunked => write_chunk(out, data),
            _ => out.extend_from_slice(data),
        }
        if exchange.origin_lane().is_some()
            && let Some(conn) = self.net.get_mut(pod)
        {
            conn.owed += fresh;
        }
        if is_end {
            self.send_request_end(id);
        }
    }

    fn send_request_end(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let request = &mut exchange.request;
        if std::mem::replace(&mut request.is_sent, true) {
            return;
        }
        let is_opaque = exchange.kind == Kind::Opaque;
        match exchange.target {
            Target::None | Target::Waiting(_) => request.is_sent = false,
            Target::Stream(..) | Target::Session(..) => {
                let frame = request.trailers.clone();
                if let Some(lane) = exchange.target_lane() {
                    self.lane_end(lane, kept_trailers(&frame));
                }
            }
            Target::Pod(pod) if is_opaque => self.net.shutdown_write(pod),
            Target::Pod(pod) => {
                if request.framing == Framing::Chunked
                    && let Some(out) = self.net.out(pod)
                {
                    write_last_chunk(out, kept_trailers(&request.trailers));
                }
            }
        }
        if is_opaque && self.exchanges.get(id).is_some_and(|exchange| exchange.response.is_sent) {
            self.complete(id);
        }
    }
}
