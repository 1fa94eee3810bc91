//! The operator's process: command line, log, signals; everything else is in the library.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use vicino_crds::names;
use vicino_operator::run::{self, Options};
use vicino_operator::world::Settings;

/// Turns ServiceMeshes into proxies and their configuration.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Image of proxies whose ServiceMesh names none.
    #[arg(long, env = "VICINO_PROXY_IMAGE", default_value_t = Settings::default().proxy_image)]
    proxy_image: String,
    /// Address of /healthz, /readyz and /metrics. Absent: port 8080 of every address, IPv6 and IPv4.
    #[arg(long, env = "VICINO_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address at which proxies are given certificates, by the authority in the Secret vicino-authority of --namespace. Absent: none are.
    #[arg(long, env = "VICINO_AUTHORITY_LISTEN")]
    authority_listen: Option<SocketAddr>,
    /// Lead only while holding the Lease; without, this must be the only replica.
    #[arg(long, env = "VICINO_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// Namespace of the Lease, and of the authority's Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Name of this replica, unique among them.
    #[arg(long, env = "POD_NAME", default_value_t = format!("pid-{}", std::process::id()))]
    identity: String,
    /// What is logged: a level, or directives as of the `tracing` crate's EnvFilter.
    #[arg(long, env = "VICINO_LOG", default_value = "info")]
    log: String,
    /// How it is logged.
    #[arg(long, env = "VICINO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(&arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(operate(arguments)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

fn start_log(arguments: &Arguments) {
    let filter = EnvFilter::try_new(&arguments.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}

async fn operate(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let options = Options {
        settings: Settings { proxy_image: arguments.proxy_image },
        listen: arguments.listen,
        authority: arguments.authority_listen.map(|listen| (listen, arguments.namespace.clone())),
        lease_namespace: arguments.leader_elect.then_some(arguments.namespace),
        identity: arguments.identity,
    };
    let operator = run::run(run::client().await?, options, stop.clone());
    tokio::pin!(operator);
    tokio::select! {
        result = &mut operator => return Ok(result?),
        _ = terminate.recv() => tracing::info!("told to stop (SIGTERM)"),
        _ = interrupt.recv() => tracing::info!("told to stop (SIGINT)"),
    }
    stop.cancel();
    Ok(operator.await?)
}
