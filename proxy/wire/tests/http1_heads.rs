//! What a good head is understood as: whom it is for, what travels on, where the body ends, whether the connection stays.

use expect_test::{Expect, expect};
use vicino_wire::{
    head::{Framing, Headers, ResponseHead, Version},
    http1::{Slots, parse_request, parse_response, write_response_head},
};

fn show_fields(headers: Headers<'_>) -> String {
    headers.iter().flat_map(|header| ["  ".to_owned(), format!("{header:?}"), "\n".to_owned()]).collect()
}

#[track_caller]
fn check_request(input: &str, expected: &Expect) {
    let mut slots = Slots::default();
    let read = parse_request(input.as_bytes(), &mut slots).expect("a good request").expect("a whole head");
    let head = read.head;
    let mut says = vec![head.version.to_string(), format!("{:?}", read.framing)];
    let flags = [
        (read.keep_alive, "keep-alive"),
        (read.expect_continue, "expects continue"),
        (read.absolute_form, "absolute-form"),
        (head.accepts_trailers, "takes trailers"),
        (read.wants_path, "wants its path"),
    ];
    says.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, word)| (*word).to_owned()));
    let rest = &input[read.len..];
    let first = format!("{} {:?} at {:?}", head.method, head.path, head.authority);
    expected.assert_eq(&format!(
        "{first}\n{}\n{}then {rest:?}\n",
        says.join(", "),
        show_fields(head.headers)
    ));
}

#[track_caller]
fn check_response(to_method: &str, input: &str, expected: &Expect) {
    let mut slots = Slots::default();
    let read = parse_response(input.as_bytes(), &mut slots, to_method)
        .expect("a good response")
        .expect("a whole head");
    let ResponseHead { status, reason, version, declared_length, headers } = read.head;
    let says = format!(
        "{version}, {:?}, keep-alive {}, declared {declared_length:?}",
        read.framing, read.keep_alive
    );
    let reason = reason.escape_ascii();
    expected.assert_eq(&format!(
        "{status} {reason}\n{says}\n{}then {:?}\n",
        show_fields(headers),
        &input[read.len..]
    ));
}

#[test]
fn a_request_is_for_its_host() {
    check_request(
        "GET /a?b=c HTTP/1.1\r\nHost: web.demo:8080\r\nAccept: */*\r\nX-Empty:\r\nAccept: \t text/html \t\r\n\r\nnext",
        &expect![[r#"
            GET "/a?b=c" at "web.demo:8080"
            HTTP/1.1, None, keep-alive
              Accept: */*
              X-Empty: 
              Accept: text/html
            then "next"
        "#]],
    );
}

#[test]
fn the_absolute_form_wins_over_host() {
    let host = "HTTP/1.1\r\nHost: good\r\n\r\n";
    check_request(
        &format!("GET http://web.demo:81/a?b {host}"),
        &expect![[r#"
            GET "/a?b" at "web.demo:81"
            HTTP/1.1, None, keep-alive, absolute-form
            then ""
        "#]],
    );
    check_request(
        &format!("GET HTTP://web {host}"),
        &expect![[r#"
            GET "/" at "web"
            HTTP/1.1, None, keep-alive, absolute-form
            then ""
        "#]],
    );
    check_request(
        &format!("GET http://web?b=/c {host}"),
        &expect![[r#"
            GET "/?b=/c" at "web"
            HTTP/1.1, None, keep-alive, absolute-form
            then ""
        "#]],
    );
    check_request(
        &format!("OPTIONS http://web {host}"),
        &expect![[r#"
            OPTIONS "*" at "web"
            HTTP/1.1, None, keep-alive, absolute-form
            then ""
        "#]],
    );
}

#[test]
fn a_connect_is_for_its_target() {
    check_request(
        "CONNECT db.demo:5432 HTTP/1.1\r\nHost: other\r\nProxy-Authorization: x\r\n\r\nhello",
        &expect![[r#"
            CONNECT "" at "db.demo:5432"
            HTTP/1.1, None, keep-alive
            then "hello"
        "#]],
    );
}

#[test]
fn what_belongs_to_the_connection_stays_on_it() {
    check_request(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: x-one, Keep-Alive\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nTE: gzip, Trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nProxy-Authorization: x\r\n\
         Proxy-Authenticate: x\r\nConnection: TE,x-THREE\r\nx-three: 3\r\nX-One: 1\r\nX-On: e\r\nContent-Length: 3\r\n\
         Expect: 100-Continue\r\n\r\nabc",
        &expect![[r#"
            POST "/" at "a"
            HTTP/1.1, Length(3), keep-alive, expects continue, takes trailers
              X-Two: 2
              X-On: e
              Expect: 100-Continue
            then "abc"
        "#]],
    );
}

#[test]
fn nominating_framing_or_host_changes_neither() {
    check_request(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length, host, transfer-encoding\r\nContent-Length: 3\r\n\r\nabc",
        &expect![[r#"
            POST "/" at "a"
            HTTP/1.1, Length(3), keep-alive
            then "abc"
        "#]],
    );
}

#[test]
fn nobody_says_what_only_proxies_may() {
    check_request(
        "GET / HTTP/1.1\r\nHost: a\r\nVicino-Error: x\r\nvicino-: x\r\nVicino-Debug: all\r\nX-Forwarded-Client-Cert: By=x\r\nVicin: o\r\n\r\n",
        &expect![[r#"
            GET "/" at "a"
            HTTP/1.1, None, keep-alive
              Vicin: o
            then ""
        "#]],
    );
    check_response(
        "GET",
        "HTTP/1.1 503 No\r\nvicino-error: no-endpoint\r\nConnection: x-a\r\nX-A: b\r\nProxy-Authenticate: x\r\nContent-Length: 0\r\nvicino_error: y\r\n\r\n",
        &expect![[r#"
            503 No
            HTTP/1.1, Length(0), keep-alive true, declared None
              vicino_error: y
            then ""
        "#]],
    );
}

#[test]
fn a_caller_may_ask_for_its_calls_path() {
    check_request(
        "GET / HTTP/1.1\r\nHost: a\r\nVICINO-DEBUG: path\r\n\r\n",
        &expect![[r#"
            GET "/" at "a"
            HTTP/1.1, None, keep-alive, wants its path
            then ""
        "#]],
    );
}

#[test]
fn connections_stay_as_the_version_and_the_options_say() {
    for (version, option, stays) in [
        ("1.1", "x", true),
        ("1.1", "Close", false),
        ("1.1", "keep-alive, close", false),
        ("1.0", "x", false),
        ("1.0", "Keep-Alive", true),
        ("1.0", "keep-alive, close", false),
    ] {
        let mut slots = Slots::default();
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {option}\r\n\r\n");
        let read = parse_request(request.as_bytes(), &mut slots).unwrap().unwrap();
        assert_eq!(read.keep_alive, stays, "request: {version} {option}");
        let response = format!("HTTP/{version} 200 OK\r\nContent-Length: 1\r\nConnection: {option}\r\n\r\n");
        let read = parse_response(response.as_bytes(), &mut slots, "GET").unwrap().unwrap();
        assert_eq!(read.keep_alive, stays, "response: {version} {option}");
    }
}

#[test]
fn an_old_request_has_no_host_and_expects_nothing() {
    check_request(
        "\r\nPOST /a HTTP/1.0\r\nExpect: 100-continue\r\n\r\nabc",
        &expect![[r#"
            POST "/a" at ""
            HTTP/1.0, None
              Expect: 100-continue
            then "abc"
        "#]],
    );
}

#[test]
fn the_method_and_the_status_say_whether_a_body_follows() {
    let with = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello");
    let none = expect![[r#"
        200 OK
        HTTP/1.1, None, keep-alive true, declared Some(5)
        then "hello"
    "#]];
    check_response("HEAD", &with("200 OK"), &none);
    check_response(
        "GET",
        &with("304 Not Modified"),
        &expect![[r#"
            304 Not Modified
            HTTP/1.1, None, keep-alive true, declared Some(5)
            then "hello"
        "#]],
    );
    for (status, method) in [("100 ", "GET"), ("204 ", "GET"), ("200 ", "CONNECT")] {
        let mut slots = Slots::default();
        let input = with(status);
        let read = parse_response(input.as_bytes(), &mut slots, method).unwrap().unwrap();
        assert_eq!((read.framing, read.head.declared_length), (Framing::None, None), "{status}");
    }
    check_response(
        "GET",
        "HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello",
        &expect![[r#"
            200 OK
            HTTP/1.1, UntilClose, keep-alive false, declared None
              A: b
            then "hello"
        "#]],
    );
    check_response(
        "GET",
        "HTTP/1.1 404 N\u{e9}t\r\ntransfer-encoding: CHUNKED\r\n\r\n0",
        &expect![[r#"
            404 N\xc3\xa9t
            HTTP/1.1, Chunked, keep-alive true, declared None
            then "0"
        "#]],
    );
}

#[test]
fn fields_are_found_whatever_their_case() {
    let mut slots = Slots::default();
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 x\r\nACCEPT: b\r\nvia: 1.1 y\r\n\r\n";
    let headers = parse_request(input, &mut slots).unwrap().unwrap().head.headers;
    assert_eq!(headers.get("accept"), Some(&b"b"[..]));
    assert_eq!(headers.get_all("Via").collect::<Vec<_>>(), [&b"1.1 x"[..], b"1.1 y"]);
    assert_eq!((headers.get("host"), headers.len()), (None, 3));
}

#[test]
fn nothing_of_one_head_is_left_for_the_next() {
    let inputs = [
        "GET http://a?first HTTP/1.1\r\nHost: a\r\nConnection: x-one\r\nX-Two: 2\r\n\r\n",
        "GET http://b?second HTTP/1.1\r\nHost: b\r\nX-One: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: c\r\n\r\n",
    ];
    let mut used = Slots::default();
    for input in inputs {
        let mut fresh = Slots::default();
        let expected = parse_request(input.as_bytes(), &mut fresh).unwrap();
        assert_eq!(parse_request(input.as_bytes(), &mut used).unwrap(), expected, "{input:?}");
    }
}

#[test]
fn written_responses_close_at_their_end_and_say_what_they_would_have_been() {
    let mut out = Vec::new();
    let headers = Headers::default();
    let hints = ResponseHead {
        status: 103,
        reason: b"Early Hints",
        version: Version::Http11,
        declared_length: None,
        headers,
    };
    write_response_head(&mut out, &hints, Framing::None, &[], false);
    let not_modified = ResponseHead { status: 304, reason: b"", declared_length: Some(5), ..hints };
    write_response_head(&mut out, &not_modified, Framing::None, &[], false);
    let expected =
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 304 \r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    assert_eq!(out.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
}
