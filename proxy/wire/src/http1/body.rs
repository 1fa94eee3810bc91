//! Where a body ends and which of its bytes are data; it buffers nothing: what is incomplete stays in the caller's buffer.

use super::{
    Reject,
    line::{Line, field_line},
};
use crate::head::{Framing, HEADERS_MAX, Headers, name::is_forbidden_in_trailers, text::text_len};

/// Longest trailer section, in bytes. A read buffer must be able to hold one.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// How many bytes chunk sizes and extensions may take beyond 16 a chunk and twice the data: lines of a few bytes and signed chunks of any
/// number pass, a stream of extensions does not.
pub const CHUNK_OVERHEAD_BYTES_MAX: u64 = 16 * 1024;

const SIZE_DIGITS_MAX: u8 = 16;

/// What came of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'b> {
    /// Nothing more without more bytes. The rest of the buffer must be kept and given again with what comes.
    More,
    /// Bytes of the body, never empty.
    Data(&'b [u8]),
    /// The trailers that may be forwarded, at least one; `End` follows.
    Trailers(Headers<'b>),
    /// The body is over; what follows in the buffer is the next message. Said again by every later call.
    End,
}

/// Decodes one body.
///
/// ```
/// use vicino_wire::{head::Framing, http1::{Body, BodyDecoder}};
///
/// let buf = b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
/// let mut decoder = BodyDecoder::new(Framing::Chunked);
/// let (mut at, mut data) = (0, Vec::new());
/// loop {
///     let (body, used) = decoder.decode(&buf[at..])?;
///     at += used;
///     match body {
///         Body::Data(part) => data.extend_from_slice(part),
///         Body::Trailers(_) => {}
///         Body::End | Body::More => break,
///     }
/// }
/// assert_eq!((&data[..], &buf[at..]), (&b"hello"[..], &b"GET / HTTP/1.1\r\n"[..]));
/// # Ok::<(), vicino_wire::http1::Reject>(())
/// ```
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of chunk lines so far, less what the data allows.
    overhead: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes to come, never 0.
    Length(u64),
    UntilClose,
    /// In a chunk's size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In a chunk's extension.
    Extension {
        size: u64,
    },
    /// After the CR of a chunk's line.
    SizeLf {
        size: u64,
    },
    /// So many bytes of a chunk to come, never 0.
    Chunk(u64),
    DataCr,
    DataLf,
    Trailers,
    Ended,
}

impl BodyDecoder {
    /// Begins a body that is framed so.
    pub fn new(framing: Framing) -> BodyDecoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        BodyDecoder { state, overhead: 0 }
    }

    /// Takes the next step over `buf` and says how many of its bytes are used up, also when it says [`Body::More`].
    ///
    /// A `Data` slice is as long as the buffer and the framing allow, and is not looked at byte by byte. After an error the connection can only
    /// be closed.
    pub fn decode<'b>(&mut self, buf: &'b [u8]) -> Result<(Body<'b>, usize), Reject> {
        match self.state {
            State::Ended => Ok((Body::End, 0)),
            _ if buf.is_empty() => Ok((Body::More, 0)),
            State::UntilClose => Ok((Body::Data(buf), buf.len())),
            State::Length(left) => {
                let (data, left) = take(buf, left);
                self.state = if left == 0 { State::Ended } else { State::Length(left) };
                Ok((Body::Data(data), data.len()))
            }
            _ => self.decode_chunked(buf),
        }
    }

    /// Whether the body is over, so that `decode` would say `End`.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The sender closed: the end of an until-close body, [`Reject::Truncated`] before the end of any other.
    pub fn close(&mut self) -> Result<(), Reject> {
        match self.state {
            State::Ended | State::UntilClose => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(Reject::Truncated),
        }
    }

    fn decode_chunked<'b>(&mut self, buf: &'b [u8]) -> Result<(Body<'b>, usize), Reject> {
        let mut at = 0;
        while at < buf.len() {
            match self.state {
                State::Chunk(left) => {
                    let (data, left) = take(&buf[at..], left);
                    self.state = if left == 0 { State::DataCr } else { State::Chunk(left) };
                    return Ok((Body::Data(data), at + data.len()));
                }
                State::Trailers => {
                    let (body, used) = self.decode_trailers(&buf[at..])?;
                    return Ok((body, at + used));
                }
                State::DataCr if buf[at] == b'\r' => self.state = State::DataLf,
                State::DataLf if buf[at] == b'\n' => self.state = State::Size { size: 0, digits: 0 },
                State::DataCr | State::DataLf => return Err(Reject::BadChunkEnd),
                State::Extension { size } => {
                    let text = text_len(&buf[at..]);
                    self.count(text as u64)?;
                    at += text;
                    match buf.get(at) {
                        None => break,
                        Some(b'\r') => self.state = State::SizeLf { size },
                        Some(b'\n') => return Err(Reject::BareLf),
                        Some(_) => return Err(Reject::BadChunkExtension),
                    }
                    self.count(1)?;
                }
                State::Size { size, digits } => {
                    self.state = size_byte(size, digits, buf[at])?;
                    self.count(1)?;
                }
                State::SizeLf { size } if buf[at] == b'\n' => {
                    self.overhead = self.overhead.saturating_sub(size.saturating_mul(2).saturating_add(16));
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::SizeLf { .. } => return Err(Reject::BareCr),
                State::Ended | State::Length(_) | State::UntilClose => return Ok((Body::End, at)),
            }
            at += 1;
        }
        Ok((Body::More, at))
    }

    /// Counts bytes of a chunk's line.
    fn count(&mut self, bytes: u64) -> Result<(), Reject> {
        self.overhead += bytes;
        if self.overhead > CHUNK_OVERHEAD_BYTES_MAX { Err(Reject::ChunkOverhead) } else { Ok(()) }
    }

    /// Waits for all trailers, since they are handed out as they lie in the buffer.
    fn decode_trailers<'b>(&mut self, buf: &'b [u8]) -> Result<(Body<'b>, usize), Reject> {
        let section = &buf[..buf.len().min(TRAILER_BYTES_MAX)];
        let (mut at, mut fields, mut forwarded) = (0, 0, 0);
        loop {
            match field_line(section, at)? {
                Some(Line::End(end)) => {
                    self.state = State::Ended;
                    let trailers = Headers::of_lines(&section[..at], forwarded);
                    return Ok((if forwarded == 0 { Body::End } else { Body::Trailers(trailers) }, end));
                }
                Some(Line::Field { name, next, .. }) => {
                    fields += 1;
                    if fields > HEADERS_MAX {
                        return Err(Reject::TooManyHeaders);
                    }
                    forwarded += usize::from(!is_forbidden_in_trailers(name));
                    at = next;
                }
                None if section.len() == TRAILER_BYTES_MAX => return Err(Reject::TrailersTooLong),
                None => return Ok((Body::More, 0)),
            }
        }
    }
}

/// One byte of a chunk's size. Sixteen digits always fit.
fn size_byte(size: u64, digits: u8, byte: u8) -> Result<State, Reject> {
    match (byte, (byte as char).to_digit(16)) {
        (_, Some(digit)) if digits < SIZE_DIGITS_MAX => {
            Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
        }
        (b'\r', _) if digits > 0 => Ok(State::SizeLf { size }),
        (b';', _) if digits > 0 => Ok(State::Extension { size }),
        (b'\n', _) => Err(Reject::BareLf),
        _ => Err(Reject::BadChunkSize),
    }
}

/// The first `left` bytes of `buf`, or all, and how many are left then.
fn take(buf: &[u8], left: u64) -> (&[u8], u64) {
    let taken = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
    (&buf[..taken], left - taken as u64)
}
