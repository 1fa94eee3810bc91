//! Heads and chunks as HTTP/1.1 bytes; it adds no field but `Host`, framing and `Connection`.
//!
//! Whoever makes a head by hand answers for it: names are tokens and values have no CR, LF or NUL (asserted in debug builds).

use crate::head::{Framing, Header, Headers, RequestHead, ResponseHead};

/// What stands after a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Appends a request head: origin-form (authority-form for CONNECT), `Host`, the head's fields, `extra`, framing, `TE: trailers` when the
/// caller takes trailers, `Connection: close` unless `keep_alive`. Always says HTTP/1.1. `framing` must not be [`Framing::UntilClose`].
pub fn write_request_head(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    framing: Framing,
    extra: &[Header<'_>],
    keep_alive: bool,
) {
    let _ = (out, head, framing, extra, keep_alive);
    unimplemented!("next commit")
}

/// Appends a response head: status line, the head's fields, `extra`, framing, `Connection: close` unless `keep_alive`. Always says HTTP/1.1.
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
    let _ = (out, head, framing, extra, keep_alive);
    unimplemented!("next commit")
}

/// Appends one chunk; nothing when `data` is empty, since an empty chunk would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    let _ = (out, data);
    unimplemented!("next commit")
}

/// Appends the line before a chunk of `len` > 0 bytes, for a caller that sends the data itself; [`CHUNK_END`] must follow the data.
pub fn write_chunk_start(out: &mut Vec<u8>, len: usize) {
    let _ = (out, len);
    unimplemented!("next commit")
}

/// Appends the end of a chunked body.
pub fn write_last_chunk(out: &mut Vec<u8>, trailers: Headers<'_>) {
    let _ = (out, trailers);
    unimplemented!("next commit")
}
