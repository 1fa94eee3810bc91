//! A request in the form that is the same whichever wire it came over, and whom an answer of our own goes to.

use std::time::Duration;

use vicino_wire::head::{Framing, RequestHead};
use vicino_wire::{http1, http2};

use crate::core::ConnId;
use crate::exchange::Origin;
use crate::grpc;

/// What a caller asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) origin: Origin,
    pub(crate) head: RequestHead<'a>,
    pub(crate) framing: Framing,
    pub(crate) expect_continue: bool,
    pub(crate) wants_path: bool,
    pub(crate) upgrade: Option<&'a [u8]>,
    pub(crate) is_grpc: bool,
}

/// Whom an answer of our own goes to, and what of the request decides how it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) origin: Origin,
    pub(crate) is_head: bool,
    pub(crate) is_grpc: bool,
    /// All of the request has come.
    pub(crate) is_ended: bool,
}

impl Asker {
    /// Whoever is served on a connection of HTTP/1.1, and may be told in full why not.
    pub(crate) fn of_client(id: ConnId, is_ended: bool) -> Asker {
        Asker { origin: Origin::Client(id), is_head: false, is_grpc: false, is_ended }
    }
}

impl<'a> Ask<'a> {
    pub(crate) fn of_client(id: ConnId, request: &http1::Request<'a>) -> Ask<'a> {
        Ask {
            origin: Origin::Client(id),
            head: request.head,
            framing: request.framing,
            expect_continue: request.expect_continue,
            wants_path: request.wants_path,
            upgrade: request.upgrade,
            is_grpc: false,
        }
    }

    pub(crate) fn of_stream((id, stream): (ConnId, u32), request: &http2::Request<'a>) -> Ask<'a> {
        Ask {
            origin: Origin::Session(id, stream),
            head: request.head,
            framing: request.framing,
            expect_continue: request.expect_continue,
            wants_path: request.wants_path,
            upgrade: None,
            is_grpc: grpc::is_spoken(request.head.headers),
        }
    }

    pub(crate) fn asker(&self) -> Asker {
        Asker {
            origin: self.origin,
            is_head: self.head.method == "HEAD",
            is_grpc: self.is_grpc,
            is_ended: self.framing.is_empty(),
        }
    }

    /// How long the caller waits, when it says so as gRPC clients do.
    pub(crate) fn patience(&self) -> Option<Duration> {
        if self.is_grpc { grpc::timeout(self.head.headers.get("grpc-timeout")?) } else { None }
    }
}
