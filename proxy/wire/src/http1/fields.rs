//! The field lines of a head and what they say about the connection.

/// Reusable storage.
#[derive(Debug, Default)]
pub(super) struct Storage {}
