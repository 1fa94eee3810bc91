//! Every frame reads back as it was written, in a row with others and cut at every place; arbitrary bytes break nothing.

use std::net::IpAddr;

use proptest::prelude::*;
use vicino_wire::{
    head::{Framing, Header, Headers, RequestHead, ResponseHead, Version},
    hop::{
        self, Destination, FRAME_HEADER_BYTES, Frame, Hello, Kind, RequestFrame, Reset, ResponseFrame,
        decode, frame_len,
    },
    http1::{Slots, parse_request, parse_response, write_request_head, write_response_head},
};

type Fields = Vec<(String, String)>;

fn fields() -> impl Strategy<Value = Fields> {
    prop::collection::vec(("q[a-zA-Z0-9-]{0,20}", "([!-~\u{e9}]([!-~ \t]{0,60}[!-~])?)?"), 0..8)
}

fn headers(fields: &Fields) -> Vec<Header<'_>> {
    fields.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() }).collect()
}

/// The only frame in `wire`, which is cut at every place (of the first thousand) before.
fn only_frame(wire: &[u8]) -> Frame<'_> {
    assert_eq!(frame_len(wire), Some(wire.len()));
    for cut in 0..wire.len().min(1000) {
        assert_eq!(decode(&wire[..cut]), Ok(None), "cut at {cut}");
    }
    let (frame, len) = decode(wire).expect("a valid frame").expect("a whole frame");
    assert_eq!(len, wire.len());
    frame
}

prop_compose! {
    fn addresses()(caller: Option<IpAddr>, pod: Option<IpAddr>) -> (Option<IpAddr>, Option<IpAddr>) { (caller, pod) }
}

fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::None), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)]
}

proptest! {
    #[test]
    fn a_request_reads_back_and_is_good_http1(
        stream in 1..=u32::MAX, (caller, pod) in addresses(), port in 1..=u16::MAX, names in ["[a-z0-9-]{0,63}", "[a-z0-9-]{0,63}", "[a-z0-9-]{0,15}"],
        deadline_ms: u32, hops: u8, method in "[A-BD-Z]{1,32}", authority in "([a-z0-9-]{1,20}(:[1-9][0-9]{0,3})?)?",
        path in "/[!-\"$-~]{0,40}", accepts_trailers: bool, framing in framings(), fields in fields(), extra in fields(),
    ) {
        let (list, extra) = (headers(&fields), headers(&extra));
        let head = RequestHead {
            method: &method, authority: &authority, path: &path, version: Version::Http11, accepts_trailers, headers: Headers::from(&list[..]),
        };
        let to = Destination { namespace: &names[0], service: &names[1], port, port_name: &names[2], pod };
        let request = RequestFrame { to, kind: Kind::Http, deadline_ms, hops, is_last_resort: deadline_ms % 2 == 1, caller, head, framing };
        let mut wire = Vec::new();
        hop::encode_request(&mut wire, stream, &request, &extra).unwrap();

        let all: Vec<Header<'_>> = list.iter().chain(&extra).copied().collect();
        let head = RequestHead { headers: Headers::from(&all[..]), ..head };
        let frame = only_frame(&wire);
        prop_assert_eq!(frame, Frame::Request { stream, end: framing.is_empty(), request: RequestFrame { head, ..request } });

        let Frame::Request { request, .. } = frame else { unreachable!() };
        let mut http1 = Vec::new();
        write_request_head(&mut http1, &request.head, request.framing, &[], true);
        let mut slots = Slots::default();
        match parse_request(&http1, &mut slots) {
            Ok(Some(read)) => prop_assert_eq!((read.head, read.len), (head, http1.len())),
            // An empty authority is HTTP/1.0's; an application's server may refuse it, as ours does. Nineteen digits always fit.
            other => prop_assert!(authority.is_empty() || matches!(framing, Framing::Length(10_000_000_000_000_000_000..)), "{other:?}"),
        }
    }

    #[test]
    fn a_response_reads_back_and_is_good_http1(
        stream in 1..=u32::MAX, status in 102..1000_u16, reason in "[ -~]{0,30}", declared: Option<u32>,
        framing in prop_oneof![framings(), Just(Framing::UntilClose)], fields in fields(),
    ) {
        let list = headers(&fields);
        let framing = if status < 200 || status == 204 || status == 304 { Framing::None } else { framing };
        let declared_length = declared.map(u64::from).filter(|_| framing == Framing::None && status > 204);
        let head = ResponseHead { status, reason: reason.as_bytes(), version: Version::Http10, declared_length, headers: Headers::from(&list[..]) };
        let response = ResponseFrame { head, framing };
        let mut wire = Vec::new();
        hop::encode_response(&mut wire, stream, &response, &[]).unwrap();
        let end = framing.is_empty() && status >= 200;
        prop_assert_eq!(only_frame(&wire), Frame::Response { stream, end, response });

        prop_assume!(!matches!(framing, Framing::Length(10_000_000_000_000_000_000..)));
        let mut http1 = Vec::new();
        write_response_head(&mut http1, &head, framing, &[], false);
        let mut slots = Slots::default();
        let method = if framing == Framing::None { "HEAD" } else { "GET" };
        let read = parse_response(&http1, &mut slots, method).unwrap().unwrap();
        prop_assert_eq!((read.head, read.framing), (ResponseHead { version: Version::Http11, ..head }, framing));
    }

    #[test]
    fn data_reads_back_in_frames_of_at_most_max_frame(
        stream in 1..=u32::MAX, bytes in prop::collection::vec(any::<u8>(), 0..5000), max_frame in 1..3000_u16, end: bool,
    ) {
        let mut wire = Vec::new();
        hop::encode_data(&mut wire, stream, &bytes, max_frame, end);
        let (mut at, mut read, mut ended) = (0, Vec::new(), false);
        while at < wire.len() {
            prop_assert!(!ended, "nothing follows END");
            let Ok(Some((Frame::Data { stream: of, end, bytes }, len))) = decode(&wire[at..]) else { panic!("no data") };
            prop_assert_eq!(of, stream);
            prop_assert!(bytes.len() <= usize::from(max_frame));
            read.extend_from_slice(bytes);
            (ended, at) = (end, at + len);
        }
        prop_assert_eq!((read, ended), (bytes, end));
    }

    #[test]
    fn small_frames_read_back(
        stream in 1..=u32::MAX, credit in 1..=hop::CREDIT_MAX, number: u64, reason in prop::sample::select(&Reset::ALL[..]),
        fields in fields(), node in "[a-zA-Z0-9.-]{1,253}", max_streams in 1..=u32::MAX, max_frame in hop::MAX_FRAME_MIN..,
    ) {
        let list = headers(&fields);
        let hello = Hello { max_streams, initial_window: credit, max_frame, binds_late: credit % 2 == 0, node: &node };
        let trailers = Headers::from(&list[..]);
        let check = |encode: &dyn Fn(&mut Vec<u8>), frame: Frame<'_>| {
            let mut wire = Vec::new();
            encode(&mut wire);
            assert_eq!(only_frame(&wire), frame);
        };
        check(&|out| hop::encode_hello(out, &hello).unwrap(), Frame::Hello(hello));
        check(&|out| hop::encode_trailers(out, stream, trailers).unwrap(), Frame::Trailers { stream, headers: trailers });
        check(&|out| hop::encode_reset(out, stream, reason), Frame::Reset { stream, reason });
        check(&|out| hop::encode_window(out, stream, credit), Frame::Window { stream, credit });
        check(&|out| hop::encode_ejected(out, stream, credit), Frame::Ejected { stream, count: credit });
        check(&|out| hop::encode_ping(out, number), Frame::Ping(number));
        check(&|out| hop::encode_pong(out, number), Frame::Pong(number));
        check(&|out| hop::encode_drain(out), Frame::Drain);
        let codes = [500, 503, 599];
        for codes in [&codes[..], &[]] {
            let mut wire = Vec::new();
            hop::encode_failures(&mut wire, stream, codes).unwrap();
            let Frame::Failures { stream: of, codes: read } = only_frame(&wire) else { panic!("another frame") };
            prop_assert_eq!((of, read.iter().collect::<Vec<_>>()), (stream, codes.to_vec()));
        }
        prop_assert_eq!(hop::encode_failures(&mut Vec::new(), stream, &[500; 17]), Err(hop::HopError::TooLong));
        let to = Destination { namespace: "demo", service: "web", port: 80, port_name: "http", pod: None };
        let is_last_resort = number % 2 == 0;
        check(
            &|out| hop::encode_reserve(out, stream, &to, is_last_resort).unwrap(),
            Frame::Reserve { stream, is_last_resort, to },
        );
        check(&|out| hop::encode_grant(out, stream), Frame::Grant { stream });
        check(&|out| hop::encode_cancel(out, stream), Frame::Cancel { stream });
        check(&|out| hop::encode_wait(out, stream), Frame::Wait { stream });
        check(&|out| hop::encode_started(out, stream), Frame::Started { stream });
    }

    /// A valid REQUEST with some bytes changed, or any bytes: what still passes is good HTTP/1.1 as a whole.
    #[test]
    fn damaged_heads_never_split_a_message(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(b"\r\n\0 :_/".to_vec())]), 0..6),
    ) {
        let list = [Header { name: b"accept", value: b"*/*" }, Header { name: b"x-q", value: b"some value" }];
        let head = RequestHead {
            method: "POST", authority: "web.demo:8080", path: "/p?q", version: Version::Http11, accepts_trailers: false, headers: Headers::from(&list[..]),
        };
        let to = Destination { namespace: "demo", service: "web", port: 80, port_name: "http", pod: None };
        let request = RequestFrame { to, kind: Kind::Http, deadline_ms: 7, hops: 1, is_last_resort: false, caller: None, head, framing: Framing::Length(5) };
        let mut wire = Vec::new();
        hop::encode_request(&mut wire, 1, &request, &[]).unwrap();
        for (at, byte) in changes {
            *at.get_mut(&mut wire) = byte;
        }
        if let Ok(Some((Frame::Request { request, .. }, _))) = decode(&wire)
            && request.kind == Kind::Http
        {
            let mut http1 = Vec::new();
            write_request_head(&mut http1, &request.head, request.framing, &[], true);
            let lines = http1.split(|&b| b == b'\n').count();
            let framing_lines = usize::from(request.framing != Framing::None) + 2 * usize::from(request.head.accepts_trailers);
            prop_assert_eq!(lines, 4 + request.head.headers.len() + framing_lines, "{}", http1.escape_ascii());
            prop_assert_eq!(http1.split(|&b| b == b'\r').count(), lines);
            prop_assert!(!http1.contains(&0));
        }
    }

    #[test]
    fn arbitrary_bytes_decode_to_a_frame_within_them_or_an_error(
        kind in prop_oneof![0..0x0c_u8, 0x90..0x96_u8, any::<u8>()], flags: u8, stream in 0..3_u32, len in 0..200_u16,
        payload in prop::collection::vec(prop_oneof![any::<u8>(), 0..6_u8], 0..200),
    ) {
        let [l0, l1] = len.to_be_bytes();
        let [s0, s1, s2, s3] = stream.to_be_bytes();
        let wire = [&[l0, l1, kind, flags, s0, s1, s2, s3][..], &payload].concat();
        match decode(&wire) {
            Ok(Some((frame, used))) => {
                prop_assert_eq!(used, FRAME_HEADER_BYTES + usize::from(len));
                prop_assert!(used <= wire.len());
                // Walks whatever was handed out.
                let shown = format!("{frame:?}");
                prop_assert!(!shown.is_empty());
            }
            Ok(None) => prop_assert!(wire.len() < FRAME_HEADER_BYTES + usize::from(len)),
            Err(_) => {}
        }
    }
}

#[test]
fn an_opaque_stream_carries_a_destination_and_no_head() {
    let to = Destination {
        namespace: "demo",
        service: "db",
        port: 5432,
        port_name: "",
        pod: Some(IpAddr::from([10, 0, 0, 7])),
    };
    let request = RequestFrame {
        to,
        kind: Kind::Opaque,
        deadline_ms: hop::DEADLINE_MS_NONE,
        hops: 1,
        is_last_resort: false,
        caller: None,
        head: RequestHead::opaque(),
        framing: Framing::UntilClose,
    };
    let mut wire = Vec::new();
    hop::encode_request(&mut wire, 9, &request, &[]).unwrap();
    assert_eq!(only_frame(&wire), Frame::Request { stream: 9, end: false, request });
}
