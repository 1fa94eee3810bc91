//! The field lines of a head: what they say about the connection and the body, and which of them travel on. It reads no first line.

use super::{
    Reject,
    line::{Line, field_line},
};
use crate::head::{
    HEADERS_MAX, Span,
    name::{Name, classify, is_for_proxies, is_underscore_twin},
    text::{is_token, trim_blanks},
};

/// Most options that the `Connection` fields of one head may have together.
const CONNECTION_OPTIONS_MAX: usize = 32;

/// Reusable storage.
#[derive(Debug, Default)]
pub(super) struct Storage {
    /// The fields that travel on.
    pub(super) kept: Vec<Span>,
    /// The names that `Connection` nominates and that would otherwise travel on, as places in the head: start, length.
    nominated: Vec<(u16, u16)>,
}

/// Whose head it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Caller,
    Application,
}

/// What the fields say about the connection and the body.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a head did or did not say")]
pub(super) struct Said<'a> {
    /// Where the body begins.
    pub(super) end: usize,
    pub(super) host: Option<&'a [u8]>,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) accepts_trailers: bool,
    pub(super) expect_continue: bool,
    pub(super) wants_path: bool,
    /// `Connection` names `Upgrade`.
    switches: bool,
    upgrade: Option<&'a [u8]>,
    options: usize,
}

impl<'a> Said<'a> {
    /// The one protocol that the sender wants to switch to, or has. What is spoken on the connection itself (HTTP/2, TLS) is not
    /// passed on.
    pub(super) fn upgrade(&self) -> Option<&'a [u8]> {
        let value = self.upgrade.filter(|_| self.switches)?;
        let mut parts = value.splitn(2, |b| *b == b'/');
        let name = parts.next().filter(|name| is_token(name))?;
        let is_ours = name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"tls");
        (!is_ours && parts.next().is_none_or(is_token)).then_some(value)
    }

    /// Whether the sender keeps the connection, in HTTP/1.`minor`.
    pub(super) fn persists(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep_alive)
    }
}

/// Reads the fields from `at` to the empty line; None when that has not come. `head` is shorter than 64 KiB.
pub(super) fn read_fields<'a>(
    head: &'a [u8],
    mut at: usize,
    minor: u8,
    sender: Sender,
    storage: &mut Storage,
) -> Result<Option<Said<'a>>, Reject> {
    storage.kept.clear();
    storage.nominated.clear();
    let mut said = Said::default();
    let mut fields = 0;
    loop {
        match field_line(head, at)? {
            None => return Ok(None),
            Some(Line::End(end)) => {
                said.end = end;
                break;
            }
            Some(Line::Field { name, value, next }) => {
                fields += 1;
                if fields > HEADERS_MAX {
                    return Err(Reject::TooManyHeaders);
                }
                if sender == Sender::Caller && is_underscore_twin(name) {
                    return Err(Reject::UnderscoreTwin);
                }
                if said.understand(head, name, value, storage)? {
                    storage.kept.push(Span {
                        name: at as u16,
                        name_len: name.len() as u8,
                        value: place(head, value),
                        value_len: value.len() as u16,
                    });
                }
                at = next;
            }
        }
    }
    if said.chunked && said.length.is_some() {
        return Err(Reject::LengthAndEncoding);
    }
    if said.chunked && minor == 0 {
        return Err(Reject::OldTransferEncoding);
    }
    drop_nominated(head, storage);
    Ok(Some(said))
}

impl<'a> Said<'a> {
    /// Takes in one field. Whether it travels on.
    #[inline]
    fn understand(
        &mut self,
        head: &'a [u8],
        name: &'a [u8],
        value: &'a [u8],
        storage: &mut Storage,
    ) -> Result<bool, Reject> {
        match classify(name) {
            Name::EndToEnd => return Ok(true),
            Name::HopByHop | Name::Claim => {}
            // Two of them are a choice, which is not ours to make: none is passed on.
            Name::Upgrade => self.upgrade = Some(if self.upgrade.is_some() { b"" } else { value }),
            Name::Ours => self.wants_path |= is_for_proxies(name) && value == b"path",
            Name::Host if self.host.is_some() => return Err(Reject::DuplicateHost),
            Name::Host => self.host = Some(value),
            Name::ContentLength if self.length.is_some() => return Err(Reject::DuplicateContentLength),
            Name::ContentLength => self.length = Some(parse_length(value)?),
            Name::TransferEncoding if self.chunked => return Err(Reject::DuplicateTransferEncoding),
            Name::TransferEncoding if value.eq_ignore_ascii_case(b"chunked") => self.chunked = true,
            Name::TransferEncoding => return Err(Reject::BadTransferEncoding),
            Name::Connection => self.read_connection(head, value, storage)?,
            Name::Te => self.accepts_trailers |= list(value).any(|o| o.eq_ignore_ascii_case(b"trailers")),
            Name::Expect => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_connection(
        &mut self,
        head: &'a [u8],
        value: &'a [u8],
        storage: &mut Storage,
    ) -> Result<(), Reject> {
        for option in list(value) {
            self.options += 1;
            if self.options > CONNECTION_OPTIONS_MAX || !is_token(option) {
                return Err(Reject::BadConnection);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.switches = true;
            } else if matches!(classify(option), Name::EndToEnd | Name::Expect) {
                storage.nominated.push((place(head, option), option.len() as u16));
            }
        }
        Ok(())
    }
}

/// Takes out what `Connection` nominated (RFC 9110 §7.6.1).
fn drop_nominated(head: &[u8], storage: &mut Storage) {
    let Storage { kept, nominated } = storage;
    if nominated.is_empty() {
        return;
    }
    let slice = |at: u16, len: u16| &head[usize::from(at)..usize::from(at) + usize::from(len)];
    kept.retain(|span| {
        let name = slice(span.name, u16::from(span.name_len));
        !nominated.iter().any(|&(at, len)| name.eq_ignore_ascii_case(slice(at, len)))
    });
}

/// Where in `head` a part of it begins.
fn place(head: &[u8], part: &[u8]) -> u16 {
    (part.as_ptr().addr() - head.as_ptr().addr()) as u16
}

/// The members of a comma-separated list, empty ones left out.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim_blanks).filter(|member| !member.is_empty())
}

/// Digits only. Nineteen of them always fit.
pub(crate) fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    const DIGITS_MAX: usize = 19;
    if value.is_empty() || value.len() > DIGITS_MAX || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::BadContentLength);
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}
