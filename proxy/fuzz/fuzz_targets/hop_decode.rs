//! Any bytes as a row of frames: nothing breaks, and what is read encodes to what reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_wire::{
    head::Framing,
    hop::{self, Frame, Kind, decode},
    http1::{Slots, parse_request, write_request_head},
};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((frame, used))) = decode(rest) {
        rest = &rest[used..];
        let mut again = Vec::new();
        match frame {
            Frame::Hello(hello) => hop::encode_hello(&mut again, &hello).expect("it fitted"),
            Frame::Request { stream, request, .. } => {
                hop::encode_request(&mut again, stream, &request, &[]).expect("it fitted");
                if request.kind == Kind::Http {
                    is_one_message(&request);
                }
            }
            Frame::Response { stream, response, .. } => {
                hop::encode_response(&mut again, stream, &response, &[]).expect("it fitted");
            }
            Frame::Data { stream, end, bytes } => hop::encode_data(&mut again, stream, bytes, u16::MAX, end),
            Frame::Trailers { stream, headers } => {
                hop::encode_trailers(&mut again, stream, headers).expect("it fitted")
            }
            Frame::Reset { stream, reason } => hop::encode_reset(&mut again, stream, reason),
            Frame::Window { stream, credit } => hop::encode_window(&mut again, stream, credit),
            Frame::Reserve { stream, is_last_resort, to } => {
                hop::encode_reserve(&mut again, stream, &to, is_last_resort).expect("it fitted");
            }
            Frame::Grant { stream } => hop::encode_grant(&mut again, stream),
            Frame::Cancel { stream } => hop::encode_cancel(&mut again, stream),
            Frame::Wait { stream } => hop::encode_wait(&mut again, stream),
            Frame::Started { stream } => hop::encode_started(&mut again, stream),
            Frame::Failures { stream, codes } => {
                let codes: Vec<_> = codes.iter().collect();
                hop::encode_failures(&mut again, stream, &codes).expect("it fitted");
            }
            Frame::Ejected { stream, count } => hop::encode_ejected(&mut again, stream, count),
            Frame::Ping(number) => hop::encode_ping(&mut again, number),
            Frame::Pong(number) => hop::encode_pong(&mut again, number),
            Frame::Drain => hop::encode_drain(&mut again),
            Frame::Malformed { .. } | Frame::Skipped { .. } => continue,
        }
        assert_eq!(decode(&again), Ok(Some((frame, again.len()))));
    }
});

/// Written as HTTP/1.1 it is read as one request, to its last byte, unless it is larger than such a head may be.
fn is_one_message(request: &hop::RequestFrame<'_>) {
    let mut http1 = Vec::new();
    write_request_head(&mut http1, &request.head, Framing::Chunked, &[], true);
    let mut slots = Slots::default();
    match parse_request(&http1, &mut slots) {
        Ok(Some(read)) => {
            assert_eq!(read.len, http1.len());
            assert_eq!((read.head.method, read.head.path), (request.head.method, request.head.path));
        }
        Ok(None) => panic!("an unfinished head: {}", http1.escape_ascii()),
        Err(reject) => {
            let known = ["head-too-long", "too-many-headers", "bad-host", "underscore-twin"];
            assert!(known.contains(&reject.reason()), "{reject}: {}", http1.escape_ascii());
        }
    }
}
