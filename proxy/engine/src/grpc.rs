//! What of gRPC a proxy has to know: how its calls are told, how long they may take, and what its statuses mean.

use std::time::Duration;

use vicino_wire::head::Headers;

use crate::reply::{Reason, Reply};

/// Whether these are the fields of a gRPC call: `application/grpc`, also with `+proto` and the like, but not `application/grpc-web`, whose clients read
/// their status from the body.
pub(crate) fn is_spoken(headers: Headers<'_>) -> bool {
    let kind = headers.get("content-type").and_then(|value| value.strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The value of `grpc-timeout`: at most eight digits and a unit (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). None when it is something
/// else: then it says nothing.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
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

/// The HTTP status that a gRPC status means (<https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>). None for OK, and where none is told.
pub(crate) fn status_in_http(headers: Headers<'_>) -> Option<u16> {
    Some(match headers.get("grpc-status")? {
        b"1" => 499,
        b"3" | b"9" | b"11" => 400,
        b"4" => 504,
        b"5" => 404,
        b"6" | b"10" => 409,
        b"7" => 403,
        b"8" => 429,
        b"12" => 501,
        b"14" => 503,
        b"16" => 401,
        b"0" => return None,
        _ => 500,
    })
}

/// The gRPC status that a client is to take an answer of our own for: what gRPC says of HTTP statuses, but for what a deadline ended
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub(crate) fn status_of(reply: Reply) -> &'static str {
    match reply.status {
        _ if reply.word == Reason::Timeout.word() => "4",
        400 => "13",
        401 => "16",
        403 => "7",
        404 | 501 => "12",
        408 | 429 | 502..=504 => "14",
        _ => "2",
    }
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
            assert_eq!(is_spoken(Headers::from(&fields[..])), expected, "{value}");
        }
    }

    #[test]
    fn timeouts() {
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
            let timeout = timeout(value.as_bytes()).map(|timeout| timeout.as_nanos());
            assert_eq!(timeout, expected, "{value}");
        }
    }

    #[test]
    fn statuses_of_applications() {
        for (status, expected) in
            [("0", None), ("5", Some(404)), ("14", Some(503)), ("13", Some(500)), ("4", Some(504))]
        {
            let fields = [Header { name: b"grpc-status", value: status.as_bytes() }];
            assert_eq!(status_in_http(fields[..].into()), expected, "{status}");
        }
    }

    #[test]
    fn statuses_of_our_own() {
        for (reason, expected) in [
            (Reason::Timeout, "4"),
            (Reason::NoSuchService, "12"),
            (Reason::NotANeighbour, "7"),
            (Reason::NoEndpoint, "14"),
            (Reason::RateLimited, "14"),
            (Reason::BadRequest, "13"),
            (Reason::Internal, "2"),
        ] {
            assert_eq!(status_of(reason.into()), expected, "{reason:?}");
        }
    }
}
