//! Where a body ends and which of its bytes are data; it buffers nothing: what is incomplete stays in the caller's buffer.

use super::Reject;
use crate::head::{Framing, Headers};

/// Longest trailer section, in bytes. A read buffer must be able to hold one.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// How many bytes chunk sizes and extensions may take beyond 16 a chunk and twice the data.
pub const CHUNK_OVERHEAD_BYTES_MAX: usize = 16 * 1024;

/// What came of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'b> {
    /// Nothing more without more bytes. The rest of the buffer must be kept and given again with what comes.
    More,
    /// Bytes of the body, never empty.
    Data(&'b [u8]),
    /// Trailers that may be forwarded, perhaps none of those that came; `End` follows. Only when the body had trailers.
    Trailers(Headers<'b>),
    /// The body is over; what follows in the buffer is the next message. Said again by every later call.
    End,
}

/// Decodes one body.
///
/// ```text
/// loop {
///     let (body, used) = decoder.decode(&buf[at..])?;
///     at += used;
///     match body { Body::Data(d) => .., Body::Trailers(t) => .., Body::End => break, Body::More => break }
/// }
/// ```
#[derive(Debug)]
pub struct BodyDecoder {
    #[expect(dead_code, reason = "signatures first")]
    framing: Framing,
}

impl BodyDecoder {
    /// Begins a body that is framed so.
    pub fn new(framing: Framing) -> BodyDecoder {
        BodyDecoder { framing }
    }

    /// Takes the next step over `buf` and says how many of its bytes are used up (a part of `Body::More`'s may be, too).
    ///
    /// A `Data` slice is as long as the buffer and the framing allow, and is not looked at byte by byte.
    pub fn decode<'b>(&mut self, buf: &'b [u8]) -> Result<(Body<'b>, usize), Reject> {
        let _ = buf;
        unimplemented!("next commit")
    }

    /// Whether the body is over, so that `decode` would say `End`.
    pub fn is_ended(&self) -> bool {
        unimplemented!("next commit")
    }

    /// The sender closed: the end of an until-close body, [`Reject::Truncated`] before the end of any other.
    pub fn close(&mut self) -> Result<(), Reject> {
        unimplemented!("next commit")
    }
}
