//! A request in the form that is the same whichever wire it came over, and whom an answer of our own goes to.

use std::time::Duration;

use vicino_wire::head::{Framing, Headers, RequestHead};
use vicino_wire::{http1, http2};

use crate::core::ConnId;
use crate::exchange::Origin;

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
            is_grpc: is_grpc(request.head.headers),
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
        if self.is_grpc { grpc_timeout(self.head.headers.get("grpc-timeout")?) } else { None }
    }
}

/// `application/grpc`, also with `+proto` and the like, but not `application/grpc-web`, whose clients read their status from the body.
fn is_grpc(headers: Headers<'_>) -> bool {
    let kind = headers.get("content-type").and_then(|value| value.strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// At most eight digits and a unit (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). None when it is something else: then it says nothing.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use vicino_wire::head::Header;

    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("text/plain", false),
        ] {
            let fields = [Header { name: b"content-type", value: value.as_bytes() }];
            assert_eq!(is_grpc(Headers::from(&fields[..])), expected, "{value}");
        }
    }

    #[test]
    fn timeouts_of_grpc() {
        for (value, expected) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("99999999m", Some(99_999_999_000_000)),
            ("5u", Some(5_000)),
            ("6n", Some(6)),
            ("0S", Some(0)),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
        ] {
            let timeout = grpc_timeout(value.as_bytes()).map(|timeout| timeout.as_nanos());
            assert_eq!(timeout, expected, "{value}");
        }
    }
}
