//! Line ends and field lines, for heads and trailers alike; it gives no field a meaning.

use super::Reject;
use crate::head::{
    HEADER_NAME_BYTES_MAX,
    text::{text_len, token_len, trim_blanks},
};

/// One line of a field section. `None` in a caller's result means that the line is not complete.
pub(super) enum Line<'a> {
    /// The empty line; the next byte is at this place.
    End(usize),
    /// A field; the next line begins at `next`.
    Field { name: &'a [u8], value: &'a [u8], next: usize },
}

/// Expects CRLF at `at`: where the next line begins, or None when a byte is missing. `otherwise` is for any other byte.
#[inline]
pub(super) fn line_end(bytes: &[u8], at: usize, otherwise: Reject) -> Result<Option<usize>, Reject> {
    match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(Some(at + 2)),
        (None, _) | (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), Some(_)) => Err(Reject::BareCr),
        (Some(b'\n'), _) => Err(Reject::BareLf),
        (Some(_), _) => Err(otherwise),
    }
}

/// The field line, or the empty line, that begins at `at`.
#[inline]
pub(super) fn field_line(bytes: &[u8], at: usize) -> Result<Option<Line<'_>>, Reject> {
    let Some(rest) = bytes.get(at..) else { return Ok(None) };
    let name_len = token_len(rest);
    if name_len > HEADER_NAME_BYTES_MAX {
        return Err(Reject::BadHeaderName);
    }
    match rest.get(name_len) {
        None => return Ok(None),
        Some(b':') if name_len > 0 => {}
        Some(_) if name_len == 0 => return no_name(bytes, at),
        Some(b' ' | b'\t') => return Err(Reject::SpaceBeforeColon),
        Some(_) => return Err(Reject::BadHeaderName),
    }
    let value_at = at + name_len + 1;
    let value = &bytes[value_at..];
    let value_len = text_len(value);
    match line_end(bytes, value_at + value_len, Reject::BadHeaderValue)? {
        Some(next) => {
            Ok(Some(Line::Field { name: &rest[..name_len], value: trim_blanks(&value[..value_len]), next }))
        }
        None => Ok(None),
    }
}

/// A line that begins with no token: the empty one, or a fault.
#[cold]
fn no_name(bytes: &[u8], at: usize) -> Result<Option<Line<'_>>, Reject> {
    match bytes[at] {
        b' ' | b'\t' => Err(Reject::ObsFold),
        b':' => Err(Reject::EmptyHeaderName),
        _ => Ok(line_end(bytes, at, Reject::BadHeaderName)?.map(Line::End)),
    }
}
