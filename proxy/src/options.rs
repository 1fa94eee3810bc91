//! What the command line and the environment say; acts on nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vicino_crds::names;

/// Where probes are answered in a pod.
pub const RUN_DIR: &str = "/run/vicino";

/// The proxy of one node.
#[derive(Debug, Parser)]
#[command(name = "vicino-proxy", version, about = "The Vicino proxy of one node")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// What to do; without a word: `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `run`, when it is not spelled out.
    #[command(flatten)]
    pub run: RunOptions,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy (the default).
    Run(Box<RunOptions>),
    /// Ask the proxy of this pod how it is; for the kubelet.
    Probe(ProbeOptions),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// Name of the node [required]
    #[arg(long, env = "VICINO_NODE", default_value = "", hide_default_value = true)]
    pub node: String,
    /// Name of the mesh
    #[arg(long, env = "VICINO_MESH", default_value = "default")]
    pub mesh: String,
    /// UID of the mesh: what was kept of another mesh of this name, perhaps of another cluster's, is not served
    #[arg(long, env = "VICINO_MESH_UID", default_value = "")]
    pub mesh_uid: String,
    /// Name of the own pod, as the report names it
    #[arg(long, env = "VICINO_POD_NAME", default_value = "")]
    pub pod_name: String,
    /// Namespace of the proxies and their ConfigMaps
    #[arg(long, env = "VICINO_NAMESPACE", default_value = names::PROXY_NAMESPACE)]
    pub namespace: String,
    /// The mounted bootstrap; not used with --config-dir
    #[arg(long, env = "VICINO_BOOTSTRAP", default_value = "/etc/vicino/bootstrap.yaml")]
    pub bootstrap: PathBuf,
    /// Read the configuration from this directory instead of from the API
    #[arg(long, env = "VICINO_CONFIG_DIR")]
    pub config_dir: Option<PathBuf>,
    /// Listen on this address only [default: all]
    #[arg(long, env = "VICINO_LISTEN_IP")]
    pub listen_ip: Option<IpAddr>,
    /// Worker threads; 0 is one per core [default: the bootstrap's]
    #[arg(long, env = "VICINO_WORKERS")]
    pub workers: Option<u32>,
    /// Port of L1
    #[arg(long, default_value_t = names::PORT_L1)]
    pub l1_port: u16,
    /// Port of L2
    #[arg(long, default_value_t = names::PORT_L2)]
    pub l2_port: u16,
    /// Port of the metrics; 0 is none
    #[arg(long, default_value_t = names::PORT_METRICS)]
    pub metrics_port: u16,
    /// Port of the admin interface, on loopback; 0 is none
    #[arg(long, default_value_t = names::PORT_ADMIN)]
    pub admin_port: u16,
    /// Keep the last good configuration in this directory
    #[arg(long, env = "VICINO_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Answer probes at a socket in this directory, one of the own pod [default: /run/vicino, with --config-dir none]
    #[arg(long, env = "VICINO_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    /// Make hops with TLS, by the certificate of this node in this file; other nodes are dialled so where their documents say `secure`
    #[arg(long, env = "VICINO_HOP_CERTIFICATE", requires_all = ["hop_key", "hop_roots"])]
    pub hop_certificate: Option<PathBuf>,
    /// Its key, PKCS #8
    #[arg(long, env = "VICINO_HOP_KEY")]
    pub hop_key: Option<PathBuf>,
    /// The roots by which other nodes are known
    #[arg(long, env = "VICINO_HOP_ROOTS")]
    pub hop_roots: Option<PathBuf>,
    /// Take no hop without TLS
    #[arg(long, env = "VICINO_HOP_STRICT", requires = "hop_certificate")]
    pub hop_strict: bool,
    /// Ask for certificates at this address:port; without one there are none
    #[arg(long, env = "VICINO_AUTHORITY")]
    pub authority: Option<String>,
    /// The token to show to the authority
    #[arg(long, env = "VICINO_AUTHORITY_TOKEN", default_value = "/var/run/vicino/authority/token")]
    pub authority_token: PathBuf,
    /// The roots by which the authority is known
    #[arg(long, env = "VICINO_AUTHORITY_ROOTS", default_value = "/var/run/vicino/authority/roots.pem")]
    pub authority_roots: PathBuf,
    /// Ask these DNS servers, address:port, for hosts outside the mesh, instead of those of resolv.conf
    #[arg(long = "dns-server", env = "VICINO_DNS_SERVER", value_delimiter = ',', hide = true)]
    pub dns_servers: Vec<SocketAddr>,
    /// Address of the API server, which no pod calls through the proxy; in a pod the kubelet says it
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", hide = true)]
    pub api_server: Option<String>,
    /// error, warn, info or debug, or directives of tracing [default: the bootstrap's]
    #[arg(long, env = "VICINO_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, env = "VICINO_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// What to ask.
    pub question: Question,
    /// The directory that `run` was given
    #[arg(long, env = "VICINO_RUN_DIR", default_value = RUN_DIR)]
    pub run_dir: PathBuf,
}

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Does it serve calls?
    Ready,
    /// Do all workers turn?
    Live,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Command, Options, Question};

    #[test]
    fn flags_work_with_and_without_the_word_run() {
        Options::command().debug_assert();
        let bare = Options::parse_from(["vicino-proxy", "--node", "n1", "--workers", "1"]);
        assert!(bare.command.is_none());
        assert_eq!((bare.run.node.as_str(), bare.run.workers), ("n1", Some(1)));
        let Some(Command::Run(run)) = Options::parse_from(["vicino-proxy", "run", "--node", "n2"]).command
        else {
            panic!("run");
        };
        assert_eq!(run.node, "n2");
        let probe = Options::parse_from(["vicino-proxy", "probe", "ready", "--run-dir", "/x"]).command;
        assert!(
            matches!(probe, Some(Command::Probe(p)) if p.question == Question::Ready && p.run_dir.ends_with("x"))
        );
    }
}
