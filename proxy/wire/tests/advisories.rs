//! What went wrong in other proxies and their libraries, replayed here; each test is named after its advisory.

use vicino_wire::{
    head::Framing,
    hop::{Frame, HopError, decode},
    http1::{Body, BodyDecoder, Reject, Request, Slots, parse_request, parse_response, write_request_head},
};

fn reject(input: &str) -> Option<Reject> {
    parse_request(input.as_bytes(), &mut Slots::default()).err()
}

fn with_request<T>(input: &str, f: impl FnOnce(Request<'_>) -> T) -> T {
    let mut slots = Slots::default();
    f(parse_request(input.as_bytes(), &mut slots).expect("a good request").expect("a whole head"))
}

/// hyper: the body of a GET was read as the next request.
#[test]
fn rustsec_2020_0008_a_get_has_the_body_that_it_says() {
    let input = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 34\r\n\r\nGET /evil HTTP/1.1\r\nHost: internal\r\nGET /next";
    with_request(input, |request| {
        assert_eq!(request.framing, Framing::Length(34));
        let mut decoder = BodyDecoder::new(request.framing);
        let body = &input.as_bytes()[request.len..];
        assert_eq!(decoder.decode(body), Ok((Body::Data(&body[..34]), 34)));
        assert!(decoder.is_ended());
    });
}

/// hyper: of several Transfer-Encoding fields only one was looked at.
#[test]
fn rustsec_2021_0020_several_transfer_encodings() {
    let both =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n";
    assert_eq!(reject(both), Some(Reject::DuplicateTransferEncoding));
    let reversed =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(reject(reversed), Some(Reject::BadTransferEncoding));
}

/// hyper: `+5` was a length.
#[test]
fn rustsec_2021_0078_a_length_with_a_sign() {
    assert_eq!(
        reject("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"),
        Some(Reject::BadContentLength)
    );
}

/// hyper: a chunk's size wrapped around.
#[test]
fn rustsec_2021_0079_a_chunk_size_beyond_64_bits() {
    let first = |size: &str| {
        let mut decoder = BodyDecoder::new(Framing::Chunked);
        decoder
            .decode(format!("{size}\r\nabc").as_bytes())
            .map(|(body, _)| matches!(body, Body::Data(b"abc")))
    };
    assert_eq!(first("10000000000000003"), Err(Reject::BadChunkSize));
    assert_eq!(first("00000000000000003"), Err(Reject::BadChunkSize));
    assert_eq!(first("f000000000000003"), Ok(true));
    assert_eq!(first("0000000000000003"), Ok(true));
}

/// h2: empty DATA frames cost memory and no credit.
#[test]
fn rustsec_2026_0258_empty_data() {
    assert_eq!(decode(&[0, 0, 0x04, 0, 0, 0, 0, 1]), Err(HopError::EmptyData));
    assert_eq!(
        decode(&[0, 0, 0x04, 1, 0, 0, 0, 1]),
        Ok(Some((Frame::Data { stream: 1, end: true, bytes: b"" }, 8)))
    );
}

/// pingora: after a request with `Upgrade`, bytes went through before the application had answered 101.
#[test]
fn cve_2026_2833_bytes_behind_an_upgrade_are_the_next_request() {
    let input = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /admin HTTP/1.1\r\n";
    with_request(input, |request| {
        assert_eq!((request.framing, &input[request.len..]), (Framing::None, "GET /admin HTTP/1.1\r\n"));
        let mut out = Vec::new();
        write_request_head(&mut out, &request.head, request.framing, &[], true);
        assert_eq!(out, b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n");
    });
    let switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let error = parse_response(switched, &mut Slots::default(), "GET").unwrap_err();
    assert_eq!(error.fault, Reject::UnaskedUpgrade);
}

/// pingora: an HTTP/1.0 request's body ended with the connection, and several Transfer-Encodings passed.
#[test]
fn cve_2026_2835_an_old_request_has_no_body_until_close() {
    with_request("POST / HTTP/1.0\r\nHost: a\r\n\r\nGET /evil", |request| {
        assert_eq!((request.framing, request.keep_alive), (Framing::None, false));
    });
    let chunked = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(reject(chunked), Some(Reject::OldTransferEncoding));
    let list = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n";
    assert_eq!(reject(list), Some(Reject::BadTransferEncoding));
}

/// Envoy, Istio: a fragment hid a path from a policy that the application acted on.
#[test]
fn cve_2021_39156_a_fragment_in_the_path() {
    assert_eq!(reject("GET /admin#x HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Reject::BadTarget));
}

/// Every naive proxy: `Host: good` beside an absolute-form target was forwarded as it came.
#[test]
fn rfc_9112_3_2_2_the_host_that_is_forwarded_is_the_targets() {
    with_request("GET http://web.demo/ HTTP/1.1\r\nHost: good\r\n\r\n", |request| {
        let mut out = Vec::new();
        write_request_head(&mut out, &request.head, request.framing, &[], true);
        assert_eq!(out, b"GET / HTTP/1.1\r\nHost: web.demo\r\n\r\n");
    });
}
