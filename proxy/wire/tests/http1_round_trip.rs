//! What one side writes, the other reads as the same, however the bytes are cut; heads of all shapes, bodies of all framings.

use proptest::prelude::*;
use vicino_wire::{
    head::{Framing, Header, Headers, RequestHead, ResponseHead, Version},
    http1::{
        Body, BodyDecoder, Slots, parse_request, parse_response, write_chunk, write_last_chunk,
        write_request_head, write_response_head,
    },
};

type Fields = Vec<(String, Vec<u8>)>;

/// Fields that travel end to end, without blanks around their values.
fn fields() -> impl Strategy<Value = Fields> {
    let name = "[a-zA-Z][a-zA-Z0-9!#$%&'*+.^`|~-]{0,20}".prop_map(|name| format!("q{name}"));
    let value = prop::collection::vec(
        prop_oneof![8 => 0x21..=0x7e_u8, 1 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80..=0xff_u8],
        0..60,
    )
    .prop_map(|value| {
        let blank = |b: &u8| *b == b' ' || *b == b'\t';
        let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
        let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
        value[start..end].to_vec()
    });
    prop::collection::vec((name, value), 0..8)
}

fn headers(fields: &Fields) -> Vec<Header<'_>> {
    fields.iter().map(|(name, value)| Header { name: name.as_bytes(), value }).collect()
}

fn request_framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::None),
        any::<u32>().prop_map(|n| Framing::Length(n.into())),
        Just(Framing::Chunked)
    ]
}

/// Feeds `wire` in pieces that end at `cuts`, as a connection does: what is not used up stays in the buffer.
/// Gives the data, the trailers and what is left when the body is over (or when the bytes are).
fn decode_in_pieces(framing: Framing, wire: &[u8], cuts: &[usize]) -> (Vec<u8>, Fields, Vec<u8>, bool) {
    let mut decoder = BodyDecoder::new(framing);
    let (mut data, mut trailers, mut buf) = (Vec::new(), Fields::new(), Vec::new());
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).chain([wire.len()]).collect();
    ends.sort_unstable();
    let mut begin = 0;
    let mut ended = false;
    for end in ends {
        buf.extend_from_slice(&wire[begin..end]);
        begin = end;
        let mut at = 0;
        while !ended {
            let (body, used) = decoder.decode(&buf[at..]).expect("a valid body");
            at += used;
            match body {
                Body::Data(part) => data.extend_from_slice(part),
                Body::Trailers(headers) => {
                    trailers.extend(
                        headers
                            .iter()
                            .map(|h| (String::from_utf8_lossy(h.name).into_owned(), h.value.to_vec())),
                    );
                }
                Body::End => ended = true,
                Body::More => break,
            }
        }
        buf.drain(..at);
    }
    (data, trailers, buf, ended)
}

proptest! {
    #[test]
    fn a_written_request_reads_back(
        fields in fields(), extra in fields(), framing in request_framing(), keep_alive: bool, accepts_trailers: bool,
        method in "[A-Z]{1,10}", path in "/[!-\"$-~]{0,40}", host in "[a-z0-9-]{1,20}(\\.[a-z0-9_-]{1,9}){0,3}(:[1-9][0-9]{0,3})?",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        prop_assume!(method != "CONNECT");
        let (list, extra) = (headers(&fields), headers(&extra));
        let head = RequestHead {
            method: &method, authority: &host, path: &path, version: Version::Http11, accepts_trailers, headers: Headers::from(&list[..]),
        };
        let mut wire = Vec::new();
        write_request_head(&mut wire, &head, framing, &extra, keep_alive);
        let len = wire.len();
        wire.extend_from_slice(b"the body");

        let mut slots = Slots::default();
        for cut in cuts {
            prop_assert_eq!(parse_request(&wire[..cut.index(len)], &mut slots), Ok(None));
        }
        let read = parse_request(&wire, &mut slots).unwrap().unwrap();
        let all: Vec<Header<'_>> = list.iter().chain(&extra).copied().collect();
        prop_assert_eq!(read.head, RequestHead { headers: Headers::from(&all[..]), ..head });
        prop_assert_eq!((read.framing, read.keep_alive, read.len), (framing, keep_alive, len));
        prop_assert_eq!((read.expect_continue, read.absolute_form), (false, false));
    }

    #[test]
    fn a_written_response_reads_back(
        fields in fields(), framing in prop_oneof![request_framing(), Just(Framing::UntilClose)],
        status in 200..1000_u16, reason in "[ -~]{0,20}", keep_alive: bool, declared in prop::option::of(any::<u32>()),
    ) {
        let list = headers(&fields);
        let has_body = framing != Framing::None;
        prop_assume!(!has_body || (status != 204 && status != 304));
        prop_assume!(status != 204 || declared.is_none());
        let head = ResponseHead {
            status, reason: reason.as_bytes(), version: Version::Http11, headers: Headers::from(&list[..]),
            declared_length: declared.filter(|_| !has_body).map(u64::from),
        };
        let keep_alive = keep_alive && framing != Framing::UntilClose;
        let mut wire = Vec::new();
        write_response_head(&mut wire, &head, framing, &[], keep_alive);

        let mut slots = Slots::default();
        let read = parse_response(&wire, &mut slots, if has_body { "GET" } else { "HEAD" }).unwrap().unwrap();
        prop_assert_eq!(read.head, head);
        prop_assert_eq!((read.framing, read.keep_alive, read.len), (framing, keep_alive, wire.len()));
    }

    #[test]
    fn a_chunked_body_reads_back_however_it_is_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        trailers in fields(), cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            write_chunk(&mut wire, chunk);
        }
        write_last_chunk(&mut wire, Headers::from(&headers(&trailers)[..]));
        wire.extend_from_slice(b"next");
        prop_assert_eq!(
            decode_in_pieces(Framing::Chunked, &wire, &cuts),
            (chunks.concat(), trailers, b"next".to_vec(), true)
        );
    }

    #[test]
    fn a_body_of_known_length_reads_back_however_it_is_cut(
        body in prop::collection::vec(any::<u8>(), 0..500), cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        let mut wire = body.clone();
        wire.extend_from_slice(b"next");
        let framing = Framing::Length(body.len() as u64);
        prop_assert_eq!(decode_in_pieces(framing, &wire, &cuts), (body.clone(), vec![], b"next".to_vec(), true));
        prop_assert_eq!(decode_in_pieces(Framing::UntilClose, &body, &cuts), (body, vec![], vec![], false));
    }

    #[test]
    fn arbitrary_bytes_break_no_parser(
        start in prop::sample::select(vec!["", "GET / HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 OK\r\n", "5\r\nhello\r\n0\r\n"]),
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n:;, 0fa_".to_vec())], 0..80),
        framing in prop_oneof![Just(Framing::Chunked), Just(Framing::UntilClose), (0..40_u64).prop_map(Framing::Length)],
    ) {
        let input = [start.as_bytes(), &bytes].concat();
        let mut slots = Slots::default();
        if let Ok(Some(request)) = parse_request(&input, &mut slots) {
            prop_assert!(request.len <= input.len());
        }
        if let Ok(Some(response)) = parse_response(&input, &mut slots, "GET") {
            prop_assert!(response.len <= input.len());
        }
        let (mut decoder, mut at) = (BodyDecoder::new(framing), 0);
        while let Ok((body, used)) = decoder.decode(&input[at..]) {
            at += used;
            prop_assert!(at <= input.len());
            if matches!(body, Body::More | Body::End) {
                break;
            }
        }
    }
}
