//! What the command line says; nothing is looked up or run here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::peers::{Mode, Peer, Wire};

/// Measures Vicino and other proxies as two-hop meshes, in the clear and with mutual TLS between the hops, side by side.
///
/// Needs root (network namespaces). The figure to trust on a small or shared machine is CPU per request; compare only
/// figures of one run. The last lines, two for each mode (callers of HTTP/1.1 and of HTTP/2), are the ratios of Vicino's CPU per request to that of HAProxy's
/// better wire.
#[derive(Debug, Parser)]
#[command(name = "vicino-bench", version)]
pub struct Options {
    /// What else than a whole run to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How a whole run goes.
    #[command(flatten)]
    pub run: RunOptions,
}

/// How a whole run goes.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Repetitions; medians and minima are over these
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub reps: u32,
    /// Seconds of each load (closed loop, and fixed rate)
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Who is measured: vicino, haproxy (both wires), haproxy-h2, haproxy-h1, envoy, nginx, direct
    #[arg(long, value_name = "A,B", default_value = "vicino,haproxy,envoy,nginx,direct", value_parser = Peer::parse_list)]
    pub peers: PeerList,
    /// What lies between the proxies: clear, mtls
    #[arg(long, value_name = "A,B", default_value = "clear,mtls", value_parser = Mode::parse_list)]
    pub modes: ModeList,
    /// Connections of the load generators
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Requests a second of the fixed-rate load
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Idle connections of the memory figure
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub idle: u32,
    /// Open hops of the figure of memory per hop
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub hops: u32,
    /// Hops that are opened and closed with each kind of handshake; 0: hops are not measured
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub handshakes: u32,
    /// Also count system calls per request (strace), once a peer
    #[arg(long)]
    pub syscalls: bool,
    /// Writes every raw figure there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with 1 when a gate fails
    #[arg(long)]
    pub gate: bool,
    /// What to use, and whether to install what is missing.
    #[command(flatten)]
    pub prepare: PrepareOptions,
}

/// The peers of a run, in order and each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerList(pub Vec<Peer>);

/// The modes of a run, in order and each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeList(pub Vec<Mode>);

/// Where programs come from.
#[derive(Clone, Debug, Args)]
pub struct PrepareOptions {
    /// Install nothing and build nothing; what is missing is skipped
    #[arg(long)]
    pub no_prepare: bool,
    /// Where downloaded programs are kept [default: $XDG_CACHE_HOME/vicino/bench or ~/.cache/vicino/bench]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The proxy of ours to measure [default: built from this workspace when run by cargo]
    #[arg(long, value_name = "FILE")]
    pub vicino: Option<PathBuf>,
}

/// Steps by themselves; the hidden ones are what a run starts inside its namespaces.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Only install, download and build what a run needs
    Prepare(PrepareOptions),
    /// Wait until a target answers 200
    #[command(hide = true)]
    Probe(Target),
    /// Send requests at a fixed rate and print figures as JSON
    #[command(hide = true)]
    FixedRate {
        /// Whom to call.
        #[command(flatten)]
        target: Target,
        /// Connections; a request that is due while all are busy waits, and its wait counts.
        #[arg(long)]
        connections: u32,
        /// Requests a second.
        #[arg(long)]
        rate: u32,
        /// Length of the schedule.
        #[arg(long)]
        seconds: u64,
    },
    /// Open connections, have one answer on each, print the failures, hold them until stdin ends
    #[command(hide = true)]
    Idle {
        /// Whom to call.
        #[command(flatten)]
        target: Target,
        /// Connections.
        #[arg(long)]
        connections: u32,
    },
    /// Open hops to L2 and print figures as JSON
    #[command(hide = true)]
    Hops(HopsOptions),
    /// Remove what a run made, once stdin ends (also when that run was killed)
    #[command(hide = true)]
    Janitor {
        /// Network namespaces; processes inside are killed.
        #[arg(long = "namespace")]
        namespaces: Vec<String>,
        /// Scratch folder.
        #[arg(long)]
        folder: PathBuf,
    },
}

/// Which hops are opened, and how many.
#[derive(Clone, Debug, Args)]
pub struct HopsOptions {
    /// Address and port of L2.
    #[arg(long)]
    pub address: SocketAddr,
    /// What it speaks.
    #[arg(long)]
    pub wire: Wire,
    /// Its process id.
    #[arg(long)]
    pub listener: u32,
    /// Where the certificates lie; without them it is done in the clear.
    #[arg(long)]
    pub certificates: Option<PathBuf>,
    /// Hops that are open at a time, for the memory.
    #[arg(long)]
    pub open: u32,
    /// Hops that are opened and closed again, for the CPU time.
    #[arg(long)]
    pub count: u32,
}

/// Whom a load generator calls.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Address and port.
    #[arg(long)]
    pub address: SocketAddr,
    /// The Host header.
    #[arg(long)]
    pub host: String,
}
