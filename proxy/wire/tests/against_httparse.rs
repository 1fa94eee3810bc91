//! A second opinion: whatever passes here, httparse reads as the same lines; and where it is the stricter one, nothing passes here.

use proptest::prelude::*;
use vicino_wire::head::Version;
use vicino_wire::http1::{Slots, parse_request, parse_response};

/// Lines that are right, nearly right and wrong, to be put together in any order.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let usual = prop::sample::select(vec![
        "Host: a\r\n",
        "Accept: */*\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: \r\n",
        "X:y\r\n",
        "X: y \t\r\n",
        "X : y\r\n",
        " X: y\r\n",
        ":\r\n",
        "X\r\n",
        "X: y\n",
        "X: y\r",
        "X: a\0b\r\n",
        "X: \x7f\r\n",
        "\r\n",
        "\n",
        "Connection: close, q\r\n",
        "q: r\r\n",
    ]);
    let bytes = prop::collection::vec(
        prop_oneof![4 => 0x20..0x7f_u8, 1 => any::<u8>(), 1 => prop::sample::select(b"\r\n:\t".to_vec())],
        0..12,
    );
    prop_oneof![4 => usual.prop_map(|line| line.as_bytes().to_vec()), 1 => bytes]
}

fn first_line() -> impl Strategy<Value = Vec<u8>> {
    let usual = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.0\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://a/b HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\n",
        "GET  / HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 404\r\n",
        "HTTP/1.1 204 \r\n",
    ]);
    prop_oneof![6 => usual.prop_map(|line| line.as_bytes().to_vec()), 1 => line()]
}

fn head() -> impl Strategy<Value = Vec<u8>> {
    (first_line(), prop::collection::vec(line(), 0..6), any::<bool>()).prop_map(|(first, lines, ends)| {
        [first, b"Host: web\r\n".repeat(usize::from(ends)), lines.concat(), b"\r\n".repeat(usize::from(ends))]
            .concat()
    })
}

fn version(minor: u8) -> Option<Version> {
    [Version::Http10, Version::Http11].get(usize::from(minor)).copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn requests(input in head()) {
        let mut slots = Slots::default();
        let Ok(Some(ours)) = parse_request(&input, &mut slots) else { return Ok(()) };
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let mut theirs = httparse::Request::new(&mut fields);
        prop_assert_eq!(theirs.parse(&input), Ok(httparse::Status::Complete(ours.len)));
        prop_assert_eq!((theirs.method, theirs.version.and_then(version)), (Some(ours.head.method), Some(ours.head.version)));
        prop_assert!(ours.absolute_form || ours.head.method == "CONNECT" || theirs.path == Some(ours.head.path));
        let mut rest = theirs.headers.iter();
        for header in ours.head.headers {
            let same = rest.any(|field| field.name.as_bytes() == header.name && field.value == header.value);
            prop_assert!(same, "{header:?} is not among {:?}", theirs.headers);
        }
    }

    #[test]
    fn responses(input in head()) {
        let mut slots = Slots::default();
        let Ok(Some(ours)) = parse_response(&input, &mut slots, "GET") else { return Ok(()) };
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let mut theirs = httparse::Response::new(&mut fields);
        prop_assert_eq!(theirs.parse(&input), Ok(httparse::Status::Complete(ours.len)));
        prop_assert_eq!((theirs.code, theirs.version.and_then(version)), (Some(ours.head.status), Some(ours.head.version)));
        let mut rest = theirs.headers.iter();
        for header in ours.head.headers {
            let same = rest.any(|field| field.name.as_bytes() == header.name && field.value == header.value);
            prop_assert!(same, "{header:?} is not among {:?}", theirs.headers);
        }
    }
}
