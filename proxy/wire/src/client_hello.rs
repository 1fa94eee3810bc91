//! The first message of a TLS client: which server it names (SNI); nothing else of it is looked at, and nothing is decrypted.
//!
//! It is read strictly, since what is passed on is what was read here: a message that could be read in two ways is malformed, and
//! so is one that a server would take and this does not understand. Records: RFC 8446 §5.1; the message: §4.1.2; the name: RFC 6066 §3.

/// Longest ClientHello that is read, in bytes of the message: several times what browsers send, keys of post-quantum groups included.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Longest record, in bytes after its header (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// It may be one, and more bytes are needed.
    More,
    /// It is none: something else is spoken.
    Other,
    /// It begins as one and is none, or is too long, or names several servers.
    Malformed,
    /// It names this server, in lower case; None: no server.
    Named(Option<Box<str>>),
}

/// Reads the first bytes of a connection.
pub fn read(bytes: &[u8]) -> ClientHello {
    match bytes {
        [] | [HANDSHAKE] => return ClientHello::More,
        [HANDSHAKE, 3, ..] => {}
        _ => return ClientHello::Other,
    }
    let mut message = Vec::new();
    match gather(bytes, &mut message) {
        None => ClientHello::Malformed,
        Some(false) => ClientHello::More,
        Some(true) => server_name(&message).unwrap_or(ClientHello::Malformed),
    }
}

/// Puts the records' parts of the message together; whether it is whole. None: these are no such records.
fn gather(mut bytes: &[u8], message: &mut Vec<u8>) -> Option<bool> {
    loop {
        if let [kind, a, b, c, ..] = message[..] {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind != CLIENT_HELLO || length > CLIENT_HELLO_BYTES_MAX {
                return None;
            }
            if message.len() >= 4 + length {
                // A server that reads on would read what nobody has read here.
                return (message.len() == 4 + length).then_some(true);
            }
        } else if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return None;
        }
        let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            let begins = [HANDSHAKE, 3];
            return bytes.iter().zip(begins).all(|(found, wanted)| *found == wanted).then_some(false);
        };
        let [kind, major, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return None;
        }
        let part = &rest[..length.min(rest.len())];
        message.extend_from_slice(part);
        if part.len() < length {
            let is_begun_well = match message[..] {
                [kind, a, b, c, ..] => {
                    let whole = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    kind == CLIENT_HELLO && whole <= CLIENT_HELLO_BYTES_MAX
                }
                [kind, ..] => kind == CLIENT_HELLO,
                [] => true,
            };
            return is_begun_well.then_some(false);
        }
        bytes = &rest[length..];
    }
}

/// The server that a whole message names. None: it is malformed.
fn server_name(message: &[u8]) -> Option<ClientHello> {
    let mut rest = Reader(message.get(4..)?);
    // Version and random.
    rest.take(2 + 32)?;
    rest.vector(1)?;
    rest.vector(2)?;
    rest.vector(1)?;
    if rest.0.is_empty() {
        return Some(ClientHello::Named(None));
    }
    let mut extensions = Reader(rest.vector(2)?);
    if !rest.0.is_empty() {
        return None;
    }
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let data = extensions.vector(2)?;
        if kind != usize::from(SERVER_NAME) {
            continue;
        }
        let mut list = Reader(data);
        let mut names = Reader(list.vector(2)?);
        let is_host = names.number(1)? == usize::from(HOST_NAME);
        let text = std::str::from_utf8(names.vector(2)?).ok()?;
        let is_text = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_host || !is_text || !names.0.is_empty() || !list.0.is_empty() || name.is_some() {
            return None;
        }
        name = Some(text.to_ascii_lowercase().into());
    }
    Some(ClientHello::Named(name))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Bytes after their length, which has so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(length_bytes: usize, data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_be_bytes();
        [&length[4 - length_bytes..], data].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, data)].concat()
    }

    fn named(name: &[u8]) -> Vec<u8> {
        extension(0, &vector(2, &[&[0][..], &vector(2, name)].concat()))
    }

    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let body = [&[3, 3][..], &[7; 32], &vector(1, &[9; 32]), &vector(2, &[0x13, 1]), &vector(1, &[0])];
        let body = [body.concat(), vector(2, &extensions.concat())].concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
    }

    fn is(name: &str) -> ClientHello {
        ClientHello::Named(Some(name.into()))
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        let other = extension(43, &[2, 3, 4]);
        let message = message(&[other.clone(), named(b"Api.Example.com"), other]);
        for size in [1, 3, 40, message.len()] {
            let bytes = records(&message, size);
            for end in 0..bytes.len() {
                assert_eq!(
                    read(&bytes[..end]),
                    ClientHello::More,
                    "{end} of {} in parts of {size}",
                    bytes.len()
                );
            }
            assert_eq!(read(&bytes), is("api.example.com"));
            // What follows in another record is not looked at.
            assert_eq!(read(&[&bytes[..], &[20, 3, 3, 0, 1, 1]].concat()), is("api.example.com"));
        }
    }

    #[test]
    fn what_is_no_client_hello_is_something_else_or_malformed() {
        let whole = |extensions: &[Vec<u8>]| read(&records(&message(extensions), 500));
        assert_eq!(whole(&[]), ClientHello::Named(None));
        assert_eq!(whole(&[named(b"a.example"), named(b"b.example")]), ClientHello::Malformed);
        let two = [&[0][..], &vector(2, b"a.example"), &[0], &vector(2, b"b.example")].concat();
        assert_eq!(whole(&[extension(0, &vector(2, &two))]), ClientHello::Malformed);
        for name in [&b""[..], b"a b", b"a\0b", b"\xff"] {
            assert_eq!(whole(&[named(name)]), ClientHello::Malformed, "{name:?}");
        }
        for bytes in [&b"GET / HTTP/1.1"[..], b"\x16\x02\x01", b"\x80\x2e\x01\x03\x01", b"SSH-2.0-x\r\n"] {
            assert_eq!(read(bytes), ClientHello::Other, "{bytes:?}");
        }
        let good = message(&[named(b"a.example")]);
        let mut longer = good.clone();
        longer.push(0);
        let mut other_kind = good.clone();
        other_kind[0] = 2;
        let mut cut = good.clone();
        cut.truncate(good.len() - 1);
        cut[3] -= 1;
        for (bytes, why) in [
            (records(&longer, 500), "bytes behind the message in its record"),
            (records(&other_kind, 500), "another message"),
            (records(&cut, 500), "an extension that is cut short"),
            (vec![22, 3, 1, 0x40, 1], "a record that is too long"),
            (vec![22, 3, 1, 0, 0], "an empty record"),
            (vec![22, 3, 1, 0, 4, 1, 0, 0x40, 1], "a message that is too long"),
            ([records(&good[..9], 9), vec![21, 3, 1, 0, 1, 1]].concat(), "an alert within"),
            ([records(&good[..9], 9), b"GET".to_vec()].concat(), "something else within"),
        ] {
            assert_eq!(read(&bytes), ClientHello::Malformed, "{why}");
        }
    }
}
