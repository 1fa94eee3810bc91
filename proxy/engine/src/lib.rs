//! The data path without input and output: bytes and time go in, bytes and commands come out; no socket, no clock, no task.

pub mod snapshot;
