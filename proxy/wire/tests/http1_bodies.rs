//! What comes out of a body: slices as large as the buffer, trailers that may travel, and an end that leaves the next message alone.

use vicino_wire::{
    head::{Framing, Headers},
    http1::{Body, BodyDecoder, Reject, write_chunk, write_last_chunk},
};

#[test]
fn data_is_handed_out_in_one_slice_where_it_lies() {
    let buf = vec![b'x'; 100_000];
    let mut known = BodyDecoder::new(Framing::Length(1 << 40));
    let mut until_close = BodyDecoder::new(Framing::UntilClose);
    for decoder in [&mut known, &mut until_close] {
        let (body, used) = decoder.decode(&buf).unwrap();
        assert_eq!(used, buf.len());
        assert!(
            matches!(body, Body::Data(data) if std::ptr::eq(data, &raw const buf[..])),
            "not the buffer itself"
        );
    }
    let mut chunk = Vec::new();
    write_chunk(&mut chunk, &buf);
    let (body, used) = BodyDecoder::new(Framing::Chunked).decode(&chunk).unwrap();
    assert_eq!((body, &chunk[used..]), (Body::Data(&buf), &b"\r\n"[..]));
}

#[test]
fn trailers_that_frame_route_or_authenticate_are_dropped() {
    let section = "0\r\nGrpc-Status: 0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: b\r\nAuthorization: x\r\nTE: x\r\n\
        Connection: x\r\nCookie: x\r\nSet-Cookie: x\r\nVia: x\r\nForwarded: x\r\nX-Forwarded-For: x\r\nX_Forwarded_For: x\r\nvicino-error: x\r\n\
        Content-Type: x\r\nExpect: x\r\nProxy-Authorization: x\r\nMax-Forwards: 1\r\nTrailer: x\r\nChecksum:  ab:cd \r\n\r\nnext";
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (body, used) = decoder.decode(section.as_bytes()).unwrap();
    let Body::Trailers(trailers) = body else { panic!("no trailers: {body:?}") };
    assert_eq!(format!("{trailers:?}"), "[Grpc-Status: 0, Checksum: ab:cd]");
    assert_eq!((trailers.len(), trailers.iter().count(), trailers.get("host")), (2, 2, None));
    assert_eq!((&section[used..], decoder.is_ended()), ("next", true));

    let mut out = Vec::new();
    write_last_chunk(&mut out, trailers);
    assert_eq!(out, b"0\r\nGrpc-Status: 0\r\nChecksum: ab:cd\r\n\r\n");
    let dropped = BodyDecoder::new(Framing::Chunked).decode(b"0\r\nHost: b\r\n\r\n").unwrap();
    assert_eq!(dropped, (Body::End, 14));
}

#[test]
fn closing_ends_only_what_ends_so() {
    for (framing, expected) in [
        (Framing::None, Ok(())),
        (Framing::Length(0), Ok(())),
        (Framing::UntilClose, Ok(())),
        (Framing::Length(1), Err(Reject::Truncated)),
        (Framing::Chunked, Err(Reject::Truncated)),
    ] {
        let mut decoder = BodyDecoder::new(framing);
        assert_eq!((decoder.close(), decoder.is_ended()), (expected, expected.is_ok()), "{framing:?}");
    }
    let mut decoder = BodyDecoder::new(Framing::UntilClose);
    assert_eq!((decoder.decode(b""), decoder.decode(b"a")), (Ok((Body::More, 0)), Ok((Body::Data(b"a"), 1))));
    decoder.close().unwrap();
    assert_eq!(decoder.decode(b"more"), Ok((Body::End, 0)));
}

#[test]
fn an_empty_chunk_is_not_written() {
    let mut out = Vec::new();
    write_chunk(&mut out, b"");
    write_chunk(&mut out, &[b'a'; 16]);
    write_last_chunk(&mut out, Headers::default());
    assert_eq!(out, b"10\r\naaaaaaaaaaaaaaaa\r\n0\r\n\r\n");
}
