//! The words between a core and its driver: connections, what to do with them, what to write into the log; plain data.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A connection of one core. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index below the number of connections that were ever open at one time: good for a driver's own table.
    pub slot: u32,
    /// Tells the users of a slot apart.
    pub generation: u32,
}

/// Which listener took a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// From pods of the own neighbourhood.
    L1,
    /// From other neighbourhoods' L1.
    L2,
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a connection and say [`super::Core::connected`] or [`super::Core::connect_failed`]. The core watches the time.
    Connect {
        /// The new connection.
        id: ConnId,
        /// Where to.
        address: SocketAddr,
    },
    /// Send FIN, keep reading. There is no output left when this is said.
    ShutdownWrite {
        /// The connection.
        id: ConnId,
    },
    /// Close at once and forget the id: output was flushed before, or is to be thrown away. Also ends an attempt to connect.
    Close {
        /// The connection.
        id: ConnId,
    },
}

/// Something that an operator wants to read about; never one per request that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A hop to another neighbourhood stands.
    HopUp {
        /// Its node.
        node: Arc<str>,
        /// Where it was dialled.
        address: SocketAddr,
    },
    /// A hop ended.
    HopDown {
        /// Its node.
        node: Arc<str>,
        /// A bounded word.
        reason: &'static str,
        /// Calls that were lost with it.
        streams: u32,
    },
    /// A pod or another neighbourhood did not take a connection.
    DialFailed {
        /// Where to.
        address: SocketAddr,
        /// What the system said, or `TimedOut`.
        kind: std::io::ErrorKind,
    },
    /// A pod has failed too often and is left out for a while.
    Ejected {
        /// Its address.
        address: SocketAddr,
        /// For how long.
        time: Duration,
    },
    /// A request got an answer of our own.
    Refused {
        /// Who called.
        peer: IpAddr,
        /// The status.
        status: u16,
        /// As in `vicino-error`.
        reason: &'static str,
    },
    /// A connection was not taken, or was ended, because of a limit.
    Limited {
        /// Who called.
        peer: IpAddr,
        /// A bounded word.
        reason: &'static str,
    },
}
