//! HTTP/2: what is written reads back the same, whichever wire it came from; what breaks RFC 9113 is refused as that RFC says.

use proptest::prelude::*;
use vicino_wire::{
    head::{Framing, Header, Headers, RequestHead, ResponseHead, Version},
    http1::{self, Reject},
    http2::{
        BLOCK_BYTES_MAX, Decoder, Encoder, ErrorCode, FRAME_BYTES_MAX, Fault, Frame, PREFACE, Refused,
        Setting, Slots, decode, encode_go_away, encode_pong, encode_reset, encode_settings,
        encode_settings_ack, encode_window, read_request, read_response, read_trailers,
    },
};

/// Literal fields without indexing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127, "one byte says the length");
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "web.demo"), (":path", "/")];

fn request_of(fields: &[(&str, &str)], is_end: bool) -> Result<String, Refused> {
    let mut slots = Slots::default();
    let read = read_request(&mut Decoder::default(), &block(fields), is_end, &mut slots)?;
    let RequestHead { method, authority, path, headers, .. } = read.head;
    Ok(format!("{method} {authority} {path} {headers:?} {:?}", read.framing))
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GET.iter().chain(more).copied().collect()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().filter(|(n, _)| *n != name).collect()
}

#[test]
fn requests_that_are_taken() {
    for (fields, end, said) in [
        (with(&[]), true, "GET web.demo / [] None"),
        (with(&[("a", "b"), ("a", "c")]), true, "GET web.demo / [a: b, a: c] None"),
        (with(&[("a", " \tb ")]), true, "GET web.demo / [a: b] None"),
        (with(&[("content-length", "0")]), true, "GET web.demo / [] Length(0)"),
        (with(&[("content-length", "7")]), false, "GET web.demo / [] Length(7)"),
        (with(&[]), false, "GET web.demo / [] Chunked"),
        (with(&[("te", "trailers"), ("host", "WEB.demo")]), true, "GET web.demo / [] None"),
        (
            with(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]),
            true,
            "GET web.demo / [x: y, cookie: a=1; b=2] None",
        ),
        (with(&[("vicino-peer", "me"), ("x-forwarded-client-cert", "me")]), true, "GET web.demo / [] None"),
        ([without(":authority"), vec![("host", "web")]].concat(), true, "GET web / [] None"),
        (vec![(":method", "CONNECT"), (":authority", "web:80")], false, "CONNECT web:80  [] Chunked"),
    ] {
        assert_eq!(request_of(&fields, end).as_deref(), Ok(said), "{fields:?}");
    }
}

#[test]
fn requests_that_are_not() {
    let refused = |fields: &[(&'static str, &'static str)], is_end| request_of(fields, is_end).unwrap_err();
    for (fields, why) in [
        (without(":method"), "no method"),
        (without(":scheme"), "no scheme"),
        (without(":path"), "no path"),
        (with(&[(":path", "/b")]), "two paths"),
        (with(&[(":status", "200")]), "a response's field"),
        (with(&[("a", "b"), (":late", "x")]), "an unknown one"),
        ([vec![("a", "b")], with(&[])].concat(), "fields before"),
        (with(&[("A", "b")]), "a capital"),
        (with(&[("a b", "c")]), "no token"),
        (with(&[("", "c")]), "no name"),
        (with(&[("a", "b\r\nc: d")]), "a line break"),
        (with(&[("a", "b\0")]), "NUL"),
        (with(&[("connection", "close")]), "connection"),
        (with(&[("keep-alive", "1")]), "keep-alive"),
        (with(&[("proxy-connection", "1")]), "proxy-connection"),
        (with(&[("transfer-encoding", "chunked")]), "transfer-encoding"),
        (with(&[("upgrade", "websocket")]), "upgrade"),
        (with(&[("te", "gzip")]), "te"),
        (with(&[("content-length", "1")]), "a length and no body"),
        (with(&[("content-length", "0"), ("content-length", "0")]), "two lengths"),
        (with(&[("content-length", "+1")]), "no length"),
        (vec![(":method", "CONNECT"), (":authority", "web:80"), (":path", "/")], "CONNECT with a path"),
    ] {
        assert_eq!(refused(&fields, true), Refused::Malformed, "{why}");
    }
    for (fields, reject) in [
        (without(":authority"), Reject::MissingHost),
        (with(&[("host", "other")]), Reject::DuplicateHost),
        (with(&[("host", "web.demo"), ("host", "web.demo")]), Reject::DuplicateHost),
        (with(&[("content_length", "1")]), Reject::UnderscoreTwin),
        ([without(":path"), vec![(":path", "a")]].concat(), Reject::BadTarget),
        ([without(":path"), vec![(":path", "*")]].concat(), Reject::BadTarget),
        ([without(":scheme"), vec![(":scheme", "ftp")]].concat(), Reject::BadScheme),
        ([without(":authority"), vec![(":authority", "user@web")]].concat(), Reject::BadHost),
    ] {
        assert_eq!(refused(&fields, true), Refused::Reject(reject), "{fields:?}");
    }
    let many: Vec<_> = with(&[("a", "b"); 129]);
    assert_eq!(refused(&many, true), Refused::Reject(Reject::TooManyHeaders));
    let long = "0123456789".repeat(10);
    let mut decoder = Decoder::default();
    // One field of 100 bytes goes into the table; a byte each repeats it beyond all bounds.
    let mut bomb = block(&GET);
    bomb.extend([0x40, 1, b'a', long.len() as u8]);
    bomb.extend(long.as_bytes());
    bomb.extend([0xbe; 100]);
    let mut slots = Slots::default();
    assert!(read_request(&mut decoder, &bomb, true, &mut slots).is_ok());
    bomb.resize(bomb.len() + 20_000, 0xbe);
    assert!(bomb.len() < BLOCK_BYTES_MAX);
    assert_eq!(
        read_request(&mut Decoder::default(), &bomb, true, &mut slots),
        Err(Refused::Reject(Reject::TooManyHeaders))
    );
    let broken = read_request(&mut decoder, &[0x80], true, &mut slots);
    assert_eq!(broken, Err(Refused::Connection(ErrorCode::Compression)));
}

#[test]
fn responses() {
    let read = |fields: &[(&str, &str)], end, method| {
        let mut slots = Slots::default();
        let read = read_response(&mut Decoder::default(), &block(fields), end, method, &mut slots)?;
        Ok((read.head.status, read.framing, read.head.declared_length))
    };
    for (fields, end, method, said) in [
        (&[(":status", "200")][..], false, "GET", (200, Framing::Chunked, None)),
        (&[(":status", "200")], true, "GET", (200, Framing::Length(0), None)),
        (&[(":status", "200"), ("content-length", "9")], false, "GET", (200, Framing::Length(9), None)),
        (&[(":status", "200"), ("content-length", "9")], true, "HEAD", (200, Framing::None, Some(9))),
        (&[(":status", "304"), ("content-length", "9")], true, "GET", (304, Framing::None, Some(9))),
        (&[(":status", "204")], true, "GET", (204, Framing::None, None)),
        (&[(":status", "103")], false, "GET", (103, Framing::None, None)),
    ] {
        assert_eq!(read(fields, end, method), Ok(said), "{fields:?}");
    }
    for fields in [
        &[("a", "b")][..],
        &[(":status", "20")],
        &[(":status", "2000")],
        &[(":status", "+20")],
        &[(":status", "099")],
        &[(":status", "101")],
        &[(":status", "103")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "200"), ("content-length", "1")],
        &[(":status", "200"), ("connection", "close")],
    ] {
        assert_eq!(read(fields, true, "GET"), Err(Refused::Malformed), "{fields:?}");
    }
}

#[test]
fn trailers_have_no_pseudo_fields_and_frame_nothing() {
    let read = |fields: &[(&str, &str)]| {
        let mut slots = Slots::default();
        read_trailers(&mut Decoder::default(), &block(fields), &mut slots).map(|t| format!("{t:?}"))
    };
    let said = read(&[("grpc-status", "0"), ("content-length", "7"), ("host", "x"), ("vicino-x", "y")]);
    assert_eq!(said.as_deref(), Ok("[grpc-status: 0]"));
    assert_eq!(read(&[(":status", "200")]), Err(Refused::Malformed));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn frames_one_by_one() {
    let connection = |code| Err(code);
    let stream = |code| Ok(Fault::Stream(1, code));
    for (kind, flags, on, payload, expected, why) in [
        (0, 0, 0, &b"x"[..], connection(ErrorCode::Protocol), "DATA without a stream"),
        (0, 8, 1, b"", connection(ErrorCode::FrameSize), "padding without a length"),
        (0, 8, 1, b"\x01", connection(ErrorCode::Protocol), "more padding than payload"),
        (1, 4, 0, b"", connection(ErrorCode::Protocol), "HEADERS without a stream"),
        (1, 0x24, 1, b"1234", connection(ErrorCode::FrameSize), "a priority cut short"),
        (1, 0x24, 1, b"\0\0\0\x01\0", stream(ErrorCode::Protocol), "a stream that depends on itself"),
        (2, 0, 1, b"1234", stream(ErrorCode::FrameSize), "PRIORITY cut short"),
        (3, 0, 0, b"1234", connection(ErrorCode::Protocol), "RST_STREAM without a stream"),
        (3, 0, 1, b"123", connection(ErrorCode::FrameSize), "RST_STREAM cut short"),
        (4, 0, 1, b"", connection(ErrorCode::Protocol), "SETTINGS on a stream"),
        (4, 0, 0, b"12345", connection(ErrorCode::FrameSize), "SETTINGS cut short"),
        (4, 1, 0, b"123456", connection(ErrorCode::FrameSize), "an ACK that says something"),
        (5, 0, 1, b"1234", connection(ErrorCode::Protocol), "PUSH_PROMISE"),
        (6, 0, 1, b"12345678", connection(ErrorCode::Protocol), "PING on a stream"),
        (6, 0, 0, b"1234567", connection(ErrorCode::FrameSize), "PING cut short"),
        (7, 0, 0, b"1234567", connection(ErrorCode::FrameSize), "GOAWAY cut short"),
        (8, 0, 0, b"\0\0\0\0", connection(ErrorCode::Protocol), "no credit for the connection"),
        (8, 0, 1, b"\x80\0\0\0", stream(ErrorCode::Protocol), "no credit for a stream"),
        (8, 0, 0, b"123", connection(ErrorCode::FrameSize), "WINDOW_UPDATE cut short"),
        (9, 4, 0, b"", connection(ErrorCode::Protocol), "CONTINUATION without a stream"),
    ] {
        let bytes = frame(kind, flags, on, payload);
        let got = decode(&bytes).map(|decoded| decoded.expect("a whole frame").0.expect_err(why));
        assert_eq!(got, expected, "{why}");
    }
    let too_long = frame(0, 0, 1, &vec![0; FRAME_BYTES_MAX + 1]);
    assert_eq!(decode(&too_long[..9]), Err(ErrorCode::FrameSize), "told by the header alone");
    let unknown = frame(0xbe, 0xff, 0x8000_0001, b"whatever");
    assert_eq!(decode(&unknown), Ok(Some((Ok(Frame::Skipped), unknown.len()))));
    let padded = frame(0, 9, 1, b"\x03abc\0\0\0");
    let data = Frame::Data { stream: 1, end: true, bytes: b"abc", flow: 7 };
    assert_eq!(decode(&padded), Ok(Some((Ok(data), padded.len()))));
    for end in 0..padded.len() {
        assert_eq!(decode(&padded[..end]), Ok(None));
    }
}

#[test]
fn settings_that_are_allowed() {
    let read = |payload: &[u8]| {
        let bytes = frame(4, 0, 0, payload);
        let Ok(Some((Ok(Frame::Settings(settings)), _))) = decode(&bytes) else { panic!("no SETTINGS") };
        settings.iter().collect::<Result<Vec<_>, _>>()
    };
    let mut ours = Vec::new();
    let list = [Setting::EnablePush(false), Setting::InitialWindowSize(9), Setting::MaxConcurrentStreams(3)];
    encode_settings(&mut ours, &list, 65_535 + 7);
    let Ok(Some((Ok(Frame::Settings(settings)), used))) = decode(&ours) else { panic!("no SETTINGS") };
    assert_eq!(settings.iter().collect::<Result<Vec<_>, _>>(), Ok(list.into()));
    assert_eq!(decode(&ours[used..]).unwrap().unwrap().0, Ok(Frame::Window { stream: 0, credit: 7 }));
    assert_eq!(read(b"\0\x99\0\0\0\x01"), Ok(vec![]), "one that is not known");
    assert_eq!(read(b"\0\x02\0\0\0\x02"), Err(Fault::Connection(ErrorCode::Protocol)));
    assert_eq!(read(b"\0\x04\x80\0\0\0"), Err(Fault::Connection(ErrorCode::FlowControl)));
    assert_eq!(read(b"\0\x05\0\0\x3f\xff"), Err(Fault::Connection(ErrorCode::Protocol)));
}

#[test]
fn small_frames_read_back() {
    let mut out = Vec::new();
    encode_settings_ack(&mut out);
    encode_pong(&mut out, *b"12345678");
    encode_go_away(&mut out, 7, ErrorCode::EnhanceYourCalm);
    encode_reset(&mut out, 3, ErrorCode::RefusedStream);
    encode_window(&mut out, 3, 9);
    let mut at = 0;
    for expected in [
        Frame::SettingsAck,
        Frame::Pong,
        Frame::GoAway { last_stream: 7, code: 11 },
        Frame::Reset { stream: 3, code: 7 },
        Frame::Window { stream: 3, credit: 9 },
    ] {
        let (frame, used) = decode(&out[at..]).unwrap().unwrap();
        assert_eq!(frame, Ok(expected));
        at += used;
    }
    assert_eq!(at, out.len());
    assert_eq!(PREFACE.len(), 24);
}

/// The block of the HEADERS at the start, and whether the stream ends with it.
fn whole_block(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut whole = Vec::new();
    let mut is_end = false;
    loop {
        let (frame, used) = decode(bytes).expect("a frame").expect("a whole frame");
        bytes = &bytes[used..];
        match frame.expect("a good frame") {
            Frame::Headers { end, is_whole, block, .. } => {
                is_end = end;
                whole.extend_from_slice(block);
                if is_whole {
                    return (whole, is_end);
                }
            }
            Frame::Continuation { is_whole, block, .. } => {
                whole.extend_from_slice(block);
                if is_whole {
                    return (whole, is_end);
                }
            }
            other => panic!("{other:?} in a block"),
        }
    }
}

fn list(fields: &[(String, String)]) -> Vec<Header<'_>> {
    fields.iter().map(|(n, v)| Header { name: n.as_bytes(), value: v.as_bytes() }).collect()
}

fn field() -> impl Strategy<Value = (String, String)> {
    ("[a-z][a-z0-9-]{0,20}", "[!-~]([ -~]{0,200}[!-~])?").prop_filter("fields that travel", |(name, _)| {
        let names = ["te", "host", "cookie", "connection", "keep-alive", "upgrade", "content-length"];
        !names.contains(&name.as_str()) && !name.starts_with("vicino-")
    })
}

proptest! {
    #[test]
    fn a_request_reads_back(
        method in "[A-Z]{1,20}", path in "/[a-z/?=]{0,40}", fields in prop::collection::vec(field(), 0..100),
        framing in prop_oneof![
            Just(Framing::None), Just(Framing::Chunked), (0..u64::MAX / 20).prop_map(Framing::Length)
        ],
        accepts_trailers: bool,
    ) {
        prop_assume!(method != "CONNECT");
        let fields = list(&fields);
        let head = RequestHead {
            method: &method, authority: "web.demo:80", path: &path, version: Version::Http2, accepts_trailers,
            headers: Headers::from(&fields[..]),
        };
        let mut out = Vec::new();
        let mut encoder = Encoder::default();
        for _ in 0..2 {
            out.clear();
            encoder.request(&mut out, 1, (&head, framing), &[]);
            let (block, is_end) = whole_block(&out);
            let mut slots = Slots::default();
            let read = read_request(&mut Decoder::default(), &block, is_end, &mut slots).unwrap();
            prop_assert_eq!((read.head, read.framing), (head, framing));
        }
    }

    /// Whatever an HTTP/1.1 parser lets pass can be said in HTTP/2, and is then the same.
    #[test]
    fn what_http1_lets_pass_is_the_same_in_http2(
        fields in prop::collection::vec(("[A-Za-z_-]{1,12}", "[ -~]{0,30}"), 0..6), minor in 0..2,
    ) {
        let lines = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect::<Vec<_>>().concat();
        let text = format!("GET /x?y HTTP/1.{minor}\r\nHost: web\r\n{lines}\r\n");
        let mut slots = http1::Slots::default();
        let Ok(Some(one)) = http1::parse_request(text.as_bytes(), &mut slots) else { return Ok(()) };
        prop_assume!(one.framing.is_empty() || one.framing == Framing::Chunked);
        let mut out = Vec::new();
        Encoder::default().request(&mut out, 1, (&one.head, one.framing), &[]);
        let (block, is_end) = whole_block(&out);
        let mut slots = Slots::default();
        let two = read_request(&mut Decoder::default(), &block, is_end, &mut slots).unwrap();
        prop_assert_eq!((two.head.method, two.head.path), ("GET", "/x?y"));
        let lower = |headers: Headers<'_>| -> Vec<(Vec<u8>, Vec<u8>)> {
            let mut all: Vec<_> =
                headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect();
            all.sort();
            all
        };
        let is_cookie = |h: &Header<'_>| h.name.eq_ignore_ascii_case(b"cookie");
        prop_assume!(!one.head.headers.iter().any(|h| is_cookie(&h)));
        prop_assert_eq!(lower(two.head.headers), lower(one.head.headers));
    }

    #[test]
    fn a_response_reads_back(
        status in (200_u16..1000), fields in prop::collection::vec(field(), 0..20), declared: Option<u32>,
        framing in prop_oneof![
            Just(Framing::None), Just(Framing::Chunked), (1..u64::MAX / 20).prop_map(Framing::Length)
        ],
    ) {
        let framing = if matches!(status, 204 | 304) { Framing::None } else { framing };
        let declared_length = declared.map(u64::from).filter(|_| framing == Framing::None && status != 204);
        let fields = list(&fields);
        let head = ResponseHead {
            status, reason: b"", version: Version::Http2, declared_length, headers: Headers::from(&fields[..]),
        };
        let mut out = Vec::new();
        Encoder::default().response(&mut out, 1, (&head, framing), &[]);
        let (block, is_end) = whole_block(&out);
        let method = if framing == Framing::None { "HEAD" } else { "GET" };
        let mut slots = Slots::default();
        let read = read_response(&mut Decoder::default(), &block, is_end, method, &mut slots).unwrap();
        prop_assert_eq!((read.head, read.framing), (head, framing));
    }

    #[test]
    fn a_body_reads_back_in_frames_that_the_peer_takes(
        body in prop::collection::vec(any::<u8>(), 0..100_000), is_end: bool,
    ) {
        let mut out = Vec::new();
        Encoder::default().data(&mut out, 5, &body, is_end);
        let (mut rest, mut got, mut has_ended) = (&out[..], Vec::new(), false);
        while let Some((frame, used)) = decode(rest).unwrap() {
            let Ok(Frame::Data { stream: 5, end, bytes, flow }) = frame else { panic!("{frame:?}") };
            prop_assert!(!has_ended && flow == bytes.len());
            has_ended = end;
            got.extend_from_slice(bytes);
            rest = &rest[used..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!((got, has_ended), (body, is_end));
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_is_read_may_be_written_as_http1(
        bytes in prop::collection::vec(any::<u8>(), 0..300), is_end: bool,
    ) {
        let _ = decode(&bytes);
        let mut slots = Slots::default();
        let mut decoder = Decoder::default();
        if let Ok(read) = read_request(&mut decoder, &bytes, is_end, &mut slots) {
            let mut out = Vec::new();
            http1::write_request_head(&mut out, &read.head, read.framing, &[], true);
            let mut slots = http1::Slots::default();
            let again = http1::parse_request(&out, &mut slots).unwrap().unwrap();
            prop_assert_eq!(again.head.headers, read.head.headers);
        }
        let _ = read_response(&mut decoder, &bytes, is_end, "GET", &mut slots);
        let _ = read_trailers(&mut decoder, &bytes, &mut slots);
    }
}
