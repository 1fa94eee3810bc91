//! Any bytes as a row of frames of HTTP/2 on one connection: nothing breaks, and the heads that are read are the same when they are written and read again, in
//! HTTP/2 and, as far as it can say them, in HTTP/1.1.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_wire::http1::{self, parse_request, write_request_head};
use vicino_wire::http2::{Decoder, Encoder, Frame, Slots, decode, read_request, read_response, read_trailers};

fuzz_target!(|bytes: &[u8]| {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    while let Ok(Some((frame, used))) = decode(rest) {
        rest = &rest[used..];
        match frame {
            Ok(Frame::Headers { stream, end, block, .. }) if stream % 4 == 1 => {
                let mut slots = Slots::default();
                if let Ok(read) = read_request(&mut decoder, block, end, &mut slots) {
                    is_the_same(&read);
                }
            }
            Ok(Frame::Headers { end, block, .. }) => {
                let _ = read_response(&mut decoder, block, end, "GET", &mut Slots::default());
            }
            Ok(Frame::Continuation { block, .. }) => {
                let _ = read_trailers(&mut decoder, block, &mut Slots::default());
            }
            Ok(Frame::Settings(settings)) => drop(settings.iter().count()),
            _ => {}
        }
    }
});

fn is_the_same(read: &vicino_wire::http2::Request<'_>) {
    if read.head.method == "CONNECT" {
        return;
    }
    let mut out = Vec::new();
    Encoder::default().request(&mut out, 1, (&read.head, read.framing), &[]);
    // A longer one goes on in CONTINUATION.
    if let Ok(Some((Ok(Frame::Headers { end, is_whole: true, block, .. }), _))) = decode(&out) {
        let mut slots = Slots::default();
        let again = read_request(&mut Decoder::default(), block, end, &mut slots).expect("it was good");
        assert_eq!((again.head, again.framing), (read.head, read.framing));
    }
    let mut old = Vec::new();
    write_request_head(&mut old, &read.head, read.framing, &[], true);
    let mut slots = http1::Slots::default();
    match parse_request(&old, &mut slots) {
        Ok(Some(one)) => {
            assert_eq!((one.head.headers, one.framing, one.len), (read.head.headers, read.framing, old.len()));
        }
        Ok(None) => panic!("an unfinished head: {}", old.escape_ascii()),
        Err(reject) => {
            assert!(["head-too-long", "too-many-headers"].contains(&reject.reason()), "{reject}: {}", old.escape_ascii());
        }
    }
}
