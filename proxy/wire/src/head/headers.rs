//! Fields of a head over whichever bytes hold them; it does not know which fields mean what.

use std::fmt;

/// One field: name as written (never empty, a token), value without surrounding blanks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Field name; compare without regard to ASCII case.
    pub name: &'a [u8],
    /// Field value.
    pub value: &'a [u8],
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name.escape_ascii(), self.value.escape_ascii())
    }
}

/// Fields in order. Copying it copies a pointer: the bytes stay in the read buffer.
///
/// Make one of your own with `Headers::from(&[Header { .. }][..])`, an empty one with `Headers::default()`.
#[derive(Clone, Copy)]
pub struct Headers<'a>(Repr<'a>);

/// Where the fields are.
#[derive(Clone, Copy)]
enum Repr<'a> {
    /// A list that somebody made.
    List(&'a [Header<'a>]),
    /// Places in an HTTP/1 head.
    Spans { bytes: &'a [u8], spans: &'a [Span] },
    /// The hop's encoding, checked when it was decoded: `name length u8, value length u16 BE, name, value` each.
    Hop { bytes: &'a [u8], count: usize },
    /// The lines of a trailer section, checked when it was decoded, `count` of them forwardable.
    Lines { bytes: &'a [u8], count: usize },
}

/// Where one field lies in a head; heads are shorter than 64 KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) name: u16,
    pub(crate) value: u16,
    pub(crate) value_len: u16,
    pub(crate) name_len: u8,
}

impl Default for Headers<'_> {
    fn default() -> Self {
        Headers(Repr::List(&[]))
    }
}

impl<'a> From<&'a [Header<'a>]> for Headers<'a> {
    fn from(list: &'a [Header<'a>]) -> Self {
        Headers(Repr::List(list))
    }
}

impl<'a> Headers<'a> {
    pub(crate) fn of_spans(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Headers(Repr::Spans { bytes, spans })
    }

    pub(crate) fn of_hop(bytes: &'a [u8], count: usize) -> Self {
        Headers(Repr::Hop { bytes, count })
    }

    pub(crate) fn of_lines(bytes: &'a [u8], count: usize) -> Self {
        Headers(Repr::Lines { bytes, count })
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        match self.0 {
            Repr::List(list) => list.len(),
            Repr::Spans { spans, .. } => spans.len(),
            Repr::Hop { count, .. } | Repr::Lines { count, .. } => count,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fields in order.
    pub fn iter(&self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }

    /// The value of the first field of that name (ASCII case does not matter).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// The values of all fields of that name, in order.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |h| h.name.eq_ignore_ascii_case(name.as_bytes())).map(|h| h.value)
    }
}

/// See [`Headers::iter`].
#[derive(Clone)]
pub struct HeadersIter<'a>(Repr<'a>);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = Header<'a>;

    #[inline]
    fn next(&mut self) -> Option<Header<'a>> {
        match &mut self.0 {
            Repr::List(list) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(*first)
            }
            Repr::Spans { bytes, spans } => {
                let (first, rest) = spans.split_first()?;
                *spans = rest;
                let slice = |at: u16, len: usize| bytes.get(usize::from(at)..usize::from(at) + len);
                Some(Header {
                    name: slice(first.name, usize::from(first.name_len))?,
                    value: slice(first.value, usize::from(first.value_len))?,
                })
            }
            Repr::Hop { bytes, count } => {
                let (header, rest) = split_hop_field(bytes)?;
                *bytes = rest;
                *count -= 1;
                Some(header)
            }
            Repr::Lines { bytes, count } => loop {
                let (header, rest) = split_line(bytes)?;
                *bytes = rest;
                if !super::name::is_forbidden_in_trailers(header.name) {
                    *count -= 1;
                    return Some(header);
                }
            },
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = Headers(self.0).len();
        (len, Some(len))
    }
}

/// Takes the first field off the hop's encoding; None at the end or when it is cut short.
#[inline]
pub(crate) fn split_hop_field(bytes: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let (&[name_len, high, low], rest) = bytes.split_first_chunk::<3>()?;
    let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((Header { name, value }, rest))
}

/// Takes the first line off a trailer section that was found valid; None at the end.
fn split_line(bytes: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let colon = bytes.iter().position(|&b| b == b':')?;
    let end = colon + bytes[colon..].iter().position(|&b| b == b'\r')?;
    Some((
        Header { name: &bytes[..colon], value: super::text::trim_blanks(&bytes[colon + 1..end]) },
        bytes.get(end + 2..)?,
    ))
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

/// Same fields in the same order, wherever they lie.
impl PartialEq for Headers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers<'_> {}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for HeadersIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Headers(self.0).fmt(f)
    }
}
