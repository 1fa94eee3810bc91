//! The binary: reads options, starts logging and the control runtime, turns an outcome into an exit code; does nothing else.

use std::process::ExitCode;

use clap::Parser;
use vicino_proxy::options::{Command, Options, ProbeOptions, RunOptions};
use vicino_proxy::{log, probe, run};

fn main() -> ExitCode {
    let options = Options::parse();
    match options.command {
        Some(Command::Probe(options)) => probe(&options),
        Some(Command::Run(options)) => serve(*options),
        None => serve(options.run),
    }
}

#[expect(clippy::print_stderr, reason = "before there are log lines, and for people at a terminal")]
fn serve(options: RunOptions) -> ExitCode {
    let level = match log::start(&log::first(&options), options.log_format) {
        Ok(level) => level,
        Err(e) => {
            eprintln!("vicino-proxy: {e:#}");
            return ExitCode::from(64);
        }
    };
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| Ok(runtime.block_on(run::run(options, Some(level)))?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), "proxy ends badly");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the kubelet shows it in the pod's events")]
fn probe(options: &ProbeOptions) -> ExitCode {
    match probe::ask(&options.run_dir, options.question) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            println!("{why}");
            ExitCode::FAILURE
        }
        Err(e) => {
            println!("nobody answers in {}: {e}", options.run_dir.display());
            ExitCode::FAILURE
        }
    }
}
