//! Rendered objects → the API server: only what differs is written, with preconditions; decides nothing about content.
//!
//! [`diff`] is pure and says which objects have to be applied or deleted; [`Applier`] sends that, at most
//! [`CONCURRENCY`] at a time, takes each response into the World at once, and remembers what failed until when.

mod diff;
mod send;
mod writer;

pub use diff::{Change, diff};
pub(crate) use send::answer;
pub use send::{SendError, Sender};
pub use writer::{Applier, Outcome, Stage};

/// Writes under way at one time.
pub const CONCURRENCY: usize = 16;
