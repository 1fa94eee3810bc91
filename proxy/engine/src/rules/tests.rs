//! Picking and editing, by example and against the plainest reading of the Gateway API.

use proptest::prelude::*;
use vicino_wire::head::{Headers, Version};

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern { text: text.into(), regex: Regex::new(&format!("^(?:{text})$")).unwrap() }
}

fn exact(name: &str, value: &str) -> (Box<str>, ValueTest) {
    (name.into(), ValueTest::Exact(value.into()))
}

fn regex(name: &str, text: &str) -> (Box<str>, ValueTest) {
    (name.into(), ValueTest::Regex(pattern(text)))
}

fn head<'a>(method: &'a str, path: &'a str, headers: &'a [Header<'a>]) -> RequestHead<'a> {
    RequestHead {
        method,
        authority: "web",
        path,
        version: Version::Http11,
        accepts_trailers: false,
        headers: headers.into(),
    }
}

fn field<'a>(name: &'a str, value: &'a str) -> Header<'a> {
    Header { name: name.as_bytes(), value: value.as_bytes() }
}

fn test(path: PathTest) -> Test {
    Test { path, ..Test::default() }
}

fn rules(tests: Vec<Vec<Test>>) -> Rules {
    Rules::new(tests.into_iter().map(|tests| (Rule::default(), tests)).collect())
}

#[test]
fn a_prefix_is_of_whole_elements() {
    for (prefix, path, met) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1", "/v1/quotes", true),
        ("/v1/", "/v1", true),
        ("/v1", "/v10", false),
        ("/v1", "/V1", false),
        ("/v1", "/v", false),
        ("/v1", "*", false),
        ("/", "/anything", true),
        ("/", "*", true),
    ] {
        assert_eq!(PathTest::prefix(prefix).is_met(path), met, "{prefix} on {path}");
    }
}

#[test]
fn each_part_of_a_test_is_looked_at_and_named() {
    let all = Test {
        path: PathTest::Exact("/a".into()),
        method: Some("GET".into()),
        headers: vec![exact("x-a", "1"), regex("x-b", "[0-9]+")],
        query: vec![exact("q", "a b"), regex("r", "x.*")],
    };
    let fields = [field("X-A", "1"), field("x-b", "no"), field("x-b", "77")];
    let say = |method, path, count: usize| all.mismatch(&head(method, path, &fields[..count]));
    assert_eq!(say("GET", "/a?q=a+b&r=xyz", 3), None);
    assert_eq!(say("GET", "/a?r=x&q=a%20b&q=other", 3), None, "the first value counts");
    assert_eq!(say("GET", "/b?q=a+b&r=xyz", 3), Some(Mismatch::Path));
    assert_eq!(say("get", "/a?q=a+b&r=xyz", 3), Some(Mismatch::Method));
    assert_eq!(say("GET", "/a?q=a+b&r=xyz", 0), Some(Mismatch::Header(0)));
    assert_eq!(say("GET", "/a?q=a+b&r=xyz", 2), Some(Mismatch::Header(1)));
    assert_eq!(say("GET", "/a", 3), Some(Mismatch::Query(0)));
    assert_eq!(say("GET", "/a?q=other&q=a+b&r=x", 3), Some(Mismatch::Query(0)));
    assert_eq!(say("GET", "/a?q=a+b&r=yx", 3), Some(Mismatch::Query(1)));
}

#[test]
fn the_most_specific_test_decides_whatever_the_order() {
    let with_method = Test { method: Some("GET".into()), ..test(PathTest::prefix("/api")) };
    let with_header = Test { headers: vec![exact("x", "1")], ..test(PathTest::prefix("/api")) };
    let with_query = Test { query: vec![exact("q", "1")], ..test(PathTest::prefix("/api")) };
    let rules = rules(vec![
        vec![],
        vec![test(PathTest::prefix("/api"))],
        vec![test(PathTest::prefix("/api/v1"))],
        vec![test(PathTest::Regex(pattern("/re/.*")))],
        vec![test(PathTest::Exact("/re/exact".into()))],
        vec![with_query, test(PathTest::prefix("/other"))],
        vec![with_header],
        vec![with_method],
        vec![test(PathTest::prefix("/api"))],
    ]);
    let fields = [field("x", "1")];
    for (method, path, has_field, rule, test, prefix) in [
        ("POST", "/", false, 0, 0, 0),
        ("OPTIONS", "*", false, 0, 0, 0),
        ("POST", "/api", false, 1, 0, 4),
        ("POST", "/api/v1/x", true, 2, 0, 7),
        ("POST", "/re/x", false, 3, 0, 0),
        ("POST", "/re/exact", false, 4, 0, 0),
        ("POST", "/api?q=1", false, 5, 0, 4),
        ("POST", "/other", false, 5, 1, 6),
        ("POST", "/api?q=1", true, 6, 0, 4),
        ("GET", "/api?q=1", true, 7, 0, 4),
    ] {
        let fields = if has_field { &fields[..] } else { &[] };
        let expected = Some(Pick { rule, test, prefix });
        assert_eq!(rules.pick(&head(method, path, fields)), expected, "{method} {path} {has_field}");
    }
}

#[test]
fn no_rule_is_a_result_too() {
    let rules = rules(vec![vec![test(PathTest::Exact("/a".into()))]]);
    assert_eq!(rules.pick(&head("GET", "/b", &[])), None);
}

#[test]
fn fields_are_removed_set_and_added() {
    let edit = HeaderEdit {
        remove: vec!["x-gone".into()],
        set: vec![("X-Set".into(), "new".into())],
        add: vec![("x-add".into(), "more".into())],
    };
    let fields = [
        field("x-set", "1"),
        field("X-Gone", "2"),
        field("x-add", "3"),
        field("x-set", "4"),
        field("z", "5"),
    ];
    let mut out = Vec::new();
    edit.apply(Headers::from(&fields[..]), &mut out);
    assert_eq!(out, [field("x-add", "3"), field("z", "5"), field("X-Set", "new"), field("x-add", "more")]);
}

#[test]
fn paths_are_replaced_as_the_gateway_api_says() {
    for (prefix, new, target, expected) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz/", "/foo", "/xyz/"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/", "/xyz", "/bar?a=b?c", "/xyz/bar?a=b?c"),
        ("/foo", "/xyz", "/foo?", "/xyz?"),
        ("/", "/xyz", "*", "*"),
    ] {
        let PathTest::Prefix(prefix) = PathTest::prefix(prefix) else { unreachable!() };
        let mut out = String::new();
        PathEdit::Prefix(new.into()).apply(target, prefix.len(), &mut out);
        assert_eq!(out, expected, "{prefix} → {new} in {target}");
    }
    let mut out = String::new();
    PathEdit::Full("/all".into()).apply("/x/y?z", 0, &mut out);
    assert_eq!(out, "/all?z");
}

#[test]
fn locations_keep_what_is_not_said() {
    let plain = Redirect { status: 302, scheme: None, host: None, port: None, path: None };
    let https = Redirect { scheme: Some("https"), ..plain.clone() };
    let moved = Redirect {
        host: Some("new.example".into()),
        path: Some(PathEdit::Full("/b".into())),
        ..plain.clone()
    };
    for (redirect, authority, expected) in [
        (&plain, "web:8080", "http://web:8080/a?q"),
        (&plain, "web", "http://web/a?q"),
        (&plain, "[fd00::1]:81", "http://[fd00::1]:81/a?q"),
        (&plain, "", "/a?q"),
        (&https, "web:8080", "https://web/a?q"),
        (&Redirect { port: Some(8443), ..https.clone() }, "web", "https://web:8443/a?q"),
        (&Redirect { port: Some(443), ..https.clone() }, "web", "https://web/a?q"),
        (&moved, "web:80", "http://new.example/b?q"),
    ] {
        let head = RequestHead { authority, ..head("GET", "/a?q", &[]) };
        assert_eq!(redirect.location(&head, 0), expected, "{redirect:?} for {authority:?}");
    }
}

#[test]
fn a_request_is_edited_in_all_its_parts_and_only_there() {
    let rule = Rule {
        request: HeaderEdit { set: vec![("a".into(), "b".into())], ..HeaderEdit::default() },
        host: Some("v2.example".into()),
        path: Some(PathEdit::Prefix("/v2".into())),
        ..Rule::default()
    };
    let fields = [field("keep", "1"), field("A", "old")];
    let asked = head("PUT", "/v1/x?y", &fields);
    let (mut storage, mut path) = (Vec::new(), String::new());
    let edited = rule.edit_request(asked, Pick { rule: 0, test: 0, prefix: 3 }, (&mut storage, &mut path));
    let expected = [field("keep", "1"), field("a", "b")];
    assert_eq!(
        edited,
        RequestHead { authority: "v2.example", path: "/v2/x?y", headers: expected[..].into(), ..asked }
    );
    assert!(rule.edits_request() && !Rule::default().edits_request());
}

/// The precedence as the Gateway API's text lists it, one criterion after the other over what is left.
fn naive(rules: &[Vec<Test>], head: &RequestHead<'_>) -> Option<(usize, usize)> {
    let path = head.path.split('?').next().unwrap_or_default();
    let is_met = |test: &Test| {
        let path_is_met = match &test.path {
            PathTest::Exact(text) => path == &**text,
            PathTest::Prefix(text) => {
                let of = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
                text.is_empty() || of(path).starts_with(&of(text))
            }
            PathTest::Regex(pattern) => pattern.regex.is_match(path.as_bytes()),
        };
        path_is_met
            && test.method.as_deref().is_none_or(|method| method == head.method)
            && test.headers.iter().all(|(name, value)| {
                head.headers.iter().any(|h| {
                    h.name.to_ascii_lowercase() == name.to_ascii_lowercase().as_bytes()
                        && matches!(value, ValueTest::Exact(v) if v.as_bytes() == h.value)
                })
            })
            && test.query.iter().all(|(name, value)| {
                let query = head.path.split_once('?').map_or("", |(_, query)| query);
                let first =
                    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| **key == **name);
                first.is_some_and(|(_, v)| matches!(value, ValueTest::Exact(wanted) if **wanted == *v))
            })
    };
    let mut left: Vec<(usize, usize, &Test)> = Vec::new();
    for (rule, tests) in rules.iter().enumerate() {
        left.extend(
            tests
                .iter()
                .enumerate()
                .filter(|(_, test)| is_met(test))
                .map(|(index, test)| (rule, index, test)),
        );
    }
    let criteria: [fn(&Test) -> usize; 6] = [
        |test| match &test.path {
            PathTest::Exact(_) => 2,
            PathTest::Regex(_) => 1,
            PathTest::Prefix(_) => 0,
        },
        |test| match &test.path {
            PathTest::Exact(text) | PathTest::Prefix(text) => text.len(),
            PathTest::Regex(pattern) => pattern.text.len(),
        },
        |test| usize::from(test.method.is_some()),
        |test| test.headers.len(),
        |test| test.query.len(),
        |_| 0,
    ];
    for criterion in criteria {
        let best = left.iter().map(|(_, _, test)| criterion(test)).max()?;
        left.retain(|(_, _, test)| criterion(test) == best);
    }
    left.first().map(|(rule, index, _)| (*rule, *index))
}

fn any_path() -> impl Strategy<Value = PathTest> {
    let text = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/b"]);
    prop_oneof![
        text.clone().prop_map(|text| PathTest::Exact(text.into())),
        text.prop_map(PathTest::prefix),
        prop::sample::select(vec!["/a.*", "/[ab]", ".*"]).prop_map(|text| PathTest::Regex(pattern(text))),
    ]
}

fn any_pairs() -> impl Strategy<Value = Vec<(Box<str>, ValueTest)>> {
    prop::collection::vec((prop::sample::select(vec!["x", "Y"]), prop::sample::select(vec!["1", "2"])), 0..3)
        .prop_map(|pairs| pairs.into_iter().map(|(name, value)| exact(name, value)).collect())
}

fn any_test() -> impl Strategy<Value = Test> {
    let method = prop::option::of(prop::sample::select(vec!["GET", "PUT"]));
    (any_path(), method, any_pairs(), any_pairs()).prop_map(|(path, method, headers, query)| Test {
        path,
        method: method.map(Into::into),
        headers,
        query,
    })
}

proptest! {
    #[test]
    fn a_pick_is_what_the_gateway_api_says(
        tests in prop::collection::vec(prop::collection::vec(any_test(), 1..4), 0..5),
        method in prop::sample::select(vec!["GET", "PUT", "POST"]),
        path in prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "*"]),
        query in prop::sample::select(vec!["", "?", "?x=1", "?Y=2&x=1", "?x=2&x=1&Y=1"]),
        fields in prop::collection::vec((prop::sample::select(vec!["X", "x", "y"]), prop::sample::select(vec!["1", "2"])), 0..4),
    ) {
        let target = format!("{path}{query}");
        let fields: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
        let head = head(method, &target, &fields);
        let picked = rules(tests.clone()).pick(&head).map(|pick| (pick.rule, pick.test));
        prop_assert_eq!(picked, naive(&tests, &head));
    }
}
