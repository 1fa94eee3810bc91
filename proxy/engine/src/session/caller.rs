//! What callers ask over HTTP/2: each stream is a call of its own.

use vicino_wire::head::{Header, Headers};
use vicino_wire::http2::{ErrorCode, Fault, Refused, encode_go_away, read_request, read_trailers};

use super::frames::{Handled, Taken};
use super::{STREAM_MAX, Session};
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::downstream::{Ask, Asker, ClientState, Verdict};
use crate::exchange::{Exchange, Origin};
use crate::grpc;
use crate::reply::{Reason, Reply};

impl Core {
    /// The preface has come.
    pub(crate) fn begin_session(&mut self, id: ConnId) {
        let session = Session::new(&self.config, self.now);
        if let Some(conn) = self.net.get_mut(id) {
            conn.session = Some(session);
        }
        self.net.set_due(id, self.now + self.config.head_timeout);
        self.say_settings(id);
        if self.draining.is_some() {
            self.warn_session(id);
        }
    }

    pub(super) fn caller_block(
        &mut self,
        id: ConnId,
        (stream, is_end): (u32, bool),
        block: &[u8],
    ) -> Handled {
        let session = self.net.session(id).ok_or(Fault::Connection(ErrorCode::Internal))?;
        if stream % 2 == 0 {
            return Err(Fault::Connection(ErrorCode::Protocol));
        }
        if stream <= session.last_stream {
            self.caller_trailers(id, (stream, is_end), block)?;
            return Ok(Taken::Yes);
        }
        self.is_session_read(id)?;
        let verdict = self.verdict(id);
        if verdict == Verdict::Unknown {
            self.hold(id);
            return Ok(Taken::Held);
        }
        let streams_max = self.config.session_streams_max as usize;
        let mut slots = std::mem::take(&mut self.fields);
        let session = self.net.session(id).ok_or(Fault::Connection(ErrorCode::Internal))?;
        session.last_stream = stream;
        let is_refused = session.is_draining || session.streams.len() >= streams_max;
        let read = read_request(&mut session.decoder, block, is_end, &mut slots);
        let handled = match read {
            Err(Refused::Connection(code)) => Err(Fault::Connection(code)),
            _ if is_refused => Err(Fault::Stream(stream, ErrorCode::RefusedStream)),
            Err(Refused::Malformed) => Err(Fault::Stream(stream, ErrorCode::Protocol)),
            Err(Refused::Reject(reject)) => {
                let origin = Origin::Session(id, stream);
                let asker = Asker { origin, is_head: false, is_grpc: false, is_ended: is_end };
                self.answer_as(asker, Reason::BadRequest, reject.into());
                Ok(Taken::Yes)
            }
            Ok(request) => {
                self.serve(Ask::of_stream((id, stream), &request), verdict);
                Ok(Taken::Yes)
            }
        };
        self.fields = slots;
        handled
    }

    /// An answer of our own is out on a stream that has no call, or no longer.
    pub(crate) fn stream_answered(&mut self, (id, stream): (ConnId, u32), is_request_ended: bool) {
        if !is_request_ended {
            self.reset_session_stream(id, stream, ErrorCode::NoError);
        }
        self.set_session_due(id);
    }

    /// A second block on a stream ends its body.
    fn caller_trailers(
        &mut self,
        id: ConnId,
        (stream, is_end): (u32, bool),
        block: &[u8],
    ) -> Result<(), Fault> {
        let call = self.session_call(id, stream)?;
        let mut slots = std::mem::take(&mut self.fields);
        let session = self.net.session(id).ok_or(Fault::Connection(ErrorCode::Internal))?;
        let was_there = session.over.iter().any(|(over, _)| *over == stream);
        let is_given_up = session.has_given_up(stream);
        let read = read_trailers(&mut session.decoder, block, &mut slots);
        let handled = match (read, call.and_then(|call| Some((call, self.exchanges.get(call)?)))) {
            (Err(Refused::Connection(code)), _) => Err(Fault::Connection(code)),
            (_, None) if is_given_up => Ok(()),
            (_, None) if was_there => Err(Fault::Connection(ErrorCode::StreamClosed)),
            (_, None) => Err(Fault::Connection(ErrorCode::Protocol)),
            (_, Some((_, exchange))) if exchange.request.is_ended => {
                Err(Fault::Connection(ErrorCode::StreamClosed))
            }
            (Ok(trailers), Some((call, exchange))) if is_end && exchange.request.left == 0 => {
                self.request_end(call, trailers);
                Ok(())
            }
            _ => Err(Fault::Stream(stream, ErrorCode::Protocol)),
        };
        self.fields = slots;
        handled
    }

    /// Nothing happens on a caller's connection, or too slowly.
    pub(crate) fn session_due(&mut self, id: ConnId) {
        let now = self.now;
        let Some(session) = self.net.session(id) else { return };
        let is_grace_over = session.grace_until <= now && !session.is_draining;
        let is_in_block = session.block.is_some();
        match () {
            () if !session.is_settled || (is_in_block && !is_grace_over) => {
                self.session_fault(id, ErrorCode::EnhanceYourCalm);
            }
            () if session.streams.is_empty() => self.end_session(id, ErrorCode::NoError),
            () if is_grace_over => {
                session.is_draining = true;
                let last_stream = session.last_stream;
                if let Some(out) = self.net.out(id) {
                    encode_go_away(out, last_stream, ErrorCode::NoError);
                }
                if is_in_block {
                    self.net.set_due(id, now + self.config.head_timeout);
                }
            }
            () => {}
        }
    }

    /// The proxy stops: the caller is told, and has a moment for what is on its way (RFC 9113 §6.8).
    pub(crate) fn warn_session(&mut self, id: ConnId) {
        let due = self.now + self.config.drain_idle_grace;
        let is_held = self.net.client(id).is_some_and(|client| client.state == ClientState::Held);
        let Some((out, session)) = self.net.session_out(id) else { return };
        if session.grace_until != Time::NEVER {
            return;
        }
        session.grace_until = due;
        encode_go_away(out, STREAM_MAX, ErrorCode::NoError);
        // Who is held is let go or refused first.
        if !is_held {
            self.net.set_due(id, due);
        }
    }

    /// A response cannot be finished: gRPC has a way to say why, HTTP/2 has not.
    pub(crate) fn session_stream_cut(
        &mut self,
        (id, stream): (ConnId, u32),
        exchange: &Exchange,
        reply: Reply,
    ) {
        if !exchange.is_grpc || exchange.response.framing.is_empty() {
            return self.reset_session_stream(id, stream, ErrorCode::Internal);
        }
        if let Some((out, session)) = self.net.session_out(id) {
            let fields = [
                Header { name: b"grpc-status", value: grpc::status_of(reply).as_bytes() },
                Header { name: b"grpc-message", value: reply.text.as_bytes() },
                Header { name: b"vicino-error", value: reply.word.as_bytes() },
            ];
            session.encoder.trailers(out, stream, Headers::from(&fields[..]));
        }
        if !exchange.request.is_ended {
            self.reset_session_stream(id, stream, ErrorCode::NoError);
        }
    }
}
