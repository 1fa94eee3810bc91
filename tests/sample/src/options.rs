//! Who this process is and how it behaves, from the command line and the downward API; no effects.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// One of the four services of the sample application, or a caller of them. The role is apart from the other options,
/// since these also come from a pod's environment, where a caller finds them too.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "vicino-sample",
    version,
    about,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Which of the four services to be.
    #[arg(long, value_enum, required = true)]
    pub role: Option<Role>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Options,
}

/// What it can do instead of serving.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Calls a URL, as this pod would: through the proxy that http_proxy names.
    Call(CallOptions),
}

/// What to call, and how often.
#[derive(Args, Clone, Debug)]
pub struct CallOptions {
    /// What to call, for example http://web/.
    pub url: String,
    /// How many calls; a single one is shown with its answer, more of them are summed up.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// How many calls are open at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub concurrency: u32,
    /// Ask the mesh for the way that a call takes.
    #[arg(long)]
    pub path: bool,
    /// Count answers by pod, too.
    #[arg(long)]
    pub pods: bool,
    /// The proxy, as http://ADDRESS:PORT; without one, calls go straight to the host named.
    #[arg(long, env = "http_proxy")]
    pub proxy: Option<String>,
}

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Seconds that it keeps taking calls after SIGTERM, so that everybody has heard that it goes.
    #[arg(long, default_value_t = 3)]
    pub shutdown_delay_seconds: u64,
    /// Seconds that open calls then get to finish.
    #[arg(long, default_value_t = 20)]
    pub finish_seconds: u64,
    /// Milliseconds that `/slow` takes longer here than it is asked to.
    #[arg(long, env = "SLOWER_MILLISECONDS", default_value_t = 0)]
    pub slower_milliseconds: u64,
    /// The proxy that calls go through, as http://ADDRESS:PORT; without one, calls go straight to the host named.
    #[arg(long, env = "http_proxy")]
    pub proxy: Option<String>,
    /// Name of this pod, told in every answer.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    /// Name of the node that it runs on, told in every answer.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node: String,
}

/// The four services.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What people open; calls `quotes`.
    Web,
    /// Picks a quote; calls `authors` and `ratings` at the same time.
    Quotes,
    /// Knows who said it.
    Authors,
    /// Knows how people liked it.
    Ratings,
}

impl Role {
    /// The name of its Service.
    pub fn service(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Quotes => "quotes",
            Self::Authors => "authors",
            Self::Ratings => "ratings",
        }
    }
}
