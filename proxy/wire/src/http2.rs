//! HTTP/2 (RFC 9113) as frames and as heads, with HPACK (RFC 7541): strict where two parsers are known to disagree. It knows one frame or one
//! field block at a time; connections, streams and windows are the engine's.

mod decode;
mod encode;
mod frame;
mod head;
mod hpack;
mod huffman;
mod table;

pub use decode::{Decoded, decode};
pub use encode::{
    Encoder, encode_go_away, encode_pong, encode_preface, encode_reset, encode_settings, encode_settings_ack,
    encode_window,
};
pub use frame::{
    ErrorCode, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Fault, Frame, PREFACE, Setting, Settings, WINDOW_DEFAULT,
    WINDOW_MAX,
};
pub use head::{
    BLOCK_BYTES_MAX, Refused, Request, Response, Slots, read_request, read_response, read_trailers,
};
pub use hpack::{BadBlock, Decoder};
