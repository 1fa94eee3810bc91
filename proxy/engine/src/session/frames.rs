//! Frames of an HTTP/2 connection, in the order that RFC 9113 allows; what it does not allow ends a stream or the connection.

use vicino_wire::head::Headers;
use vicino_wire::http2::{
    BLOCK_BYTES_MAX, ErrorCode, Fault, Frame, Setting, Settings, decode, encode_pong, encode_settings_ack,
    encode_window,
};

use super::Block;
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::exchange::{ExchangeId, Half, take_length};
use crate::reply::Reason;

/// Bytes of our answers that wait for a peer that asks without reading, beyond which it is given up.
const ANSWERS_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Frames of one field block (CONTINUATION floods, CERT VU#421644).
const BLOCK_FRAMES_MAX: u32 = 32;
/// DATA frames in a row that bring nothing.
const EMPTIES_MAX: u32 = 100;

/// Settings in one frame; six are known.
const SETTINGS_MAX: usize = 32;

/// What became of a frame.
pub(super) enum Taken {
    Yes,
    /// It has to wait: its caller is not known yet.
    Held,
}

pub(super) type Handled = Result<Taken, Fault>;

const PROTOCOL: Fault = Fault::Connection(ErrorCode::Protocol);

impl Core {
    /// Understands what came over an HTTP/2 connection. Returns how many bytes are done with.
    pub(crate) fn session_bytes(&mut self, id: ConnId, buf: &[u8]) -> usize {
        let mut at = 0;
        loop {
            if self.net.session(id).is_none_or(|session| session.is_draining && session.streams.is_empty()) {
                return buf.len();
            }
            let (frame, used) = match decode(&buf[at..]) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => return at,
                Err(code) => {
                    self.session_fault(id, code);
                    return buf.len();
                }
            };
            match frame.and_then(|frame| self.session_frame(id, frame)) {
                Ok(Taken::Yes) => {}
                Ok(Taken::Held) => return at,
                Err(fault) => {
                    let fault = self.session_stream_fault(id, fault);
                    if let Err(code) = fault {
                        self.session_fault(id, code);
                        return buf.len();
                    }
                }
            }
            at += used;
        }
    }

    fn session_frame(&mut self, id: ConnId, frame: Frame<'_>) -> Handled {
        let session = self.net.session(id).ok_or(PROTOCOL)?;
        if let Some(block) = &session.block
            && !matches!(frame, Frame::Continuation { stream, .. } if stream == block.stream)
        {
            return Err(PROTOCOL);
        }
        if !session.is_settled && !matches!(frame, Frame::Settings(_)) {
            return Err(PROTOCOL);
        }
        match frame {
            Frame::Headers { stream, end, is_whole: true, block } => {
                return self.field_block(id, (stream, end), block);
            }
            Frame::Headers { stream, end, block, .. } => {
                session.block = Some(Block { stream, is_end: end, bytes: block.to_vec(), frames: 1 });
                let grace_until = if session.is_draining { Time::NEVER } else { session.grace_until };
                self.net.set_due(id, grace_until.min(self.now + self.config.head_timeout));
            }
            Frame::Continuation { is_whole, block, .. } => return self.continuation(id, block, is_whole),
            Frame::Data { stream, end, bytes, flow } => self.data_frame(id, stream, (bytes, flow), end)?,
            Frame::Reset { stream, code } => self.rst_frame(id, stream, code)?,
            Frame::Settings(settings) => self.settings_frame(id, settings)?,
            Frame::Ping(data) => {
                self.is_session_read(id)?;
                if let Some(out) = self.net.out(id) {
                    encode_pong(out, data);
                }
            }
            Frame::GoAway { last_stream, .. } => self.go_away_frame(id, last_stream),
            Frame::Window { stream: 0, credit } => {
                session.send.grant(credit).map_err(|_| Fault::Connection(ErrorCode::FlowControl))?;
                self.unblock_lanes(id);
            }
            Frame::Window { stream, credit } => self.window_frame(id, stream, credit)?,
            Frame::SettingsAck | Frame::Pong | Frame::Skipped => {}
        }
        Ok(Taken::Yes)
    }

    fn continuation(&mut self, id: ConnId, part: &[u8], is_whole: bool) -> Handled {
        let session = self.net.session(id).ok_or(PROTOCOL)?;
        let mut block = session.block.take().ok_or(PROTOCOL)?;
        if block.bytes.len() + part.len() > BLOCK_BYTES_MAX || block.frames >= BLOCK_FRAMES_MAX {
            return Err(Fault::Connection(ErrorCode::EnhanceYourCalm));
        }
        let begun = block.bytes.len();
        block.bytes.extend_from_slice(part);
        block.frames += 1;
        if is_whole {
            let handled = self.field_block(id, (block.stream, block.is_end), &block.bytes);
            if !matches!(handled, Ok(Taken::Held)) {
                self.set_session_due(id);
                return handled;
            }
        }
        if is_whole {
            block.bytes.truncate(begun);
            block.frames -= 1;
        }
        if let Some(session) = self.net.session(id) {
            session.block = Some(block);
        }
        Ok(if is_whole { Taken::Held } else { Taken::Yes })
    }

    /// A field block is complete: it opens a stream, answers one, or ends one.
    fn field_block(&mut self, id: ConnId, (stream, is_end): (u32, bool), block: &[u8]) -> Handled {
        if self.net.client(id).is_some() {
            self.caller_block(id, (stream, is_end), block)
        } else {
            self.pod_block(id, (stream, is_end), block)?;
            Ok(Taken::Yes)
        }
    }

    /// The call on a stream; None when the stream is closed. A stream that never was is a fault.
    pub(super) fn session_call(&mut self, id: ConnId, stream: u32) -> Result<Option<ExchangeId>, Fault> {
        let session = self.net.session(id).ok_or(PROTOCOL)?;
        match session.streams.get(&stream) {
            Some(exchange) => Ok(Some(*exchange)),
            None if stream % 2 == 1 && stream <= session.last_stream => Ok(None),
            None => Err(PROTOCOL),
        }
    }

    fn data_frame(
        &mut self,
        id: ConnId,
        stream: u32,
        (bytes, flow): (&[u8], usize),
        is_end: bool,
    ) -> Result<(), Fault> {
        let call = self.session_call(id, stream)?;
        let Some((out, session)) = self.net.session_out(id) else { return Ok(()) };
        session.receive.receive(flow).map_err(|_| Fault::Connection(ErrorCode::FlowControl))?;
        if let Some(credit) = session.receive.release(flow) {
            encode_window(out, 0, credit);
        }
        session.empties = if bytes.is_empty() && !is_end { session.empties + 1 } else { 0 };
        if session.empties > EMPTIES_MAX {
            return Err(Fault::Connection(ErrorCode::EnhanceYourCalm));
        }
        let is_given_up = session.has_given_up(stream);
        let Some(call) = call else {
            return if is_given_up { Ok(()) } else { Err(Fault::Stream(stream, ErrorCode::StreamClosed)) };
        };
        let half = if self.net.client(id).is_some() { Half::Request } else { Half::Response };
        let Some(exchange) = self.exchanges.get_mut(call) else { return Ok(()) };
        let has_head = exchange.has_head();
        let (request, response) = (&mut exchange.request, &mut exchange.response);
        let (is_ended, receive, left, framing) = match half {
            Half::Request => (request.is_ended, &mut request.receive, &mut request.left, request.framing),
            Half::Response if !has_head => {
                return Err(Fault::Stream(stream, ErrorCode::Protocol));
            }
            Half::Response => {
                (response.is_ended, &mut response.receive, &mut response.left, response.framing)
            }
        };
        if is_ended {
            return Err(Fault::Stream(stream, ErrorCode::StreamClosed));
        }
        receive.receive(flow).map_err(|_| Fault::Stream(stream, ErrorCode::FlowControl))?;
        if !take_length(left, framing, bytes.len(), is_end) {
            return Err(Fault::Stream(stream, ErrorCode::Protocol));
        }
        self.give_credit(call, half, flow - bytes.len());
        match (half, bytes.is_empty(), is_end) {
            (_, true, false) => {}
            (Half::Request, true, true) => self.request_end(call, Headers::default()),
            (Half::Response, true, true) => self.respond_end(call, Headers::default()),
            (Half::Request, false, _) => self.request_data(call, bytes, is_end),
            (Half::Response, false, _) => self.respond_data(call, bytes, is_end),
        }
        Ok(())
    }

    fn rst_frame(&mut self, id: ConnId, stream: u32, code: u32) -> Result<(), Fault> {
        let call = self.session_call(id, stream)?;
        let (now, max) = (self.now, self.config.session_faults_per_second_max);
        let is_caller = self.net.client(id).is_some();
        let Some(session) = self.net.session(id) else { return Ok(()) };
        if is_caller && !session.faults.count(now, max) {
            return Err(Fault::Connection(ErrorCode::EnhanceYourCalm));
        }
        let Some(call) = call else { return Ok(()) };
        self.remove_session_stream(id, stream);
        if is_caller {
            self.abandon(call);
        } else {
            self.pod_reset(call, code);
        }
        Ok(())
    }

    fn settings_frame(&mut self, id: ConnId, settings: Settings<'_>) -> Result<(), Fault> {
        self.is_session_read(id)?;
        let (now, max) = (self.now, self.config.session_faults_per_second_max);
        let Some(session) = self.net.session(id) else { return Ok(()) };
        if settings.count() > SETTINGS_MAX || !session.faults.count(now, max) {
            return Err(Fault::Connection(ErrorCode::EnhanceYourCalm));
        }
        let before = session.peer_window;
        for setting in settings.iter() {
            match setting? {
                Setting::MaxConcurrentStreams(max) => session.peer_streams_max = max,
                Setting::MaxFrameSize(bytes) => session.encoder.set_frame_bytes_max(bytes),
                Setting::InitialWindowSize(window) => session.peer_window = window,
                // Nothing is pushed, and our blocks need no table and are as long as heads are.
                Setting::HeaderTableSize(_) | Setting::EnablePush(_) | Setting::MaxHeaderListSize(_) => {}
            }
        }
        let change = i64::from(session.peer_window) - i64::from(before);
        if change != 0 {
            self.adjust_windows(id, change)?;
        }
        if let Some((out, session)) = self.net.session_out(id) {
            encode_settings_ack(out);
            if !std::mem::replace(&mut session.is_settled, true) {
                self.set_session_due(id);
            }
        }
        Ok(())
    }

    /// The windows that streams begin with have changed, and with them those of all that are open (RFC 9113 §6.9.2).
    fn adjust_windows(&mut self, id: ConnId, change: i64) -> Result<(), Fault> {
        let half = self.half_to(id);
        let Some(session) = self.net.session(id) else { return Ok(()) };
        let calls = session.calls();
        for call in &calls {
            let Some(exchange) = self.exchanges.get_mut(*call) else { continue };
            let adjusted = exchange.send(half).adjust(change);
            adjusted.map_err(|_| Fault::Connection(ErrorCode::FlowControl))?;
        }
        for call in calls {
            self.go_on(call, half);
        }
        Ok(())
    }

    fn window_frame(&mut self, id: ConnId, stream: u32, credit: u32) -> Result<(), Fault> {
        let Some(call) = self.session_call(id, stream)? else { return Ok(()) };
        let half = self.half_to(id);
        let Some(exchange) = self.exchanges.get_mut(call) else { return Ok(()) };
        exchange.send(half).grant(credit).map_err(|_| Fault::Stream(stream, ErrorCode::FlowControl))?;
        self.go_on(call, half);
        Ok(())
    }

    /// The half of calls that is sent to the peer of a connection.
    fn half_to(&mut self, id: ConnId) -> Half {
        if self.net.client(id).is_some() { Half::Response } else { Half::Request }
    }

    /// A peer that asks for more while it reads nothing is given up: heads, and answers to PING and SETTINGS, are under no credit.
    pub(super) fn is_session_read(&self, id: ConnId) -> Result<(), Fault> {
        let is_full = self.net.get(id).is_some_and(|conn| conn.pending() > ANSWERS_OUTPUT_BYTES_MAX);
        if is_full { Err(Fault::Connection(ErrorCode::EnhanceYourCalm)) } else { Ok(()) }
    }

    /// Ends the one stream that a fault is about; the error that ends the connection, when it is about that.
    fn session_stream_fault(&mut self, id: ConnId, fault: Fault) -> Result<(), ErrorCode> {
        let (stream, code) = match fault {
            Fault::Connection(code) => return Err(code),
            Fault::Stream(stream, code) => (stream, code),
        };
        let call = self.session_call(id, stream);
        let (now, max) = (self.now, self.config.session_faults_per_second_max);
        let is_caller = self.net.client(id).is_some();
        let Some(session) = self.net.session(id) else { return Ok(()) };
        if is_caller && !session.faults.count(now, max) {
            return Err(ErrorCode::EnhanceYourCalm);
        }
        let Ok(call) = call else { return Err(code) };
        self.reset_session_stream(id, stream, code);
        if let Some(call) = call {
            self.remove_session_stream(id, stream);
            if is_caller {
                self.abandon(call);
            } else {
                self.fail(call, Reason::BadResponse);
            }
        }
        Ok(())
    }
}
