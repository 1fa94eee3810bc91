//! `vicino-sample`: reads its options and serves until SIGTERM; everything else is in the library.

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use vicino_sample::{options::Options, serve};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
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
    })
}
