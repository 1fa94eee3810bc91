//! `vicino-demo`: reads its options; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use vicino_e2e::demo::{self, Options};

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(demo::run(options))
}
