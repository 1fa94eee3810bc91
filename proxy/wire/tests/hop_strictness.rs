//! Each rule of the hop's frames and of its credit: what breaks it beside a neighbour that does not.

use proptest::prelude::*;
use vicino_wire::{
    head::{Framing, HEADERS_MAX, Header, Headers, RequestHead, ResponseHead, Version},
    hop::{
        self, CREDIT_MAX, Destination, Frame, HOP_HEADERS_MAX, Hello, HopError, Kind, ReceiveCredit,
        RequestFrame, Reset, ResponseFrame, SendCredit, decode,
    },
};

const END: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = u16::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&[l0, l1, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// The connection ends because of `refused`, and not because of `accepted`.
#[track_caller]
fn check(refused: &[u8], error: HopError, accepted: &[u8]) {
    assert_eq!(decode(refused), Err(error), "{refused:?}");
    let Ok(Some((read, _))) = decode(accepted) else { panic!("{accepted:?} is {:?}", decode(accepted)) };
    assert!(!matches!(read, Frame::Malformed { .. }), "{read:?}");
}

/// The stream ends because of `refused`, which is read to its end, and not because of `accepted`.
#[track_caller]
fn check_stream(refused: &[u8], fault: HopError, accepted: &[u8]) {
    let expected = Frame::Malformed { stream: 1, fault };
    assert_eq!(decode(refused), Ok(Some((expected, refused.len()))), "{}", refused.escape_ascii());
    let Ok(Some((read, _))) = decode(accepted) else { panic!("{accepted:?} is {:?}", decode(accepted)) };
    assert!(!matches!(read, Frame::Malformed { .. }), "{read:?}");
}

fn encoded(request: &RequestFrame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    hop::encode_request(&mut out, 1, request, &[]).expect("it fits");
    out
}

fn request(head: RequestHead<'_>) -> RequestFrame<'_> {
    let to = Destination { namespace: "demo", service: "web", port: 80, port_name: "http", pod: None };
    let (kind, framing) = (Kind::Http, Framing::None);
    RequestFrame { to, kind, deadline_ms: 0, hops: 1, is_last_resort: false, caller: None, head, framing }
}

fn head() -> RequestHead<'static> {
    let headers = Headers::default();
    RequestHead {
        method: "GET",
        authority: "web:80",
        path: "/a",
        version: Version::Http11,
        accepts_trailers: false,
        headers,
    }
}

fn response(status: u16, framing: Framing) -> ResponseFrame<'static> {
    let head = ResponseHead {
        status,
        reason: b"",
        version: Version::Http11,
        declared_length: None,
        headers: Headers::default(),
    };
    ResponseFrame { head, framing }
}

#[test]
fn frames() {
    let data = frame(0x04, 0, 1, b"a");
    check(&frame(0x0b, 0, 1, b""), HopError::UnknownFrame { kind: 0x0b }, &frame(0x8b, 0, 1, b""));
    check(&frame(0x00, 0, 0, b""), HopError::UnknownFrame { kind: 0 }, &frame(0x80, 0, 0, b"whatever"));
    check(&frame(0x7f, 0, 1, b"")[..8], HopError::UnknownFrame { kind: 0x7f }, &frame(0xff, 0, 1, b""));
    check(&frame(0x04, 0, 0, b"a"), HopError::BadStream, &data);
    check(&frame(0x08, 0, 1, &[0; 8]), HopError::BadStream, &frame(0x08, 0, 0, &[0; 8]));
    check(&frame(0x08, 0, 0, &[0; 7]), HopError::BadLength, &frame(0x09, 0, 0, &[0; 8]));
    check(&frame(0x09, 0, 0, &[0; 9]), HopError::BadLength, &frame(0x09, 0xfe, 0, &[0; 8]));
    check(&frame(0x0a, 0, 1, b""), HopError::BadStream, &frame(0x0a, 0, 0, b""));
    check(&frame(0x0a, 0, 0, b"a"), HopError::BadLength, &frame(0x0a, 0, 0, b""));
    check(&frame(0x04, 0, 1, b""), HopError::EmptyData, &frame(0x04, END, 1, b""));
    check(&frame(0x06, 0, 1, b""), HopError::BadLength, &frame(0x06, 0, 1, &[99]));
    check(&frame(0x07, 0, 1, &[0, 0, 0, 0]), HopError::FlowControl, &frame(0x07, 0, 1, &[0, 0, 0, 1]));
    check(
        &frame(0x07, 0, 1, &[0x80, 0, 0, 0]),
        HopError::FlowControl,
        &frame(0x07, 0, 1, &[0x7f, 255, 255, 255]),
    );
    check(&frame(0x07, 0, 0, &[0, 0, 0, 1]), HopError::BadStream, &frame(0x07, 0, 1, &[0, 0, 0, 1]));
    check_stream(&frame(0x05, 0, 1, &[0]), HopError::BadEnd, &frame(0x05, END, 1, &[0]));
    check_stream(&frame(0x05, END, 1, b""), HopError::BadLength, &frame(0x05, END, 1, b"\x01\x01\x00\x01a:"));
    check_stream(&frame(0x05, END, 1, &[0, 0]), HopError::BadLength, &frame(0x05, END, 1, &[0]));
    let reserve = b"\0\0\x50\x04demo\x03web\x04http\0";
    check(&frame(0x90, 0, 0, reserve), HopError::BadStream, &frame(0x90, 0, 1, reserve));
    check(&frame(0x90, 0, 1, &reserve[..3]), HopError::BadLength, &frame(0x90, 0, 1, reserve));
    check(&frame(0x90, 0, 1, b"\0\0\0\0\0\0\0"), HopError::BadValue, &frame(0x90, 0, 1, reserve));
    for kind in 0x91..=0x94 {
        check(&frame(kind, 0, 0, b""), HopError::BadStream, &frame(kind, 0, 1, b""));
        check(&frame(kind, 0, 1, b"?"), HopError::BadLength, &frame(kind, 0, 1, b""));
    }
    for codes in [&[1; 3][..], &[1; 34]] {
        check(&frame(0x95, 0, 1, codes), HopError::BadLength, &frame(0x95, 0, 1, &[1; 32]));
    }
    check(&frame(0x95, 0, 0, b""), HopError::BadStream, &frame(0x95, 0, 1, b""));
    check(&frame(0x96, 0, 0, &[0; 4]), HopError::BadStream, &frame(0x96, 0, 1, &[0; 4]));
    check(&frame(0x96, 0, 1, &[0; 5]), HopError::BadLength, &frame(0x96, 0, 1, &[0; 4]));
    assert_eq!(decode(&frame(0x97, 0, 3, b"later")), Ok(Some((Frame::Skipped { kind: 0x97 }, 13))));
}

#[test]
fn hello() {
    let good = |extra: &[u8]| {
        let fields = b"VICINO\x01\x01\x04\0\0\0\x01\x02\x04\0\0\xff\xff\x03\x02\x04\0\x04\x01n";
        frame(0x01, 0, 0, &[&fields[..], extra].concat())
    };
    let changed = |at: usize, byte: u8| {
        let mut hello = good(b"");
        hello[8 + at] = byte;
        hello
    };
    let read =
        Hello { max_streams: 1, initial_window: 65_535, max_frame: 1024, binds_late: false, node: "n" };
    assert_eq!(decode(&good(b"")), Ok(Some((Frame::Hello(read), good(b"").len()))));
    assert_eq!(
        decode(&good(b"\xc8\x02??")).map(|read| read.map(|(frame, _)| frame)),
        Ok(Some(Frame::Hello(read)))
    );
    for (refused, why) in [
        (changed(0, b'v'), "magic"),
        (changed(6, 2), "version"),
        (changed(7, 9), "max_streams is missing"),
        (changed(13 - 1, 0), "max_streams is 0"),
        (changed(15, 0x80), "initial_window is beyond 2^31-1"),
        (changed(19 + 2, 3), "max_frame is below 1,024"),
        (changed(25, b'\n'), "the node's name has a line feed"),
        (good(b"\x04\x01n"), "node comes twice"),
        (good(b"\xc8\x02?"), "a field is cut short"),
        (good(b"\xc8"), "a field has no length"),
        (frame(0x01, 0, 0, b""), "nothing at all"),
    ] {
        assert_eq!(decode(&refused), Err(HopError::BadHello), "{why}: {refused:?}");
    }
}

#[test]
fn texts_of_a_request() {
    let good = encoded(&request(head()));
    for (bad, near) in [
        (RequestHead { path: "/a\r\nHost: b", ..head() }, RequestHead { path: "/a?b", ..head() }),
        (RequestHead { path: "/a b", ..head() }, RequestHead { path: "/a%20b", ..head() }),
        (RequestHead { path: "/a#b", ..head() }, RequestHead { path: "//a", ..head() }),
        (RequestHead { path: "a", ..head() }, head()),
        (RequestHead { path: "", ..head() }, head()),
        (RequestHead { path: "*", ..head() }, RequestHead { path: "*", method: "OPTIONS", ..head() }),
        (RequestHead { method: "GET /", ..head() }, RequestHead { method: "GET.", ..head() }),
        (RequestHead { method: "", ..head() }, RequestHead { method: "g", ..head() }),
        (
            RequestHead { method: &"M".repeat(33), ..head() },
            RequestHead { method: &"M".repeat(32), ..head() },
        ),
        (RequestHead { authority: "a\r\nb", ..head() }, RequestHead { authority: "", ..head() }),
        (RequestHead { authority: "a b", ..head() }, RequestHead { authority: "a.b", ..head() }),
        (RequestHead { authority: "u@a", ..head() }, RequestHead { authority: "[::1]:80", ..head() }),
    ] {
        check_stream(&encoded(&request(bad)), HopError::BadText, &encoded(&request(near)));
    }
    for (bad, near) in [("Web", "web"), ("a.b", "a-b"), ("a/b", "0"), (&*"a".repeat(64), &*"a".repeat(63))] {
        let with = |namespace| {
            let to = Destination { namespace, ..request(head()).to };
            encoded(&RequestFrame { to, ..request(head()) })
        };
        check_stream(&with(bad), HopError::BadText, &with(near));
    }
    let portless = Destination { port: 0, ..request(head()).to };
    check_stream(&encoded(&RequestFrame { to: portless, ..request(head()) }), HopError::BadValue, &good);
    let version = |version| encoded(&request(RequestHead { version, ..head() }));
    let mut unknown = version(Version::Http2);
    let old = version(Version::Http10);
    let at = unknown.iter().zip(&old).position(|(a, b)| a != b).expect("the version is there");
    unknown[at] = 3;
    check_stream(&unknown, HopError::BadValue, &old);
    let mut kind = good.clone();
    kind[8] = 2;
    check_stream(&kind, HopError::BadValue, &good);
    let framed = |framing| encoded(&RequestFrame { framing, ..request(head()) });
    check_stream(&framed(Framing::UntilClose), HopError::BadValue, &framed(Framing::Chunked));
    let connect = request(RequestHead { method: "CONNECT", path: "", ..head() });
    assert_eq!(hop::encode_request(&mut Vec::new(), 1, &connect, &[]), Err(HopError::BadValue));
    let near = encoded(&request(RequestHead { method: "CONNECX", ..head() }));
    let mut connect = near.clone();
    let at = near.iter().position(|&b| b == b'X').expect("it is there");
    connect[at] = b'T';
    check_stream(&connect, HopError::BadText, &near);
}

#[test]
fn fields_of_a_head() {
    let with = |name: &str, value: &[u8]| {
        let list = [Header { name: name.as_bytes(), value }];
        let mut out = Vec::new();
        hop::encode_trailers(&mut out, 1, Headers::from(&list[..])).expect("it fits");
        let request = encoded(&request(RequestHead { headers: Headers::from(&list[..]), ..head() }));
        (out, request)
    };
    for (bad, fault, near) in [
        (("a b", &b"c"[..]), HopError::BadText, ("a-b", &b"c"[..])),
        (("", b"c"), HopError::BadText, ("a", b"")),
        (("a:", b"c"), HopError::BadText, ("a", b":c")),
        (("a\r\n", b"c"), HopError::BadText, ("a", b"c")),
        (("a", b"c\r\nd: e"), HopError::BadText, ("a", b"c\td: e")),
        (("a", b"c\n"), HopError::BadText, ("a", b"c\xff")),
        (("a", b"\0"), HopError::BadText, ("a", b"0")),
        (("Content-Length", b"5"), HopError::ForbiddenHeader, ("Content-Type", b"5")),
        (("TRANSFER-ENCODING", b"chunked"), HopError::ForbiddenHeader, ("x-transfer-encoding", b"chunked")),
        (("host", b"a"), HopError::ForbiddenHeader, ("hosts", b"a")),
        (("Connection", b"close"), HopError::ForbiddenHeader, ("Connections", b"close")),
        (("upgrade", b"h2c"), HopError::ForbiddenHeader, ("upgraded", b"h2c")),
        (("vicino-a", b"me"), HopError::ForbiddenHeader, ("vicino-debug", b"path")),
        (("vicino_debug", b"path"), HopError::ForbiddenHeader, ("vicino-route", b"a=b")),
        (("Forwarded", b"for=me"), HopError::ForbiddenHeader, ("Forwarded-To", b"me")),
        (("X-Forwarded-Client-Cert", b"me"), HopError::ForbiddenHeader, ("X-Forwarded-For", b"me")),
        (("x_real_ip", b"me"), HopError::ForbiddenHeader, ("x-real-ip", b"me")),
    ] {
        let (refused, accepted) = (with(bad.0, bad.1), with(near.0, near.1));
        check_stream(&refused.0, fault, &accepted.0);
        check_stream(&refused.1, fault, &accepted.1);
    }
}

#[test]
fn framings_and_ends() {
    let encoded = |response: ResponseFrame<'_>| {
        let mut out = Vec::new();
        hop::encode_response(&mut out, 1, &response, &[]).expect("it fits");
        out
    };
    let other_end = |mut wire: Vec<u8>| {
        wire[3] ^= END;
        wire
    };
    for framing in
        [Framing::None, Framing::Length(0), Framing::Length(1), Framing::Chunked, Framing::UntilClose]
    {
        let good = encoded(response(200, framing));
        check_stream(&other_end(good.clone()), HopError::BadEnd, &good);
        if framing != Framing::None {
            for status in [100, 204, 304] {
                let none = encoded(response(status, Framing::None));
                check_stream(&encoded(response(status, framing)), HopError::BadValue, &none);
            }
        }
    }
    let interim = encoded(response(103, Framing::None));
    check_stream(&other_end(interim.clone()), HopError::BadEnd, &interim);
    let reason = |reason| {
        let head = ResponseHead { reason, ..response(200, Framing::None).head };
        encoded(ResponseFrame { head, framing: Framing::None })
    };
    check_stream(&reason(b"a\r\nb: c"), HopError::BadText, &reason(b"a\tb: \xff"));
    for (bad, near) in [(101, 102), (99, 100), (1000, 999)] {
        check_stream(
            &encoded(response(bad, Framing::None)),
            HopError::BadValue,
            &encoded(response(near, Framing::None)),
        );
    }
}

#[test]
fn a_request_goes_out_again_with_another_stream_and_deadline() {
    let list = [Header { name: b"a", value: b"b" }];
    let call = request(RequestHead { headers: Headers::from(&list[..]), ..head() });
    let first = encoded(&RequestFrame { deadline_ms: 900, ..call });
    let mut first = first;
    for is_last_resort in [true, false] {
        let mut out = b"before".to_vec();
        hop::encode_request_again(&mut out, &first, 7, (400, is_last_resort));
        let again = RequestFrame { deadline_ms: 400, is_last_resort, ..call };
        let expected = Frame::Request { stream: 7, end: true, request: again };
        assert_eq!(decode(&out[6..]), Ok(Some((expected, first.len()))));
        first = out.split_off(6);
    }
    for other in [&first[..14], &frame(0x04, 0, 1, b"no request, but long enough to be one")] {
        let mut out = Vec::new();
        hop::encode_request_again(&mut out, other, 7, (400, false));
        assert_eq!(out, b"");
    }
}

#[test]
fn what_does_not_fit_leaves_the_buffer_as_it_was() {
    let mut out = b"before".to_vec();
    let (name, value) = (vec![b'n'; 256], vec![b'v'; 40_000]);
    let long_name = [Header { name: &name, value: b"" }];
    let long_head = [Header { name: b"a", value: &value }, Header { name: b"b", value: &value }];
    let many = [Header { name: b"a", value: b"" }; HOP_HEADERS_MAX + 1];
    for (extra, error) in [
        (&long_name[..], HopError::TooLong),
        (&long_head, HopError::TooLong),
        (&many, HopError::TooManyHeaders),
    ] {
        assert_eq!(hop::encode_request(&mut out, 1, &request(head()), extra), Err(error));
        assert_eq!(out, b"before");
    }
    hop::encode_request(&mut out, 1, &request(head()), &many[..HOP_HEADERS_MAX]).expect("it fits");
    const { assert!(HOP_HEADERS_MAX > HEADERS_MAX, "proxies add fields to a head that is full already") };
}

proptest! {
    /// A sender that sends what it may, and a receiver that grants what it passes on, never disagree and never stall.
    #[test]
    fn credit_is_kept(window in 1..5000_u32, sends in prop::collection::vec((1..3000_usize, 0..4000_usize), 1..60)) {
        let (mut send, mut receive) = (SendCredit::new(window), ReceiveCredit::new(window));
        let mut held = 0;
        for (wanted, passed_on) in sends {
            let sent = send.take(wanted);
            receive.receive(sent).unwrap();
            held += sent;
            prop_assert_eq!((receive.held() as usize, sent <= wanted, held <= window as usize), (held, true, true));
            let released = passed_on.min(held);
            held -= released;
            if let Some(credit) = receive.release(released) {
                send.grant(credit).unwrap();
            }
        }
        if let Some(credit) = receive.release(held) {
            send.grant(credit).unwrap();
        }
        prop_assert!(send.available() > 0, "everything was passed on, and yet nothing may be sent");
        prop_assert_eq!(receive.receive(send.available() as usize + 1), Err(HopError::FlowControl));
    }
}

#[test]
fn credit_has_bounds() {
    let mut send = SendCredit::new(u32::MAX);
    assert_eq!(send.available(), CREDIT_MAX);
    assert_eq!(send.grant(1), Err(HopError::FlowControl));
    assert_eq!(send.take(1), 1);
    assert_eq!((send.grant(0), send.grant(1)), (Err(HopError::FlowControl), Ok(())));
    let mut receive = ReceiveCredit::new(10);
    assert_eq!(
        (receive.receive(11), receive.receive(10), receive.receive(1)),
        (Err(HopError::FlowControl), Ok(()), Err(HopError::FlowControl))
    );
    assert_eq!((receive.release(4), receive.release(1), receive.release(100)), (None, Some(5), Some(5)));
    assert_eq!(Reset::of(200, 0), Reset::Internal);
}
