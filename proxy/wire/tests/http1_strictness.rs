//! Each rule of HTTP/1.1 that two parsers are known to judge differently: an input that breaks it beside a neighbour that does not.

use vicino_wire::{
    head::{AUTHORITY_BYTES_MAX, HEADERS_MAX},
    http1::{
        Body, BodyDecoder, CHUNK_OVERHEAD_BYTES_MAX, HEAD_BYTES_MAX, Reject, Slots, TRAILER_BYTES_MAX,
        parse_request, parse_response,
    },
};

/// `refused` is refused for that reason, alone and at the end of every longer input that begins with it; `accepted` is a whole head.
#[track_caller]
fn check_request(refused: &[u8], reason: Reject, accepted: &[u8]) {
    let mut slots = Slots::default();
    let shown = refused.escape_ascii();
    assert_eq!(parse_request(refused, &mut slots).map(|r| r.is_some()), Err(reason), "{shown}");
    let longer = [refused, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    assert_eq!(parse_request(&longer, &mut slots).map(|r| r.is_some()), Err(reason), "{shown}, and more");
    let read = parse_request(accepted, &mut slots).map(|read| read.map(|read| read.len));
    assert_eq!(read, Ok(Some(accepted.len())), "{}", accepted.escape_ascii());
}

#[track_caller]
fn check_requests(rules: &[(&str, Reject, &str)]) {
    for (refused, reason, accepted) in rules {
        check_request(refused.as_bytes(), *reason, accepted.as_bytes());
    }
}

/// The same for the fields of an otherwise good request.
#[track_caller]
fn check_fields(rules: &[(&str, Reject, &str)]) {
    let request = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    for (refused, reason, accepted) in rules {
        check_request(request(refused).as_bytes(), *reason, request(accepted).as_bytes());
    }
}

/// The same for a response to GET.
#[track_caller]
fn check_responses(rules: &[(&str, Reject, &str)]) {
    let mut slots = Slots::default();
    for (refused, reason, accepted) in rules {
        let error = parse_response(refused.as_bytes(), &mut slots, "GET").expect_err(refused);
        assert_eq!(error.fault, *reason, "{refused:?}");
        assert_eq!((error.status(), error.reason()), (502, "bad-response"));
        let read =
            parse_response(accepted.as_bytes(), &mut slots, "GET").map(|read| read.map(|read| read.len));
        assert_eq!(read, Ok(Some(accepted.len())), "{accepted:?}");
    }
}

/// The data of a whole body, or why it is refused.
fn chunked(wire: &[u8]) -> Result<Vec<u8>, Reject> {
    let (mut decoder, mut at, mut data) =
        (BodyDecoder::new(vicino_wire::head::Framing::Chunked), 0, Vec::new());
    loop {
        let (body, used) = decoder.decode(&wire[at..])?;
        at += used;
        match body {
            Body::Data(part) => data.extend_from_slice(part),
            Body::Trailers(_) => {}
            Body::End => return Ok(data),
            Body::More => return decoder.close().map(|()| data),
        }
    }
}

#[track_caller]
fn check_chunked(rules: &[(&str, Reject, &str)]) {
    for (refused, reason, accepted) in rules {
        assert_eq!(chunked(refused.as_bytes()), Err(*reason), "{refused:?}");
        assert!(chunked(accepted.as_bytes()).is_ok(), "{accepted:?}");
    }
}

#[test]
fn first_line() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    check_requests(&[
        ("GET  / HTTP/1.1\r\n", Reject::BadRequestLine, good),
        ("GET / HTTP/1.1 \r\n", Reject::BadRequestLine, good),
        ("GET /  HTTP/1.1\r\n", Reject::BadRequestLine, good),
        ("GET /\r\n", Reject::BadRequestLine, good),
        ("GET\r\n", Reject::BadRequestLine, good),
        ("GET / http/1.1\r\n", Reject::BadRequestLine, good),
        ("GET / HTTP/1.1x", Reject::BadRequestLine, good),
        ("GET / HTTP/11 ", Reject::BadRequestLine, good),
        ("GET\t/ HTTP/1.1\r\n", Reject::BadMethod, good),
        ("G(T / HTTP/1.1\r\n", Reject::BadMethod, "G~T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("\x16\x03\x01", Reject::BadMethod, good),
        ("GET / HTTP/1.2\r\n", Reject::BadVersion, "GET / HTTP/1.0\r\n\r\n"),
        ("GET / HTTP/3.0\r\n", Reject::BadVersion, good),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reject::Http2Preface, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
    let method = |len: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(len));
    check_requests(&[(&method(33), Reject::BadMethod, &method(32))]);
}

#[test]
fn line_ends_and_blanks() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n";
    check_requests(&[
        ("GET / HTTP/1.1\n", Reject::BareLf, good),
        ("GET / HTTP/1.1\r\nHost: a\n", Reject::BareLf, good),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Reject::BareLf, good),
        ("\nGET", Reject::BareLf, good),
        ("GET / HTTP/1.1\rHost: a", Reject::BareCr, good),
        ("GET / HTTP/1.1\r\nHost: a\rB: c\r\n", Reject::BareCr, good),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n", Reject::BareCr, good),
        ("GET / HTTP/1.1\r\nHost: a\r\n\rGET", Reject::BareCr, good),
        ("GET / HTTP/1.1\r\n Host: a\r\n", Reject::ObsFold, good),
        ("GET / HTTP/1.1\r\nHost: a\r\nB: b\r\n c\r\n", Reject::ObsFold, good),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nB: b\r\n\tc\r\n",
            Reject::ObsFold,
            "GET / HTTP/1.1\r\nHost: a\r\nB: b\tc\r\n\r\n",
        ),
        ("\r\n\r\nGET / HTTP/1.1\r\n", Reject::LeadingBlank, "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("\r\n GET / HTTP/1.1\r\n", Reject::LeadingBlank, good),
        (" GET / HTTP/1.1\r\n", Reject::LeadingBlank, good),
    ]);
}

#[test]
fn names_and_values() {
    check_fields(&[
        ("B : c", Reject::SpaceBeforeColon, "B: c"),
        ("B\t: c", Reject::SpaceBeforeColon, "B:\tc"),
        ("Transfer-Encoding : chunked", Reject::SpaceBeforeColon, "Transfer-Encoding:chunked"),
        (": c", Reject::EmptyHeaderName, "B:"),
        ("B", Reject::BadHeaderName, "B: "),
        ("B@: c", Reject::BadHeaderName, "B!: c"),
        ("\u{e9}: c", Reject::BadHeaderName, "B: \u{e9}"),
        ("B: c\0d", Reject::BadHeaderValue, "B: c d"),
        ("B: c\x1bd", Reject::BadHeaderValue, "B: c\td"),
        ("B: c\x7f", Reject::BadHeaderValue, "B: c~"),
    ]);
    let named = |len: usize| format!("{}: c", "n".repeat(len));
    check_fields(&[(&named(256), Reject::BadHeaderName, &named(255))]);
}

#[test]
fn targets() {
    let target = |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let refused = [
        ("GET", "/a#b", Reject::BadTarget, "/a%23b"),
        ("GET", "/a\x01b", Reject::BadTarget, "/a%01b"),
        ("GET", "/\u{e9}", Reject::BadTarget, "/%C3%A9"),
        ("GET", "/a\tb", Reject::BadTarget, "/a|b"),
        ("GET", "a", Reject::BadTarget, "/a"),
        ("GET", "?a", Reject::BadTarget, "/?a"),
        ("GET", "*", Reject::BadTarget, "/*"),
        ("GET", "http:/a/", Reject::BadTarget, "http://a/"),
        ("GET", "a/b://c", Reject::BadTarget, "/a/b://c"),
        ("GET", "https://a/", Reject::BadScheme, "http://a/"),
        ("GET", "ftp://a/", Reject::BadScheme, "HTTP://a/"),
        ("GET", "://a/", Reject::BadScheme, "http://a"),
        ("GET", "http:///", Reject::BadHost, "http://a/"),
        ("GET", "http://user@a/", Reject::BadHost, "http://a/@"),
        ("GET", "http://a:0/", Reject::BadHost, "http://a:1/"),
        ("GET", "http://a\\b/", Reject::BadHost, "http://a/\\b"),
        ("GET", "a:80", Reject::AuthorityForm, "http://a:80"),
        ("OPTIONS", "[::1]:80", Reject::AuthorityForm, "http://[::1]:80"),
        ("CONNECT", "a", Reject::BadTarget, "a:443"),
        ("CONNECT", "/", Reject::BadTarget, "[::1]:443"),
        ("CONNECT", "http://a:443/", Reject::BadTarget, "a.b:443"),
        ("CONNECT", "a:443/", Reject::BadTarget, "a:443"),
    ];
    for (method, bad, reason, good) in refused {
        check_requests(&[(&target(method, bad), reason, &target(method, good))]);
    }
}

#[test]
fn hosts() {
    let host = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let good = host("a");
    check_requests(&[
        ("GET / HTTP/1.1\r\nB: c\r\n\r\n", Reject::MissingHost, &good),
        ("GET / HTTP/1.1\r\n\r\n", Reject::MissingHost, "GET / HTTP/1.0\r\n\r\n"),
        ("GET http://a/ HTTP/1.1\r\n\r\n", Reject::MissingHost, "GET http://a/ HTTP/1.0\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Reject::DuplicateHost, &good),
        ("GET / HTTP/1.1\r\nHost: a\r\nhOsT: b\r\n\r\n", Reject::DuplicateHost, &good),
        (
            "GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n",
            Reject::BadHost,
            "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        ),
    ]);
    for (bad, near) in [
        ("", "a"),
        ("a b", "a-b"),
        ("a,b", "a.b"),
        ("a/b", "a_b"),
        ("a@b", "a"),
        ("user:pass@b", "a:80"),
        ("a%2eb", "a.b"),
        ("a:", "a:80"),
        ("a:0", "a:1"),
        ("a:080", "a:80"),
        ("a:65536", "a:65535"),
        ("a:+80", "a:80"),
        ("a:8 0", "a:80"),
        (".", "a."),
        (".a", "a.a"),
        ("a..b", "a.b"),
        ("\u{e9}", "xn--9ca"),
        ("[::1", "[::1]"),
        ("[::1]x", "[::1]:80"),
        ("[fe80::1%25eth0]", "[fe80::1]"),
        ("[127.0.0.1]", "127.0.0.1"),
        ("::1", "[::ffff:127.0.0.1]"),
    ] {
        check_requests(&[(&host(bad), Reject::BadHost, &host(near))]);
    }
    let (long, longest) =
        (host(&"a".repeat(AUTHORITY_BYTES_MAX + 1)), host(&"a".repeat(AUTHORITY_BYTES_MAX)));
    check_requests(&[(&long, Reject::BadHost, &longest)]);
}

#[test]
fn request_framing() {
    check_fields(&[
        ("Content-Length: 5\r\nContent-Length: 5", Reject::DuplicateContentLength, "Content-Length: 5"),
        ("Content-Length: 5\r\ncontent-length: 6", Reject::DuplicateContentLength, "Content-Length: 6"),
        ("Content-Length: +5", Reject::BadContentLength, "Content-Length:5"),
        ("Content-Length: -5", Reject::BadContentLength, "Content-Length: 05"),
        ("Content-Length: 5, 5", Reject::BadContentLength, "Content-Length: 55"),
        ("Content-Length:", Reject::BadContentLength, "Content-Length: 0"),
        ("Content-Length: 0x5", Reject::BadContentLength, "Content-Length: 5\t"),
        ("Content-Length: 5 5", Reject::BadContentLength, "Content-Length: 5 "),
        (
            "Content-Length: 10000000000000000000",
            Reject::BadContentLength,
            "Content-Length: 9999999999999999999",
        ),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Reject::LengthAndEncoding, "Content-Length: 5"),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            Reject::LengthAndEncoding,
            "Transfer-Encoding: chunked",
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Reject::DuplicateTransferEncoding,
            "Transfer-Encoding: Chunked",
        ),
        ("Transfer-Encoding: chunked, chunked", Reject::BadTransferEncoding, "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked", Reject::BadTransferEncoding, "Transfer-Encoding: chunked "),
        ("Transfer-Encoding: ,chunked", Reject::BadTransferEncoding, "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, identity", Reject::BadTransferEncoding, "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: identity", Reject::BadTransferEncoding, "Content-Encoding: identity"),
        ("Transfer-Encoding: \"chunked\"", Reject::BadTransferEncoding, "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked;q=1", Reject::BadTransferEncoding, "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked", Reject::BadTransferEncoding, "X-Transfer-Encoding: xchunked"),
        ("Transfer-Encoding:", Reject::BadTransferEncoding, "TE:"),
        ("Connection: close, a b", Reject::BadConnection, "Connection: close,, a"),
    ]);
    let options = |count: usize| format!("Connection: {}", vec!["a"; count].join(","));
    check_fields(&[(&options(33), Reject::BadConnection, &options(32))]);
    check_requests(&[
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::OldTransferEncoding,
            "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            Reject::ConnectBody,
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::ConnectBody,
            "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
    ]);
}

#[test]
fn underscore_twins() {
    check_fields(&[
        ("vicino_error: x", Reject::UnderscoreTwin, "vicino-error: x"),
        ("Vicino-a_b: x", Reject::UnderscoreTwin, "vicin_o: x"),
        ("X_Forwarded_For: 1.2.3.4", Reject::UnderscoreTwin, "X-Forwarded-For: 1.2.3.4"),
        ("x-forwarded_client_cert: x", Reject::UnderscoreTwin, "x-forwarded-client-cert: x"),
        ("X-Real_IP: 1.2.3.4", Reject::UnderscoreTwin, "X-Real-IP: 1.2.3.4"),
        ("Content_Length: 5", Reject::UnderscoreTwin, "Content_Lengths: 5"),
        ("transfer_encoding: chunked", Reject::UnderscoreTwin, "a_transfer_encoding: chunked"),
        ("Proxy_Authorization: x", Reject::UnderscoreTwin, "Proxy-Authorization: x"),
    ]);
}

#[test]
fn bounds_of_a_head() {
    let padded = |len: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nB: ";
        format!("{start}{}\r\n\r\n", "b".repeat(len - start.len() - 4))
    };
    check_requests(&[(&padded(HEAD_BYTES_MAX + 1), Reject::HeadTooLong, &padded(HEAD_BYTES_MAX))]);
    assert_eq!(parse_request(&[b'a'; 32], &mut Slots::default()), Ok(None));
    let endless = format!("GET /{}", "a".repeat(HEAD_BYTES_MAX));
    check_requests(&[(&endless, Reject::HeadTooLong, &padded(1000))]);
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "B: c\r\n".repeat(count - 1));
    check_requests(&[(&fields(HEADERS_MAX + 1), Reject::TooManyHeaders, &fields(HEADERS_MAX))]);
}

#[test]
fn responses() {
    let good = "HTTP/1.1 200 OK\r\n\r\n";
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    check_responses(&[
        ("ICY 200 OK\r\n\r\n", Reject::BadStatusLine, good),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Reject::BadStatusLine, good),
        ("HTTP/1.1  200 OK\r\n\r\n", Reject::BadStatusLine, good),
        ("HTTP/1.1 20 OK\r\n\r\n", Reject::BadStatusLine, "HTTP/1.1 200\r\n\r\n"),
        ("HTTP/1.1 099 OK\r\n\r\n", Reject::BadStatusLine, "HTTP/1.1 100 OK\r\n\r\n"),
        ("HTTP/1.1 2000 OK\r\n\r\n", Reject::BadStatusLine, "HTTP/1.1 200 \r\n\r\n"),
        ("HTTP/1.1 200\tOK\r\n\r\n", Reject::BadStatusLine, "HTTP/1.1 200 O\tK\r\n\r\n"),
        ("HTTP/2.0 200 OK\r\n\r\n", Reject::BadVersion, "HTTP/1.0 200 OK\r\n\r\n"),
        ("HTTP/1.1 101 Switching\r\n\r\n", Reject::UnaskedUpgrade, "HTTP/1.1 103 Hints\r\n\r\n"),
        ("HTTP/1.1 200 OK\n\n", Reject::BareLf, good),
        ("HTTP/1.1 200 O\rK\r\n\r\n", Reject::BareCr, good),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Reject::ObsFold, "HTTP/1.1 200 OK\r\nA: b\r\nc: \r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Reject::SpaceBeforeColon, "HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
        (both, Reject::LengthAndEncoding, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            Reject::DuplicateContentLength,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n", Reject::BadContentLength, good),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Reject::BadTransferEncoding, good),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::OldTransferEncoding,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ]);
    let long = format!("HTTP/1.1 200 {}", "a".repeat(HEAD_BYTES_MAX));
    check_responses(&[(&long, Reject::HeadTooLong, good)]);
}

#[test]
fn chunks() {
    check_chunked(&[
        ("\r\n", Reject::BadChunkSize, "0\r\n\r\n"),
        (";a\r\n", Reject::BadChunkSize, "0;a\r\n\r\n"),
        ("0x5\r\nhello\r\n", Reject::BadChunkSize, "5\r\nhello\r\n0\r\n\r\n"),
        ("+5\r\nhello\r\n", Reject::BadChunkSize, "05\r\nhello\r\n0\r\n\r\n"),
        (" 5\r\nhello\r\n", Reject::BadChunkSize, "5\r\nhello\r\n0\r\n\r\n"),
        ("5 \r\nhello\r\n", Reject::BadChunkSize, "5;\r\nhello\r\n0\r\n\r\n"),
        ("5\nhello\r\n", Reject::BareLf, "5\r\nhello\r\n0\r\n\r\n"),
        ("5\rhello", Reject::BareCr, "5\r\nhello\r\n0\r\n\r\n"),
        ("5;a\nhello\r\n", Reject::BareLf, "5;a\r\nhello\r\n0\r\n\r\n"),
        ("5;a\rb\r\nhello\r\n", Reject::BareCr, "5;a\tb\r\nhello\r\n0\r\n\r\n"),
        ("5;a\0\r\nhello\r\n", Reject::BadChunkExtension, "5;a=\"\u{e9}\"\r\nhello\r\n0\r\n\r\n"),
        ("5\r\nhello0\r\n\r\n", Reject::BadChunkEnd, "5\r\nhello\r\n0\r\n\r\n"),
        ("5\r\nhello\n0\r\n\r\n", Reject::BadChunkEnd, "5\r\nhello\r\n0\r\n\r\n"),
        ("5\r\nhello\rX", Reject::BadChunkEnd, "A\r\nhellohello\r\n0\r\n\r\n"),
        ("5\r\nhell", Reject::Truncated, "4\r\nhell\r\n0\r\n\r\n"),
        ("5\r\nhello\r\n0\r\n", Reject::Truncated, "5\r\nhello\r\n0\r\n\r\n"),
        ("0\r\n\n", Reject::BareLf, "0\r\n\r\n"),
        ("0\r\nA: b\n\r\n", Reject::BareLf, "0\r\nA: b\r\n\r\n"),
        ("0\r\n A: b\r\n\r\n", Reject::ObsFold, "0\r\nA: b\r\n\r\n"),
        ("0\r\nA : b\r\n\r\n", Reject::SpaceBeforeColon, "0\r\nA:b\r\n\r\n"),
        ("0\r\nA: \x01\r\n\r\n", Reject::BadHeaderValue, "0\r\nA:\r\n\r\n"),
    ]);
}

#[test]
fn bounds_of_a_chunked_body() {
    let trailer = |len: usize| format!("0\r\nA: {}\r\n\r\n", "a".repeat(len - 7));
    let too_long = trailer(TRAILER_BYTES_MAX + 1);
    check_chunked(&[(&too_long, Reject::TrailersTooLong, &trailer(TRAILER_BYTES_MAX))]);
    let trailers = |count: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count));
    check_chunked(&[(&trailers(HEADERS_MAX + 1), Reject::TooManyHeaders, &trailers(HEADERS_MAX))]);

    let max = usize::try_from(CHUNK_OVERHEAD_BYTES_MAX).unwrap();
    let extension = |len: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(len));
    check_chunked(&[(&extension(max - 2), Reject::ChunkOverhead, &extension(max - 4))]);
    // One byte of data a chunk passes, however many, also with zeros before its size; forty of extension for each do not. Signed chunks of 4 KiB do.
    let chunks = |chunk: &str| format!("{}0\r\n\r\n", chunk.repeat(2000));
    assert_eq!(chunked(chunks("0000000000000001\r\na\r\n").as_bytes()).map(|data| data.len()), Ok(2000));
    let signed = format!("1000;chunk-signature={}\r\n{}\r\n", "f".repeat(64), "d".repeat(4096));
    let padded = format!("1;{}\r\na\r\n", "e".repeat(40));
    check_chunked(&[(&chunks(&padded), Reject::ChunkOverhead, &chunks("1\r\na\r\n"))]);
    assert_eq!(chunked(chunks(&signed).as_bytes()).map(|data| data.len()), Ok(2000 * 4096));
}
