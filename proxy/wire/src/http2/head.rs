//! A field block → a head, with the rules of RFC 9113 §8 and those that every head keeps here: what one connection says does not travel on.

use super::frame::ErrorCode;
use super::hpack::{BadBlock, Decoder};
use crate::head::{
    Authority, Framing, HEADER_NAME_BYTES_MAX, HEADERS_MAX, Headers, METHOD_BYTES_MAX, RequestHead,
    ResponseHead, Span, Version,
    name::{Name, classify, is_for_proxies, is_forbidden_in_trailers, is_underscore_twin},
    text::{is_path, is_text, is_token, trim_blanks},
};
use crate::http1::{HEAD_BYTES_MAX, Reject};

/// Longest field block as it came, all of its frames together.
pub const BLOCK_BYTES_MAX: usize = HEAD_BYTES_MAX;

/// A request whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What goes on to the destination.
    pub head: RequestHead<'a>,
    /// [`Framing::None`], `Length`, or `Chunked`, which here is a body of unknown length.
    pub framing: Framing,
    /// The caller sends its body only after an interim response.
    pub expect_continue: bool,
    /// The caller said `vicino-debug: path`.
    pub wants_path: bool,
}

/// A response whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// What goes back to the caller. When [`ResponseHead::is_interim`], another head follows.
    pub head: ResponseHead<'a>,
    /// [`Framing::None`], `Length`, or `Chunked`, which here is a body of unknown length.
    pub framing: Framing,
}

/// Why a block is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The connection cannot go on.
    Connection(ErrorCode),
    /// The message is malformed (RFC 9113 §8.1.1): RST_STREAM with PROTOCOL_ERROR.
    Malformed,
    /// It is a request of HTTP/2, but not one that is taken: the answer says why.
    Reject(Reject),
}

/// Reusable storage for what a block says.
#[derive(Debug, Default)]
pub struct Slots {
    bytes: Vec<u8>,
    fields: Vec<Span>,
    cookies: Vec<u8>,
}

/// Whose block it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Caller,
    Application,
    /// After a body, whoever's.
    Trailers,
}

/// Where in the storage a text lies.
type Place = (usize, usize);

/// What a block says apart from the fields that travel on.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a head did or did not say")]
struct Said {
    method: Option<Place>,
    scheme: Option<Place>,
    authority: Option<Place>,
    path: Option<Place>,
    status: Option<Place>,
    host: Option<Place>,
    length: Option<u64>,
    accepts_trailers: bool,
    expect_continue: bool,
    wants_path: bool,
    has_fields: bool,
    count: usize,
}

/// Reads a request; `is_end`: no body follows.
pub fn read_request<'a>(
    decoder: &mut Decoder,
    block: &[u8],
    is_end: bool,
    slots: &'a mut Slots,
) -> Result<Request<'a>, Refused> {
    let said = read(decoder, block, Sender::Caller, slots)?;
    let slots = &*slots;
    let text = |place: Option<Place>| place.map(|place| slots.text(place)).transpose();
    let method = text(said.method)?.filter(|m| is_token(m.as_bytes())).ok_or(Refused::Malformed)?;
    if method.len() > METHOD_BYTES_MAX {
        return Err(Refused::Reject(Reject::BadMethod));
    }
    let (scheme, path) = (text(said.scheme)?, text(said.path)?);
    let is_whole =
        if method == "CONNECT" { (scheme, path) == (None, None) } else { scheme.is_some() && path.is_some() };
    if !is_whole || path == Some("") {
        return Err(Refused::Malformed);
    }
    let (authority, host) = (text(said.authority)?, text(said.host)?);
    let authority = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Refused::Reject(Reject::DuplicateHost));
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Err(Refused::Reject(Reject::MissingHost)),
    };
    let path = match (scheme, path) {
        (Some("http" | "https"), Some(path)) if is_path(method, path) => path,
        (Some("http" | "https"), Some(_)) => return Err(Refused::Reject(Reject::BadTarget)),
        (Some(_), _) => return Err(Refused::Reject(Reject::BadScheme)),
        (None, _) => "",
    };
    let parsed = Authority::parse(authority).ok_or(Refused::Reject(Reject::BadHost))?;
    if path.is_empty() && parsed.port.is_none() {
        return Err(Refused::Reject(Reject::BadTarget));
    }
    let framing = match (is_end, said.length) {
        (true, Some(1..)) => return Err(Refused::Malformed),
        (true, Some(0)) => Framing::Length(0),
        (true, None) => Framing::None,
        (false, Some(length @ 1..)) => Framing::Length(length),
        (false, _) => Framing::Chunked,
    };
    let head = RequestHead {
        method,
        authority,
        path,
        version: Version::Http2,
        accepts_trailers: said.accepts_trailers,
        headers: slots.headers(),
    };
    Ok(Request { head, framing, expect_continue: said.expect_continue, wants_path: said.wants_path })
}

/// Reads a response to a request of method `to_method`; `is_end`: no body follows.
pub fn read_response<'a>(
    decoder: &mut Decoder,
    block: &[u8],
    is_end: bool,
    to_method: &str,
    slots: &'a mut Slots,
) -> Result<Response<'a>, Refused> {
    let said = read(decoder, block, Sender::Application, slots)?;
    let slots = &*slots;
    let status = said.status.map(|place| slots.text(place)).transpose()?.ok_or(Refused::Malformed)?;
    let is_number = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
    let status = status.parse::<u16>().ok().filter(|status| is_number && *status >= 100);
    let status = status.filter(|status| *status != 101).ok_or(Refused::Malformed)?;
    let is_bodiless = status == 204 || status == 304 || to_method == "HEAD";
    let (framing, declared_length) = match (is_end, said.length) {
        (true, _) if status < 200 => return Err(Refused::Malformed),
        _ if status < 200 || status == 204 => (Framing::None, None),
        (_, length) if is_bodiless => (Framing::None, length),
        (true, Some(1..)) => return Err(Refused::Malformed),
        (true, _) => (Framing::Length(0), None),
        (false, Some(length @ 1..)) => (Framing::Length(length), None),
        (false, _) => (Framing::Chunked, None),
    };
    let head = ResponseHead {
        status,
        reason: b"",
        version: Version::Http2,
        declared_length,
        headers: slots.headers(),
    };
    Ok(Response { head, framing })
}

/// Reads the fields after a body; those that may not stand there are left out.
pub fn read_trailers<'a>(
    decoder: &mut Decoder,
    block: &[u8],
    slots: &'a mut Slots,
) -> Result<Headers<'a>, Refused> {
    read(decoder, block, Sender::Trailers, slots)?;
    Ok(slots.headers())
}

/// Takes a whole block in. The first thing that is wrong with it stays what is said of it, but all of it is read: later blocks build upon it.
fn read(decoder: &mut Decoder, block: &[u8], sender: Sender, slots: &mut Slots) -> Result<Said, Refused> {
    slots.bytes.clear();
    slots.fields.clear();
    slots.cookies.clear();
    let mut said = Said::default();
    let mut refused = None;
    let whole = decoder.decode(block, |name, value| {
        if refused.is_none() {
            refused = said.take(name, value, sender, slots).err();
        }
    });
    whole.map_err(|BadBlock| Refused::Connection(ErrorCode::Compression))?;
    if let Some(refused) = refused {
        return Err(refused);
    }
    slots.keep_cookies()?;
    Ok(said)
}

impl Said {
    fn take(&mut self, name: &[u8], value: &[u8], sender: Sender, slots: &mut Slots) -> Result<(), Refused> {
        self.count += 1;
        if self.count > HEADERS_MAX + 4 {
            return Err(Refused::Reject(Reject::TooManyHeaders));
        }
        let value = trim_blanks(value);
        if !is_text(value) {
            return Err(Refused::Malformed);
        }
        if let Some(b':') = name.first() {
            return self.take_pseudo(name, value, sender, slots);
        }
        self.has_fields = true;
        let is_lower = !name.iter().any(u8::is_ascii_uppercase);
        if !is_token(name) || !is_lower || name.len() > HEADER_NAME_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        match (sender, classify(name)) {
            (Sender::Trailers, _) if is_forbidden_in_trailers(name) => {}
            (Sender::Caller, _) if is_underscore_twin(name) => {
                return Err(Refused::Reject(Reject::UnderscoreTwin));
            }
            (_, Name::Connection | Name::TransferEncoding | Name::Upgrade) => return Err(Refused::Malformed),
            (_, Name::HopByHop) if matches!(name, b"keep-alive" | b"proxy-connection") => {
                return Err(Refused::Malformed);
            }
            (_, Name::Te) if value != b"trailers" => return Err(Refused::Malformed),
            (_, Name::Te) => self.accepts_trailers = true,
            (_, Name::HopByHop | Name::Claim) | (Sender::Application | Sender::Trailers, Name::Host) => {}
            (_, Name::Ours) => self.wants_path |= is_for_proxies(name) && value == b"path",
            (Sender::Caller, Name::Host) if self.host.is_some() => {
                return Err(Refused::Reject(Reject::DuplicateHost));
            }
            (Sender::Caller, Name::Host) => self.host = Some(slots.text_of(value)?),
            (_, Name::ContentLength) if self.length.is_some() => return Err(Refused::Malformed),
            (_, Name::ContentLength) => {
                self.length = Some(crate::http1::parse_length(value).map_err(|_| Refused::Malformed)?);
            }
            (Sender::Caller, Name::EndToEnd) if name == b"cookie" => slots.cookie(value)?,
            (_, known) => {
                self.expect_continue |= known == Name::Expect && value.eq_ignore_ascii_case(b"100-continue");
                slots.keep(name, value)?;
            }
        }
        Ok(())
    }

    /// RFC 9113 §8.3: known ones, once each, before all others.
    fn take_pseudo(
        &mut self,
        name: &[u8],
        value: &[u8],
        sender: Sender,
        slots: &mut Slots,
    ) -> Result<(), Refused> {
        let place = match (sender, name) {
            (Sender::Caller, b":method") => &mut self.method,
            (Sender::Caller, b":scheme") => &mut self.scheme,
            (Sender::Caller, b":authority") => &mut self.authority,
            (Sender::Caller, b":path") => &mut self.path,
            (Sender::Application, b":status") => &mut self.status,
            _ => return Err(Refused::Malformed),
        };
        if place.is_some() || self.has_fields {
            return Err(Refused::Malformed);
        }
        *place = Some(slots.text_of(value)?);
        Ok(())
    }
}

impl Slots {
    fn push(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let at = self.bytes.len();
        if at + bytes.len() > HEAD_BYTES_MAX {
            return Err(Refused::Reject(Reject::HeadTooLong));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    fn text_of(&mut self, value: &[u8]) -> Result<Place, Refused> {
        let at = self.push(value)?;
        Ok((at, self.bytes.len()))
    }

    fn text(&self, (from, to): Place) -> Result<&str, Refused> {
        std::str::from_utf8(&self.bytes[from..to]).map_err(|_| Refused::Malformed)
    }

    fn keep(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refused> {
        let name_at = self.push(name)?;
        let value_at = self.push(value)?;
        // All of it is below `HEAD_BYTES_MAX`.
        self.fields.push(Span {
            name: name_at as u16,
            value: value_at as u16,
            value_len: value.len() as u16,
            name_len: name.len() as u8,
        });
        Ok(())
    }

    fn cookie(&mut self, value: &[u8]) -> Result<(), Refused> {
        if self.cookies.len() + value.len() > HEAD_BYTES_MAX {
            return Err(Refused::Reject(Reject::HeadTooLong));
        }
        // An empty one says nothing, and at the end it would leave a blank that whoever reads it next takes away.
        if value.is_empty() {
            return Ok(());
        }
        if !self.cookies.is_empty() {
            self.cookies.extend_from_slice(b"; ");
        }
        self.cookies.extend_from_slice(value);
        Ok(())
    }

    /// Cookies may come one by one; to HTTP/1.1 they are one field (RFC 9113 §8.2.3).
    fn keep_cookies(&mut self) -> Result<(), Refused> {
        if self.cookies.is_empty() {
            return Ok(());
        }
        let cookies = std::mem::take(&mut self.cookies);
        let kept = self.keep(b"cookie", &cookies);
        self.cookies = cookies;
        kept
    }

    fn headers(&self) -> Headers<'_> {
        Headers::of_spans(&self.bytes, &self.fields)
    }
}
