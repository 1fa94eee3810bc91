//! A request's head: first line, target, what frames the body; it opens no body and knows no route.

use super::{Reject, Slots};
use crate::head::{Framing, RequestHead};

/// A request whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// How many bytes of the buffer the head takes, a tolerated empty line before it included; the body begins there.
    pub len: usize,
}

/// Parses the head at the start of `buf`. None when more bytes are needed; call again with all of them.
///
/// Finds faults as early as their bytes come, and is done after at most [`super::HEAD_BYTES_MAX`] bytes.
pub fn parse_request<'a>(buf: &'a [u8], slots: &'a mut Slots) -> Result<Option<Request<'a>>, Reject> {
    let _ = (buf, slots);
    unimplemented!("next commit")
}
