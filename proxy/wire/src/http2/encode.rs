//! Frames and heads → bytes. Fields are written as literals, which need no table at either end: a block says the same whatever came before it.

use super::frame::{
    ErrorCode, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, PREFACE, Setting, WINDOW_DEFAULT, flag, kind,
};
use super::table::STATIC;
use crate::head::{Framing, Header, Headers, RequestHead, ResponseHead, name::is_for_proxies};

/// The sending side of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// Longest payload that the peer takes.
    frame_bytes_max: usize,
    /// The peer was told that our table is empty and stays so.
    is_begun: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { frame_bytes_max: FRAME_BYTES_MAX, is_begun: false }
    }
}

impl Encoder {
    /// The peer's SETTINGS_MAX_FRAME_SIZE; no longer frames than our own are sent.
    pub fn set_frame_bytes_max(&mut self, bytes: u32) {
        self.frame_bytes_max = (bytes as usize).min(FRAME_BYTES_MAX);
    }

    /// A request's head and `extra`; END_STREAM when the framing says that no body follows.
    pub fn request(
        &mut self,
        out: &mut Vec<u8>,
        stream: u32,
        (head, framing): (&RequestHead<'_>, Framing),
        extra: &[Header<'_>],
    ) {
        self.block(out, stream, framing.is_empty(), |out| {
            match head.method {
                "GET" => out.push(0x82),
                "POST" => out.push(0x83),
                method => literal(out, b":method", method.as_bytes()),
            }
            out.push(0x86);
            if head.path == "/" {
                out.push(0x84);
            } else {
                literal(out, b":path", head.path.as_bytes());
            }
            literal(out, b":authority", head.authority.as_bytes());
            let all = head.headers.iter().chain(extra.iter().copied());
            fields(out, all.filter(|field| !is_for_proxies(field.name)));
            length(out, framing, None);
            if head.accepts_trailers {
                literal(out, b"te", b"trailers");
            }
        });
    }

    /// A response's head and `extra`; END_STREAM when the framing says that no body follows, and another head does not either.
    pub fn response(
        &mut self,
        out: &mut Vec<u8>,
        stream: u32,
        (head, framing): (&ResponseHead<'_>, Framing),
        extra: &[Header<'_>],
    ) {
        let is_end = framing.is_empty() && !head.is_interim();
        self.block(out, stream, is_end, |out| {
            match head.status {
                200 => out.push(0x88),
                status => {
                    let digit = |unit: u16| b'0' + (status / unit % 10) as u8;
                    literal(out, b":status", &[digit(100), digit(10), digit(1)]);
                }
            }
            fields(out, head.headers.iter().chain(extra.iter().copied()));
            length(out, framing, head.declared_length);
        });
    }

    /// The fields after a body; they end the stream.
    pub fn trailers(&mut self, out: &mut Vec<u8>, stream: u32, trailers: Headers<'_>) {
        self.block(out, stream, true, |out| fields(out, trailers.iter()));
    }

    /// A part of a body, in as many frames as it takes; an empty one with `is_end` ends it.
    pub fn data(&self, out: &mut Vec<u8>, stream: u32, data: &[u8], is_end: bool) {
        let mut left = data;
        loop {
            let (part, rest) = left.split_at(left.len().min(self.frame_bytes_max));
            let is_last = rest.is_empty();
            if !part.is_empty() || is_end {
                let flags = if is_last && is_end { flag::END_STREAM } else { 0 };
                frame(out, kind::DATA, flags, stream, part);
            }
            if is_last {
                return;
            }
            left = rest;
        }
    }

    /// HEADERS, and CONTINUATION as far as needed.
    fn block(&mut self, out: &mut Vec<u8>, stream: u32, is_end: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let at = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        if !std::mem::replace(&mut self.is_begun, true) {
            // Table size 0 (RFC 7541 §6.3).
            out.push(0x20);
        }
        write(out);
        let end = if is_end { flag::END_STREAM } else { 0 };
        let length = out.len() - at - FRAME_HEADER_BYTES;
        let first = length.min(self.frame_bytes_max);
        let is_whole = first == length;
        let flags = end | if is_whole { flag::END_HEADERS } else { 0 };
        out[at..at + FRAME_HEADER_BYTES].copy_from_slice(&header(first, kind::HEADERS, flags, stream));
        if is_whole {
            return;
        }
        let rest = out.split_off(at + FRAME_HEADER_BYTES + first);
        let mut parts = rest.chunks(self.frame_bytes_max).peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { flag::END_HEADERS } else { 0 };
            frame(out, kind::CONTINUATION, flags, stream, part);
        }
    }
}

/// What a client says first, before its SETTINGS.
pub fn encode_preface(out: &mut Vec<u8>) {
    out.extend_from_slice(PREFACE);
}

/// SETTINGS, and more window for the connection when it is to begin with more than every connection does.
pub fn encode_settings(out: &mut Vec<u8>, settings: &[Setting], connection_window: u32) {
    out.extend_from_slice(&header(settings.len() * 6, kind::SETTINGS, 0, 0));
    for setting in settings {
        let (number, value) = setting.number_and_value();
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    if let Some(more @ 1..) = connection_window.checked_sub(WINDOW_DEFAULT) {
        encode_window(out, 0, more);
    }
}

/// The peer's SETTINGS hold.
pub fn encode_settings_ack(out: &mut Vec<u8>) {
    frame(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// Answers a PING.
pub fn encode_pong(out: &mut Vec<u8>, data: [u8; 8]) {
    frame(out, kind::PING, flag::ACK, 0, &data);
}

/// Streams above `last_stream` are not looked at.
pub fn encode_go_away(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode) {
    let payload = [last_stream.to_be_bytes(), (code as u32).to_be_bytes()];
    frame(out, kind::GOAWAY, 0, 0, payload.as_flattened());
}

/// Gives a stream up.
pub fn encode_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    frame(out, kind::RST_STREAM, 0, stream, &(code as u32).to_be_bytes());
}

/// More window for a stream, or for the connection (0).
pub fn encode_window(out: &mut Vec<u8>, stream: u32, credit: u32) {
    frame(out, kind::WINDOW_UPDATE, 0, stream, &credit.to_be_bytes());
}

fn header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; FRAME_HEADER_BYTES] {
    let [_, l0, l1, l2] = (length as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [l0, l1, l2, kind, flags, s0, s1, s2, s3]
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.reserve(FRAME_HEADER_BYTES + payload.len());
    out.extend_from_slice(&header(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

fn fields<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = Header<'a>>) {
    for Header { name, value } in fields {
        literal(out, name, value);
    }
}

fn length(out: &mut Vec<u8>, framing: Framing, declared: Option<u64>) {
    let length = if let Framing::Length(length) = framing { Some(length) } else { declared };
    if let Some(length) = length {
        literal(out, b"content-length", length.to_string().as_bytes());
    }
}

/// A literal field without indexing (RFC 7541 §6.2.2), with the name in small letters.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if let Some(index) = static_index(name) {
        integer(out, 0, 4, index);
    } else {
        out.push(0);
        integer(out, 0, 7, name.len());
        out.extend(name.iter().map(u8::to_ascii_lowercase));
    }
    integer(out, 0, 7, value.len());
    out.extend_from_slice(value);
}

/// Where the static table has a name that is seen often.
fn static_index(name: &[u8]) -> Option<usize> {
    let index = match (name.len(), name.first()? | 0x20) {
        (3, b'v') => 60,
        (4, b'd') => 33,
        (5, b':') => 4,
        (6, b'a') => 19,
        (6, b's') => 54,
        (7, b':') => {
            if name.get(1) == Some(&b's') {
                8
            } else {
                2
            }
        }
        (10, b':') => 1,
        (10, b'u') => 58,
        (12, b'c') => 31,
        (14, b'c') => 28,
        (15, b'a') => 16,
        _ => return None,
    };
    STATIC[index - 1].0.as_bytes().eq_ignore_ascii_case(name).then_some(index)
}

/// RFC 7541 §5.1.
fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let full = (1 << prefix) - 1;
    if value < full {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
