//! Our own answers: the one table of reasons and statuses, and how they are written; it decides nothing.

use vicino_wire::head::{Framing, Header, ResponseHead, Version};
use vicino_wire::hop::Reset;
use vicino_wire::http1::{Reject, write_response_head};

use crate::grpc;
use crate::session::Session;

/// What L1 adds to every response.
pub(crate) const VIA: Header<'static> = Header { name: b"via", value: b"1.1 vicino" };

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $status:literal $word:literal $text:literal,)*) => {
        /// Why a call gets an answer of our own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// All of them.
            pub const ALL: [Reason; [$($status),*].len()] = [$(Reason::$name),*];

            /// The status.
            pub fn status(self) -> u16 {
                match self { $(Reason::$name => $status,)* }
            }

            /// The word in `vicino-error`, metrics and logs.
            pub fn word(self) -> &'static str {
                match self { $(Reason::$name => $word,)* }
            }

            /// One sentence for people, the body of the answer.
            pub fn text(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The request breaks HTTP; the word in `vicino-error` is the rule's.
    BadRequest = 400 "bad-request" "the request is not valid HTTP",
    /// The caller is not of this neighbourhood.
    NotANeighbour = 403 "not-a-neighbour" "this proxy serves the pods of its own node only",
    /// The authority is not the name of a mesh Service.
    NotInMesh = 403 "not-in-mesh" "the host is no Service of the mesh, and spec.egress of the ServiceMesh does not allow to call it",
    /// An address that nobody calls through the mesh.
    NeverCalled = 403 "never-called" "the address is loopback, link-local, a node's, the API server's or the mesh's own: pods do not call it through the mesh",
    /// The call asks for another Service than it may.
    OverrideNotAllowed = 403 "override-not-allowed" "vicino-route asks for a Service that is not among spec.overrides of the MeshRoute",
    /// Policies do not let the caller do so.
    PolicyDenied = 403 "policy-denied" "no MeshPolicy allows this call, one denies it, or the Service takes only callers that prove who they are",
    /// There is no such Service.
    NoSuchService = 404 "no-such-service" "the mesh has no Service of this name",
    /// The Service has no such port.
    NoSuchPort = 404 "no-such-port" "the Service has no such port",
    /// No rule of the route is about such a request.
    NoMatchingRule = 404 "no-matching-rule" "no rule of the route matches the request",
    /// A host outside the mesh is not there.
    NoSuchHost = 404 "no-such-host" "DNS has no address for the host",
    /// The head did not come in time.
    HeadTimeout = 408 "head-timeout" "the request's head did not come in time",
    /// More calls than the route lets through in a second.
    RateLimited = 429 "rate-limited" "more calls than the route lets through in a second",
    /// The fields that a rule adds make the head longer than heads may be.
    HeadTooLarge = 431 "head-too-large" "with what the mesh adds to it the request's head is too large",
    /// Something of ours went wrong.
    Internal = 500 "internal" "the proxy failed",
    /// CONNECT on a stream of HTTP/2.
    NoTunnelInHttp2 = 501 "no-tunnel-in-http2" "a tunnel begins with CONNECT in HTTP/1.1",
    /// The application closed before its response was complete.
    UpstreamClosed = 502 "upstream-closed" "the application closed the connection before it answered",
    /// DNS was of no help.
    NameFailed = 502 "name-failed" "DNS did not say where the host is",
    /// The application's response was malformed.
    BadResponse = 502 "bad-response" "the application's response is not valid HTTP",
    /// The other neighbourhood's proxy was lost with the call.
    HopLost = 502 "hop-lost" "the connection to the application's node was lost",
    /// The other proxy broke the protocol, or said that we did.
    HopProtocol = 502 "hop-protocol" "the proxies misunderstood each other",
    /// The route says that such calls fail; the status is the route's.
    FaultInjected = 503 "fault-injected" "the route injects this fault",
    /// No usable endpoint.
    NoEndpoint = 503 "no-endpoint" "the Service has no ready endpoint",
    /// All pods have failed too often; said between proxies only, since then one of them has to do.
    PodsEjected = 503 "pods-ejected" "every pod has failed too often and is left out for now",
    /// No endpoint took a connection.
    ConnectFailed = 503 "connect-failed" "no endpoint of the Service took a connection",
    /// In a strict mesh a call goes under the name of its caller only.
    NoIdentity = 503 "no-identity" "the mesh is strict, and this node has no certificate of the caller's service account",
    /// All pods are at their limit, and so is the line of those who wait.
    QueueFull = 503 "queue-full" "every pod has as many calls as it takes, and as many wait as may",
    /// No pod was free in time.
    QueueTimeout = 503 "queue-timeout" "every pod had as many calls as it takes, for as long as a call may wait",
    /// A limit was reached.
    Overloaded = 503 "overloaded" "a limit of the proxy is reached",
    /// The proxy shuts down.
    Draining = 503 "draining" "the proxy is shutting down",
    /// The call was given up by the other side.
    Cancelled = 503 "cancelled" "the call was given up",
    /// The route's time is over.
    Timeout = 504 "timeout" "the application did not answer in the time that the route allows",
    /// The call passed too many proxies.
    Loop = 508 "loop" "the call has passed too many proxies",
    /// The endpoint is this proxy itself.
    SelfCall = 508 "self-call" "the endpoint is the proxy itself",
}

impl Reason {
    /// Seconds after which a call that was too much may be made again.
    fn retry_after(self) -> Option<u64> {
        match self {
            Reason::QueueFull | Reason::QueueTimeout | Reason::Overloaded => Some(1),
            _ => None,
        }
    }

    /// What L1 says when L2 gave a call up and it is not placed again.
    pub fn of_reset(reset: Reset) -> Reason {
        match reset {
            Reset::Unprocessed | Reset::ConnectFailed => Reason::ConnectFailed,
            Reset::NoEndpoint => Reason::NoEndpoint,
            Reset::Ejected => Reason::PodsEjected,
            Reset::Denied => Reason::PolicyDenied,
            Reset::UpstreamClosed => Reason::UpstreamClosed,
            Reset::BadResponse => Reason::BadResponse,
            Reset::Timeout | Reset::DeadlineExpired => Reason::Timeout,
            Reset::Cancelled => Reason::Cancelled,
            Reset::Draining => Reason::Draining,
            Reset::Protocol => Reason::HopProtocol,
            Reset::Overloaded => Reason::Overloaded,
            Reset::QueueFull => Reason::QueueFull,
            Reset::QueueTimeout => Reason::QueueTimeout,
            Reset::Internal => Reason::Internal,
        }
    }

    /// What L2 says to L1.
    pub fn to_reset(self) -> Reset {
        match self {
            Reason::NoEndpoint | Reason::NoSuchService | Reason::NoSuchPort => Reset::NoEndpoint,
            Reason::PodsEjected => Reset::Ejected,
            Reason::PolicyDenied | Reason::NoIdentity => Reset::Denied,
            Reason::ConnectFailed => Reset::ConnectFailed,
            Reason::UpstreamClosed => Reset::UpstreamClosed,
            Reason::BadResponse => Reset::BadResponse,
            Reason::Timeout => Reset::DeadlineExpired,
            Reason::Overloaded => Reset::Overloaded,
            Reason::QueueFull => Reset::QueueFull,
            Reason::QueueTimeout => Reset::QueueTimeout,
            Reason::Draining => Reset::Draining,
            Reason::Cancelled => Reset::Cancelled,
            Reason::HopProtocol => Reset::Protocol,
            _ => Reset::Internal,
        }
    }
}

/// What an answer of our own says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) word: &'static str,
    pub(crate) text: &'static str,
    /// Seconds after which it is worth another try.
    retry_after: Option<u64>,
}

impl Reply {
    /// It is worth another try, but not before so long.
    pub(crate) fn later(reason: Reason, wait: std::time::Duration) -> Reply {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Reply { retry_after: Some(seconds), ..reason.into() }
    }

    /// A fault on purpose.
    pub(crate) fn fault(status: u16) -> Reply {
        Reply { status, ..Reason::FaultInjected.into() }
    }
}

impl From<Reason> for Reply {
    fn from(reason: Reason) -> Reply {
        Reply {
            status: reason.status(),
            word: reason.word(),
            text: reason.text(),
            retry_after: reason.retry_after(),
        }
    }
}

/// An answer of our own: a reason, a redirect, or what a rule says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirectReply<'a> {
    pub(crate) status: u16,
    pub(crate) fields: &'a [Header<'a>],
    /// Its parts, one after the other.
    pub(crate) body: &'a [&'a str],
}

/// What breaks HTTP is named by its own rule.
impl From<Reject> for Reply {
    fn from(reject: Reject) -> Reply {
        Reply { status: reject.status(), word: reject.reason(), ..Reason::BadRequest.into() }
    }
}

/// An answer to a gRPC client: a status that its HTTP side is content with, and the reason where it looks for it.
pub(crate) fn write_grpc_reply((out, session): (&mut Vec<u8>, &mut Session), stream: u32, reply: Reply) {
    let fields = [
        Header { name: b"content-type", value: b"application/grpc" },
        Header { name: b"grpc-status", value: grpc::status_of(reply).as_bytes() },
        Header { name: b"grpc-message", value: reply.text.as_bytes() },
        Header { name: b"vicino-error", value: reply.word.as_bytes() },
        VIA,
    ];
    let head = ResponseHead {
        status: 200,
        reason: b"",
        version: Version::Http2,
        declared_length: None,
        headers: fields[..].into(),
    };
    session.encoder.response(out, stream, (&head, Framing::None), &[]);
}

/// How the answer ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The caller may send another request.
    pub(crate) keep_alive: bool,
    /// The request was HEAD: no body follows.
    pub(crate) is_head: bool,
    /// The caller speaks HTTP/1.0 and has to be told that it may send another request.
    pub(crate) is_old: bool,
}

/// An answer with a reason. One line of text, so that a person who tries with curl reads why.
pub(crate) fn with_direct<T>(reply: Reply, write: impl FnOnce(&DirectReply<'_>) -> T) -> T {
    let wait = reply.retry_after.map(|seconds| seconds.to_string());
    let fields = [
        Header { name: b"vicino-error", value: reply.word.as_bytes() },
        Header { name: b"content-type", value: b"text/plain" },
        Header { name: b"retry-after", value: wait.as_deref().unwrap_or_default().as_bytes() },
    ];
    let fields = if wait.is_some() { &fields[..] } else { &fields[..2] };
    let body = [reply.word, ": ", reply.text, "\n"];
    write(&DirectReply { status: reply.status, fields, body: &body })
}

/// Appends an answer of our own.
pub(crate) fn write_direct(out: &mut Vec<u8>, reply: &DirectReply<'_>, manner: Manner) {
    let (head, framing) = reply.head(manner.is_head);
    let extra = [VIA, Header { name: b"connection", value: b"keep-alive" }];
    let count = if manner.keep_alive && manner.is_old { 2 } else { 1 };
    write_response_head(out, &head, framing, &extra[..count], manner.keep_alive);
    if framing != Framing::None {
        reply.body.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }
}

/// The same on a stream of HTTP/2. A caller that takes no body for now gets none: what matters stands in the head.
pub(crate) fn write_direct_on_stream(
    (out, session): (&mut Vec<u8>, &mut Session),
    stream: u32,
    reply: &DirectReply<'_>,
    is_head: bool,
) {
    let body = reply.body.concat();
    let has_room = session.peer_window.min(session.send.available()) as usize >= body.len();
    let reply = if has_room { *reply } else { DirectReply { body: &[], ..*reply } };
    let (head, framing) = reply.head(is_head);
    session.encoder.response(out, stream, (&head, framing), &[VIA]);
    if !framing.is_empty() {
        session.send.take(body.len());
        session.encoder.data(out, stream, body.as_bytes(), true);
    }
}

impl DirectReply<'_> {
    fn head(&self, is_head: bool) -> (ResponseHead<'_>, Framing) {
        let is_bodiless = matches!(self.status, 204 | 304);
        let length = self.body.iter().map(|part| part.len() as u64).sum();
        let head = ResponseHead {
            status: self.status,
            reason: phrase(self.status).as_bytes(),
            version: Version::Http11,
            declared_length: (is_head && !is_bodiless).then_some(length),
            headers: self.fields.into(),
        };
        (head, if is_head || is_bodiless { Framing::None } else { Framing::Length(length) })
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        401 => "Unauthorized",
        410 => "Gone",
        429 => "Too Many Requests",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_reason_has_a_status_with_a_phrase_and_a_word_of_its_own() {
        let mut words: Vec<&str> = Reason::ALL.iter().map(|r| r.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i, "ALL is in order");
            assert_ne!(phrase(reason.status()), "", "{reason:?}");
        }
    }

    #[test]
    fn what_may_be_requeued_stays_so_on_its_way() {
        for reset in Reset::ALL {
            let again = Reason::of_reset(reset).to_reset();
            assert_eq!(again.is_requeue_safe(), reset.is_requeue_safe(), "{reset:?} came back as {again:?}");
        }
    }

    #[test]
    fn a_reply_reads_well() {
        let mut out = Vec::new();
        let manner = Manner { keep_alive: false, is_head: false, is_old: false };
        with_direct(Reason::NotANeighbour.into(), |reply| write_direct(&mut out, reply, manner));
        expect![[r#"
            HTTP/1.1 403 Forbidden
            vicino-error: not-a-neighbour
            content-type: text/plain
            via: 1.1 vicino
            Content-Length: 65
            Connection: close

            not-a-neighbour: this proxy serves the pods of its own node only
        "#]]
        .assert_eq(&String::from_utf8(out).unwrap().replace('\r', ""));
    }
}
