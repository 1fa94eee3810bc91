//! Frames to bytes, each in one pass at the end of a buffer; after an error the buffer is as it was.

use std::net::IpAddr;

use super::{
    Hello, HopError, Kind, RequestFrame, Reset, ResponseFrame,
    frame::{
        Destination, FAILURE_CODES_MAX, FLAG_END, FRAME_HEADER_BYTES, HOP_HEADERS_MAX, PAYLOAD_BYTES_MAX,
        VERSION, framing_tag, hello_field, kind, kind_tag, request_flag, version_tag,
    },
};
use crate::head::{Framing, Header, Headers, RequestHead};

/// Appends HELLO.
pub fn encode_hello(out: &mut Vec<u8>, hello: &Hello<'_>) -> Result<(), HopError> {
    frame(out, kind::HELLO, 0, false, |out| {
        out.extend_from_slice(super::frame::MAGIC);
        out.push(VERSION);
        let node = hello.node.as_bytes();
        for (field, value) in [
            (hello_field::MAX_STREAMS, &hello.max_streams.to_be_bytes()[..]),
            (hello_field::INITIAL_WINDOW, &hello.initial_window.to_be_bytes()),
            (hello_field::MAX_FRAME, &hello.max_frame.to_be_bytes()),
            (hello_field::NODE, node),
            (hello_field::LATE_BINDING, &[u8::from(hello.binds_late)]),
        ] {
            out.push(field);
            push_short(out, value)?;
        }
        Ok(())
    })
}

/// Appends REQUEST with the head's fields and then `extra`; END is set when the framing is empty.
pub fn encode_request(
    out: &mut Vec<u8>,
    stream: u32,
    request: &RequestFrame<'_>,
    extra: &[Header<'_>],
) -> Result<(), HopError> {
    if request.head.method == "CONNECT" {
        return Err(HopError::BadValue);
    }
    let RequestFrame { to, kind, deadline_ms, hops, is_last_resort, caller, head, framing } = request;
    let is_http = *kind == Kind::Http;
    frame(out, kind::REQUEST, stream, is_http && framing.is_empty(), |out| {
        let trailers = if head.accepts_trailers { request_flag::ACCEPTS_TRAILERS } else { 0 };
        let flags = trailers | if *is_last_resort { request_flag::LAST_RESORT } else { 0 };
        out.extend_from_slice(&[kind_tag(*kind), flags, *hops]);
        out.extend_from_slice(&deadline_ms.to_be_bytes());
        push_address(out, *caller);
        push_destination(out, to)?;
        if is_http { push_request_head(out, head, *framing, extra) } else { Ok(()) }
    })
}

/// Appends a REQUEST that [`encode_request`] wrote (or that came as a frame) once more, for another stream, with the time that is left now, and as a last resort or not.
/// Nothing when `frame` is no REQUEST.
pub fn encode_request_again(
    out: &mut Vec<u8>,
    frame: &[u8],
    stream: u32,
    (deadline_ms, is_last_resort): (u32, bool),
) {
    /// Behind the kind.
    const FLAGS_AT: usize = FRAME_HEADER_BYTES + 1;
    /// Behind kind, flags and hops.
    const DEADLINE_AT: usize = FRAME_HEADER_BYTES + 3;
    if frame.len() < DEADLINE_AT + 4 || frame[2] != kind::REQUEST {
        return;
    }
    let start = out.len();
    out.extend_from_slice(frame);
    out[start + 4..start + FRAME_HEADER_BYTES].copy_from_slice(&stream.to_be_bytes());
    out[start + FLAGS_AT] &= !request_flag::LAST_RESORT;
    out[start + FLAGS_AT] |= if is_last_resort { request_flag::LAST_RESORT } else { 0 };
    out[start + DEADLINE_AT..start + DEADLINE_AT + 4].copy_from_slice(&deadline_ms.to_be_bytes());
}

/// Appends RESPONSE with the head's fields and then `extra`; END is set when it is final and the framing is empty.
pub fn encode_response(
    out: &mut Vec<u8>,
    stream: u32,
    response: &ResponseFrame<'_>,
    extra: &[Header<'_>],
) -> Result<(), HopError> {
    let ResponseFrame { head, framing } = response;
    frame(out, kind::RESPONSE, stream, framing.is_empty() && !head.is_interim(), |out| {
        out.extend_from_slice(&head.status.to_be_bytes());
        out.push(version_tag(head.version));
        match head.declared_length {
            Some(length) if *framing == Framing::None => {
                out.push(framing_tag::NONE_DECLARED);
                out.extend_from_slice(&length.to_be_bytes());
            }
            _ => push_framing(out, *framing),
        }
        push_long(out, head.reason)?;
        push_fields(out, head.headers, extra)
    })
}

/// Appends DATA frames of at most `max_frame` bytes each; END on the last when `end`. Nothing when `bytes` is empty and `end` is not set.
pub fn encode_data(out: &mut Vec<u8>, stream: u32, bytes: &[u8], max_frame: u16, end: bool) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = rest.len().min(usize::from(max_frame.max(1)));
        let (part, left) = rest.split_at(len);
        out.reserve(FRAME_HEADER_BYTES + len);
        encode_data_start(out, stream, len as u16, end && left.is_empty());
        out.extend_from_slice(part);
        rest = left;
    }
    if bytes.is_empty() && end {
        encode_data_start(out, stream, 0, true);
    }
}

/// Appends only the header of a DATA frame of `len` bytes, which the caller sends right behind it.
pub fn encode_data_start(out: &mut Vec<u8>, stream: u32, len: u16, end: bool) {
    push_header(out, kind::DATA, stream, len, end);
}

/// Appends TRAILERS, which end the body.
pub fn encode_trailers(out: &mut Vec<u8>, stream: u32, trailers: Headers<'_>) -> Result<(), HopError> {
    frame(out, kind::TRAILERS, stream, true, |out| push_fields(out, trailers, &[]))
}

/// Appends RESET.
pub fn encode_reset(out: &mut Vec<u8>, stream: u32, reason: Reset) {
    const FLAGS_AT: usize = 3;
    let start = out.len();
    push_header(out, kind::RESET, stream, 1, false);
    out[start + FLAGS_AT] = reason.flags();
    out.push(reason.number());
}

/// Appends RESERVE.
pub fn encode_reserve(
    out: &mut Vec<u8>,
    stream: u32,
    to: &Destination<'_>,
    is_last_resort: bool,
) -> Result<(), HopError> {
    frame(out, kind::RESERVE, stream, false, |out| {
        out.push(if is_last_resort { request_flag::LAST_RESORT } else { 0 });
        push_destination(out, to)
    })
}

/// Appends GRANT.
pub fn encode_grant(out: &mut Vec<u8>, stream: u32) {
    push_header(out, kind::GRANT, stream, 0, false);
}

/// Appends CANCEL.
pub fn encode_cancel(out: &mut Vec<u8>, stream: u32) {
    push_header(out, kind::CANCEL, stream, 0, false);
}

/// Appends WAIT.
pub fn encode_wait(out: &mut Vec<u8>, stream: u32) {
    push_header(out, kind::WAIT, stream, 0, false);
}

/// Appends STARTED.
pub fn encode_started(out: &mut Vec<u8>, stream: u32) {
    push_header(out, kind::STARTED, stream, 0, false);
}

/// Appends FAILURES.
pub fn encode_failures(out: &mut Vec<u8>, stream: u32, codes: &[u16]) -> Result<(), HopError> {
    if codes.len() > FAILURE_CODES_MAX {
        return Err(HopError::TooLong);
    }
    frame(out, kind::FAILURES, stream, false, |out| {
        out.extend(codes.iter().flat_map(|code| code.to_be_bytes()));
        Ok(())
    })
}

/// Appends EJECTED.
pub fn encode_ejected(out: &mut Vec<u8>, stream: u32, count: u32) {
    push_header(out, kind::EJECTED, stream, 4, false);
    out.extend_from_slice(&count.to_be_bytes());
}

/// Appends WINDOW.
pub fn encode_window(out: &mut Vec<u8>, stream: u32, credit: u32) {
    push_header(out, kind::WINDOW, stream, 4, false);
    out.extend_from_slice(&credit.to_be_bytes());
}

/// Appends PING.
pub fn encode_ping(out: &mut Vec<u8>, number: u64) {
    push_header(out, kind::PING, 0, 8, false);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends PONG.
pub fn encode_pong(out: &mut Vec<u8>, number: u64) {
    push_header(out, kind::PONG, 0, 8, false);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends DRAIN.
pub fn encode_drain(out: &mut Vec<u8>) {
    push_header(out, kind::DRAIN, 0, 0, false);
}

#[inline]
fn push_header(out: &mut Vec<u8>, kind: u8, stream: u32, len: u16, end: bool) {
    let [l0, l1] = len.to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, kind, if end { FLAG_END } else { 0 }, s0, s1, s2, s3]);
}

/// Appends a header, lets `payload` append the payload, and writes its length into the header.
#[inline]
fn frame(
    out: &mut Vec<u8>,
    kind: u8,
    stream: u32,
    end: bool,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), HopError>,
) -> Result<(), HopError> {
    let start = out.len();
    push_header(out, kind, stream, 0, end);
    let written = payload(out).and_then(|()| {
        let len = out.len() - start - FRAME_HEADER_BYTES;
        u16::try_from(len).ok().filter(|_| len <= PAYLOAD_BYTES_MAX).ok_or(HopError::TooLong)
    });
    match written {
        Ok(len) => {
            out[start..start + 2].copy_from_slice(&len.to_be_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

fn push_destination(out: &mut Vec<u8>, to: &Destination<'_>) -> Result<(), HopError> {
    out.extend_from_slice(&to.port.to_be_bytes());
    push_short(out, to.namespace.as_bytes())?;
    push_short(out, to.service.as_bytes())?;
    push_short(out, to.port_name.as_bytes())?;
    push_address(out, to.pod);
    Ok(())
}

fn push_request_head(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    framing: Framing,
    extra: &[Header<'_>],
) -> Result<(), HopError> {
    out.push(version_tag(head.version));
    push_framing(out, framing);
    push_short(out, head.method.as_bytes())?;
    push_long(out, head.authority.as_bytes())?;
    push_long(out, head.path.as_bytes())?;
    push_fields(out, head.headers, extra)
}

fn push_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None => out.push(framing_tag::NONE),
        Framing::Chunked => out.push(framing_tag::CHUNKED),
        Framing::UntilClose => out.push(framing_tag::UNTIL_CLOSE),
        Framing::Length(length) => {
            out.push(framing_tag::LENGTH);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

#[inline]
fn push_fields(out: &mut Vec<u8>, headers: Headers<'_>, extra: &[Header<'_>]) -> Result<(), HopError> {
    let count = headers.len() + extra.len();
    if count > HOP_HEADERS_MAX {
        return Err(HopError::TooManyHeaders);
    }
    out.push(count as u8);
    for Header { name, value } in headers.iter().chain(extra.iter().copied()) {
        let name_len = u8::try_from(name.len()).map_err(|_| HopError::TooLong)?;
        let [high, low] = u16::try_from(value.len()).map_err(|_| HopError::TooLong)?.to_be_bytes();
        out.reserve(3 + name.len() + value.len());
        out.extend_from_slice(&[name_len, high, low]);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    Ok(())
}

/// None: length 0; else 4 or 16 bytes.
fn push_address(out: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        None => out.push(0),
        Some(IpAddr::V4(address)) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            out.push(16);
            out.extend_from_slice(&address.octets());
        }
    }
}

fn push_short(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), HopError> {
    out.push(u8::try_from(bytes.len()).map_err(|_| HopError::TooLong)?);
    out.extend_from_slice(bytes);
    Ok(())
}

fn push_long(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), HopError> {
    out.extend_from_slice(&u16::try_from(bytes.len()).map_err(|_| HopError::TooLong)?.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}
