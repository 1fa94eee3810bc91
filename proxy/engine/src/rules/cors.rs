//! Cross-origin requests of browsers (Fetch standard, "CORS protocol"): preflights are answered for the application, and answers say which origins may read them.

use vicino_wire::head::{Header, Headers, RequestHead};

/// Which pages of other origins may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may.
    pub origins: Vec<OriginTest>,
    /// Methods that they may use beyond GET, HEAD and POST; `*` is every one.
    pub methods: Vec<Box<str>>,
    /// Fields that they may send; `*` is every one.
    pub headers: Vec<Box<str>>,
    /// Fields of answers that they may read; `*` is every one.
    pub expose: Vec<Box<str>>,
    /// Whether they may send cookies and the like.
    pub is_with_credentials: bool,
    /// Seconds that a browser may remember what a preflight said.
    pub max_age_s: u32,
}

/// Which origins are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginTest {
    /// Every one.
    Any,
    /// This one, for example `https://shop.example`.
    Exact(Box<str>),
    /// Those that begin and end like this, with at least one label between: `https://*.example`.
    Between(Box<str>, Box<str>),
}

impl OriginTest {
    fn is_met(&self, origin: &[u8]) -> bool {
        match self {
            OriginTest::Any => true,
            OriginTest::Exact(text) => origin.eq_ignore_ascii_case(text.as_bytes()),
            OriginTest::Between(before, after) => {
                let (before, after) = (before.as_bytes(), after.as_bytes());
                origin.len() > before.len() + after.len()
                    && origin[..before.len()].eq_ignore_ascii_case(before)
                    && origin[origin.len() - after.len()..].eq_ignore_ascii_case(after)
                    && !origin[before.len()..origin.len() - after.len()].contains(&b'/')
            }
        }
    }
}

/// Fields of an answer: names, and values that may be the caller's own words.
pub(crate) type CorsFields = Vec<(&'static str, Box<[u8]>)>;

/// One of them as a head has it.
pub(crate) fn as_header<'a>((name, value): &'a (&'static str, Box<[u8]>)) -> Header<'a> {
    Header { name: name.as_bytes(), value }
}

impl Cors {
    /// What an answer to a request with this origin says. None: its page may not read it.
    fn allowed(&self, origin: &[u8]) -> Option<CorsFields> {
        if !self.origins.iter().any(|test| test.is_met(origin)) {
            return None;
        }
        let is_for_all = self.origins.contains(&OriginTest::Any) && !self.is_with_credentials;
        let allowed = if is_for_all { Box::from(&b"*"[..]) } else { Box::from(origin) };
        let mut fields = vec![("access-control-allow-origin", allowed)];
        if self.is_with_credentials {
            fields.push(("access-control-allow-credentials", Box::from(&b"true"[..])));
        }
        Some(fields)
    }

    /// The answer to a preflight; None: the request is none.
    pub(crate) fn preflight(&self, head: &RequestHead<'_>) -> Option<CorsFields> {
        if head.method != "OPTIONS" {
            return None;
        }
        let (origin, method) =
            (head.headers.get("origin")?, head.headers.get("access-control-request-method")?);
        let mut fields = self.allowed(origin).unwrap_or_default();
        if !fields.is_empty() {
            let asked = head.headers.get("access-control-request-headers");
            let of_methods = listed(&self.methods, Some(method), self.is_with_credentials);
            let of_headers = listed(&self.headers, asked, self.is_with_credentials);
            fields.extend(of_methods.map(|list| ("access-control-allow-methods", list)));
            fields.extend(of_headers.map(|list| ("access-control-allow-headers", list)));
            let age = self.max_age_s.to_string().into_bytes();
            fields.push(("access-control-max-age", age.into_boxed_slice()));
        }
        let by = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        fields.push(("vary", Box::from(&by[..])));
        Some(fields)
    }

    /// What the answer to any other request says beside what the application did; None: nothing, since no page of another origin asks.
    pub(crate) fn answer(&self, headers: Headers<'_>) -> Option<CorsFields> {
        let mut fields = self.allowed(headers.get("origin")?).unwrap_or_default();
        if !fields.is_empty() && !self.expose.is_empty() {
            let all = self.expose.join(", ").into_bytes();
            fields.push(("access-control-expose-headers", all.into_boxed_slice()));
        }
        fields.push(("vary", Box::from(&b"Origin"[..])));
        Some(fields)
    }
}

/// A list as it is said: `*` does not count where there are credentials, so that whatever was asked for is named then.
fn listed(list: &[Box<str>], asked: Option<&[u8]>, is_with_credentials: bool) -> Option<Box<[u8]>> {
    let is_any = list.iter().any(|one| **one == *"*");
    match (is_any, is_with_credentials) {
        (true, true) => asked.map(Box::from),
        (true, false) => Some(Box::from(&b"*"[..])),
        (false, _) if list.is_empty() => None,
        (false, _) => Some(list.join(", ").into_bytes().into_boxed_slice()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARY: &str = "vary=Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

    fn said(fields: Option<CorsFields>) -> Option<String> {
        let line = |(name, value): (&str, Box<[u8]>)| {
            let name = name.trim_start_matches("access-control-");
            format!("{name}={}", String::from_utf8_lossy(&value))
        };
        fields.map(|fields| fields.into_iter().map(line).collect::<Vec<_>>().join(" | "))
    }

    fn with<T>(method: &str, fields: &[(&str, &str)], then: impl FnOnce(RequestHead<'_>) -> T) -> T {
        let fields: Vec<_> =
            fields.iter().map(|(n, v)| Header { name: n.as_bytes(), value: v.as_bytes() }).collect();
        then(RequestHead { method, path: "/", headers: fields[..].into(), ..RequestHead::opaque() })
    }

    #[test]
    fn preflights_say_what_pages_may_do() {
        let some = Cors {
            origins: vec![
                OriginTest::Exact("https://shop.example".into()),
                OriginTest::Between("https://".into(), ".shop.example".into()),
            ],
            methods: vec!["PUT".into(), "DELETE".into()],
            headers: vec!["x-a".into()],
            expose: vec!["x-b".into(), "x-c".into()],
            is_with_credentials: true,
            max_age_s: 60,
        };
        let any = Cors { origins: vec![OriginTest::Any], methods: vec!["*".into()], ..Cors::default() };
        let any_with = Cors { is_with_credentials: true, ..any.clone() };
        for (cors, origin, expected) in [
            (
                &some,
                "https://shop.example",
                "allow-origin=https://shop.example | allow-credentials=true | allow-methods=PUT, DELETE | allow-headers=x-a | max-age=60 | ",
            ),
            (
                &some,
                "https://a.b.shop.example",
                "allow-origin=https://a.b.shop.example | allow-credentials=true | allow-methods=PUT, DELETE | allow-headers=x-a | max-age=60 | ",
            ),
            (&some, "https://.shop.example", ""),
            (&some, "https://evil/.shop.example", ""),
            (&some, "https://shop.example.evil", ""),
            (&some, "http://shop.example", ""),
            (&some, "null", ""),
            (&any, "null", "allow-origin=* | allow-methods=* | max-age=0 | "),
            (
                &any_with,
                "https://x",
                "allow-origin=https://x | allow-credentials=true | allow-methods=PUT | max-age=0 | ",
            ),
        ] {
            let fields = [("origin", origin), ("access-control-request-method", "PUT")];
            let got = with("OPTIONS", &fields, |head| said(cors.preflight(&head)));
            assert_eq!(got, Some(format!("{expected}{VARY}")), "{origin}");
        }
        for (method, fields) in [
            ("GET", &[("origin", "https://shop.example"), ("access-control-request-method", "PUT")][..]),
            ("OPTIONS", &[("origin", "https://shop.example")]),
            ("OPTIONS", &[("access-control-request-method", "PUT")]),
        ] {
            assert_eq!(with(method, fields, |head| said(some.preflight(&head))), None);
        }
        let answer = |fields: &[(&str, &str)]| with("GET", fields, |head| said(some.answer(head.headers)));
        let all = "allow-origin=https://shop.example | allow-credentials=true | expose-headers=x-b, x-c | vary=Origin";
        assert_eq!(answer(&[("origin", "https://shop.example")]).as_deref(), Some(all));
        assert_eq!(answer(&[("origin", "https://other.example")]).as_deref(), Some("vary=Origin"));
        assert_eq!(answer(&[]), None);
    }
}
