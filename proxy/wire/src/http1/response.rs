//! A response's head: status line and what frames its body, which depends on the request's method; it opens no body.

use super::{
    BadResponse, HEAD_BYTES_MAX, Reject, Slots,
    fields::{Said, Sender, read_fields},
    line::line_end,
};
use crate::head::{Framing, Headers, ResponseHead, Version, text::text_len};

/// A response whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// What goes back to the caller. When [`ResponseHead::is_interim`], another head follows.
    pub head: ResponseHead<'a>,
    /// As RFC 9112 §6.3 says for this method and status.
    pub framing: Framing,
    /// Whether the connection can take another request once the body has ended (false with [`Framing::UntilClose`]).
    pub keep_alive: bool,
    /// With status 101: what was switched to.
    pub upgrade: Option<&'a [u8]>,
    /// How many bytes of the buffer the head takes; the body begins there.
    pub len: usize,
}

/// Parses the response head at the start of `buf`, which answers a request of method `to_method`. None when more bytes are needed.
///
/// HEAD, 1xx, 204, 304, and 2xx to CONNECT have no body.
pub fn parse_response<'a>(
    buf: &'a [u8],
    slots: &'a mut Slots,
    to_method: &str,
) -> Result<Option<Response<'a>>, BadResponse> {
    parse(buf, slots, to_method, false)
}

/// The same for a request that went with `Upgrade`: the answer may be 101, with the framing [`Framing::UntilClose`] and what was switched to.
pub fn parse_upgrade_response<'a>(
    buf: &'a [u8],
    slots: &'a mut Slots,
    to_method: &str,
) -> Result<Option<Response<'a>>, BadResponse> {
    parse(buf, slots, to_method, true)
}

fn parse<'a>(
    buf: &'a [u8],
    slots: &'a mut Slots,
    to_method: &str,
    may_switch: bool,
) -> Result<Option<Response<'a>>, BadResponse> {
    let head = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    let line = status_line(head)?;
    if line.as_ref().is_some_and(|line| line.status == 101 && !may_switch) {
        return Err(Reject::UnaskedUpgrade.into());
    }
    let complete = match line {
        Some(line) => read_fields(head, line.next, line.minor, Sender::Application, &mut slots.fields)?
            .map(|said| (line, said)),
        None => None,
    };
    let Some((line, said)) = complete else {
        return if head.len() == HEAD_BYTES_MAX { Err(Reject::HeadTooLong.into()) } else { Ok(None) };
    };
    let upgrade = said.upgrade().filter(|_| line.status == 101);
    let (framing, declared_length) = match (line.status, upgrade) {
        (101, None) => return Err(Reject::UnaskedUpgrade.into()),
        (101, Some(_)) => (Framing::UntilClose, None),
        (status, _) => frame_body(status, to_method, &said),
    };
    Ok(Some(Response {
        head: ResponseHead {
            status: line.status,
            reason: line.reason,
            version: Version::of_minor(line.minor),
            declared_length,
            headers: Headers::of_spans(head, &slots.fields.kept),
        },
        framing,
        keep_alive: framing != Framing::UntilClose && said.persists(line.minor),
        upgrade,
        len: said.end,
    }))
}

/// RFC 9112 §6.3, and the length that a response without a body says of the body that it would have had.
fn frame_body(status: u16, to_method: &str, said: &Said<'_>) -> (Framing, Option<u64>) {
    let is_tunnel = to_method == "CONNECT" && (200..300).contains(&status);
    if status < 200 || status == 204 || is_tunnel {
        return (Framing::None, None);
    }
    if status == 304 || to_method == "HEAD" {
        return (Framing::None, said.length);
    }
    match (said.chunked, said.length) {
        (true, _) => (Framing::Chunked, None),
        (false, Some(length)) => (Framing::Length(length), None),
        (false, None) => (Framing::UntilClose, None),
    }
}

/// `HTTP/1.minor SP status [SP reason] CRLF`.
struct StatusLine<'a> {
    status: u16,
    reason: &'a [u8],
    minor: u8,
    next: usize,
}

fn status_line(head: &[u8]) -> Result<Option<StatusLine<'_>>, Reject> {
    const NAME: &[u8] = b"HTTP/";
    if !NAME.starts_with(&head[..head.len().min(NAME.len())]) {
        return Err(Reject::BadStatusLine);
    }
    let Some((start, rest)) = head.split_first_chunk::<12>() else { return Ok(None) };
    let minor = match &start[NAME.len()..9] {
        b"1.1 " => 1,
        b"1.0 " => 0,
        [b'0'..=b'9', b'.', b'0'..=b'9', b' '] => return Err(Reject::BadVersion),
        _ => return Err(Reject::BadStatusLine),
    };
    let &[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9'] = &start[9..] else {
        return Err(Reject::BadStatusLine);
    };
    let status = [hundreds, tens, ones].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let (reason, end) = match rest.first() {
        Some(b' ') => {
            let reason = &rest[1..];
            let reason = &reason[..text_len(reason)];
            (reason, start.len() + 1 + reason.len())
        }
        _ => (&[][..], start.len()),
    };
    let next = line_end(head, end, Reject::BadStatusLine)?;
    Ok(next.map(|next| StatusLine { status, reason, minor, next }))
}
