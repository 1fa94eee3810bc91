//! Bodies: text that is known, a stream of a given size, and the caller's own body sent back; never buffered whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// What every answer's body is.
pub type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Bytes of one piece of a [`Filler`].
const PIECE_BYTES: usize = 16 * 1024;
static PIECE: [u8; PIECE_BYTES] = [b'x'; PIECE_BYTES];

/// A body that is known.
pub fn text(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// `bytes` times the letter x, streamed; `chunked` hides the length, so that it is sent in chunks.
pub fn filler(bytes: u64, chunked: bool) -> AnyBody {
    Filler { left: bytes, chunked }.boxed_unsync()
}

/// The caller's body, back as it arrives, trailers too.
pub fn echo(body: Incoming) -> AnyBody {
    body.boxed_unsync()
}

/// A stream of the letter x.
struct Filler {
    left: u64,
    chunked: bool,
}

impl Body for Filler {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let piece = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        if piece == 0 {
            return Poll::Ready(None);
        }
        self.left -= piece as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..piece])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.chunked { SizeHint::default() } else { SizeHint::with_exact(self.left) }
    }
}
