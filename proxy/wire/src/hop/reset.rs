//! Why a stream was given up, what the caller is told then, and whether the call may be tried elsewhere; it decides no retry.

/// The reason that RESET carries. A number that this side does not know reads as [`Reset::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reset {
    /// Nothing of the call was sent to an application, for a reason that concerns this node alone.
    Unprocessed = 1,
    /// This node has no ready endpoint of the Service.
    NoEndpoint = 2,
    /// No endpoint here took a connection.
    ConnectFailed = 3,
    /// The application closed before its response was complete.
    UpstreamClosed = 4,
    /// The application's response was malformed.
    BadResponse = 5,
    /// The application took longer than the route allows.
    Timeout = 6,
    /// The call's deadline had passed, or passed while it was served.
    DeadlineExpired = 7,
    /// The opener gave up (its caller went away).
    Cancelled = 8,
    /// This node opens no more streams: it is shutting down.
    Draining = 9,
    /// The stream broke the protocol; the connection lives on.
    Protocol = 10,
    /// A bound was reached: streams, queue, memory.
    Overloaded = 11,
    /// None of the others.
    Internal = 12,
    /// All endpoints here have failed too often and are left out for now.
    Ejected = 13,
    /// Policies do not allow the call.
    Denied = 14,
    /// [`Reset::Overloaded`], with a flag that older peers do not look at: the line for the Service's pods is full.
    QueueFull,
    /// Likewise: the call has waited in that line for as long as it may.
    QueueTimeout,
}

impl Reset {
    /// All of them, in order of their numbers.
    pub const ALL: [Reset; 16] = [
        Reset::Unprocessed,
        Reset::NoEndpoint,
        Reset::ConnectFailed,
        Reset::UpstreamClosed,
        Reset::BadResponse,
        Reset::Timeout,
        Reset::DeadlineExpired,
        Reset::Cancelled,
        Reset::Draining,
        Reset::Protocol,
        Reset::Overloaded,
        Reset::Internal,
        Reset::Ejected,
        Reset::Denied,
        Reset::QueueFull,
        Reset::QueueTimeout,
    ];

    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Reset::QueueFull | Reset::QueueTimeout => Reset::Overloaded as u8,
            _ => self as u8,
        }
    }

    /// The flags of the frame that go with the number.
    pub fn flags(self) -> u8 {
        match self {
            Reset::QueueFull => 0x02,
            Reset::QueueTimeout => 0x04,
            _ => 0,
        }
    }

    /// The reason of that number, or what the flags say closer; [`Reset::Internal`] when it is unknown, which never allows a requeue.
    pub fn of(number: u8, flags: u8) -> Reset {
        let is_it = |reset: &Reset| reset.number() == number && flags & reset.flags() == reset.flags();
        Reset::ALL.into_iter().filter(is_it).max_by_key(|reset| reset.flags()).unwrap_or(Reset::Internal)
    }

    /// A bounded word, for `vicino-error`, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Reset::Unprocessed => "unprocessed",
            Reset::NoEndpoint => "no-endpoint",
            Reset::ConnectFailed => "connect-failed",
            Reset::UpstreamClosed => "upstream-closed",
            Reset::BadResponse => "bad-response",
            Reset::Timeout => "timeout",
            Reset::DeadlineExpired => "deadline-expired",
            Reset::Cancelled => "cancelled",
            Reset::Draining => "draining",
            Reset::Protocol => "protocol",
            Reset::Overloaded => "overloaded",
            Reset::Internal => "internal",
            Reset::Ejected => "ejected",
            Reset::Denied => "denied",
            Reset::QueueFull => "queue-full",
            Reset::QueueTimeout => "queue-timeout",
        }
    }

    /// Whether no byte of the call can have reached an application, so that any call, idempotent or not, may go to another node.
    pub fn is_requeue_safe(self) -> bool {
        match self {
            Reset::Unprocessed
            | Reset::NoEndpoint
            | Reset::ConnectFailed
            | Reset::Draining
            | Reset::Overloaded
            | Reset::Ejected
            | Reset::QueueFull
            | Reset::QueueTimeout => true,
            Reset::UpstreamClosed
            | Reset::BadResponse
            | Reset::Timeout
            | Reset::DeadlineExpired
            | Reset::Cancelled
            | Reset::Protocol
            | Reset::Internal
            | Reset::Denied => false,
        }
    }

    /// The status that L1 answers with when it does not try elsewhere and no response head was forwarded yet.
    pub fn status(self) -> u16 {
        match self {
            Reset::Denied => 403,
            Reset::Unprocessed
            | Reset::NoEndpoint
            | Reset::ConnectFailed
            | Reset::Cancelled
            | Reset::Draining
            | Reset::Overloaded
            | Reset::Ejected
            | Reset::QueueFull
            | Reset::QueueTimeout => 503,
            Reset::UpstreamClosed | Reset::BadResponse | Reset::Protocol => 502,
            Reset::Timeout | Reset::DeadlineExpired => 504,
            Reset::Internal => 500,
        }
    }
}
