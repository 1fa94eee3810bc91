//! Which field names mean something to a proxy, told by length and first byte before any comparison; it never looks at values.

use super::{DEBUG_FIELD, UPGRADE_FIELD};

/// What a field name means to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Nothing: it travels end to end.
    EndToEnd,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Expect,
    Upgrade,
    /// Belongs to this connection alone and says nothing that a proxy needs.
    HopByHop,
    /// `vicino-*`: only proxies say it.
    Ours,
    /// `Forwarded` (RFC 7239) and `X-Forwarded-Client-Cert`: nobody's word is taken for who called.
    Claim,
}

/// Tells what a name means. ASCII case does not matter.
#[inline]
pub(crate) fn classify(name: &[u8]) -> Name {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match (name.len(), name.first().map(|b| b | 0x20)) {
        (2, Some(b't')) if is("te") => Name::Te,
        (4, Some(b'h')) if is("host") => Name::Host,
        (6, Some(b'e')) if is("expect") => Name::Expect,
        (7, Some(b'u')) if is("upgrade") => Name::Upgrade,
        (10, Some(b'c')) if is("connection") => Name::Connection,
        (10, Some(b'k')) if is("keep-alive") => Name::HopByHop,
        (14, Some(b'c')) if is("content-length") => Name::ContentLength,
        (14, Some(b'h')) if is("http2-settings") => Name::HopByHop,
        (16, Some(b'p')) if is("proxy-connection") => Name::HopByHop,
        (17, Some(b't')) if is("transfer-encoding") => Name::TransferEncoding,
        (18, Some(b'p')) if is("proxy-authenticate") => Name::HopByHop,
        (19, Some(b'p')) if is("proxy-authorization") => Name::HopByHop,
        (9, Some(b'f')) if is("forwarded") => Name::Claim,
        (23, Some(b'x')) if is("x-forwarded-client-cert") => Name::Claim,
        // A caller says it for the calls that follow from this one, too.
        (12, Some(b'v')) if is("vicino-route") => Name::EndToEnd,
        (7.., Some(b'v')) if starts_with(name, "vicino-") => Name::Ours,
        _ => Name::EndToEnd,
    }
}

/// Whether a request's field is for proxies alone: applications do not get it.
#[inline]
pub(crate) fn is_for_proxies(name: &[u8]) -> bool {
    name.len() == DEBUG_FIELD.len() && name.eq_ignore_ascii_case(DEBUG_FIELD.as_bytes())
}

/// Whether proxies say it to each other in a request: what else is theirs, or says who called, no proxy passes on.
pub(crate) fn is_said_on_hops(name: &[u8]) -> bool {
    match classify(name) {
        Name::EndToEnd | Name::Expect => !is_underscore_twin(name),
        Name::Ours => is_for_proxies(name) || name.eq_ignore_ascii_case(UPGRADE_FIELD.as_bytes()),
        _ => false,
    }
}

/// Whether a name has underscores and, with hyphens in their place, is one that only proxies may say or that frames a message.
/// Applications behind CGI-like gateways read both spellings as one.
pub(crate) fn is_underscore_twin(name: &[u8]) -> bool {
    const TWINS_LONGEST: usize = 24;
    if !name.contains(&b'_') {
        return false;
    }
    let mut twin = [0; TWINS_LONGEST];
    let kept = name.len().min(TWINS_LONGEST);
    for (to, from) in twin.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { from.to_ascii_lowercase() };
    }
    let twin = &twin[..kept];
    twin.starts_with(b"vicino-")
        || twin.starts_with(b"x-forwarded-")
        || [&b"content-length"[..], b"transfer-encoding", b"x-real-ip", b"proxy-authorization"]
            .contains(&twin)
}

/// Whether a trailer of that name is dropped: it frames, routes, authenticates, belongs to a connection, or only a proxy may say it
/// (RFC 9110 §6.5.1).
pub(crate) fn is_forbidden_in_trailers(name: &[u8]) -> bool {
    const NAMES: [&str; 12] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "max-forwards",
        "set-cookie",
        "trailer",
        "via",
        "www-authenticate",
    ];
    classify(name) != Name::EndToEnd
        || starts_with(name, "x-forwarded-")
        || is_underscore_twin(name)
        || NAMES.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

fn starts_with(name: &[u8], prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}
