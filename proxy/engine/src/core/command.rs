//! The words between a core and its driver: connections, what to do with them, what to write into the log; plain data.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::account::Account;
use crate::snapshot::ServiceName;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a connection and say [`super::Core::connected`] or [`super::Core::connect_failed`]. The core watches the time.
    Connect {
        /// The new connection.
        id: ConnId,
        /// Where to.
        address: SocketAddr,
        /// It is a hop, with TLS; None: as it is.
        secure: Option<SecureDial>,
    },
    /// Ask DNS for the addresses of a name, the first of these that has any, and say [`super::Core::resolved`], in any case and within some seconds.
    Resolve {
        /// Names, with a final dot.
        names: Arc<[Box<str>]>,
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

/// A hop that is dialled with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureDial {
    /// To the proxy of this node, and to no other.
    pub node: Arc<str>,
    /// For calls of this service account; None: of callers without identity, as the node.
    pub caller: Option<Account>,
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
    /// Policies refuse a call, or those in audit would decide otherwise.
    PolicyDecision {
        /// Its identity, as far as that is proved.
        caller: String,
        /// Its address, as far as somebody known saw it.
        source: Option<IpAddr>,
        /// What it called.
        to: ServiceName,
        /// The Service's port.
        port: u16,
        /// Whether the call is, or would be, allowed.
        is_allowed: bool,
        /// Policy and rule; None: the mesh's default.
        by: Option<String>,
        /// It is what policies in audit would do.
        is_audit: bool,
    },
    /// A call out of the mesh is refused.
    EgressRefused {
        /// Its identity, as far as that is proved.
        caller: String,
        /// What it called.
        host: String,
        /// The port.
        port: u16,
        /// As in `vicino-error`.
        reason: &'static str,
        /// What it said inside a tunnel to that host.
        named: Option<String>,
    },
    /// A connection was not taken, or was ended, because of a limit.
    Limited {
        /// Who called.
        peer: IpAddr,
        /// A bounded word.
        reason: &'static str,
    },
}
