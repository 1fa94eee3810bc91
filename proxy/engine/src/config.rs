//! Limits and waits of one core, each with its default; it reads no file.

use std::net::IpAddr;
use std::time::Duration;

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
    /// Streams of its own that a peer may give up in a second before its hop is closed. 10,000.
    pub resets_per_second_max: u32,
    /// Streams that a caller may have open on one HTTP/2 connection, and that we open on one to a pod. 100.
    pub session_streams_max: u32,
    /// Window that streams of HTTP/2 begin with here, in bytes: each may make us hold so much. 64 KiB.
    pub session_stream_window: u32,
    /// Window of an HTTP/2 connection, in bytes. 1 MiB.
    pub session_window: u32,
    /// Streams that a caller may give up or break in a second before its HTTP/2 connection is closed. 5,000.
    pub session_faults_per_second_max: u32,
    /// Idle connections that are kept for one pod port. 64.
    pub pool_idle_max: usize,
    /// How long a connection to a pod is kept idle; each takes up to a quarter off. 30 s.
    pub pool_idle_timeout: Duration,
    /// How long a connection to a pod may have been idle for a request that is not idempotent: servers close idle connections after a few
    /// seconds, and a request that crosses the FIN cannot be sent again (RFC 9110 §9.2.2). 1 s.
    pub pool_idle_once: Duration,
    /// How long a pod is held for a call that waits at another node, from when that one is told. 1 s.
    pub hold_max: Duration,
    /// How long the request of a caller that is not known yet is held. 3 s.
    pub unknown_caller_hold: Duration,
    /// From accept to the end of the first request head. 10 s.
    pub first_head_timeout: Duration,
    /// From a later head's first byte to its end. 10 s.
    pub head_timeout: Duration,
    /// How long a caller's connection is kept between requests. 75 s.
    pub keep_alive_timeout: Duration,
    /// How long a caller that has sent FIN waits for its answer to begin: as a rule it has closed, given up. 30 s.
    pub half_close_timeout: Duration,
    /// How long the first bytes in a tunnel are waited for before it is taken for opaque. 1 s.
    pub detect_timeout: Duration,
    /// How long a caller in a tunnel is waited for before the application may speak first, too. 100 ms.
    pub detect_race: Duration,
    /// How long the machine of a peer may take to take the connection of a hop; after as long without a HELLO, calls that wait for
    /// the hop go to another node that has their pods, if one does. 2 s.
    pub hop_connect_timeout: Duration,
    /// How long the peer's HELLO may take, from when the connection is accepted or made: the TLS handshake is within that. 5 s.
    pub hop_hello_timeout: Duration,
    /// Silence on a hop with calls in flight before a PING. 1 s.
    pub hop_ping_after: Duration,
    /// Silence on a hop with calls in flight before it is taken for dead, in steps of `hop_ping_after` in which this process
    /// turned. 3 s.
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
            resets_per_second_max: 10_000,
            session_streams_max: 100,
            session_stream_window: 64 * 1024,
            session_window: 1024 * 1024,
            session_faults_per_second_max: 5_000,
            pool_idle_max: 64,
            pool_idle_timeout: Duration::from_secs(30),
            pool_idle_once: Duration::from_secs(1),
            hold_max: Duration::from_secs(1),
            unknown_caller_hold: Duration::from_secs(3),
            first_head_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            half_close_timeout: Duration::from_secs(30),
            detect_timeout: Duration::from_secs(1),
            detect_race: Duration::from_millis(100),
            hop_connect_timeout: Duration::from_secs(2),
            hop_hello_timeout: Duration::from_secs(5),
            hop_ping_after: Duration::from_secs(1),
            hop_dead_after: Duration::from_secs(3),
            hop_idle_timeout: Duration::from_mins(5),
            linger_timeout: Duration::from_secs(1),
            drain_idle_grace: Duration::from_secs(2),
        }
    }
}
