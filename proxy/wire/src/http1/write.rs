//! Heads and chunks as HTTP/1.1 bytes; it adds no field but `Host`, framing and `Connection`.
//!
//! Whoever makes a head by hand answers for it: names are tokens and values have no CR, LF or NUL (asserted in debug builds).

use crate::head::{
    Framing, Header, Headers, RequestHead, ResponseHead, UPGRADE_FIELD,
    name::is_for_proxies,
    text::{is_text, is_token},
};

/// What stands after a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends a request head: origin-form (authority-form for CONNECT), `Host`, the head's fields, `extra`, framing, `TE: trailers` when the
/// caller takes trailers (but no `vicino-debug`, which is for proxies), `Connection: close` unless `keep_alive`. Always says HTTP/1.1. With [`Framing::UntilClose`] it asks to switch to the protocol in
/// [`UPGRADE_FIELD`], which must be there.
pub fn write_request_head(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    framing: Framing,
    extra: &[Header<'_>],
    keep_alive: bool,
) {
    let target = if head.method == "CONNECT" { head.authority } else { head.path };
    push(out, &[head.method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\nHost: "]);
    push(out, &[head.authority.as_bytes(), b"\r\n"]);
    if framing == Framing::UntilClose {
        return push_switch(out, head.headers, extra);
    }
    let extra = extra.iter().copied();
    push_each(out, head.headers.iter().chain(extra).filter(|field| !is_for_proxies(field.name)));
    push_framing(out, framing);
    out.extend_from_slice(match (head.accepts_trailers, keep_alive) {
        (false, true) => b"\r\n",
        (false, false) => b"Connection: close\r\n\r\n",
        (true, true) => b"TE: trailers\r\nConnection: TE\r\n\r\n",
        (true, false) => b"TE: trailers\r\nConnection: TE, close\r\n\r\n",
    });
}

/// Appends a response head: status line, the head's fields, `extra`, framing, `Connection: close` unless `keep_alive` (never in an interim
/// one). Always says HTTP/1.1. With status 101 it says to have switched to the protocol in [`UPGRADE_FIELD`], which must be there.
///
/// [`Framing::UntilClose`] needs `keep_alive == false`. An HTTP/1.0 caller understands no chunks (use `UntilClose`) and takes
/// a connection for kept only when `extra` says `Connection: keep-alive`.
pub fn write_response_head(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    framing: Framing,
    extra: &[Header<'_>],
    keep_alive: bool,
) {
    debug_assert!(
        framing != Framing::UntilClose || !keep_alive || head.status == 101,
        "only closing ends such a body"
    );
    debug_assert!((100..1000).contains(&head.status) && is_text(head.reason), "no status line: {head:?}");
    let digit = |unit: u16| b'0' + (head.status / unit % 10) as u8;
    push(out, &[b"HTTP/1.1 ", &[digit(100), digit(10), digit(1), b' '], head.reason, b"\r\n"]);
    if head.status == 101 {
        return push_switch(out, head.headers, extra);
    }
    push_fields(out, head.headers, extra);
    match head.declared_length {
        Some(length) if framing == Framing::None => push_framing(out, Framing::Length(length)),
        _ => push_framing(out, framing),
    }
    let says_close = !keep_alive && !head.is_interim();
    out.extend_from_slice(if says_close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
}

/// Appends one chunk; nothing when `data` is empty, since an empty chunk would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write_chunk_start(out, data.len());
        push(out, &[data, CHUNK_END]);
    }
}

/// Appends the line before a chunk of `len` > 0 bytes, for a caller that sends the data itself; [`CHUNK_END`] must follow the data.
pub fn write_chunk_start(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "an empty chunk would end the body");
    let mut line = [0; 18];
    let mut at = 16;
    line[16..].copy_from_slice(b"\r\n");
    let mut rest = len;
    while rest > 0 {
        at -= 1;
        line[at] = b"0123456789abcdef"[rest & 0xf];
        rest >>= 4;
    }
    out.extend_from_slice(&line[at..]);
}

/// Appends the end of a chunked body.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: Headers<'_>) {
    out.extend_from_slice(b"0\r\n");
    push_fields(out, trailers, &[]);
    out.extend_from_slice(b"\r\n");
}

fn push_fields(out: &mut Vec<u8>, headers: Headers<'_>, extra: &[Header<'_>]) {
    push_each(out, headers.iter().chain(extra.iter().copied()));
}

fn push_each<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = Header<'a>>) {
    for Header { name, value } in fields {
        debug_assert!(is_token(name) && is_text(value), "no field: {:?}", Header { name, value });
        push(out, &[name, b": ", value, b"\r\n"]);
    }
}

/// The fields, `Upgrade` in place of the one that carries it, and the end of the head.
fn push_switch(out: &mut Vec<u8>, headers: Headers<'_>, extra: &[Header<'_>]) {
    let fields = headers.iter().chain(extra.iter().copied());
    for Header { name, value } in fields.filter(|field| !is_for_proxies(field.name)) {
        let is_it = name.eq_ignore_ascii_case(UPGRADE_FIELD.as_bytes());
        push(out, &[if is_it { b"Connection: Upgrade\r\nUpgrade" } else { name }, b": ", value, b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

fn push_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) => {
            let mut digits = [0; 20];
            let mut at = digits.len();
            let mut rest = length;
            loop {
                at -= 1;
                digits[at] = b'0' + (rest % 10) as u8;
                rest /= 10;
                if rest == 0 {
                    break;
                }
            }
            push(out, &[b"Content-Length: ", &digits[at..], b"\r\n"]);
        }
    }
}

/// Appends the parts with one growth of the buffer.
#[inline]
fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}
