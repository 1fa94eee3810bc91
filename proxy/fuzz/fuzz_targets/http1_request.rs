//! Any bytes as requests and their bodies: nothing breaks, httparse reads the same head, and what is written reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_wire::{
    head::{RequestHead, Version},
    http1::{Body, BodyDecoder, Slots, parse_request, write_request_head},
};

fuzz_target!(|bytes: &[u8]| {
    let (mut slots, mut slots_again) = (Slots::default(), Slots::default());
    let mut rest = bytes;
    while let Ok(Some(request)) = parse_request(rest, &mut slots) {
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let theirs = httparse::Request::new(&mut fields).parse(rest);
        assert_eq!(theirs, Ok(httparse::Status::Complete(request.len)));

        let mut again = Vec::new();
        write_request_head(&mut again, &request.head, request.framing, &[], request.keep_alive);
        // An HTTP/1.0 request without Host, and one that has grown over the bound (`TE: trailers` is written out), are not for reading again.
        match parse_request(&again, &mut slots_again) {
            Ok(read) => {
                let read = read.expect("a whole head");
                assert_eq!(read.head, RequestHead { version: Version::Http11, ..request.head });
                assert_eq!(
                    (read.framing, read.keep_alive, read.len),
                    (request.framing, request.keep_alive, again.len())
                );
            }
            // CONNECT is for us: it is never written.
            Err(_) if request.head.method == "CONNECT" || request.head.authority.is_empty() => {}
            Err(reject) => assert!(["head-too-long", "too-many-headers"].contains(&reject.reason()), "{reject}"),
        }

        rest = &rest[request.len..];
        let mut decoder = BodyDecoder::new(request.framing);
        while let Ok((body, used)) = decoder.decode(rest) {
            rest = &rest[used..];
            match body {
                Body::Data(data) => assert!(!data.is_empty()),
                Body::Trailers(trailers) => assert_eq!(trailers.iter().count(), trailers.len()),
                Body::More | Body::End => break,
            }
        }
        if !decoder.is_ended() || request.len == 0 {
            break;
        }
    }
});
