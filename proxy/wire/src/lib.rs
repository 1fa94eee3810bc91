//! The codecs of the data path: bytes in, events out. This crate knows no socket, no clock, no task and no log.
//!
//! The map, in the order in which one call meets it:
//!
//! | module | owns |
//! |---|---|
//! | [`head`] | what a request or response head *is*, whichever wire it came from: [`head::RequestHead`], [`head::ResponseHead`], [`head::Headers`], [`head::Framing`], [`head::Authority`] |
//! | [`http1`] | HTTP/1.1: [`http1::parse_request`], [`http1::parse_response`], [`http1::BodyDecoder`], `write_*`; its strictness is [`http1::Reject`] |
//! | [`http2`] | HTTP/2: [`http2::decode`], [`http2::Encoder`], HPACK, [`http2::read_request`], [`http2::read_response`] |
//! | [`hop`] | `vicino-hop/1`, the framed protocol L1 → L2: [`hop::decode`], `encode_*`, [`hop::SendCredit`], [`hop::ReceiveCredit`], [`hop::Reset`]; `hop/SPEC.md` is its specification |
//! | [`client_hello`] | the first message of a TLS client: which server it names |
//!
//! A head that a parser returned borrows from the read buffer and from reusable storage ([`http1::Slots`]): parsing, stripping and
//! encoding allocate nothing once that storage and the output buffer have grown.

pub mod client_hello;
pub mod head;
pub mod hop;
pub mod http1;
pub mod http2;
