//! A request's head: first line, target, what frames the body; it opens no body and knows no route.

use super::{
    HEAD_BYTES_MAX, Reject, Slots,
    fields::{Said, Sender, read_fields},
    line::line_end,
};
use crate::head::{
    Authority, Framing, Headers, METHOD_BYTES_MAX, RequestHead, Version,
    text::{is_path, target_len, token_len},
};

/// A request whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a head did or did not say")]
pub struct Request<'a> {
    /// What goes on to the destination.
    pub head: RequestHead<'a>,
    /// [`Framing::None`], `Length` or `Chunked`.
    pub framing: Framing,
    /// Whether the caller wants to send another request on this connection.
    pub keep_alive: bool,
    /// The caller said `Expect: 100-continue` (in HTTP/1.1) and sends its body only after an interim response.
    pub expect_continue: bool,
    /// The target was absolute-form (`GET http://web.demo/ HTTP/1.1`): the caller speaks to us as to its proxy.
    pub absolute_form: bool,
    /// The caller said `Vicino-Debug: path` (which does not travel on): it wants to know which way its call went.
    pub wants_path: bool,
    /// The protocol that the caller wants to switch to: one, and no body comes before. [`crate::head::UPGRADE_FIELD`] carries it on.
    pub upgrade: Option<&'a [u8]>,
    /// How many bytes of the buffer the head takes, a tolerated empty line before it included; the body begins there.
    pub len: usize,
}

/// Parses the head at the start of `buf`. None when more bytes are needed; call again with all of them.
///
/// Finds faults as early as their bytes come, and is done after at most [`HEAD_BYTES_MAX`] bytes.
pub fn parse_request<'a>(buf: &'a [u8], slots: &'a mut Slots) -> Result<Option<Request<'a>>, Reject> {
    let head = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    let complete = match first_line(head)? {
        Some(line) => read_fields(head, line.next, line.minor, Sender::Caller, &mut slots.fields)?
            .map(|said| (line, said)),
        None => None,
    };
    match complete {
        Some((line, said)) => assemble(head, &line, &said, slots).map(Some),
        None if head.len() == HEAD_BYTES_MAX => Err(Reject::HeadTooLong),
        None => Ok(None),
    }
}

/// `method SP target SP HTTP/1.minor CRLF`.
struct FirstLine<'a> {
    method: &'a str,
    target: &'a str,
    minor: u8,
    next: usize,
}

fn first_line(head: &[u8]) -> Result<Option<FirstLine<'_>>, Reject> {
    let Some(at) = skip_empty_line(head)? else { return Ok(None) };
    let method = &head[at..];
    let method = &method[..token_len(method)];
    if method.len() > METHOD_BYTES_MAX {
        return Err(Reject::BadMethod);
    }
    let at = at + method.len();
    match head.get(at) {
        None => return Ok(None),
        Some(b' ') if !method.is_empty() => {}
        Some(b'\r' | b'\n') => return Err(Reject::BadRequestLine),
        Some(_) => return Err(Reject::BadMethod),
    }
    let target = &head[at + 1..];
    let target = &target[..target_len(target)];
    let at = at + 1 + target.len();
    match head.get(at) {
        None => return Ok(None),
        Some(b' ') if !target.is_empty() => {}
        Some(b' ' | b'\r' | b'\n') => return Err(Reject::BadRequestLine),
        Some(_) => return Err(Reject::BadTarget),
    }
    let Some((minor, at)) = version(method, head, at + 1)? else { return Ok(None) };
    let Some(next) = line_end(head, at, Reject::BadRequestLine)? else { return Ok(None) };
    let method = std::str::from_utf8(method).map_err(|_| Reject::BadMethod)?;
    let target = std::str::from_utf8(target).map_err(|_| Reject::BadTarget)?;
    Ok(Some(FirstLine { method, target, minor, next }))
}

/// Where the first line begins: one empty line before it is tolerated (RFC 9112 §2.2). None when nothing else has come.
fn skip_empty_line(head: &[u8]) -> Result<Option<usize>, Reject> {
    let at = match head.first() {
        Some(b'\r' | b'\n') => match line_end(head, 0, Reject::LeadingBlank)? {
            Some(at) => at,
            None => return Ok(None),
        },
        _ => 0,
    };
    match head.get(at) {
        None => Ok(None),
        Some(b' ' | b'\t' | b'\r' | b'\n') => Err(Reject::LeadingBlank),
        Some(_) => Ok(Some(at)),
    }
}

/// The x of `HTTP/1.x` at `at`, and where the line should end.
fn version(method: &[u8], head: &[u8], at: usize) -> Result<Option<(u8, usize)>, Reject> {
    const NAME: &[u8] = b"HTTP/";
    let rest = &head[at..];
    if !NAME.starts_with(&rest[..rest.len().min(NAME.len())]) {
        return Err(Reject::BadRequestLine);
    }
    let Some(number) = rest.get(NAME.len()..NAME.len() + 3) else { return Ok(None) };
    let end = at + NAME.len() + 3;
    match number {
        b"1.1" => Ok(Some((1, end))),
        b"1.0" => Ok(Some((0, end))),
        b"2.0" if method == b"PRI" => Err(Reject::Http2Preface),
        [b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Reject::BadVersion),
        _ => Err(Reject::BadRequestLine),
    }
}

fn assemble<'a>(
    head: &'a [u8],
    line: &FirstLine<'a>,
    said: &Said<'a>,
    slots: &'a mut Slots,
) -> Result<Request<'a>, Reject> {
    let Slots { fields, path } = slots;
    let host = match said.host {
        Some(host) => valid_host(host)?,
        None if line.minor == 1 => return Err(Reject::MissingHost),
        None => "",
    };
    let target = read_target(line.method, line.target)?;
    let (authority, target_path) = match target {
        Target::Path(path) => (host, path),
        Target::Authority(authority) => (authority, ""),
        Target::Absolute { authority, path: "" } if line.method == "OPTIONS" => (authority, "*"),
        Target::Absolute { authority, path: "" } => (authority, "/"),
        Target::Absolute { authority, path: query } if query.starts_with('?') => {
            path.clear();
            path.push('/');
            path.push_str(query);
            (authority, path.as_str())
        }
        Target::Absolute { authority, path } => (authority, path),
    };
    let framing = match (said.chunked, said.length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    };
    if matches!(target, Target::Authority(_)) && !framing.is_empty() {
        return Err(Reject::ConnectBody);
    }
    Ok(Request {
        head: RequestHead {
            method: line.method,
            authority,
            path: target_path,
            version: Version::of_minor(line.minor),
            accepts_trailers: said.accepts_trailers,
            headers: Headers::of_spans(head, &fields.kept),
        },
        framing,
        keep_alive: said.persists(line.minor),
        expect_continue: said.expect_continue && line.minor == 1,
        absolute_form: matches!(target, Target::Absolute { .. }),
        wants_path: said.wants_path,
        upgrade: said.upgrade().filter(|_| line.minor == 1 && framing.is_empty() && line.method != "CONNECT"),
        len: said.end,
    })
}

/// The forms of RFC 9112 §3.2; `*` is a path here.
#[derive(Clone, Copy)]
enum Target<'a> {
    Path(&'a str),
    Absolute { authority: &'a str, path: &'a str },
    Authority(&'a str),
}

fn read_target<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Reject> {
    let has_port = |text| Authority::parse(text).is_some_and(|a| a.port.is_some());
    if method == "CONNECT" {
        return if has_port(target) { Ok(Target::Authority(target)) } else { Err(Reject::BadTarget) };
    }
    if is_path(method, target) {
        return Ok(Target::Path(target));
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(if has_port(target) { Reject::AuthorityForm } else { Reject::BadTarget });
    };
    if scheme.contains(['/', '?']) {
        return Err(Reject::BadTarget);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Reject::BadScheme);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if Authority::parse(authority).is_none() {
        return Err(Reject::BadHost);
    }
    Ok(Target::Absolute { authority, path })
}

fn valid_host(host: &[u8]) -> Result<&str, Reject> {
    let host = std::str::from_utf8(host).map_err(|_| Reject::BadHost)?;
    if Authority::parse(host).is_some() { Ok(host) } else { Err(Reject::BadHost) }
}
