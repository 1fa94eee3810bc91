//! Bytes to frames, without copies; whatever it lets pass can be written as HTTP/1.1 without splitting a message.

use super::{
    CREDIT_MAX, Frame, HopError, Kind, RequestFrame, Reset, ResponseFrame,
    frame::{
        Destination, FAILURE_CODES_MAX, FLAG_END, FRAME_HEADER_BYTES, Hello, MAGIC, MAX_FRAME_MIN,
        NODE_BYTES_MAX, OPTIONAL, Statuses, VERSION, framing_tag, hello_field, kind, kind_from_tag,
        request_flag, version_from_tag,
    },
    payload::Payload,
};
use crate::head::{
    Authority, Framing, Headers, METHOD_BYTES_MAX, RequestHead, ResponseHead, UPGRADE_FIELD,
    name::{Name, classify, is_said_on_hops},
    text::{is_path, is_text, is_token},
};

/// Longest Kubernetes name of a Service, a namespace or a port.
const LABEL_BYTES_MAX: usize = 63;

/// How many bytes the frame at the start of `buf` takes, its header included; None before the header is complete.
pub fn frame_len(buf: &[u8]) -> Option<usize> {
    let &[high, low] = buf.get(..FRAME_HEADER_BYTES)?.first_chunk::<2>()?;
    Some(FRAME_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])))
}

/// The frame at the start of `buf` and how many bytes it takes. None when more bytes are needed: at most
/// [`FRAME_HEADER_BYTES`] + [`super::PAYLOAD_BYTES_MAX`] ever are.
///
/// Checks everything that one frame says by itself. That frames come in order, on open streams, within credit and `max_frame`, is the caller's.
/// An error ends the connection; a fault inside a head or trailers concerns one stream and is [`Frame::Malformed`].
pub fn decode(buf: &[u8]) -> Result<Option<(Frame<'_>, usize)>, HopError> {
    let Some((&[l0, l1, kind, flags, s0, s1, s2, s3], rest)) = buf.split_first_chunk::<FRAME_HEADER_BYTES>()
    else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    check_header(kind, stream)?;
    let Some(payload) = rest.get(..len) else { return Ok(None) };
    let end = flags & FLAG_END != 0;
    let mut payload = Payload(payload);
    let malformed = |fault| Frame::Malformed { stream, fault };
    let frame = match kind {
        kind::DATA => data(stream, end, payload.0)?,
        kind::REQUEST => request(stream, end, payload).unwrap_or_else(malformed),
        kind::RESPONSE => response(stream, end, payload).unwrap_or_else(malformed),
        kind::TRAILERS => trailers(stream, end, payload).unwrap_or_else(malformed),
        kind::WINDOW => window(stream, last(payload.u32()?, &payload)?)?,
        kind::RESET => Frame::Reset { stream, reason: Reset::of(last(payload.u8()?, &payload)?, flags) },
        kind::PING => Frame::Ping(last(payload.u64()?, &payload)?),
        kind::PONG => Frame::Pong(last(payload.u64()?, &payload)?),
        kind::DRAIN => last(Frame::Drain, &payload)?,
        kind::HELLO => Frame::Hello(hello(payload)?),
        kind::RESERVE => reserve(stream, payload)?,
        kind::GRANT => last(Frame::Grant { stream }, &payload)?,
        kind::CANCEL => last(Frame::Cancel { stream }, &payload)?,
        kind::WAIT => last(Frame::Wait { stream }, &payload)?,
        kind::STARTED => last(Frame::Started { stream }, &payload)?,
        kind::FAILURES => Frame::Failures { stream, codes: statuses(payload.0)? },
        kind::EJECTED => Frame::Ejected { stream, count: last(payload.u32()?, &payload)? },
        _ => Frame::Skipped { kind },
    };
    Ok(Some((frame, FRAME_HEADER_BYTES + len)))
}

/// What a header says wrong by itself, so that nobody waits for the payload of an unknown frame.
fn check_header(kind: u8, stream: u32) -> Result<(), HopError> {
    match kind {
        kind::HELLO | kind::PING | kind::PONG | kind::DRAIN if stream == 0 => Ok(()),
        kind::REQUEST | kind::RESPONSE | kind::DATA | kind::TRAILERS | kind::RESET | kind::WINDOW
            if stream != 0 =>
        {
            Ok(())
        }
        kind::HELLO..=kind::DRAIN => Err(HopError::BadStream),
        kind::RESERVE..=kind::EJECTED if stream == 0 => Err(HopError::BadStream),
        OPTIONAL.. => Ok(()),
        _ => Err(HopError::UnknownFrame { kind }),
    }
}

/// The value, when nothing of the payload is left behind it.
fn last<T>(value: T, payload: &Payload<'_>) -> Result<T, HopError> {
    payload.end().map(|()| value)
}

fn data(stream: u32, end: bool, bytes: &[u8]) -> Result<Frame<'_>, HopError> {
    if bytes.is_empty() && !end { Err(HopError::EmptyData) } else { Ok(Frame::Data { stream, end, bytes }) }
}

fn window<'a>(stream: u32, credit: u32) -> Result<Frame<'a>, HopError> {
    if (1..=CREDIT_MAX).contains(&credit) {
        Ok(Frame::Window { stream, credit })
    } else {
        Err(HopError::FlowControl)
    }
}

fn trailers(stream: u32, end: bool, mut payload: Payload<'_>) -> Result<Frame<'_>, HopError> {
    if end {
        Ok(Frame::Trailers { stream, headers: payload.fields(check_passed_on)? })
    } else {
        Err(HopError::BadEnd)
    }
}

fn reserve(stream: u32, mut payload: Payload<'_>) -> Result<Frame<'_>, HopError> {
    let is_last_resort = payload.u8()? & request_flag::LAST_RESORT != 0;
    let to = destination(&mut payload)?;
    last(Frame::Reserve { stream, is_last_resort, to }, &payload)
}

fn statuses(payload: &[u8]) -> Result<Statuses<'_>, HopError> {
    match payload.as_chunks::<2>() {
        (codes, []) if codes.len() <= FAILURE_CODES_MAX => Ok(Statuses(codes)),
        _ => Err(HopError::BadLength),
    }
}

/// Magic, version, then fields of type u8, length u8, value; unknown ones are left out, known ones come once.
fn hello(mut payload: Payload<'_>) -> Result<Hello<'_>, HopError> {
    const BAD: HopError = HopError::BadHello;
    let mut read = || -> Result<Option<Hello<'_>>, HopError> {
        if payload.bytes(MAGIC.len())? != MAGIC || payload.u8()? != VERSION {
            return Ok(None);
        }
        let (mut max_streams, mut initial_window, mut max_frame, mut node) = (None, None, None, None);
        let mut binds_late = None;
        while payload.end().is_err() {
            let field = payload.u8()?;
            let mut value = Payload(payload.short()?);
            let is_second = match field {
                hello_field::MAX_STREAMS => max_streams.replace(last(value.u32()?, &value)?).is_some(),
                hello_field::INITIAL_WINDOW => initial_window.replace(last(value.u32()?, &value)?).is_some(),
                hello_field::MAX_FRAME => max_frame.replace(last(value.u16()?, &value)?).is_some(),
                hello_field::NODE => node.replace(value.0).is_some(),
                hello_field::LATE_BINDING => binds_late.replace(last(value.u8()?, &value)?).is_some(),
                _ => false,
            };
            if is_second {
                return Ok(None);
            }
        }
        let (Some(max_streams), Some(initial_window), Some(max_frame), Some(node)) =
            (max_streams, initial_window, max_frame, node)
        else {
            return Ok(None);
        };
        let node = node_name(node).ok_or(BAD)?;
        Ok(Some(Hello { max_streams, initial_window, max_frame, binds_late: binds_late == Some(1), node }))
    };
    let hello = read().map_err(|_| BAD)?.ok_or(BAD)?;
    let in_bounds = hello.max_streams > 0
        && (1..=CREDIT_MAX).contains(&hello.initial_window)
        && hello.max_frame >= MAX_FRAME_MIN;
    if in_bounds { Ok(hello) } else { Err(BAD) }
}

fn node_name(name: &[u8]) -> Option<&str> {
    let is_name = (1..=NODE_BYTES_MAX).contains(&name.len())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'.');
    if is_name { std::str::from_utf8(name).ok() } else { None }
}

fn request(stream: u32, end: bool, mut payload: Payload<'_>) -> Result<Frame<'_>, HopError> {
    let [kind, flags, hops] = payload.array()?;
    let kind = kind_from_tag(kind).ok_or(HopError::BadValue)?;
    let deadline_ms = payload.u32()?;
    let caller = payload.address()?;
    let to = destination(&mut payload)?;
    let (head, framing) = match kind {
        Kind::Http => request_head(payload, flags & request_flag::ACCEPTS_TRAILERS != 0)?,
        Kind::Opaque => last((RequestHead::opaque(), Framing::UntilClose), &payload)?,
    };
    if end != framing.is_empty() {
        return Err(HopError::BadEnd);
    }
    let is_last_resort = flags & request_flag::LAST_RESORT != 0;
    let request = RequestFrame { to, kind, deadline_ms, hops, is_last_resort, caller, head, framing };
    Ok(Frame::Request { stream, end, request })
}

fn destination<'a>(payload: &mut Payload<'a>) -> Result<Destination<'a>, HopError> {
    let port = payload.u16()?;
    if port == 0 {
        return Err(HopError::BadValue);
    }
    Ok(Destination {
        port,
        namespace: label(payload.short()?)?,
        service: label(payload.short()?)?,
        port_name: label(payload.short()?)?,
        pod: payload.address()?,
    })
}

/// A DNS label or nothing.
fn label(bytes: &[u8]) -> Result<&str, HopError> {
    let is_label = bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if is_label { text(bytes) } else { Err(HopError::BadText) }
}

fn request_head(
    mut payload: Payload<'_>,
    accepts_trailers: bool,
) -> Result<(RequestHead<'_>, Framing), HopError> {
    let version = version_from_tag(payload.u8()?).ok_or(HopError::BadValue)?;
    let (framing, None) = framing(&mut payload)? else { return Err(HopError::BadValue) };
    let method = payload.short()?;
    if !is_token(method) || method.len() > METHOD_BYTES_MAX || method == b"CONNECT" {
        return Err(HopError::BadText);
    }
    let (method, authority, path) = (text(method)?, text(payload.long()?)?, text(payload.long()?)?);
    if !is_path(method, path) || !(authority.is_empty() || Authority::parse(authority).is_some()) {
        return Err(HopError::BadText);
    }
    let headers = payload.fields(check_passed_on)?;
    if (framing == Framing::UntilClose) != names_upgrade(headers) {
        return Err(HopError::BadValue);
    }
    Ok((RequestHead { method, authority, path, version, accepts_trailers, headers }, framing))
}

fn response(stream: u32, end: bool, mut payload: Payload<'_>) -> Result<Frame<'_>, HopError> {
    let status = payload.u16()?;
    if !(100..1000).contains(&status) {
        return Err(HopError::BadValue);
    }
    let version = version_from_tag(payload.u8()?).ok_or(HopError::BadValue)?;
    let (framing, declared_length) = framing(&mut payload)?;
    let reason = payload.long()?;
    if !is_text(reason) {
        return Err(HopError::BadText);
    }
    let headers = payload.fields(check_field)?;
    let head = ResponseHead { status, reason, version, declared_length, headers };
    let is_framed_right = match status {
        101 => framing == Framing::UntilClose && names_upgrade(headers),
        100..200 | 204 => framing == Framing::None && declared_length.is_none(),
        304 => framing == Framing::None,
        _ => true,
    };
    if !is_framed_right {
        return Err(HopError::BadValue);
    }
    if end != (framing.is_empty() && !head.is_interim()) {
        return Err(HopError::BadEnd);
    }
    Ok(Frame::Response { stream, end, response: ResponseFrame { head, framing } })
}

/// Whether a head says which protocol is switched to.
fn names_upgrade(headers: Headers<'_>) -> bool {
    headers.get(UPGRADE_FIELD).is_some_and(|value| !value.is_empty())
}

fn framing(payload: &mut Payload<'_>) -> Result<(Framing, Option<u64>), HopError> {
    Ok(match payload.u8()? {
        framing_tag::NONE => (Framing::None, None),
        framing_tag::LENGTH => (Framing::Length(payload.u64()?), None),
        framing_tag::CHUNKED => (Framing::Chunked, None),
        framing_tag::UNTIL_CLOSE => (Framing::UntilClose, None),
        framing_tag::NONE_DECLARED => (Framing::None, Some(payload.u64()?)),
        _ => return Err(HopError::BadValue),
    })
}

/// What no proxy passes on in a request or in trailers would reach an application as if one had said it.
#[inline]
fn check_passed_on(name: &[u8], value: &[u8]) -> Result<(), HopError> {
    check_text(name, value)?;
    if is_said_on_hops(name) { Ok(()) } else { Err(HopError::ForbiddenHeader) }
}

#[inline]
fn check_text(name: &[u8], value: &[u8]) -> Result<(), HopError> {
    if is_token(name) && is_text(value) { Ok(()) } else { Err(HopError::BadText) }
}

/// What a field needs to be written into an HTTP/1.1 head without changing what the head means.
#[inline]
fn check_field(name: &[u8], value: &[u8]) -> Result<(), HopError> {
    check_text(name, value)?;
    match classify(name) {
        Name::EndToEnd | Name::Expect | Name::Ours | Name::Claim => Ok(()),
        Name::Host
        | Name::ContentLength
        | Name::TransferEncoding
        | Name::Connection
        | Name::Te
        | Name::Upgrade
        | Name::HopByHop => Err(HopError::ForbiddenHeader),
    }
}

fn text(bytes: &[u8]) -> Result<&str, HopError> {
    std::str::from_utf8(bytes).map_err(|_| HopError::BadText)
}
