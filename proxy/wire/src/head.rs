//! What a request or response head is, whichever wire it came from; it neither parses nor writes either wire.

mod authority;
mod headers;
pub(crate) mod name;
pub(crate) mod text;

use std::fmt;

pub use authority::{AUTHORITY_BYTES_MAX, Authority};
pub use headers::{Header, Headers, HeadersIter};
pub(crate) use headers::{Span, split_hop_field};
pub use text::is_token;

/// Most fields that one head may have, the ones that are taken out included.
pub const HEADERS_MAX: usize = 128;
/// Longest field name, in bytes (the hop writes its length in one byte).
pub const HEADER_NAME_BYTES_MAX: usize = 255;
/// Longest method, in bytes.
pub const METHOD_BYTES_MAX: usize = 32;

/// The field in which a head says on the hop which protocol a caller wants to switch to, or an application has switched to (RFC 9110 §7.8).
/// On the wires of HTTP/1.1 it is `Upgrade`, with `Connection`.
pub const UPGRADE_FIELD: &str = "vicino-upgrade";

/// The field that asks, by the value `path`, each proxy for its part of the way that a call takes. Applications do not get it.
pub const DEBUG_FIELD: &str = "vicino-debug";

/// A request head without anything that belongs to one connection only.
///
/// `headers` are end to end: `Connection` and what it nominates, `Keep-Alive`, `Proxy-Connection`, `TE`, `Transfer-Encoding`, `Upgrade`,
/// `HTTP2-Settings`, `Content-Length`, `Host`, `Proxy-Authorization`, `Proxy-Authenticate` are taken out, and so are `vicino-*` (but for
/// `vicino-route`), `Forwarded` and `X-Forwarded-Client-Cert`, which a caller may not say. `Expect` stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// A token of at most [`METHOD_BYTES_MAX`] bytes, as the caller wrote it (methods are case-sensitive).
    pub method: &'a str,
    /// `host[:port]`, valid as [`Authority::parse`] says: of the absolute-form target when there was one, which wins over `Host`
    /// (RFC 9112 §3.2.2), of the authority-form target for CONNECT (port always there), else of `Host`.
    /// Empty only for HTTP/1.0 without `Host`.
    pub authority: &'a str,
    /// Path and query in origin-form, `*` for `OPTIONS *`, empty for CONNECT. Visible ASCII without `#`.
    pub path: &'a str,
    /// What the caller speaks.
    pub version: Version,
    /// The caller said `TE: trailers`.
    pub accepts_trailers: bool,
    /// End-to-end fields in the order in which they came.
    pub headers: Headers<'a>,
}

/// A response head without anything that belongs to one connection only; the same fields as in [`RequestHead`] are taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// 100 to 999; below 200 is an interim response, another head follows, but for 101: what follows is another protocol.
    pub status: u16,
    /// Reason phrase: visible ASCII, blanks, obs-text; may be empty.
    pub reason: &'a [u8],
    /// What the application speaks.
    pub version: Version,
    /// The `Content-Length` of a response that brings no body although it says how long one would be (to HEAD, and 304).
    /// None whenever the framing is another than [`Framing::None`].
    pub declared_length: Option<u64>,
    /// End-to-end fields in the order in which they came.
    pub headers: Headers<'a>,
}

impl ResponseHead<'_> {
    /// Whether another head follows this one (1xx).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// The version of HTTP that a message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        })
    }
}

impl Version {
    /// All of them.
    pub const ALL: [Version; 3] = [Version::Http10, Version::Http11, Version::Http2];

    pub(crate) fn of_minor(minor: u8) -> Version {
        if minor == 0 { Version::Http10 } else { Version::Http11 }
    }
}

/// How the end of a message's body is known (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// Exactly so many bytes.
    Length(u64),
    /// Of a length that is not said, with an end of its own (`Transfer-Encoding: chunked`, END_STREAM); trailers may follow.
    Chunked,
    /// All bytes until the sender closes. HTTP/1: responses only. Hop: opaque streams too, both ways, and calls that want to switch protocols.
    UntilClose,
}

impl Framing {
    /// Whether no byte of body can come.
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }
}

impl RequestHead<'static> {
    /// The head of a stream of plain bytes: everything empty.
    pub fn opaque() -> RequestHead<'static> {
        RequestHead {
            method: "",
            authority: "",
            path: "",
            version: Version::Http11,
            accepts_trailers: false,
            headers: Headers::default(),
        }
    }
}
