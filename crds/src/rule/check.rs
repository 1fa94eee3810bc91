//! What the schema cannot say of rules; the operator says it of a spec, and a proxy of a document, in the same words.

use std::borrow::Borrow;

use regex::bytes::{Regex, RegexBuilder};

use super::{
    Cors, HeaderField, HeaderModifier, PathMatchType, PathModifier, PathModifierType, RouteMatch, RouteRule,
    ValueMatchType,
};
use crate::route;

/// Regular expressions of one route.
pub const REGEXES_MAX: usize = 32;
/// Compiled size of one, in bytes: about 1,000 alternatives or repetitions of one character.
const REGEX_BYTES_MAX: usize = 128 * 1024;

/// Statuses that a rule may call failures; a hop carries no more.
const FAILURE_CODES_MAX: usize = 16;

/// Fields that nobody but a proxy may say, that frame a message, or that belong to one connection.
const RESERVED: [&str; 17] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
];

/// What is wrong with a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Path of the field, from `rules`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// The expression that all of a value has to match. Linear in the value, bounded in memory.
pub fn matcher(pattern: &str) -> Result<Regex, String> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            .unicode(false)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()
    };
    // The pattern by itself first: `a)|(b` is none, although it is one between parentheses.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))).map_err(|error| match error {
        regex::Error::CompiledTooBig(bytes) => {
            format!("is too large: compiled it has more than {bytes} bytes; use fewer or smaller repetitions")
        }
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("is no regular expression: {}", last.trim_start_matches("error: "))
        }
    })
}

/// The first flaw of these rules.
pub fn check_all<R: Borrow<RouteRule>>(rules: &[R]) -> Result<(), Flaw> {
    let mut regexes = 0;
    let rules: Vec<&RouteRule> = rules.iter().map(Borrow::borrow).collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("rules[{i}]");
        let twin = rules[..i].iter().position(|other| other.name.is_some() && other.name == rule.name);
        if let Some(twin) = twin {
            let name = rule.name.as_deref().unwrap_or_default();
            return Err(flaw(
                format!("{at}.name"),
                format!("is {name:?}, as that of rules[{twin}] is: give each rule a name of its own"),
            ));
        }
        for (j, one) in rule.matches.iter().enumerate() {
            regexes += check_match(&format!("{at}.matches[{j}]"), one)?;
        }
        if regexes > REGEXES_MAX {
            let problem = format!(
                "the route has more than {REGEXES_MAX} regular expressions: use Exact and PathPrefix where they do"
            );
            return Err(flaw(format!("{at}.matches"), problem));
        }
        check_rule(&at, rule)?;
    }
    Ok(())
}

fn flaw(field: String, problem: impl Into<String>) -> Flaw {
    Flaw { field, problem: problem.into() }
}

/// Whether a field belongs to the connection or to the mesh, so that no rule sees it.
pub(crate) fn is_reserved_for_rules(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.starts_with("vicino-")
        || ["host", "connection", "content-length", "transfer-encoding"].contains(&&*lower)
}

/// Returns how many regular expressions it has.
fn check_match(at: &str, one: &RouteMatch) -> Result<usize, Flaw> {
    let mut regexes = 0;
    let mut expression = |field: String, pattern: &str| {
        regexes += 1;
        matcher(pattern).map(drop).map_err(|problem| flaw(field, problem))
    };
    if one.grpc.is_some() && (one.path.is_some() || one.method.is_some()) {
        let problem =
            "says which calls by their path and method, so that neither path nor method can say it as well";
        return Err(flaw(format!("{at}.grpc"), problem));
    }
    if let Some(path) = &one.path {
        let field = format!("{at}.path.value");
        match path.kind {
            PathMatchType::RegularExpression => expression(field, &path.value)?,
            _ if !path.value.starts_with('/') => {
                return Err(flaw(field, "must be an absolute path: it begins with '/'"));
            }
            _ if path.value.contains(['?', '#']) || !path.value.bytes().all(|b| b.is_ascii_graphic()) => {
                let problem = "is a path alone, percent-encoded: '?', '#', blanks and characters other than ASCII are not part of one";
                return Err(flaw(field, problem));
            }
            _ => {}
        }
    }
    for (i, header) in one.headers.iter().enumerate() {
        if header.kind == ValueMatchType::RegularExpression {
            expression(format!("{at}.headers[{i}].value"), &header.value)?;
        }
        let lower = header.name.to_ascii_lowercase();
        // The list's key is compared as it is written, fields are not.
        if one.headers[..i].iter().any(|other| other.name.eq_ignore_ascii_case(&lower)) {
            let problem =
                format!("{:?} is matched twice; names of fields differ by more than case", header.name);
            return Err(flaw(format!("{at}.headers[{i}].name"), problem));
        }
        if is_reserved_for_rules(&header.name) {
            let problem = format!(
                "{:?} is not among the fields that a rule sees: it belongs to the connection or to the mesh",
                header.name
            );
            return Err(flaw(format!("{at}.headers[{i}].name"), problem));
        }
    }
    for (i, param) in one.query_params.iter().enumerate() {
        if param.kind == ValueMatchType::RegularExpression {
            expression(format!("{at}.queryParams[{i}].value"), &param.value)?;
        }
    }
    Ok(regexes)
}

fn check_rule(at: &str, rule: &RouteRule) -> Result<(), Flaw> {
    route::check_rule(at, rule)?;
    check_modifiers(at, rule.request_header_modifier.as_ref(), rule.response_header_modifier.as_ref())?;
    if let Some(cors) = &rule.cors {
        check_cors(&format!("{at}.cors"), cors)?;
    }
    let rewrite = rule.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    let redirect = rule.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    for (name, path) in [("urlRewrite", rewrite), ("requestRedirect", redirect)] {
        if let Some(path) = path {
            check_path(&format!("{at}.{name}.path"), path, rule)?;
        }
    }
    if let Some(response) = &rule.direct_response
        && response.body.as_ref().is_some_and(|body| !body.is_empty())
        && [204, 205, 304].contains(&response.status_code)
    {
        return Err(flaw(
            format!("{at}.directResponse.body"),
            format!("an answer with status {} has no body", response.status_code),
        ));
    }
    check_numbers(at, rule)?;
    for (name, hostname) in [
        ("urlRewrite", rule.url_rewrite.as_ref().and_then(|rewrite| rewrite.hostname.as_deref())),
        ("requestRedirect", rule.request_redirect.as_ref().and_then(|redirect| redirect.hostname.as_deref())),
    ] {
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if hostname.is_some_and(|name| name.is_empty() || !is_name(name)) {
            return Err(flaw(format!("{at}.{name}.hostname"), "must be a DNS name, without port"));
        }
    }
    if rule.answers()
        && (!rule.backends.is_empty()
            || rule.url_rewrite.is_some()
            || rule.fault.is_some()
            || rule.request_mirror.is_some())
    {
        return Err(flaw(
            at.to_owned(),
            "answers by itself (requestRedirect, directResponse), so it has neither backends nor urlRewrite, fault or requestMirror",
        ));
    }
    if rule.request_redirect.is_some() && rule.direct_response.is_some() {
        return Err(flaw(
            at.to_owned(),
            "answers with requestRedirect or with directResponse, not with both",
        ));
    }
    Ok(())
}

fn check_numbers(at: &str, rule: &RouteRule) -> Result<(), Flaw> {
    let wrong = |field: &str, range: &str| Err(flaw(format!("{at}.{field}"), format!("must be {range}")));
    if rule.direct_response.as_ref().is_some_and(|response| !(200..=599).contains(&response.status_code)) {
        return wrong("directResponse.statusCode", "200 to 599");
    }
    let redirect = rule.request_redirect.as_ref();
    if redirect.is_some_and(|redirect| ![301, 302, 303, 307, 308].contains(&redirect.status_code)) {
        return wrong("requestRedirect.statusCode", "301, 302, 303, 307 or 308");
    }
    if redirect.and_then(|redirect| redirect.port).is_some_and(|port| !(1..=65_535).contains(&port)) {
        return wrong("requestRedirect.port", "1 to 65535");
    }
    if rule.request_mirror.as_ref().is_some_and(|mirror| !(0..=100).contains(&mirror.percent)) {
        return wrong("requestMirror.percent", "0 to 100");
    }
    if rule.cors.as_ref().is_some_and(|cors| !(0..=86_400).contains(&cors.max_age_seconds)) {
        return wrong("cors.maxAgeSeconds", "0 to 86400");
    }
    let codes = rule.failure_codes.as_deref().unwrap_or_default();
    if codes.len() > FAILURE_CODES_MAX || codes.iter().any(|code| !(400..=599).contains(code)) {
        return wrong("failureCodes", &format!("at most {FAILURE_CODES_MAX} statuses of 400 to 599"));
    }
    let Some(fault) = &rule.fault else { return Ok(()) };
    if fault.delay.is_none() && fault.abort.is_none() {
        return wrong("fault", "a delay, an abort, or both");
    }
    if fault.abort.as_ref().is_some_and(|abort| !(400..=599).contains(&abort.status_code)) {
        return wrong("fault.abort.statusCode", "400 to 599");
    }
    if fault.delay.as_ref().is_some_and(|delay| !(1..=60_000).contains(&delay.milliseconds)) {
        return wrong("fault.delay.milliseconds", "1 to 60000");
    }
    let delay = fault.delay.as_ref().map(|delay| ("fault.delay.percent", delay.percent));
    let abort = fault.abort.as_ref().map(|abort| ("fault.abort.percent", abort.percent));
    match delay.into_iter().chain(abort).find(|(_, percent)| !(0..=100).contains(percent)) {
        Some((field, _)) => wrong(field, "0 to 100"),
        None => Ok(()),
    }
}

fn check_cors(at: &str, cors: &Cors) -> Result<(), Flaw> {
    for (i, origin) in cors.allow_origins.iter().enumerate() {
        let host = origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, host)| host);
        let host = host.map(|host| host.strip_prefix("*.").unwrap_or(host));
        let is_host = |host: &str| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
        };
        if origin != "*" && !host.is_some_and(is_host) {
            let problem = format!(
                "{origin:?} is no origin: scheme, host and port make one, as https://shop.example or https://*.shop.example; `*` is every one"
            );
            return Err(flaw(format!("{at}.allowOrigins[{i}]"), problem));
        }
    }
    let lists = [
        ("allowMethods", &cors.allow_methods),
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ];
    for (name, list) in lists {
        if let Some(i) = list.iter().position(|one| !is_token(one)) {
            let problem = format!("{:?} is no name: letters, digits and '-' make one", list[i]);
            return Err(flaw(format!("{at}.{name}[{i}]"), problem));
        }
    }
    Ok(())
}

fn is_token(text: &str) -> bool {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~_".contains(&b);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(is_in)
}

/// The first flaw of the changes to heads that a backend makes; `at` is the backend.
pub fn check_modifiers(
    at: &str,
    request: Option<&HeaderModifier>,
    response: Option<&HeaderModifier>,
) -> Result<(), Flaw> {
    for (name, modifier) in [("requestHeaderModifier", request), ("responseHeaderModifier", response)] {
        if let Some(modifier) = modifier {
            check_modifier(&format!("{at}.{name}"), modifier)?;
        }
    }
    Ok(())
}

fn check_modifier(at: &str, modifier: &HeaderModifier) -> Result<(), Flaw> {
    let set = modifier
        .set
        .iter()
        .enumerate()
        .map(|(i, field)| (format!("{at}.set[{i}].name"), field.name.as_str()));
    let add = modifier
        .add
        .iter()
        .enumerate()
        .map(|(i, field)| (format!("{at}.add[{i}].name"), field.name.as_str()));
    let remove =
        modifier.remove.iter().enumerate().map(|(i, name)| (format!("{at}.remove[{i}]"), name.as_str()));
    for (field, name) in set.chain(add).chain(remove) {
        let lower = name.to_ascii_lowercase();
        if RESERVED.contains(&&*lower) || lower.starts_with("vicino-") {
            let more = if lower == "host" { "; urlRewrite.hostname changes the host" } else { "" };
            let problem = format!(
                "{name:?} cannot be changed: it frames the message, belongs to one connection, or is the proxies' own{more}"
            );
            return Err(flaw(field, problem));
        }
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(is_token) {
            return Err(flaw(
                field,
                format!("{name:?} is no name of a field: letters, digits and '-' make one"),
            ));
        }
    }
    for (list, fields) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (i, HeaderField { name, value }) in fields.iter().enumerate() {
            let is_text = value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b));
            if !is_text || value.trim() != value {
                let problem =
                    format!("the value of {name:?} must be visible ASCII, with blanks only between");
                return Err(flaw(format!("{at}.{list}[{i}].value"), problem));
            }
        }
    }
    Ok(())
}

fn check_path(at: &str, path: &PathModifier, rule: &RouteRule) -> Result<(), Flaw> {
    let full = ("replaceFullPath", &path.replace_full_path);
    let prefix = ("replacePrefixMatch", &path.replace_prefix_match);
    let ((field, value), (other, unused)) = match path.kind {
        PathModifierType::ReplaceFullPath => (full, prefix),
        PathModifierType::ReplacePrefixMatch => (prefix, full),
    };
    if unused.is_some() {
        let problem = format!("must be absent, since type is {:?}", path.kind);
        return Err(flaw(format!("{at}.{other}"), problem));
    }
    let Some(value) = value else {
        return Err(flaw(
            format!("{at}.{field}"),
            format!("is missing, since type says so: give it, or another type than {:?}", path.kind),
        ));
    };
    if !value.starts_with('/') || !value.bytes().all(|b| b.is_ascii_graphic()) || value.contains(['?', '#']) {
        return Err(flaw(
            format!("{at}.{field}"),
            "must be an absolute path, percent-encoded, without query",
        ));
    }
    let is_prefix =
        |one: &RouteMatch| one.path.as_ref().is_some_and(|path| path.kind == PathMatchType::PathPrefix);
    if path.kind == PathModifierType::ReplacePrefixMatch
        && (rule.matches.is_empty() || !rule.matches.iter().all(is_prefix))
    {
        let problem = "goes only with matches that all have a path of type PathPrefix: else there is no prefix to replace";
        return Err(flaw(format!("{at}.type"), problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(yaml: &str) -> Vec<RouteRule> {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn expressions_match_all_of_a_value() {
        for (pattern, yes, no) in [
            ("a|b", &["a", "b"][..], &["ab", "xb", "ax", ""][..]),
            ("/v[0-9]+/.*", &["/v1/", "/v12/x"], &["/v/", "x/v1/", "/v1"]),
            ("(?i)abc", &["abc", "ABC"], &["abcd"]),
            ("^a$", &["a"], &["aa", "a\n"]),
            ("", &[""], &["a"]),
        ] {
            let regex = matcher(pattern).unwrap();
            for value in yes {
                assert!(regex.is_match(value.as_bytes()), "{pattern} on {value}");
            }
            for value in no {
                assert!(!regex.is_match(value.as_bytes()), "{pattern} on {value}");
            }
        }
    }

    #[test]
    fn what_is_no_expression_says_why() {
        for (pattern, part) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("a{1000}{1000}", "more than"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
        ] {
            let problem = matcher(pattern).unwrap_err();
            assert!(problem.contains(part), "{pattern}: {problem}");
        }
    }

    fn check(all: &[(&str, &str, &str)]) {
        for (yaml, field, part) in all {
            let flaw = check_all(&rules(yaml)).unwrap_err();
            assert_eq!(flaw.field, *field, "{yaml}");
            assert!(flaw.problem.contains(part), "{yaml}: {}", flaw.problem);
        }
    }

    #[test]
    fn flaws_name_their_field() {
        check(&[
            ("[{name: a}, {name: a}]", "rules[1].name", "rules[0]"),
            (
                "[{matches: [{grpc: {service: a.B}, path: {value: /}}]}]",
                "rules[0].matches[0].grpc",
                "neither path",
            ),
            (
                "[{matches: [{grpc: {service: a.B}, method: GET}]}]",
                "rules[0].matches[0].grpc",
                "neither path",
            ),
            (
                "[{matches: [{}, {path: {type: RegularExpression, value: '('}}]}]",
                "rules[0].matches[1].path.value",
                "unclosed",
            ),
            ("[{}, {failureCodes: [500, 200]}]", "rules[1].failureCodes", "400 to 599"),
            ("[{matches: [{path: {value: a}}]}]", "rules[0].matches[0].path.value", "absolute"),
            ("[{matches: [{path: {value: '/a?b'}}]}]", "rules[0].matches[0].path.value", "alone"),
            (
                "[{matches: [{headers: [{name: A, value: x}, {name: a, value: y}]}]}]",
                "rules[0].matches[0].headers[1].name",
                "twice",
            ),
            (
                "[{matches: [{headers: [{name: Host, value: x}]}]}]",
                "rules[0].matches[0].headers[0].name",
                "not among",
            ),
            (
                "[{matches: [{queryParams: [{name: q, value: '[', type: RegularExpression}]}]}]",
                "rules[0].matches[0].queryParams[0].value",
                "unclosed",
            ),
            (
                "[{requestHeaderModifier: {set: [{name: Host, value: x}]}}]",
                "rules[0].requestHeaderModifier.set[0].name",
                "urlRewrite.hostname",
            ),
            (
                "[{responseHeaderModifier: {remove: [vicino-error]}}]",
                "rules[0].responseHeaderModifier.remove[0]",
                "cannot be changed",
            ),
            (
                "[{responseHeaderModifier: {remove: ['a b']}}]",
                "rules[0].responseHeaderModifier.remove[0]",
                "no name",
            ),
            (
                "[{responseHeaderModifier: {set: [{name: a, value: b}, {name: c, value: ' d'}]}}]",
                "rules[0].responseHeaderModifier.set[1].value",
                "visible",
            ),
            (
                "[{requestHeaderModifier: {add: [{name: a, value: \"x\\r\\nb: c\"}]}}]",
                "rules[0].requestHeaderModifier.add[0].value",
                "visible",
            ),
        ]);
    }

    #[test]
    fn flaws_of_what_a_rule_does_name_their_field() {
        check(&[
            (
                "[{urlRewrite: {path: {type: ReplaceFullPath}}}]",
                "rules[0].urlRewrite.path.replaceFullPath",
                "missing",
            ),
            (
                "[{urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
                "rules[0].urlRewrite.path.type",
                "PathPrefix",
            ),
            (
                "[{matches: [{path: {type: Exact, value: /a}}], requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
                "rules[0].requestRedirect.path.type",
                "PathPrefix",
            ),
            ("[{directResponse: {statusCode: 204, body: x}}]", "rules[0].directResponse.body", "no body"),
            ("[{directResponse: {statusCode: 200}, backends: [{name: a}]}]", "rules[0]", "neither"),
            (
                "[{directResponse: {statusCode: 200}, fault: {abort: {statusCode: 500}}}]",
                "rules[0]",
                "neither backends nor urlRewrite, fault",
            ),
            ("[{directResponse: {statusCode: 100}}]", "rules[0].directResponse.statusCode", "200 to 599"),
            ("[{requestRedirect: {statusCode: 304}}]", "rules[0].requestRedirect.statusCode", "307"),
            ("[{requestRedirect: {port: 0}}]", "rules[0].requestRedirect.port", "65535"),
            ("[{requestRedirect: {hostname: \"a\\r\\nb\"}}]", "rules[0].requestRedirect.hostname", "DNS"),
            ("[{fault: {abort: {statusCode: 200}}}]", "rules[0].fault.abort.statusCode", "400"),
            ("[{fault: {abort: {statusCode: 500, percent: 101}}}]", "rules[0].fault.abort.percent", "100"),
            ("[{fault: {delay: {milliseconds: 0}}}]", "rules[0].fault.delay.milliseconds", "60000"),
            ("[{directResponse: {statusCode: 200}, requestRedirect: {}}]", "rules[0]", "not with both"),
            ("[{directResponse: {statusCode: 200}, requestMirror: {name: a}}]", "rules[0]", "requestMirror"),
            ("[{requestMirror: {name: a, percent: 101}}]", "rules[0].requestMirror.percent", "100"),
            (
                "[{cors: {allowOrigins: ['*', 'shop.example']}}]",
                "rules[0].cors.allowOrigins[1]",
                "https://shop",
            ),
            (
                "[{cors: {allowOrigins: ['https://*shop.example']}}]",
                "rules[0].cors.allowOrigins[0]",
                "origin",
            ),
            (
                "[{cors: {allowOrigins: ['*'], exposeHeaders: ['a b']}}]",
                "rules[0].cors.exposeHeaders[0]",
                "name",
            ),
        ]);
    }

    #[test]
    fn expressions_are_counted_over_all_rules() {
        let some = |count: usize| {
            let one = "{queryParams: [{name: q, type: RegularExpression, value: a}]}";
            rules(&format!("[{{matches: [{}]}}]", vec![one; count].join(", ")))
        };
        assert_eq!(check_all(&some(REGEXES_MAX)), Ok(()));
        let flaw = check_all(&some(REGEXES_MAX + 1)).unwrap_err();
        assert_eq!(flaw.field, "rules[0].matches");
    }

    #[test]
    fn a_rule_with_everything_is_fine() {
        let yaml = "
- name: everything
  matches:
  - path: {value: /v1/}
    headers: [{name: x-canary, value: 'yes'}]
    queryParams: [{name: q, type: RegularExpression, value: '[a-z]+'}]
    method: GET
  backends: [{name: quotes-v2}]
  timeouts: {requestMilliseconds: 100}
  requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: 'd e'}], remove: [f]}
  responseHeaderModifier: {set: [{name: a, value: ''}]}
  requestMirror: {name: quotes-v3, namespace: other, port: 80, percent: 10}
  cors: {allowOrigins: ['https://*.shop.example', 'http://localhost:8080'], allowMethods: [PUT], allowHeaders: ['*'], exposeHeaders: [x-a], allowCredentials: true, maxAgeSeconds: 60}
  urlRewrite: {hostname: v2.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
  fault: {delay: {milliseconds: 5, percent: 1}, abort: {statusCode: 503}}
- requestRedirect: {scheme: https, port: 8443}
";
        assert_eq!(check_all(&rules(yaml)), Ok(()));
    }
}
