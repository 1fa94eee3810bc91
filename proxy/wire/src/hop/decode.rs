//! Bytes to frames, without copies; whatever it lets pass can be written as HTTP/1.1 without splitting a message.

use super::frame::FRAME_HEADER_BYTES;
use super::{Frame, HopError};

/// How many bytes the frame at the start of `buf` takes, its header included; None before the header is complete.
pub fn frame_len(buf: &[u8]) -> Option<usize> {
    let &[high, low] = buf.get(..FRAME_HEADER_BYTES)?.first_chunk::<2>()?;
    Some(FRAME_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])))
}

/// The frame at the start of `buf` and how many bytes it takes. None when more bytes are needed: at most
/// [`FRAME_HEADER_BYTES`] + [`super::PAYLOAD_BYTES_MAX`] ever are.
///
/// Checks everything that one frame says by itself. That frames come in order, on open streams, within credit and `max_frame`, is the caller's.
pub fn decode(buf: &[u8]) -> Result<Option<(Frame<'_>, usize)>, HopError> {
    let _ = buf;
    unimplemented!("next commit")
}
