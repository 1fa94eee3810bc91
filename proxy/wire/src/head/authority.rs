//! `host[:port]`, the one place that says which hosts are valid; it resolves nothing.

use std::net::Ipv6Addr;

/// Longest authority, in bytes: a name of 253, a colon, five digits, and room for a final dot and brackets.
pub const AUTHORITY_BYTES_MAX: usize = 262;

/// A valid `host[:port]`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As written (compare without regard to ASCII case; a final dot may be there); an IPv6 address without its brackets.
    pub host: &'a str,
    /// 1 to 65535, when one was written.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Takes `host[:port]` apart. None when it is no valid one.
    ///
    /// Narrower than RFC 3986, because what is valid there and used nowhere is what attacks are made of: a host is labels of letters, digits,
    /// `-` and `_` between dots (a final dot may be there), or an IPv6 address in brackets without a zone; no userinfo, no percent-encoding;
    /// a port is 1 to 65535 without leading zeros, and a colon without a port is refused.
    pub fn parse(text: &'a str) -> Option<Authority<'a>> {
        let bytes = text.as_bytes();
        if bytes.len() > AUTHORITY_BYTES_MAX {
            return None;
        }
        let (host, rest) = if let Some(inner) = text.strip_prefix('[') {
            let (address, rest) = inner.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, rest)
        } else {
            let end = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
            let (host, rest) = text.split_at(end);
            if !is_host(host.as_bytes()) {
                return None;
            }
            (host, rest)
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(parse_port(digits)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Authority { host, port })
    }
}

/// Labels between dots, none empty but the one after a final dot.
fn is_host(host: &[u8]) -> bool {
    let mut label_is_empty = true;
    for &byte in host {
        match byte {
            b'.' if label_is_empty => return false,
            b'.' => label_is_empty = true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_is_empty = false,
            _ => return false,
        }
    }
    host.len() > 1 || !label_is_empty
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}
