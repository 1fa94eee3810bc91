//! The data path without input and output: bytes and time go in, bytes and commands come out; no socket, no clock, no task.
//!
//! The map, in the order of one call's life:
//!
//! | module | what it does |
//! |---|---|
//! | [`core`] | one worker's state and the API towards whoever owns sockets and clock: [`core::Core`] |
//! | [`snapshot`] | what a request is served by, swapped whole |
//! | [`identify`] | who calls, from the address |
//! | [`account`] | service accounts, and for which of them there are certificates |
//! | [`route`] | name and port → Service, port; request head → rule |
//! | [`rules`] | which rule of a route a request falls under, what it changes or answers |
//! | [`policy`] | who may call what |
//! | [`egress`] | what may be called outside the mesh |
//! | `outside` | names of hosts there, and where they are |
//! | [`adaptive`] | how many calls a pod takes, found out from how long they take |
//! | [`affinity`] | which calls belong together, and which pod they lead to |
//! | [`balance`] | which backend, which node, which pod |
//! | `latency` | how long calls take, where that is what is chosen by |
//! | [`breaker`] | pods that fail again and again, left out for a while |
//! | [`queue`] | calls that wait for a pod with a limit |
//! | [`rate`] | how many calls a second are let through |
//! | [`retry`] | which calls are repeated, and the budget for that |
//! | [`reply`] | our own answers: one table of reasons and statuses |
//! | [`tally`] | counters that another thread may read |
//! | [`told`] | what was said of whom, so that nobody fills the log |
//! | [`deadline`] | time, and lazy deadlines |
//!
//! Inside, not public: connections of callers (`downstream`), of pods (`upstream`), of either when they speak HTTP/2 (`session`), of other
//! neighbourhoods (`hop`), and the calls that join two of them (`exchange`).

pub mod account;
pub mod adaptive;
pub mod affinity;
pub mod balance;
pub mod breaker;
pub mod config;
mod connection;
mod connections;
pub mod core;
pub mod deadline;
mod downstream;
pub mod egress;
mod exchange;
mod grpc;
mod hash;
mod hop;
pub mod identify;
mod latency;
mod outside;
mod pace;
mod plan;
pub mod policy;
pub mod queue;
mod random;
pub mod rate;
pub mod reply;
pub mod retry;
pub mod route;
pub mod rules;
mod session;
#[cfg(test)]
mod sim;
pub mod snapshot;
mod table;
pub mod tally;
pub mod told;
mod upstream;

pub use crate::config::CoreConfig;
pub use crate::core::{Command, ConnId, Core, Event, Role, SecureDial};
pub use crate::deadline::Time;
pub use crate::outside::Unresolved;
