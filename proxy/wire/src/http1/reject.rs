//! Why a message is refused: one variant per rule. Texts are fixed words, so that nothing a caller wrote reaches a log or a label.

/// The rule that a message broke.
///
/// [`Reject::reason`] is the bounded word for `vicino-error`, metrics and logs; `Display` says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Longer than [`super::HEAD_BYTES_MAX`].
    #[error("the head is longer than 32 KiB")]
    HeadTooLong,
    /// More than [`crate::head::HEADERS_MAX`].
    #[error("the head has more than 128 fields")]
    TooManyHeaders,
    /// No `method SP target SP version`.
    #[error("the first line is not: method, one space, target, one space, version")]
    BadRequestLine,
    /// More than one empty line, or a blank, before the first line.
    #[error("the message begins with blanks or with more than one empty line")]
    LeadingBlank,
    /// No token, or longer than [`crate::head::METHOD_BYTES_MAX`].
    #[error("the method is not a token of 1 to 32 bytes")]
    BadMethod,
    /// Control characters, blanks, non-ASCII, `#`, or a form that the method does not allow.
    #[error(
        "the target is not a path, http:// URI, * for OPTIONS or host:port for CONNECT, in visible ASCII without #"
    )]
    BadTarget,
    /// Absolute-form with a scheme other than http.
    #[error("the target's scheme is not http")]
    BadScheme,
    /// Authority-form with a method other than CONNECT.
    #[error("a target of the form host:port needs the method CONNECT")]
    AuthorityForm,
    /// HTTP, but neither 1.0 nor 1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    BadVersion,
    /// The first line of HTTP/2 with prior knowledge.
    #[error("HTTP/2 is not spoken here")]
    Http2Preface,
    /// CR without LF.
    #[error("a carriage return is not followed by a line feed")]
    BareCr,
    /// LF without CR.
    #[error("a line ends with a line feed alone")]
    BareLf,
    /// A line that begins with a blank continues the field before it.
    #[error("a field is folded over lines")]
    ObsFold,
    /// Blank between name and colon.
    #[error("a blank stands before a field's colon")]
    SpaceBeforeColon,
    /// Nothing before the colon.
    #[error("a field has no name")]
    EmptyHeaderName,
    /// Not a token, too long, or a line without a colon.
    #[error("a field's name is not a token of at most 255 bytes with a colon behind it")]
    BadHeaderName,
    /// NUL or another control character.
    #[error("a field's value has a control character")]
    BadHeaderValue,
    /// A name that is one of ours, or of those that proxies trust, once `_` is read as `-`.
    #[error("a field's name reads as one that only proxies may send, once _ is read as -")]
    UnderscoreTwin,
    /// `Connection` is no list of tokens, or names too many.
    #[error("Connection is not a list of at most 32 tokens")]
    BadConnection,
    /// HTTP/1.1 without `Host`.
    #[error("HTTP/1.1 needs a Host")]
    MissingHost,
    /// Two `Host` fields, the same or not.
    #[error("there is more than one Host")]
    DuplicateHost,
    /// Host or authority is not valid.
    #[error("the host is not a DNS name or an address, with a port of 1 to 65535 or none")]
    BadHost,
    /// Two `Content-Length` fields, the same or not.
    #[error("there is more than one Content-Length")]
    DuplicateContentLength,
    /// Empty, signed, a list, not decimal, too large.
    #[error("Content-Length is not a plain decimal number")]
    BadContentLength,
    /// `Content-Length` and `Transfer-Encoding`.
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    LengthAndEncoding,
    /// Two `Transfer-Encoding` fields.
    #[error("there is more than one Transfer-Encoding")]
    DuplicateTransferEncoding,
    /// Anything but `chunked`.
    #[error("Transfer-Encoding is not exactly chunked")]
    BadTransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    OldTransferEncoding,
    /// CONNECT with a body.
    #[error("CONNECT has no body")]
    ConnectBody,
    /// Response: no `version SP status`.
    #[error("the status line is not: version, one space, three digits, reason")]
    BadStatusLine,
    /// Response: 101 although no `Upgrade` went with the request, or 101 that does not say to what.
    #[error("the protocol was switched although nobody asked for it")]
    UnaskedUpgrade,
    /// Body: no hexadecimal number of at most 16 digits.
    #[error("a chunk's size is not a hexadecimal number of at most 16 digits")]
    BadChunkSize,
    /// Body: a control character in a chunk extension.
    #[error("a chunk's extension has a control character")]
    BadChunkExtension,
    /// Body: much more framing than data.
    #[error("chunk sizes and extensions outweigh the data")]
    ChunkOverhead,
    /// Body: no CRLF after a chunk's data.
    #[error("a chunk's data does not end where its size says")]
    BadChunkEnd,
    /// Body: trailers longer than [`super::TRAILER_BYTES_MAX`].
    #[error("the trailers are longer than 8 KiB")]
    TrailersTooLong,
    /// Body: the sender closed before its end.
    #[error("the body was cut short")]
    Truncated,
}

impl Reject {
    /// A bounded word, for `vicino-error`, metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Reject::HeadTooLong => "head-too-long",
            Reject::TooManyHeaders => "too-many-headers",
            Reject::BadRequestLine => "bad-request-line",
            Reject::LeadingBlank => "leading-blank",
            Reject::BadMethod => "bad-method",
            Reject::BadTarget => "bad-target",
            Reject::BadScheme => "bad-scheme",
            Reject::AuthorityForm => "authority-form",
            Reject::BadVersion => "bad-version",
            Reject::Http2Preface => "http2-preface",
            Reject::BareCr => "bare-cr",
            Reject::BareLf => "bare-lf",
            Reject::ObsFold => "obs-fold",
            Reject::SpaceBeforeColon => "space-before-colon",
            Reject::EmptyHeaderName => "empty-header-name",
            Reject::BadHeaderName => "bad-header-name",
            Reject::BadHeaderValue => "bad-header-value",
            Reject::UnderscoreTwin => "underscore-twin",
            Reject::BadConnection => "bad-connection",
            Reject::MissingHost => "missing-host",
            Reject::DuplicateHost => "duplicate-host",
            Reject::BadHost => "bad-host",
            Reject::DuplicateContentLength => "duplicate-content-length",
            Reject::BadContentLength => "bad-content-length",
            Reject::LengthAndEncoding => "length-and-encoding",
            Reject::DuplicateTransferEncoding => "duplicate-transfer-encoding",
            Reject::BadTransferEncoding => "bad-transfer-encoding",
            Reject::OldTransferEncoding => "old-transfer-encoding",
            Reject::ConnectBody => "connect-body",
            Reject::BadStatusLine => "bad-status-line",
            Reject::UnaskedUpgrade => "unasked-upgrade",
            Reject::BadChunkSize => "bad-chunk-size",
            Reject::BadChunkExtension => "bad-chunk-extension",
            Reject::ChunkOverhead => "chunk-overhead",
            Reject::BadChunkEnd => "bad-chunk-end",
            Reject::TrailersTooLong => "trailers-too-long",
            Reject::Truncated => "truncated",
        }
    }

    /// The status that the sender of a *request* gets: 400, 431 or 505. For responses see [`BadResponse`].
    pub fn status(self) -> u16 {
        match self {
            Reject::HeadTooLong | Reject::TooManyHeaders | Reject::TrailersTooLong => 431,
            Reject::BadVersion | Reject::Http2Preface => 505,
            _ => 400,
        }
    }
}

/// A response that an application should not have sent: the caller gets 502 and `bad-response`; `fault` is for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response is malformed: {fault}")]
pub struct BadResponse {
    /// The rule that it broke.
    pub fault: Reject,
}

impl BadResponse {
    /// The bounded word for `vicino-error`.
    pub fn reason(self) -> &'static str {
        "bad-response"
    }

    /// 502.
    pub fn status(self) -> u16 {
        502
    }
}

impl From<Reject> for BadResponse {
    fn from(fault: Reject) -> Self {
        BadResponse { fault }
    }
}
