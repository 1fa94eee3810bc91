//! `vicino-hop/1`: the framed, multiplexed protocol L1 → L2, as frames and as credit; `hop/SPEC.md` says what they mean in which order.
//!
//! Streams, deadlines and connections are the engine's: this module knows one frame at a time.

mod credit;
mod decode;
mod encode;
mod error;
mod frame;
mod payload;
mod reset;
#[cfg(test)]
mod spec;

pub use credit::{CREDIT_MAX, ReceiveCredit, SendCredit};
pub use decode::{decode, frame_len};
pub use encode::{
    encode_cancel, encode_data, encode_data_start, encode_drain, encode_ejected, encode_failures,
    encode_grant, encode_hello, encode_ping, encode_pong, encode_request, encode_request_again,
    encode_reserve, encode_reset, encode_response, encode_started, encode_trailers, encode_wait,
    encode_window,
};
pub use error::HopError;
pub use frame::{
    DEADLINE_MS_NONE, Destination, FAILURE_CODES_MAX, FRAME_HEADER_BYTES, Frame, HOP_HEADERS_MAX, Hello,
    Kind, MAX_FRAME_MIN, NODE_BYTES_MAX, PAYLOAD_BYTES_MAX, RequestFrame, ResponseFrame, Statuses, VERSION,
};
pub use reset::Reset;

/// The protocol's name in TLS ALPN.
pub const ALPN: &[u8] = b"vicino-hop/1";
