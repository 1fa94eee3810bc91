//! A response's head: status line and what frames its body, which depends on the request's method; it opens no body.

use super::{BadResponse, Slots};
use crate::head::{Framing, ResponseHead};

/// A response whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// What goes back to the caller. When [`ResponseHead::is_interim`], another head follows.
    pub head: ResponseHead<'a>,
    /// As RFC 9112 §6.3 says for this method and status.
    pub framing: Framing,
    /// Whether the connection can take another request once the body has ended (false with [`Framing::UntilClose`]).
    pub keep_alive: bool,
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
    let _ = (buf, slots, to_method);
    unimplemented!("next commit")
}
