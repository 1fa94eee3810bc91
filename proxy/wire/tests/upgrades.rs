//! Calls that want to switch protocols, from one wire to the other and back: which are carried, and what is refused on the hop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use vicino_wire::{
    head::{Framing, Header, Headers, RequestHead, ResponseHead, UPGRADE_FIELD, Version},
    hop::{self, Destination, Frame, HopError, Kind, RequestFrame, ResponseFrame, decode},
    http1::{
        Slots, parse_request, parse_response, parse_upgrade_response, write_request_head, write_response_head,
    },
};

fn request_with(fields: &str) -> Option<Vec<u8>> {
    let text = format!("GET /ws HTTP/1.1\r\nHost: web\r\n{fields}\r\n");
    let mut slots = Slots::default();
    let request = parse_request(text.as_bytes(), &mut slots).unwrap().unwrap();
    let travels = request.head.headers.iter().any(|h| h.name.eq_ignore_ascii_case(b"upgrade"));
    assert!(!travels, "the field itself belongs to the connection");
    request.upgrade.map(<[u8]>::to_vec)
}

#[test]
fn one_protocol_that_the_connection_names_is_carried() {
    for (fields, upgrade) in [
        ("Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
        ("connection: keep-alive, UPGRADE\r\nupgrade:  SPDY/3.1 \r\n", Some("SPDY/3.1")),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n", Some("websocket")),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: a, b\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: a/b/c\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: a/\r\n", None),
        ("Connection: Upgrade\r\nUpgrade:\r\n", None),
        ("Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: a\r\n", None),
        ("Connection: Upgrade\r\n", None),
        ("Connection: other\r\nUpgrade: websocket\r\n", None),
    ] {
        assert_eq!(request_with(fields).as_deref(), upgrade.map(str::as_bytes), "{fields}");
    }
    let mut slots = Slots::default();
    let old = b"GET / HTTP/1.0\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(parse_request(old, &mut slots).unwrap().unwrap().upgrade, None);
}

#[test]
fn a_switch_is_taken_only_from_who_was_asked_and_says_to_what() {
    let full =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-A: b\r\n\r\nraw";
    let mut slots = Slots::default();
    assert!(parse_response(full.as_bytes(), &mut slots, "GET").is_err());
    let response = parse_upgrade_response(full.as_bytes(), &mut slots, "GET").unwrap().unwrap();
    assert_eq!((response.framing, response.keep_alive), (Framing::UntilClose, false));
    assert_eq!((response.upgrade, &full[response.len..]), (Some(&b"websocket"[..]), "raw"));
    assert!(!response.head.is_interim());
    for refused in [
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        assert!(
            parse_upgrade_response(refused.as_bytes(), &mut Slots::default(), "GET").is_err(),
            "{refused}"
        );
    }
    let ordinary =
        "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok";
    let response = parse_upgrade_response(ordinary.as_bytes(), &mut slots, "GET").unwrap().unwrap();
    assert_eq!((response.framing, response.upgrade, response.keep_alive), (Framing::Length(2), None, true));
}

fn frame(fields: &[Header<'_>], framing: Framing) -> Vec<u8> {
    let to = Destination { namespace: "demo", service: "web", port: 80, port_name: "", pod: None };
    let head = RequestHead {
        method: "GET",
        authority: "web",
        path: "/ws",
        version: Version::Http11,
        accepts_trailers: false,
        headers: Headers::from(fields),
    };
    let request = RequestFrame {
        to,
        kind: Kind::Http,
        deadline_ms: 0,
        hops: 1,
        is_last_resort: false,
        caller: None,
        head,
        framing,
    };
    let mut out = Vec::new();
    hop::encode_request(&mut out, 1, &request, &[]).unwrap();
    out
}

fn answer(status: u16, fields: &[Header<'_>], framing: Framing) -> Vec<u8> {
    let headers = Headers::from(fields);
    let head = ResponseHead { status, reason: b"", version: Version::Http11, declared_length: None, headers };
    let mut out = Vec::new();
    hop::encode_response(&mut out, 1, &ResponseFrame { head, framing }, &[]).unwrap();
    out
}

#[test]
fn on_the_hop_framing_and_field_go_together() {
    let field = [Header { name: UPGRADE_FIELD.as_bytes(), value: b"websocket" }];
    let empty = [Header { name: UPGRADE_FIELD.as_bytes(), value: b"" }];
    let refused = |wire: &[u8]| {
        let (frame, used) = decode(wire).unwrap().unwrap();
        assert_eq!((frame, used), (Frame::Malformed { stream: 1, fault: HopError::BadValue }, wire.len()));
    };
    let taken = |wire: &[u8]| match decode(wire).unwrap().unwrap().0 {
        Frame::Request { end, .. } | Frame::Response { end, .. } => assert!(!end),
        other => panic!("{other:?}"),
    };
    taken(&frame(&field, Framing::UntilClose));
    for (fields, framing) in [
        (&field[..], Framing::None),
        (&field, Framing::Length(3)),
        (&[], Framing::UntilClose),
        (&empty, Framing::UntilClose),
    ] {
        refused(&frame(fields, framing));
    }
    taken(&answer(101, &field, Framing::UntilClose));
    for (fields, framing) in [
        (&field[..], Framing::None),
        (&field, Framing::Chunked),
        (&[], Framing::UntilClose),
        (&empty, Framing::UntilClose),
    ] {
        refused(&answer(101, fields, framing));
    }
}

proptest! {
    #[test]
    fn what_is_asked_and_answered_arrives_at_the_other_end(protocol in "[a-z]{1,10}(/[0-9.]{1,5})?", name in "x-[a-z]{1,10}", value in "[!-~]{0,20}") {
        prop_assume!(!["h2c", "tls"].contains(&protocol.split('/').next().unwrap_or_default()));
        let asked = format!("GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{name}: {value}\r\n\r\n");
        let (mut slots, mut slots_again) = (Slots::default(), Slots::default());
        let request = parse_request(asked.as_bytes(), &mut slots).unwrap().unwrap();
        let upgrade = request.upgrade.unwrap();
        let fields: Vec<_> = request.head.headers.iter().chain([Header { name: UPGRADE_FIELD.as_bytes(), value: upgrade }]).collect();
        let wire = frame(&fields, Framing::UntilClose);
        let Some((Frame::Request { request: carried, .. }, _)) = decode(&wire).unwrap() else { panic!("no request") };
        let mut out = Vec::new();
        write_request_head(&mut out, &carried.head, carried.framing, &[], true);
        let read = parse_request(&out, &mut slots_again).unwrap().unwrap();
        prop_assert_eq!((read.head, read.upgrade, read.len), (request.head, request.upgrade, out.len()));

        let fields = [Header { name: name.as_bytes(), value: value.as_bytes() }, Header { name: UPGRADE_FIELD.as_bytes(), value: upgrade }];
        let wire = answer(101, &fields, Framing::UntilClose);
        let Some((Frame::Response { response, .. }, _)) = decode(&wire).unwrap() else { panic!("no response") };
        let mut out = Vec::new();
        write_response_head(&mut out, &response.head, response.framing, &[], false);
        let read = parse_upgrade_response(&out, &mut slots_again, "GET").unwrap().unwrap();
        prop_assert_eq!((read.head.status, read.upgrade, read.len), (101, Some(upgrade), out.len()));
        prop_assert_eq!(read.head.headers, Headers::from(&fields[..1]));
    }
}
