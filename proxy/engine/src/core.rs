//! One worker's state and the API towards whoever owns its sockets and its clock; what a call gets is decided in the modules beside it.
//!
//! # What the driver does in a turn
//!
//! 1. For every socket that is readable and [`Core::wants_read`]: read once into a scratch buffer, [`Core::received`] (or [`Core::ended`],
//!    [`Core::failed`]). Read again while a read filled the scratch buffer and `wants_read` holds.
//! 2. For every new connection: [`Core::accepted`].
//! 3. When [`Core::next_deadline`] has come: [`Core::fire`].
//! 4. [`Core::take_commands`], obeyed in order; then [`Core::take_resumed`]: read these again, since nobody looked while they were paused.
//! 5. [`Core::take_dirty`]; each of these is written once: `write(output(id))`, [`Core::wrote`]. What a full socket does not take is
//!    written when it is writable again.
//! 6. `wrote` may free what waited: while commands, resumed or dirty connections are left, go to 4. Then sleep until a socket is
//!    ready or the next deadline.
//!
//! An event for a connection that the core has given up (its `Close` command may still be in the list) is ignored, since a
//! [`ConnId`] is never used twice.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Time;
use crate::snapshot::Snapshot;
use crate::tally::Tally;

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
    /// Open a connection and say [`Core::connected`] or [`Core::connect_failed`]. The core watches the time.
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

/// Limits and waits. The defaults are for production.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Ports that this process listens on (L1, L2, admin, metrics): dialling one of them at an own address would be a call to ourselves.
    pub own_ports: Vec<u16>,
    /// Own addresses besides the snapshot's node addresses and loopback.
    pub own_addresses: Vec<IpAddr>,
    /// Connections from callers and from other neighbourhoods, each. 65,536.
    pub connections_max: usize,
    /// Bytes that wait to be written to one connection before its source is paused. 256 KiB.
    pub output_bytes_max: usize,
    /// Body bytes that are kept so that a request can be sent again. 64 KiB.
    pub replay_bytes_max: usize,
    /// Credit that a stream of a hop begins with, in bytes. 256 KiB.
    pub stream_window: u32,
    /// Streams that a peer may have open on one hop. 16,384.
    pub streams_max: u32,
    /// Idle connections that are kept for one pod port. 64.
    pub pool_idle_max: usize,
    /// How long a connection to a pod is kept idle; each takes up to a quarter off. 30 s.
    pub pool_idle_timeout: Duration,
    /// How long the request of a caller that is not known yet is held. 3 s.
    pub unknown_caller_hold: Duration,
    /// From accept to the end of the first request head. 10 s.
    pub first_head_timeout: Duration,
    /// From a later head's first byte to its end. 10 s.
    pub head_timeout: Duration,
    /// How long a caller's connection is kept between requests. 75 s.
    pub keep_alive_timeout: Duration,
    /// How long the first bytes in a tunnel are waited for before it is taken for opaque. 1 s.
    pub detect_timeout: Duration,
    /// How long a hop may take to stand. 1 s.
    pub hop_connect_timeout: Duration,
    /// How long the peer's HELLO may take. 5 s.
    pub hop_hello_timeout: Duration,
    /// Silence on a hop with calls in flight before a PING. 1 s.
    pub hop_ping_after: Duration,
    /// Silence on a hop with calls in flight before it is taken for dead. 3 s.
    pub hop_dead_after: Duration,
    /// How long a hop is kept without streams. 5 min.
    pub hop_idle_timeout: Duration,
    /// How long a connection that we refuse is read and thrown away, so that the answer arrives. 1 s.
    pub linger_timeout: Duration,
    /// When draining: how long an idle caller's connection waits for one last request. 2 s.
    pub drain_idle_grace: Duration,
}

impl Default for CoreConfig {
    fn default() -> Self {
        CoreConfig {
            own_ports: Vec::new(),
            own_addresses: Vec::new(),
            connections_max: 65_536,
            output_bytes_max: 256 * 1024,
            replay_bytes_max: 64 * 1024,
            stream_window: 256 * 1024,
            streams_max: 16_384,
            pool_idle_max: 64,
            pool_idle_timeout: Duration::from_secs(30),
            unknown_caller_hold: Duration::from_secs(3),
            first_head_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            detect_timeout: Duration::from_secs(1),
            hop_connect_timeout: Duration::from_secs(1),
            hop_hello_timeout: Duration::from_secs(5),
            hop_ping_after: Duration::from_secs(1),
            hop_dead_after: Duration::from_secs(3),
            hop_idle_timeout: Duration::from_mins(5),
            linger_timeout: Duration::from_secs(1),
            drain_idle_grace: Duration::from_secs(2),
        }
    }
}

/// Everything of one worker's connections. Not shared between threads.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    tally: Arc<Tally>,
}

impl Core {
    /// A core without connections, without a snapshot (callers are held until there is one). `seed` makes its random choices.
    pub fn new(config: CoreConfig, seed: u64) -> Core {
        let _ = seed;
        Core { config, tally: Arc::default() }
    }

    /// The configuration from now on. Requests that are being served keep what they were routed by.
    pub fn swap(&mut self, snapshot: Arc<Snapshot>, now: Time) {
        let _ = (snapshot, now);
    }

    /// The version of the snapshot in force.
    pub fn version(&self) -> u64 {
        0
    }

    /// A listener took a connection. None: over a limit, close it.
    pub fn accepted(&mut self, role: Role, peer: SocketAddr, local: SocketAddr, now: Time) -> Option<ConnId> {
        let _ = (role, peer, local, now, self.config.connections_max);
        unimplemented!("next commit")
    }

    /// Bytes that were read, at least one, at most 64 KiB.
    pub fn received(&mut self, id: ConnId, bytes: &[u8], now: Time) {
        let _ = (id, bytes, now);
        unimplemented!("next commit")
    }

    /// Whether the connection is to be read now. False for one that is paused, or gone.
    pub fn wants_read(&self, id: ConnId) -> bool {
        let _ = id;
        unimplemented!("next commit")
    }

    /// The peer sends no more (FIN).
    pub fn ended(&mut self, id: ConnId, now: Time) {
        let _ = (id, now);
        unimplemented!("next commit")
    }

    /// Reading or writing failed: the connection is gone. The driver forgets the id; no `Close` follows.
    pub fn failed(&mut self, id: ConnId, kind: std::io::ErrorKind, now: Time) {
        let _ = (id, kind, now);
        unimplemented!("next commit")
    }

    /// A [`Command::Connect`] succeeded.
    pub fn connected(&mut self, id: ConnId, local: SocketAddr, now: Time) {
        let _ = (id, local, now);
        unimplemented!("next commit")
    }

    /// A [`Command::Connect`] failed. The driver forgets the id; no `Close` follows.
    pub fn connect_failed(&mut self, id: ConnId, kind: std::io::ErrorKind, now: Time) {
        let _ = (id, kind, now);
        unimplemented!("next commit")
    }

    /// Does what is due.
    pub fn fire(&mut self, now: Time) {
        let _ = now;
        unimplemented!("next commit")
    }

    /// When [`Core::fire`] is to be called next. May be earlier than anything is due.
    pub fn next_deadline(&self) -> Option<Time> {
        unimplemented!("next commit")
    }

    /// Moves the connections that got output since the last call to the end of `into`, each once.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        let _ = into;
        unimplemented!("next commit")
    }

    /// Moves the connections that were paused and may be read again to the end of `into`.
    pub fn take_resumed(&mut self, into: &mut Vec<ConnId>) {
        let _ = into;
        unimplemented!("next commit")
    }

    /// What waits to be written to a connection; empty when nothing does or it is gone.
    pub fn output(&self, id: ConnId) -> &[u8] {
        let _ = id;
        unimplemented!("next commit")
    }

    /// The first `n` bytes of [`Core::output`] were written.
    pub fn wrote(&mut self, id: ConnId, n: usize, now: Time) {
        let _ = (id, n, now);
        unimplemented!("next commit")
    }

    /// Moves what the driver has to do to the end of `into`, in order.
    pub fn take_commands(&mut self, into: &mut Vec<Command>) {
        let _ = into;
        unimplemented!("next commit")
    }

    /// Moves what is worth a log line to the end of `into`. At most 1,024 are kept between two calls.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        let _ = into;
        unimplemented!("next commit")
    }

    /// The counters: keep the Arc on another thread and read it there.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Begins to stop: no new connections are offered by the driver from now on; idle ones go, open requests are finished with
    /// `Connection: close`, hops are told. What is left at `deadline` is cut.
    pub fn drain(&mut self, now: Time, deadline: Time) {
        let _ = (now, deadline);
        unimplemented!("next commit")
    }

    /// Whether no request is open and no caller's connection is left.
    pub fn is_idle(&self) -> bool {
        unimplemented!("next commit")
    }
}
