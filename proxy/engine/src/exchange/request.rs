//! The request's body on its way to the target: credit, room, what is kept for another try, and its end.

use vicino_wire::head::{Framing, Headers};
use vicino_wire::hop::{Frame, Kind, decode, encode_data, encode_trailers};
use vicino_wire::http1::{write_chunk, write_last_chunk};

use super::{ExchangeId, Origin, Target};
use crate::core::Core;

impl Core {
    /// How many bytes of the body its source may give now. 0: the source has to pause; it is resumed when that changes.
    pub(crate) fn request_allowance(&mut self, id: ExchangeId) -> usize {
        let Some(exchange) = self.exchanges.get(id) else { return usize::MAX };
        let request = &exchange.request;
        let kept = request.kept.len() - request.body_at.min(request.kept.len());
        let until_replay = self.config.replay_bytes_max.saturating_sub(kept);
        if request.has_backlog() {
            return until_replay;
        }
        match exchange.target {
            Target::None | Target::Waiting(_) => until_replay,
            Target::Stream(hop, _) => {
                let credit = exchange.send.available() as usize;
                let Some(client) = exchange.request_source() else { return credit };
                credit.min(self.hop_room(hop, client))
            }
            Target::Pod(pod) => {
                if !self.net.get(pod).is_some_and(|conn| conn.is_open) {
                    return until_replay;
                }
                let room = self.net.room(pod);
                if room == 0
                    && let Some(conn) = self.net.get_mut(pod)
                {
                    conn.blocks_source = true;
                }
                room
            }
        }
    }

    /// Bytes of the body came, not empty; `is_end` when they are the last. The source has asked for the allowance, or had credit.
    pub(crate) fn request_data(&mut self, id: ExchangeId, data: &[u8], is_end: bool) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.request.is_ended |= is_end;
        exchange.request.is_expecting = false;
        let is_open = match exchange.target {
            Target::None | Target::Waiting(_) => false,
            Target::Stream(..) => true,
            Target::Pod(pod) => self.net.get(pod).is_some_and(|conn| conn.is_open),
        };
        let request = &mut exchange.request;
        let is_direct = is_open && !request.has_backlog();
        let body_len = request.kept.len() - request.body_at.min(request.kept.len());
        if !is_direct {
            request.kept.extend_from_slice(data);
            return self.flush_request(id);
        }
        if request.is_kept && body_len + data.len() <= self.config.replay_bytes_max {
            request.kept.extend_from_slice(data);
            request.sent_to = request.kept.len();
        } else {
            self.forget_kept(id);
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
        }
    }

    /// Sends what waits, as far as credit goes; then lets the source go on.
    pub(crate) fn flush_request(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let count = match exchange.target {
            Target::None | Target::Waiting(_) => return,
            Target::Pod(pod) if !self.net.get(pod).is_some_and(|conn| conn.is_open) => return,
            Target::Pod(_) => usize::MAX,
            Target::Stream(..) => exchange.send.available() as usize,
        };
        let request = &mut exchange.request;
        let backlog = request.kept.len() - request.sent_to;
        let count = count.min(backlog);
        let is_last = count == backlog && request.is_ended && request.trailers.is_empty();
        if count > 0 {
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
        if request.has_backlog() {
            return;
        }
        let is_too_long = request.kept.len() - request.body_at > self.config.replay_bytes_max;
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
        match exchange.target {
            Target::None | Target::Waiting(_) => {}
            Target::Stream(hop, stream) => {
                exchange.request.is_sent |= is_end;
                exchange.send.take(data.len());
                let max_frame = self.net.hop(hop).map_or(0, |hop| hop.peer.max_frame);
                if let Some(out) = self.net.out(hop) {
                    encode_data(out, stream, data, max_frame, is_end);
                }
            }
            Target::Pod(pod) => {
                let Some(out) = self.net.out(pod) else { return };
                match exchange.request.framing {
                    Framing::Chunked => write_chunk(out, data),
                    _ => out.extend_from_slice(data),
                }
                if let Origin::Stream(..) = exchange.origin
                    && let Some(conn) = self.net.get_mut(pod)
                {
                    conn.owed += data.len();
                }
                if is_end {
                    self.send_request_end(id);
                }
            }
        }
    }

    fn send_request_end(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let request = &mut exchange.request;
        if std::mem::replace(&mut request.is_sent, true) {
            return;
        }
        let trailers = match decode(&request.trailers) {
            Ok(Some((Frame::Trailers { headers, .. }, _))) => headers,
            _ => Headers::default(),
        };
        let is_opaque = exchange.kind == Kind::Opaque;
        match exchange.target {
            Target::None | Target::Waiting(_) => request.is_sent = false,
            Target::Stream(hop, stream) => {
                let Some(out) = self.net.out(hop) else { return };
                if trailers.is_empty() || encode_trailers(out, stream, trailers).is_err() {
                    encode_data(out, stream, &[], 1, true);
                }
            }
            Target::Pod(pod) if is_opaque => self.net.shutdown_write(pod),
            Target::Pod(pod) => {
                if request.framing == Framing::Chunked
                    && let Some(out) = self.net.out(pod)
                {
                    write_last_chunk(out, trailers);
                }
            }
        }
        if is_opaque && exchange.response.is_ended {
            self.complete(id);
        }
    }
}
