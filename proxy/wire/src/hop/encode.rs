//! Frames to bytes, each in one pass at the end of a buffer; after an error the buffer is as it was.

use super::{Hello, HopError, RequestFrame, Reset, ResponseFrame};
use crate::head::{Header, Headers};

/// Appends HELLO.
pub fn encode_hello(out: &mut Vec<u8>, hello: &Hello<'_>) -> Result<(), HopError> {
    let _ = (out, hello);
    unimplemented!("next commit")
}

/// Appends REQUEST with the head's fields and then `extra`; END is set when the framing is empty.
pub fn encode_request(
    out: &mut Vec<u8>,
    stream: u32,
    request: &RequestFrame<'_>,
    extra: &[Header<'_>],
) -> Result<(), HopError> {
    let _ = (out, stream, request, extra);
    unimplemented!("next commit")
}

/// Appends RESPONSE with the head's fields and then `extra`; END is set when it is final and the framing is empty.
pub fn encode_response(
    out: &mut Vec<u8>,
    stream: u32,
    response: &ResponseFrame<'_>,
    extra: &[Header<'_>],
) -> Result<(), HopError> {
    let _ = (out, stream, response, extra);
    unimplemented!("next commit")
}

/// Appends DATA frames of at most `max_frame` bytes each; END on the last when `end`. Nothing when `bytes` is empty and `end` is not set.
pub fn encode_data(out: &mut Vec<u8>, stream: u32, bytes: &[u8], max_frame: u16, end: bool) {
    let _ = (out, stream, bytes, max_frame, end);
    unimplemented!("next commit")
}

/// Appends only the header of a DATA frame of `len` bytes, which the caller sends right behind it.
pub fn encode_data_start(out: &mut Vec<u8>, stream: u32, len: u16, end: bool) {
    let _ = (out, stream, len, end);
    unimplemented!("next commit")
}

/// Appends TRAILERS, which end the body.
pub fn encode_trailers(out: &mut Vec<u8>, stream: u32, trailers: Headers<'_>) -> Result<(), HopError> {
    let _ = (out, stream, trailers);
    unimplemented!("next commit")
}

/// Appends RESET.
pub fn encode_reset(out: &mut Vec<u8>, stream: u32, reason: Reset) {
    let _ = (out, stream, reason);
    unimplemented!("next commit")
}

/// Appends WINDOW.
pub fn encode_window(out: &mut Vec<u8>, stream: u32, credit: u32) {
    let _ = (out, stream, credit);
    unimplemented!("next commit")
}

/// Appends PING.
pub fn encode_ping(out: &mut Vec<u8>, number: u64) {
    let _ = (out, number);
    unimplemented!("next commit")
}

/// Appends PONG.
pub fn encode_pong(out: &mut Vec<u8>, number: u64) {
    let _ = (out, number);
    unimplemented!("next commit")
}

/// Appends DRAIN.
pub fn encode_drain(out: &mut Vec<u8>) {
    let _ = out;
    unimplemented!("next commit")
}
