//! Changes to heads: fields, paths, locations.

use vicino_wire::head::{Authority, Header, Headers, RequestHead};

use super::split_query;

/// Changes to the fields of a head, in this order: removed, set, added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Names of fields that are taken out.
    pub remove: Vec<Box<str>>,
    /// Fields that there is one of afterwards.
    pub set: Vec<(Box<str>, Box<str>)>,
    /// Fields that are there once more.
    pub add: Vec<(Box<str>, Box<str>)>,
}

impl HeaderEdit {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Appends to `out` what becomes of `fields`.
    pub fn apply<'a>(&'a self, fields: Headers<'a>, out: &mut Vec<Header<'a>>) {
        let is = |name: &str, field: &Header<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        let stays = |field: &Header<'_>| {
            !self.remove.iter().any(|name| is(name, field))
                && !self.set.iter().any(|(name, _)| is(name, field))
        };
        out.extend(fields.iter().filter(stays));
        let new = self.set.iter().chain(&self.add);
        out.extend(new.map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() }));
    }
}

/// Another path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// This one.
    Full(Box<str>),
    /// This instead of the prefix that matched.
    Prefix(Box<str>),
}

impl PathEdit {
    /// Appends to `out` what becomes of a target in origin-form of which a prefix of so many bytes matched.
    pub fn apply(&self, target: &str, prefix: usize, out: &mut String) {
        let (path, query) = split_query(target);
        // `OPTIONS *` is about no path.
        if !path.starts_with('/') {
            return out.push_str(target);
        }
        match self {
            PathEdit::Full(text) => out.push_str(text),
            PathEdit::Prefix(text) => match path.get(prefix..).unwrap_or_default() {
                "" => out.push_str(text),
                rest => {
                    out.push_str(text.strip_suffix('/').unwrap_or(text));
                    out.push_str(rest);
                }
            },
        }
        if path.len() < target.len() {
            out.push('?');
            out.push_str(query);
        }
    }
}

/// Where a caller is sent. What is None stays as the caller asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// Host of the location.
    pub host: Option<Box<str>>,
    /// Port of the location.
    pub port: Option<u16>,
    /// Path of the location.
    pub path: Option<PathEdit>,
}

impl Redirect {
    /// The `Location` (RFC 9110 §10.2.2) for a request of which a prefix of so many bytes of the path matched.
    pub fn location(&self, head: &RequestHead<'_>, prefix: usize) -> String {
        let mut location = String::new();
        let asked = Authority::parse(head.authority);
        let scheme = self.scheme.unwrap_or("http");
        // A caller of HTTP/1.0 may have named no host: a location may be a path alone.
        if let Some(host) = self.host.as_deref().or(asked.map(|asked| asked.host)) {
            let asked_port = asked.and_then(|asked| asked.port).filter(|_| self.scheme.is_none());
            location.push_str(scheme);
            location.push_str("://");
            if host.contains(':') {
                location.extend(["[", host, "]"]);
            } else {
                location.push_str(host);
            }
            let default = if scheme == "https" { 443 } else { 80 };
            if let Some(port) = self.port.or(asked_port).filter(|port| *port != default) {
                location.push(':');
                location.push_str(&port.to_string());
            }
        }
        match &self.path {
            Some(edit) => edit.apply(head.path, prefix, &mut location),
            None => location.push_str(head.path),
        }
        location
    }
}
