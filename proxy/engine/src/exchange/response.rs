//! The response on its way back: heads, body with credit and room, trailers, end.

use vicino_wire::head::{Framing, Header, Headers, ResponseHead, Version};
use vicino_wire::hop::{
    Frame, Kind, ReceiveCredit, ResponseFrame, SendCredit, decode, encode_response, encode_trailers,
};
use vicino_wire::http1::{write_chunk, write_last_chunk, write_response_head};

use super::flow::kept_trailers;
use super::place::pod_address;
use super::{Aside, ExchangeId, Half, Origin, ResponseSide};
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::grpc;
use crate::latency::Took;
use crate::reply::{Reason, VIA};
use crate::rules::as_header;

impl ResponseSide {
    /// Before anything of it has come; the origin takes `window` of it at first, where it says so itself.
    pub(crate) fn new(window: u32) -> ResponseSide {
        ResponseSide {
            status: 0,
            interims: 0,
            framing: Framing::None,
            left: 0,
            is_ended: false,
            is_sent: false,
            keep_alive: false,
            send: SendCredit::new(window),
            receive: ReceiveCredit::new(0),
            is_blocked: false,
            backlog: Vec::new(),
            backlog_at: 0,
            trailers: Vec::new(),
        }
    }
}

/// Interim heads of one response; they are under no credit, so their number is bounded.
const INTERIMS_MAX: u8 = 32;

impl Core {
    /// A head came, interim or final. The call may be over, or have failed, when this returns.
    pub(crate) fn respond_head(&mut self, id: ExchangeId, head: &ResponseHead<'_>, framing: Framing) {
        let is_final = !head.is_interim();
        if is_final && !self.hedge_is_answered(id, (head.status, head.headers)) {
            return;
        }
        let now = self.now;
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.moved = now;
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
            exchange.note_status(head.status, head.headers);
            self.note_latency(id, Took::Answered);
            self.note_pace(id, true);
            let Some(exchange) = self.exchanges.get(id) else { return };
            // A gRPC call that fails at once says so in its head; one that has begun is not repeated anyway.
            let said = if exchange.is_grpc { grpc::status_in_http(head.headers) } else { None };
            let status = said.unwrap_or(head.status);
            if self.leave_failure_to_hedge(id, status) || self.retry(id, status) {
                return;
            }
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.response.left = if let Framing::Length(n) = framing { n } else { 0 };
            }
            if self.hold_head(id, head, framing) {
                return;
            }
        }
        self.pass_head(id, head, framing);
    }

    /// Keeps the head of a gRPC call that may be repeated for as long as what came with it is looked at: servers that have nothing but a status to say may say it in
    /// trailers after a head. Nothing waits for what has not come. Whether it is kept.
    fn hold_head(&mut self, id: ExchangeId, head: &ResponseHead<'_>, framing: Framing) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id).filter(|exchange| exchange.may_be_repeated()) else {
            return false;
        };
        let mut frame = Vec::new();
        let is_whole =
            !exchange.is_grpc || framing.is_empty() || grpc::status_in_http(head.headers).is_some();
        if is_whole || encode_response(&mut frame, 1, &ResponseFrame { head: *head, framing }, &[]).is_err() {
            return false;
        }
        exchange.aside.get_or_insert_default().head = Some(frame);
        exchange.response.framing = framing;
        self.held_heads.push(id);
        true
    }

    /// Passes on the heads that were kept: nothing came with them that says otherwise.
    pub(crate) fn pass_held_heads(&mut self) {
        for id in std::mem::take(&mut self.held_heads) {
            self.pass_held_head(id);
        }
    }

    fn pass_held_head(&mut self, id: ExchangeId) {
        let frame = self.exchanges.get_mut(id).and_then(|exchange| exchange.aside.as_mut()?.head.take());
        let frame = frame.as_deref().map(decode);
        if let Some(Ok(Some((Frame::Response { response, .. }, _)))) = frame {
            self.pass_head(id, &response.head, response.framing);
        }
    }

    /// The trailers of a call whose head is kept say that it failed: whether it is repeated.
    fn is_saved(&mut self, id: ExchangeId, trailers: Headers<'_>) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        let is_held = exchange.aside.as_ref().is_some_and(|aside| aside.head.is_some());
        let Some(status) = grpc::status_in_http(trailers).filter(|_| is_held) else { return false };
        exchange.note_status(exchange.outcome, trailers);
        self.leave_failure_to_hedge(id, status) || self.retry(id, status)
    }

    /// A head goes to the origin. The call may be over, or have failed, when this returns.
    fn pass_head(&mut self, id: ExchangeId, head: &ResponseHead<'_>, framing: Framing) {
        let is_final = !head.is_interim();
        if is_final {
            self.drop_hedge(id);
            self.attempt_is_answered(id);
            if !self.settle_upgrade(id, head.status) {
                return self.fail(id, Reason::BadResponse);
            }
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if is_final {
            exchange.response.status = head.status;
            exchange.response.framing = framing;
        }
        // gRPC says only at the end, or with a message, whether the call went well.
        let is_long = matches!(framing, Framing::Chunked | Framing::UntilClose) && !exchange.is_grpc;
        match exchange.origin {
            Origin::Client(client) => self.respond_head_to_client(id, client, head, framing),
            Origin::Session(conn, stream) => self.respond_head_to_session(id, (conn, stream), head, framing),
            Origin::Stream(..) => self.respond_head_to_stream(id, head, framing),
            Origin::Mirror | Origin::Hedge(_) => {}
        }
        if is_final {
            if is_long {
                self.probe_is_answered(id);
            }
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
                (exchange.deadline, exchange.attempt_due) = (Time::NEVER, Time::NEVER);
                self.set_exchange_due(id);
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
        let is_old = exchange.version == Version::Http10;
        if head.is_interim() {
            if !is_old && let Some(out) = self.net.out(client) {
                write_response_head(out, head, Framing::None, &[VIA], true);
            }
            return;
        }
        let is_switch = head.status == 101;
        let framing = match framing {
            Framing::UntilClose if is_switch => Framing::UntilClose,
            Framing::Chunked | Framing::UntilClose if !is_old => Framing::Chunked,
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
        let connection = Header { name: b"connection", value: b"keep-alive" };
        let extra = (is_old && keep_alive).then_some(connection);
        self.with_final_head(id, head, extra, |core, head, extra| {
            if let Some(out) = core.net.out(client) {
                write_response_head(out, head, framing, extra, keep_alive);
            }
        });
    }

    fn respond_head_to_session(
        &mut self,
        id: ExchangeId,
        (conn, stream): (ConnId, u32),
        head: &ResponseHead<'_>,
        framing: Framing,
    ) {
        if head.is_interim() {
            if let Some((out, session)) = self.net.session_out(conn) {
                session.encoder.response(out, stream, (head, Framing::None), &[VIA]);
            }
            return;
        }
        let framing = if framing == Framing::UntilClose { Framing::Chunked } else { framing };
        self.with_final_head(id, head, None, |core, head, extra| {
            if let Some((out, session)) = core.net.session_out(conn) {
                session.encoder.response(out, stream, (head, framing), extra);
            }
        });
    }

    /// Gives a final head as the caller gets it, and what is added to it, to whoever writes it.
    fn with_final_head(
        &mut self,
        id: ExchangeId,
        head: &ResponseHead<'_>,
        more: Option<Header<'_>>,
        write: impl FnOnce(&mut Core, &ResponseHead<'_>, &[Header<'_>]),
    ) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        // Which answers are failures only L2 is told.
        let Aside { set_cookie: cookie, cors, mirror, failures: _, head: _ } =
            exchange.aside.take().map(|aside| *aside).unwrap_or_default();
        // It is answered before all of it has come.
        self.tally.mirrors_skipped.add(u64::from(mirror.is_some()));
        let cookie = cookie.as_ref().map(|c| Header { name: b"set-cookie", value: c.as_bytes() });
        let local = if exchange.wants_path { pod_address(exchange.pod.as_ref()) } else { None };
        let path = local.map(|pod| format!("{0} {0} {pod}", self.snapshot.node));
        let path = path.as_ref().map(|path| Header { name: b"vicino-path", value: path.as_bytes() });
        let mut extra = [VIA; 4];
        let mut count = 1;
        for field in [more, path, cookie].into_iter().flatten() {
            extra[count] = field;
            count += 1;
        }
        let rule = exchange.plan.rule.clone().filter(|rule| !rule.response.is_empty());
        let edits = exchange.plan.choices[exchange.choice].edits.clone();
        let (mut of_backend, mut fields) = (Vec::new(), Vec::new());
        let mut head = *head;
        if let Some(edits) = edits.as_ref().filter(|edits| !edits.response.is_empty()) {
            edits.response.apply(head.headers, &mut of_backend);
            head.headers = of_backend[..].into();
        }
        if let Some(rule) = &rule {
            rule.response.apply(head.headers, &mut fields);
            head.headers = fields[..].into();
        }
        let mut with_cors = Vec::new();
        if let Some(cors) = &cors {
            let is_ours =
                |name: &[u8]| name.get(..15).is_some_and(|n| n.eq_ignore_ascii_case(b"access-control-"));
            with_cors.extend(head.headers.iter().filter(|field| !is_ours(field.name)));
            with_cors.extend(cors.iter().map(as_header));
            head.headers = with_cors[..].into();
        }
        write(self, &head, &extra[..count]);
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

    /// How many bytes of the body a source that can be paused may give now. 0: it has to pause; it is resumed when that changes.
    pub(crate) fn response_allowance(&mut self, id: ExchangeId) -> usize {
        let Some(exchange) = self.exchanges.get(id) else { return usize::MAX };
        if exchange.response.backlog.is_empty() { self.response_room(id) } else { 0 }
    }

    /// How many bytes the origin takes now.
    fn response_room(&mut self, id: ExchangeId) -> usize {
        let Some(exchange) = self.exchanges.get(id) else { return usize::MAX };
        if let Some(lane) = exchange.origin_lane() {
            return self.lane_room(lane, id, Half::Response, exchange.response.send.available());
        }
        let Origin::Client(client) = exchange.origin else { return usize::MAX };
        self.net.room_or_block(client)
    }

    /// Bytes of the body came, not empty; `is_end` when they are the last. The source has asked for the allowance, or had credit.
    pub(crate) fn respond_data(&mut self, id: ExchangeId, data: &[u8], is_end: bool) {
        let now = self.now;
        self.pass_held_head(id);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.moved = now;
        let is_probe = exchange.is_probe && exchange.is_grpc;
        if std::mem::take(&mut exchange.is_silent) {
            self.server_has_spoken(id, data);
        }
        if is_probe {
            self.probe_is_answered(id);
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.response.is_ended |= is_end;
        if !exchange.response.backlog.is_empty() {
            exchange.response.backlog.extend_from_slice(data);
            return self.flush_response(id);
        }
        let is_bound = exchange.origin_lane().is_some() && exchange.target_lane().is_some();
        let room = if is_bound { self.response_room(id).min(data.len()) } else { data.len() };
        if room < data.len() {
            let mut backlog = self.net.buffers.take();
            backlog.extend_from_slice(data);
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.response.backlog = backlog;
            }
            return self.flush_response(id);
        }
        self.send_response_data(id, data, is_end);
    }

    /// The response ends, after trailers or not.
    pub(crate) fn respond_end(&mut self, id: ExchangeId, trailers: Headers<'_>) {
        if self.is_saved(id, trailers) {
            return;
        }
        self.pass_held_head(id);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if std::mem::replace(&mut exchange.response.is_ended, true) {
            return;
        }
        exchange.note_status(exchange.outcome, trailers);
        if exchange.response.backlog.is_empty() {
            return self.send_response_end(id, trailers);
        }
        if !trailers.is_empty() {
            // As a frame, since they have to wait. What does not fit one is left out; trailers may be.
            let _ = encode_trailers(&mut exchange.response.trailers, 1, trailers);
        }
    }

    /// Sends what waits, as far as credit and room go; then lets the source go on.
    pub(crate) fn flush_response(&mut self, id: ExchangeId) {
        while self.exchanges.get(id).is_some_and(|exchange| !exchange.response.backlog.is_empty()) {
            let room = self.response_room(id);
            let Some(exchange) = self.exchanges.get_mut(id).filter(|_| room > 0) else { return };
            let response = &mut exchange.response;
            let mut backlog = std::mem::take(&mut response.backlog);
            let from = std::mem::take(&mut response.backlog_at) as usize;
            let to = from + room.min(backlog.len() - from);
            let is_all = to == backlog.len();
            let is_last = is_all && response.is_ended && response.trailers.is_empty();
            self.send_response_data(id, &backlog[from..to], is_last);
            match self.exchanges.get_mut(id).filter(|_| !is_all) {
                Some(exchange) => {
                    // Seldom, so that credit in small pieces does not move all of it each time.
                    match u32::try_from(to) {
                        Ok(at) if to < backlog.len() - to => exchange.response.backlog_at = at,
                        _ => drop(backlog.drain(..to)),
                    }
                    exchange.response.backlog = backlog;
                }
                None => self.net.buffers.give(backlog),
            }
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.response.is_ended && !exchange.response.is_sent {
            let frame = std::mem::take(&mut exchange.response.trailers);
            self.send_response_end(id, kept_trailers(&frame));
        } else if let Some(source) = exchange.response_source() {
            self.net.resume(source);
        }
    }

    /// Puts bytes of the body into the origin's output, framed as it takes them.
    fn send_response_data(&mut self, id: ExchangeId, data: &[u8], is_end: bool) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let has_credit = exchange.target_lane().is_some();
        if let Some(lane) = exchange.origin_lane() {
            exchange.response.send.take(data.len());
            exchange.response.is_sent |= is_end;
            self.lane_data(lane, data, is_end);
            if has_credit {
                self.give_credit(id, Half::Response, data.len());
            }
            return if is_end {
                self.response_is_over(id);
            };
        }
        let Origin::Client(client) = exchange.origin else {
            if has_credit {
                self.give_credit(id, Half::Response, data.len());
            }
            return if is_end {
                self.send_response_end(id, Headers::default());
            };
        };
        let Some(out) = self.net.out(client) else { return };
        match exchange.response.framing {
            Framing::Chunked => write_chunk(out, data),
            _ => out.extend_from_slice(data),
        }
        if has_credit && let Some(conn) = self.net.get_mut(client) {
            conn.owed += data.len();
        }
        if is_end {
            self.send_response_end(id, Headers::default());
        }
    }

    fn send_response_end(&mut self, id: ExchangeId, trailers: Headers<'_>) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if std::mem::replace(&mut exchange.response.is_sent, true) {
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
            Origin::Mirror | Origin::Hedge(_) => {}
            // The head said already that nothing follows.
            Origin::Stream(..) | Origin::Session(..) if exchange.response.framing.is_empty() => {}
            Origin::Stream(..) | Origin::Session(..) => {
                if let Some(lane) = exchange.origin_lane() {
                    self.lane_end(lane, trailers);
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
