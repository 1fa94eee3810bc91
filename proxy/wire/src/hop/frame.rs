//! Frames as plain data and their numbers; how they lie in bytes is `encode` and `decode`.

use std::net::IpAddr;

use super::{HopError, Reset};
use crate::head::{Framing, HEADERS_MAX, Headers, RequestHead, ResponseHead, Version};

/// Bytes of the header before each payload: length u16, type u8, flags u8, stream u32, big endian.
pub const FRAME_HEADER_BYTES: usize = 8;
/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 65_535;
/// `deadline_ms` of a call without a deadline.
pub const DEADLINE_MS_NONE: u32 = 0;

/// Most fields of a head on the hop: those that a caller may send, and what proxies add.
pub const HOP_HEADERS_MAX: usize = HEADERS_MAX + 32;
/// The version that HELLO carries.
pub const VERSION: u8 = 1;
/// Smallest `max_frame` that a HELLO may say.
pub const MAX_FRAME_MIN: u16 = 1024;
/// Most statuses that FAILURES may name.
pub const FAILURE_CODES_MAX: usize = 16;
/// Longest node name.
pub const NODE_BYTES_MAX: usize = 253;

/// What HELLO begins with.
pub(super) const MAGIC: &[u8] = b"VICINO";
/// Flag: the sender's half of the stream ends with this frame.
pub(super) const FLAG_END: u8 = 1;
/// Bit of the type: whoever does not know it skips the frame.
pub(super) const OPTIONAL: u8 = 0x80;

/// Frame types.
pub(super) mod kind {
    pub(in crate::hop) const HELLO: u8 = 0x01;
    pub(in crate::hop) const REQUEST: u8 = 0x02;
    pub(in crate::hop) const RESPONSE: u8 = 0x03;
    pub(in crate::hop) const DATA: u8 = 0x04;
    pub(in crate::hop) const TRAILERS: u8 = 0x05;
    pub(in crate::hop) const RESET: u8 = 0x06;
    pub(in crate::hop) const WINDOW: u8 = 0x07;
    pub(in crate::hop) const PING: u8 = 0x08;
    pub(in crate::hop) const PONG: u8 = 0x09;
    pub(in crate::hop) const DRAIN: u8 = 0x0a;
    pub(in crate::hop) const RESERVE: u8 = 0x90;
    pub(in crate::hop) const GRANT: u8 = 0x91;
    pub(in crate::hop) const CANCEL: u8 = 0x92;
    pub(in crate::hop) const WAIT: u8 = 0x93;
    pub(in crate::hop) const STARTED: u8 = 0x94;
    pub(in crate::hop) const FAILURES: u8 = 0x95;
    pub(in crate::hop) const EJECTED: u8 = 0x96;
}

/// Fields of HELLO.
pub(super) mod hello_field {
    pub(in crate::hop) const MAX_STREAMS: u8 = 1;
    pub(in crate::hop) const INITIAL_WINDOW: u8 = 2;
    pub(in crate::hop) const MAX_FRAME: u8 = 3;
    pub(in crate::hop) const NODE: u8 = 4;
    pub(in crate::hop) const LATE_BINDING: u8 = 5;
}

/// How a head says its framing.
pub(super) mod framing_tag {
    pub(in crate::hop) const NONE: u8 = 0;
    pub(in crate::hop) const LENGTH: u8 = 1;
    pub(in crate::hop) const CHUNKED: u8 = 2;
    pub(in crate::hop) const UNTIL_CLOSE: u8 = 3;
    /// No body, and the length that it would have had.
    pub(in crate::hop) const NONE_DECLARED: u8 = 4;
}

/// Flags of a REQUEST's payload.
pub(super) mod request_flag {
    pub(in crate::hop) const ACCEPTS_TRAILERS: u8 = 1;
    pub(in crate::hop) const LAST_RESORT: u8 = 2;
}

/// The number of a version of HTTP.
pub(super) fn version_tag(version: Version) -> u8 {
    match version {
        Version::Http10 => 0,
        Version::Http11 => 1,
        Version::Http2 => 2,
    }
}

/// The version of HTTP of that number.
pub(super) fn version_from_tag(tag: u8) -> Option<Version> {
    Version::ALL.into_iter().find(|version| version_tag(*version) == tag)
}

/// The number of what a stream carries.
pub(super) fn kind_tag(kind: Kind) -> u8 {
    match kind {
        Kind::Http => 0,
        Kind::Opaque => 1,
    }
}

/// What the stream of that number carries.
pub(super) fn kind_from_tag(tag: u8) -> Option<Kind> {
    [Kind::Http, Kind::Opaque].into_iter().find(|kind| kind_tag(*kind) == tag)
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// First frame of each side.
    Hello(Hello<'a>),
    /// Opens a stream (dialer only).
    Request {
        /// Not 0; greater than every one before it.
        stream: u32,
        /// No body follows. Same as `request.framing.is_empty()`.
        end: bool,
        /// The call.
        request: RequestFrame<'a>,
    },
    /// Answers a stream (listener only): any number of interim ones, then one that is final.
    Response {
        /// Not 0.
        stream: u32,
        /// No body follows. Same as `response.framing.is_empty()` unless it is interim, when it is false.
        end: bool,
        /// The answer.
        response: ResponseFrame<'a>,
    },
    /// A part of a body; empty only with `end`.
    Data {
        /// Not 0.
        stream: u32,
        /// Last part.
        end: bool,
        /// Counts against the stream's credit.
        bytes: &'a [u8],
    },
    /// Ends a body that has trailers.
    Trailers {
        /// Not 0.
        stream: u32,
        /// The trailers that may be forwarded.
        headers: Headers<'a>,
    },
    /// Gives a stream up, both halves.
    Reset {
        /// Not 0.
        stream: u32,
        /// Why.
        reason: Reset,
    },
    /// The peer may send so many more bytes on a stream.
    Window {
        /// Not 0.
        stream: u32,
        /// Not 0, at most [`super::CREDIT_MAX`].
        credit: u32,
    },
    /// Asks for a PONG with the same number.
    Ping(u64),
    /// Answers a PING.
    Pong(u64),
    /// The listener takes no more streams on this connection; those that are open go on.
    Drain,
    /// Opens a stream for a call that waits elsewhere (dialer only): an endpoint is to be held for it.
    Reserve {
        /// Not 0; greater than every one before it.
        stream: u32,
        /// An endpoint that is left out will do.
        is_last_resort: bool,
        /// For whom the call is.
        to: Destination<'a>,
    },
    /// An endpoint is held for a reservation, for a moment (listener only): a REQUEST on the same stream gets it.
    Grant {
        /// Not 0.
        stream: u32,
    },
    /// A call that is still in line is to be given back (dialer only).
    Cancel {
        /// Not 0.
        stream: u32,
    },
    /// The call of this stream is in line for an endpoint (listener only).
    Wait {
        /// Not 0.
        stream: u32,
    },
    /// A call that was in line has an endpoint now (listener only).
    Started {
        /// Not 0.
        stream: u32,
    },
    /// Which answers to the call of this stream are failures of the endpoint (dialer only).
    Failures {
        /// Not 0.
        stream: u32,
        /// In place of those that the listener knows.
        codes: Statuses<'a>,
    },
    /// Of the endpoints that the call of this stream may go to so many are left out (listener only).
    Ejected {
        /// Not 0.
        stream: u32,
        /// Endpoints of the sender's node.
        count: u32,
    },
    /// A REQUEST, RESPONSE or TRAILERS with a fault inside: answer with RESET [`Reset::Protocol`] on this stream. Nobody else's stream suffers from
    /// what one call carried; a malformed REQUEST uses up its stream number.
    Malformed {
        /// Not 0.
        stream: u32,
        /// What is wrong.
        fault: HopError,
    },
    /// A frame of a type that is not known here and marked optional: skip it.
    Skipped {
        /// Its type.
        kind: u8,
    },
}

/// What each side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// How many streams the peer may have open at a time, at least 1.
    pub max_streams: u32,
    /// With how much credit each stream begins that the peer sends on, 1 to [`super::CREDIT_MAX`].
    pub initial_window: u32,
    /// Longest DATA payload that the peer may send, at least 1,024.
    pub max_frame: u16,
    /// Whether the sender knows the frames of late binding; the peer sends none of them otherwise.
    pub binds_late: bool,
    /// Name of the node, 1 to 253 bytes of letters, digits, `-`, `.`.
    pub node: &'a str,
}

/// Statuses of HTTP, at most [`FAILURE_CODES_MAX`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses<'a>(pub(super) &'a [[u8; 2]]);

impl Statuses<'_> {
    /// In the order of the sender.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|bytes| u16::from_be_bytes(*bytes))
    }
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request and its response.
    Http,
    /// Bytes both ways, each half ending by itself.
    Opaque,
}

/// Whom a call is for. The names are empty when `pod` alone says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The Service's namespace, at most 63 bytes, a DNS label or empty.
    pub namespace: &'a str,
    /// The Service, at most 63 bytes, a DNS label or empty.
    pub service: &'a str,
    /// The Service's port, not 0.
    pub port: u16,
    /// Name of that port, at most 63 bytes, a DNS label or empty.
    pub port_name: &'a str,
    /// The only endpoint that may take the call.
    pub pod: Option<IpAddr>,
}

/// A call: the payload of a REQUEST frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFrame<'a> {
    /// For whom it is.
    pub to: Destination<'a>,
    /// What the stream carries. With [`Kind::Opaque`] the head is [`RequestHead::opaque`]'s and the framing is `UntilClose`.
    pub kind: Kind,
    /// Milliseconds left when the frame was written, [`DEADLINE_MS_NONE`] for no deadline.
    pub deadline_ms: u32,
    /// How many hops the call has behind it; L1 writes 1 for a call from a pod that has none.
    pub hops: u8,
    /// Every node has answered [`Reset::Ejected`]: an endpoint that is left out will do.
    pub is_last_resort: bool,
    /// The calling pod's address as L1 saw it.
    pub caller: Option<IpAddr>,
    /// The request's head.
    pub head: RequestHead<'a>,
    /// With [`Kind::Http`]: `None`, `Length` or `Chunked`; `UntilClose` when the call wants to switch protocols.
    pub framing: Framing,
}

/// An answer: the payload of a RESPONSE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFrame<'a> {
    /// The response's head. On an opaque stream: status 200, which says that the endpoint is connected.
    pub head: ResponseHead<'a>,
    /// How the body ends; `UntilClose` on an opaque stream.
    pub framing: Framing,
}
