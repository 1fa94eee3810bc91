//! `vicino-sample`: reads its options and serves until SIGTERM, or makes calls; everything else is in the library.

use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};
use vicino_sample::options::{Arguments, Command, Options, Role};
use vicino_sample::{calls, serve};

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match (arguments.command, arguments.role) {
        (Some(Command::Call(options)), _) => {
            let outcome = runtime.block_on(calls::run(options));
            write!(stdout(), "{outcome}")?;
            Ok(if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        (None, Some(role)) => runtime.block_on(serve(role, arguments.serve)).map(|()| ExitCode::SUCCESS),
        (None, None) => Arguments::command().print_help().map(|()| ExitCode::FAILURE).map_err(Into::into),
    }
}

async fn serve(role: Role, options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    serve::run(listener, role, options, stop).await;
    Ok(())
}
