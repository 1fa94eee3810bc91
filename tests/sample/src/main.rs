//! `vicino-sample`: reads its options and serves until SIGTERM, or makes calls; everything else is in the library.

use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};
use vicino_sample::options::{Arguments, Command, Options};
use vicino_sample::{calls, serve};

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match (arguments.command, arguments.serve) {
        (Some(Command::Call(options)), _) => {
            let outcome = runtime.block_on(calls::run(options));
            write!(stdout(), "{outcome}")?;
            Ok(if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        (None, Some(options)) => runtime.block_on(serve(options)).map(|()| ExitCode::SUCCESS),
        (None, None) => Arguments::command().print_help().map(|()| ExitCode::FAILURE).map_err(Into::into),
    }
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    serve::run(listener, options, stop).await;
    Ok(())
}
