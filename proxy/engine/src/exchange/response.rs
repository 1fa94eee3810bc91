//! The response on its way back: heads, body with credit and room, trailers, end.

use vicino_wire::head::{Framing, Header, Headers, ResponseHead};
use vicino_wire::hop::{Kind, ResponseFrame, encode_data, encode_response, encode_trailers};
use vicino_wire::http1::{write_chunk, write_last_chunk, write_response_head};

use super::place::pod_address;
use super::{ExchangeId, Origin};
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::reply::Reason;

/// What L1 adds to every response.
const VIA: Header<'static> = Header { name: b"via", value: b"1.1 vicino" };

/// Interim heads of one response; they are under no credit, so their number is bounded.
const INTERIMS_MAX: u8 = 32;

impl Core {
    /// A head came, interim or final. The call may be over, or have failed, when this returns.
    pub(crate) fn respond_head(&mut self, id: ExchangeId, head: &ResponseHead<'_>, framing: Framing) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let is_final = !head.is_interim();
        if head.status == 100 {
            exchange.request.is_expecting = false;
        }
        if !is_final {
            exchange.response.interims += 1;
            if exchange.response.interims > INTERIMS_MAX {
                return self.fail(id, Reason::BadResponse);
            }
        }
        if is_final {
            if self.retry(id, head.status) {
                return;
            }
            self.attempt_is_answered(id);
            if !self.settle_upgrade(id, head.status) {
                return self.fail(id, Reason::BadResponse);
            }
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if is_final {
            exchange.response.status = head.status;
            exchange.response.framing = framing;
            exchange.response.left = if let Framing::Length(n) = framing { n } else { 0 };
        }
        match exchange.origin {
            Origin::Client(client) => self.respond_head_to_client(id, client, head, framing),
            Origin::Stream(..) => self.respond_head_to_stream(id, head, framing),
        }
        if is_final {
            self.forget_kept(id);
            if framing.is_empty() && self.exchanges.get(id).is_some_and(|e| e.kind == Kind::Http) {
                self.respond_end(id, Headers::default());
            }
        }
    }

    /// The final head of a call that asked to switch protocols says whether that happens. False: it does although nobody asked.
    fn settle_upgrade(&mut self, id: ExchangeId, status: u16) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return true };
        let origin = exchange.origin;
        match (status, exchange.is_upgrade) {
            (101, false) => return false,
            (101, true) => {
                exchange.kind = Kind::Opaque;
                exchange.deadline = Time::NEVER;
                self.exchanges.set_due(id, Time::NEVER);
                if let Origin::Client(client) = origin {
                    self.client_switches(client);
                }
            }
            // An ordinary call without a body, after all.
            (_, true) => {
                exchange.request.is_ended = true;
                exchange.request.is_sent = true;
            }
            (_, false) => {}
        }
        true
    }

    fn respond_head_to_client(
        &mut self,
        id: ExchangeId,
        client: ConnId,
        head: &ResponseHead<'_>,
        framing: Framing,
    ) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.kind == Kind::Opaque && head.status != 101 {
            return;
        }
        if head.is_interim() {
            if exchange.minor > 0
                && let Some(out) = self.net.out(client)
            {
                write_response_head(out, head, Framing::None, &[VIA], true);
            }
            return;
        }
        let is_switch = head.status == 101;
        let framing = match framing {
            Framing::UntilClose if is_switch => Framing::UntilClose,
            Framing::Chunked | Framing::UntilClose if exchange.minor > 0 => Framing::Chunked,
            Framing::Chunked | Framing::UntilClose => Framing::UntilClose,
            framing => framing,
        };
        let wants_keep = self.net.client(client).is_some_and(|client| client.keep_alive);
        let keep_alive = wants_keep
            && self.draining.is_none()
            && framing != Framing::UntilClose
            && (!exchange.request.is_expecting || exchange.request.is_ended);
        exchange.response.framing = framing;
        exchange.response.keep_alive = keep_alive;
        let local = if exchange.wants_path { pod_address(exchange.pod.as_ref()) } else { None };
        let path = local.map(|pod| format!("{0} {0} {pod}", self.snapshot.node));
        let mut extra = [VIA; 3];
        let mut count = 1;
        if exchange.minor == 0 && keep_alive {
            extra[count] = Header { name: b"connection", value: b"keep-alive" };
            count += 1;
        }
        if let Some(path) = &path {
            extra[count] = Header { name: b"vicino-path", value: path.as_bytes() };
            count += 1;
        }
        let rule = exchange.plan.rule.clone().filter(|rule| !rule.response.is_empty());
        let mut fields = Vec::new();
        let mut head = *head;
        if let Some(rule) = &rule {
            rule.response.apply(head.headers, &mut fields);
            head.headers = fields[..].into();
        }
        if let Some(out) = self.net.out(client) {
            write_response_head(out, &head, framing, &extra[..count], keep_alive);
        }
    }

    fn respond_head_to_stream(&mut self, id: ExchangeId, head: &ResponseHead<'_>, framing: Framing) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let Origin::Stream(hop, stream) = exchange.origin else { return };
        let pod = if exchange.wants_path { pod_address(exchange.pod.as_ref()) } else { None };
        let l1 = self.net.hop(hop).map(|hop| std::sync::Arc::clone(&hop.peer_node)).unwrap_or_default();
        let path = pod.map(|pod| format!("{l1} {} {pod}", self.snapshot.node));
        let path = path.as_deref().map(|path| Header { name: b"vicino-path", value: path.as_bytes() });
        let extra = path.as_slice();
        let Some(out) = self.net.out(hop) else { return };
        if encode_response(out, stream, &ResponseFrame { head: *head, framing }, extra).is_err() {
            self.fail(id, Reason::BadResponse);
        }
    }

    /// How many bytes of the body its source may give now. 0: the source has to pause; it is resumed when that changes.
    pub(crate) fn response_allowance(&mut self, id: ExchangeId) -> usize {
        let Some(exchange) = self.exchanges.get(id) else { return usize::MAX };
        match exchange.origin {
            Origin::Client(client) => {
                let room = self.net.room(client);
                if room == 0
                    && let Some(conn) = self.net.get_mut(client)
                {
                    conn.blocks_source = true;
                }
                room
            }
            Origin::Stream(hop, _) => {
                let credit = exchange.send.available() as usize;
                let Some(pod) = exchange.response_source() else { return credit };
                credit.min(self.hop_room(hop, pod))
            }
        }
    }

    /// Bytes of the body came, not empty; `is_end` when they are the last. The source has asked for the allowance, or had credit.
    pub(crate) fn respond_data(&mut self, id: ExchangeId, data: &[u8], is_end: bool) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        match exchange.origin {
            Origin::Client(client) => {
                let Some(out) = self.net.out(client) else { return };
                match exchange.response.framing {
                    Framing::Chunked => write_chunk(out, data),
                    _ => out.extend_from_slice(data),
                }
                if exchange.stream().is_some()
                    && let Some(conn) = self.net.get_mut(client)
                {
                    conn.owed += data.len();
                }
                if is_end {
                    self.respond_end(id, Headers::default());
                }
            }
            Origin::Stream(hop, stream) => {
                exchange.send.take(data.len());
                let max_frame = self.net.hop(hop).map_or(0, |hop| hop.peer.max_frame);
                if let Some(out) = self.net.out(hop) {
                    encode_data(out, stream, data, max_frame, is_end);
                }
                if is_end {
                    exchange.response.is_ended = true;
                    self.response_is_over(id);
                }
            }
        }
    }

    /// The response ends, after trailers or not.
    pub(crate) fn respond_end(&mut self, id: ExchangeId, trailers: Headers<'_>) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if std::mem::replace(&mut exchange.response.is_ended, true) {
            return;
        }
        match exchange.origin {
            Origin::Client(client) if exchange.kind == Kind::Opaque => self.net.shutdown_write(client),
            Origin::Client(client) => {
                if exchange.response.framing == Framing::Chunked
                    && let Some(out) = self.net.out(client)
                {
                    write_last_chunk(out, trailers);
                }
            }
            // The head said already that nothing follows.
            Origin::Stream(..) if exchange.response.framing.is_empty() => {}
            Origin::Stream(hop, stream) => {
                if let Some(out) = self.net.out(hop)
                    && (trailers.is_empty() || encode_trailers(out, stream, trailers).is_err())
                {
                    encode_data(out, stream, &[], 1, true);
                }
            }
        }
        self.response_is_over(id);
    }

    /// A call is over with its response; a stream of plain bytes, when both halves are.
    fn response_is_over(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.kind == Kind::Http || exchange.request.is_sent {
            self.complete(id);
        }
    }
}
