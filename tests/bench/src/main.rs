//! The command `vicino-bench`: reads the command line and hands over.

use std::process::ExitCode;

use clap::Parser;
use vicino_bench::options::Options;

fn main() -> anyhow::Result<ExitCode> {
    vicino_bench::run::run(Options::parse())
}
