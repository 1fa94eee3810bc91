//! What ends a hop connection or one stream of it, or refuses to encode a frame; fixed words, nothing of what a peer sent.

/// A violation of the protocol by the peer, or, from an encoder, a frame that the protocol cannot carry.
///
/// As the error of [`super::decode`] it ends the connection, as [`super::Frame::Malformed`] one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HopError {
    /// A frame type that is neither known nor marked optional.
    #[error("a frame has the unknown mandatory type {kind}")]
    UnknownFrame {
        /// Its number.
        kind: u8,
    },
    /// A payload that is shorter or longer than its fields.
    #[error("a frame's payload does not match its fields")]
    BadLength,
    /// A stream number where 0 must stand, or 0 where a stream must stand.
    #[error("a frame has a stream number that its type does not allow")]
    BadStream,
    /// HELLO: wrong magic, wrong version, a field missing, twice or out of bounds.
    #[error("HELLO is malformed or of another protocol")]
    BadHello,
    /// A number that stands for nothing (kind, framing, version of HTTP, status).
    #[error("a head has a number that is out of its range")]
    BadValue,
    /// A name, method, authority, path, Service or reason phrase with bytes that could be read as something else further on.
    #[error("a head has bytes that HTTP/1.1 could not carry")]
    BadText,
    /// A field that belongs to one connection or frames a message, which a hop never carries.
    #[error("a head has a field that belongs to one connection")]
    ForbiddenHeader,
    /// More fields than [`super::HOP_HEADERS_MAX`].
    #[error("a head has more than 160 fields")]
    TooManyHeaders,
    /// END where a body must follow, or no END where none can.
    #[error("END contradicts the framing")]
    BadEnd,
    /// An empty DATA frame that ends nothing.
    #[error("a DATA frame is empty and ends nothing")]
    EmptyData,
    /// Credit of 0, more than 2^31-1 in sum, or more data than was credited.
    #[error("the flow control was violated")]
    FlowControl,
    /// Encoding: the frame would not fit.
    #[error("the frame would be longer than 65,535 bytes or a text longer than its bound")]
    TooLong,
}

impl HopError {
    /// A bounded word, for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            HopError::UnknownFrame { .. } => "unknown-frame",
            HopError::BadLength => "bad-length",
            HopError::BadStream => "bad-stream",
            HopError::BadHello => "bad-hello",
            HopError::BadValue => "bad-value",
            HopError::BadText => "bad-text",
            HopError::ForbiddenHeader => "forbidden-header",
            HopError::TooManyHeaders => "too-many-headers",
            HopError::BadEnd => "bad-end",
            HopError::EmptyData => "empty-data",
            HopError::FlowControl => "flow-control",
            HopError::TooLong => "too-long",
        }
    }
}
