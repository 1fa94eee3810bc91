//! HTTP/2 connections, of callers and to pods: what both have in common. Frames are `session/frames.rs`, what callers ask `session/caller.rs`,
//! what pods answer `session/pod.rs`.

mod caller;
mod frames;
mod pod;

use std::collections::VecDeque;

use vicino_wire::hop::{ReceiveCredit, SendCredit};
use vicino_wire::http2::{
    Decoder, Encoder, ErrorCode, Setting, WINDOW_DEFAULT, encode_go_away, encode_reset, encode_settings,
};

use crate::config::CoreConfig;
use crate::connection::Kind;
use crate::core::{Command, ConnId, Core};
use crate::deadline::Time;
use crate::downstream::ClientState;
use crate::exchange::{Blocked, ExchangeId};
use crate::hash::FastMap;
use crate::pace::Pace;

/// Streams that were over lately, whose frames may still be on their way.
const OVER_MAX: usize = 64;
/// Numbers of streams have 31 bits.
const STREAM_MAX: u32 = 0x7fff_ffff;

/// A field block that is not complete.
#[derive(Debug)]
struct Block {
    stream: u32,
    is_end: bool,
    bytes: Vec<u8>,
    frames: u32,
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) encoder: Encoder,
    decoder: Decoder,
    streams: FastMap<u32, ExchangeId>,
    /// The highest number of a stream that whoever opens them has opened.
    last_stream: u32,
    /// Streams from this one on were opened when it had answered something; to a pod.
    reused_from: u32,
    block: Option<Block>,
    /// What the peer takes on the whole connection.
    pub(crate) send: SendCredit,
    /// What it may send. Given back at once: what is held is bounded for each stream, so that none holds up another.
    receive: ReceiveCredit,
    pub(crate) peer_window: u32,
    peer_streams_max: u32,
    pub(crate) blocked: Blocked,
    /// The peer's SETTINGS have come.
    is_settled: bool,
    /// Until when the caller, which was told that we shut down, may open streams; NEVER: it was not told.
    grace_until: Time,
    /// No new streams; it ends with the last one.
    is_draining: bool,
    /// The latest streams that are over, and whether that was by our giving them up.
    over: VecDeque<(u32, bool)>,
    /// Empty DATA frames in a row.
    empties: u32,
    /// Streams that a caller gives up or breaks (CVE-2023-44487), and SETTINGS (CVE-2019-9515). More than a second's worth are an attack.
    faults: Pace,
}

impl Session {
    fn new(config: &CoreConfig, now: Time) -> Box<Session> {
        Box::new(Session {
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            streams: FastMap::default(),
            last_stream: 0,
            reused_from: u32::MAX,
            block: None,
            send: SendCredit::new(WINDOW_DEFAULT),
            receive: ReceiveCredit::new(config.session_window),
            peer_window: WINDOW_DEFAULT,
            peer_streams_max: config.session_streams_max,
            blocked: Blocked::default(),
            is_settled: false,
            grace_until: Time::NEVER,
            is_draining: false,
            over: VecDeque::new(),
            empties: 0,
            faults: Pace::new(now),
        })
    }

    fn note_over(&mut self, stream: u32, is_given_up: bool) {
        if self.over.len() == OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back((stream, is_given_up));
    }

    /// Frames of the stream were on their way when we gave it up: they mean nothing.
    fn has_given_up(&self, stream: u32) -> bool {
        self.over.contains(&(stream, true))
    }

    pub(crate) fn has_calls(&self) -> bool {
        !self.streams.is_empty()
    }

    /// The calls on it, in the order of their streams.
    pub(crate) fn calls(&self) -> Vec<ExchangeId> {
        let mut calls: Vec<(u32, ExchangeId)> = self.streams.iter().map(|(s, id)| (*s, *id)).collect();
        calls.sort_unstable_by_key(|(stream, _)| *stream);
        calls.into_iter().map(|(_, id)| id).collect()
    }
}

impl Core {
    /// What we say first, but for a client's preface.
    fn say_settings(&mut self, id: ConnId) {
        let settings = [
            Setting::EnablePush(false),
            Setting::MaxConcurrentStreams(self.config.session_streams_max),
            Setting::InitialWindowSize(self.config.session_stream_window),
            Setting::MaxHeaderListSize(vicino_wire::http1::HEAD_BYTES_MAX as u32),
        ];
        let is_caller = self.net.client(id).is_some();
        // Only a client has pushes to refuse.
        let settings = if is_caller { &settings[1..] } else { &settings };
        let window = self.config.session_window;
        if let Some(out) = self.net.out(id) {
            encode_settings(out, settings, window);
        }
    }

    /// How many bytes of bodies an HTTP/2 connection takes now.
    pub(crate) fn session_room(&self, id: ConnId) -> usize {
        let Some(conn) = self.net.get(id).filter(|conn| conn.is_open) else { return 0 };
        let credit = conn.session.as_ref().map_or(0, |session| session.send.available());
        self.net.room(id).min(credit as usize)
    }

    pub(crate) fn add_session_stream(&mut self, id: ConnId, stream: u32, exchange: ExchangeId) {
        let Some(session) = self.net.session(id) else { return };
        session.streams.insert(stream, exchange);
        self.set_session_due(id);
    }

    /// Takes a stream off a connection. Whether it was there.
    pub(crate) fn remove_session_stream(&mut self, id: ConnId, stream: u32) -> bool {
        let Some(session) = self.net.session(id) else { return false };
        let was_there = session.streams.remove(&stream).is_some();
        if was_there {
            session.note_over(stream, false);
            self.set_session_due(id);
        }
        was_there
    }

    /// Streams have come or gone: the connection may be idle now, or over.
    pub(crate) fn set_session_due(&mut self, id: ConnId) {
        let is_open = self.net.get(id).is_some_and(|conn| conn.is_open);
        let is_caller = self.net.client(id).is_some();
        let Some(session) = self.net.session(id) else { return };
        let is_idle = session.streams.is_empty();
        let grace_until = session.grace_until;
        // What is to come first (a connection, a whole field block) has its own deadline.
        let is_timed = !is_open || session.block.is_some();
        match () {
            () if is_idle && session.is_draining => self.end_session(id, ErrorCode::NoError),
            () if is_timed => {}
            () if grace_until != Time::NEVER && !session.is_draining => self.net.set_due(id, grace_until),
            () if !is_idle => self.net.set_due(id, Time::NEVER),
            () if is_caller => self.net.set_due(id, self.now + self.config.keep_alive_timeout),
            () => self.net.set_due(id, self.now + self.config.pool_idle_timeout),
        }
    }

    /// Gives a stream up.
    pub(crate) fn reset_session_stream(&mut self, id: ConnId, stream: u32, code: ErrorCode) {
        if let Some((out, session)) = self.net.session_out(id) {
            session.note_over(stream, true);
            encode_reset(out, stream, code);
        }
    }

    /// Says GOAWAY, and closes once that is written. Calls that are still on it are the caller's business.
    fn end_session(&mut self, id: ConnId, code: ErrorCode) {
        let is_caller = self.net.client(id).is_some();
        let Some((out, session)) = self.net.session_out(id) else { return };
        session.is_draining = true;
        // To a pod, which opens no streams, 0 is the last one of its own.
        encode_go_away(out, if is_caller { session.last_stream } else { 0 }, code);
        if is_caller {
            return self.client_over(id);
        }
        self.forget_pod_session(id);
        self.net.set_due(id, self.now + self.config.linger_timeout);
        self.net.close_flushed(id);
    }

    /// The peer broke the protocol: the connection ends, and what is on it.
    fn session_fault(&mut self, id: ConnId, code: ErrorCode) {
        let Some(session) = self.net.session(id) else { return };
        let (calls, reused_from) = (session.calls(), session.reused_from);
        session.streams.clear();
        self.end_session(id, code);
        let is_caller = self.net.client(id).is_some();
        self.session_calls_lost(calls, (!is_caller).then_some(reused_from));
    }

    /// A connection is gone with all that is on it.
    pub(crate) fn session_is_gone(&mut self, id: ConnId, session: &Session, kind: &Kind) {
        match kind {
            Kind::Pod(pod) => self.pools.remove(&pod.slot, id),
            Kind::Client(client) if client.state == ClientState::Held => self.tally.held.sub(1),
            Kind::Client(_) | Kind::Hop(_) => {}
        }
        let is_caller = matches!(kind, Kind::Client(_));
        self.session_calls_lost(session.calls(), (!is_caller).then_some(session.reused_from));
    }

    /// The peer sends no more: FIN ends both halves of an HTTP/2 connection, and what was not answered never will be.
    pub(crate) fn session_ended(&mut self, id: ConnId) {
        if let Some((kind, Some(session))) = self.net.forget(id) {
            self.net.commands.push(Command::Close { id });
            self.session_is_gone(id, &session, &kind);
        }
    }

    /// `reused_from` is of a pod's connection; None: it was a caller's.
    fn session_calls_lost(&mut self, calls: Vec<ExchangeId>, reused_from: Option<u32>) {
        for call in calls {
            match reused_from {
                Some(reused_from) => self.pod_session_broke(call, reused_from),
                None => self.abandon(call),
            }
        }
    }

    /// No new streams; those that are open go on.
    pub(crate) fn retire_session(&mut self, id: ConnId) {
        let Some(session) = self.net.session(id) else { return };
        session.is_draining = true;
        if session.streams.is_empty() {
            self.end_session(id, ErrorCode::NoError);
        }
    }
}
