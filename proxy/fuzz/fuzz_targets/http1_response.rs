//! Any bytes as an application's responses and their bodies: nothing breaks, httparse reads the same head, what is written reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_wire::{
    head::{ResponseHead, Version},
    http1::{Body, BodyDecoder, Slots, parse_response, write_response_head},
};

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let method = if first % 2 == 0 { "HEAD" } else { "GET" };
    let (mut slots, mut slots_again) = (Slots::default(), Slots::default());
    let Ok(Some(response)) = parse_response(bytes, &mut slots, method) else { return };
    let mut fields = [httparse::EMPTY_HEADER; 200];
    let theirs = httparse::Response::new(&mut fields).parse(bytes);
    assert_eq!(theirs, Ok(httparse::Status::Complete(response.len)));

    let mut again = Vec::new();
    write_response_head(&mut again, &response.head, response.framing, &[], response.keep_alive);
    match parse_response(&again, &mut slots_again, method) {
        Ok(read) => {
            let read = read.expect("a whole head");
            assert_eq!(read.head, ResponseHead { version: Version::Http11, ..response.head });
            assert_eq!((read.framing, read.len), (response.framing, again.len()));
        }
        // It has grown over a bound: the framing is written out.
        Err(reject) => {
            let what = format!("{reject:?}");
            assert!(what.contains("TooManyHeaders") || what.contains("HeadTooLong"), "{what}");
        }
    }

    let mut rest = &bytes[response.len..];
    let mut decoder = BodyDecoder::new(response.framing);
    let mut total = 0;
    while let Ok((body, used)) = decoder.decode(rest) {
        rest = &rest[used..];
        match body {
            Body::Data(data) => total += data.len(),
            Body::Trailers(trailers) => assert_eq!(trailers.iter().count(), trailers.len()),
            Body::More | Body::End => break,
        }
    }
    assert!(total <= bytes.len());
});
