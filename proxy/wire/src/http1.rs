//! HTTP/1.1 between an application and its proxy: strict heads, bodies, writers; it routes nothing and adds no field of its own.
//!
//! Stricter than RFC 9112 wherever two parsers are known to disagree, since a proxy that forwards what it half understood is how requests get
//! smuggled. What is refused says which rule it broke: [`Reject`].

mod body;
mod fields;
mod line;
mod reject;
mod request;
mod response;
mod write;

pub(crate) use fields::parse_length;

pub use body::{Body, BodyDecoder, CHUNK_OVERHEAD_BYTES_MAX, TRAILER_BYTES_MAX};
pub use reject::{BadResponse, Reject};
pub use request::{Request, parse_request};
pub use response::{Response, parse_response, parse_upgrade_response};
pub use write::{
    CHUNK_END, write_chunk, write_chunk_start, write_last_chunk, write_request_head, write_response_head,
};

/// Longest head, in bytes, from the first line to the empty one. A longer one is refused: 431 for a request.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Storage that parsing needs beside the read buffer: one per worker does, since a parsed head borrows it only until it is dropped.
#[derive(Debug, Default)]
pub struct Slots {
    fields: fields::Storage,
    /// The path of an absolute-form target that has a query and no path.
    path: String,
}
