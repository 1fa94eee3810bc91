//! The command line `vicino`, also as `kubectl vicino`: reads a cluster or files, calls the operator's pure pipeline, prints; writes to no cluster.
//!
//! Reading order: [`arguments`] is what can be asked; [`cluster`] and [`manifests`] are the two places where objects come
//! from; [`check`], [`routes`], [`identity`], [`render`], [`diff`], [`explain`], [`policy`] and [`version`] each turn objects into an [`Answer`] without printing
//! anything; [`output`], [`table`] and [`age`] are how answers look.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub mod age;
pub mod arguments;
pub mod check;
pub mod cluster;
pub mod diff;
pub mod explain;
pub mod identity;
mod listing;
pub mod manifests;
pub mod output;
pub mod policy;
pub mod render;
pub mod routes;
pub mod table;
pub mod version;

use arguments::{Arguments, Command, PolicyCommand};

/// Exit code when the command itself failed; 1 says that it found something (as `kubectl diff` does).
const FAILED: u8 = 2;

/// What a command has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// For standard error: what a person should know and a program need not parse.
    pub notes: Vec<String>,
    /// Whether the command found what it looks for (failures, differences): exit code 1.
    pub found: bool,
}

/// Why a command could not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster did not give what was asked.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// A file is not what it should be.
    #[error(transparent)]
    Manifest(#[from] manifests::ManifestError),
    /// A node's proxy did not answer.
    #[error(transparent)]
    Node(Box<explain::NodeError>),
    /// The flags do not go together.
    #[error("{0}")]
    Usage(String),
}

/// Runs the command line and returns its exit code: 0, 1 when something was found, 2 when it failed.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut command = named(&arguments);
    let matches = match command.try_get_matches_from_mut(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version arrive here too, with code 0.
            let code = u8::try_from(error.exit_code()).unwrap_or(FAILED);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(FAILED) };
        }
    };
    let parsed = Arguments::from_arg_matches(&matches).expect("clap has checked these matches");
    match answer(&parsed, command) {
        Ok(answer) => show(&answer),
        Err(error) => {
            complain(&format!("error: {}", chain(&error)));
            ExitCode::from(FAILED)
        }
    }
}

/// The command, called as the user called it: a kubectl plug-in is `kubectl vicino`.
fn named(arguments: &[OsString]) -> clap::Command {
    let program = arguments.first().map(Path::new).and_then(Path::file_stem);
    let plugin = program.and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("kubectl-"));
    let command = Arguments::command();
    match plugin {
        // kubectl's file names have `_` where the command has `-`.
        Some(name) => command.bin_name(format!("kubectl {}", name.replace('_', "-"))),
        None => command.bin_name("vicino"),
    }
}

fn answer(arguments: &Arguments, mut command: clap::Command) -> Result<Answer, Error> {
    if let Command::Completion { shell } = arguments.command {
        let mut script = Vec::new();
        clap_complete::generate(shell.generator(), &mut command, "vicino", &mut script);
        return Ok(Answer { text: String::from_utf8_lossy(&script).into_owned(), ..Answer::default() });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Usage(format!("cannot start: {error}")))?;
    let global = &arguments.global;
    runtime.block_on(async {
        match &arguments.command {
            Command::Check(options) => Box::pin(check::run(global, options)).await,
            Command::Routes(options) => routes::run(global, options).await,
            Command::Identity(options) => identity::run(global, options).await,
            Command::Render(options) => render::run(global, options).await,
            Command::Diff(options) => diff::run(global, options).await,
            Command::Explain(options) => explain::run(global, options).await,
            Command::Policy { command: PolicyCommand::List(options) } => {
                policy::list::run(global, options).await
            }
            Command::Policy { command: PolicyCommand::Test(options) } => policy::run(global, options),
            Command::Version(options) => version::run(global, options).await,
            Command::Completion { .. } => Ok(Answer::default()),
        }
    })
}

fn show(answer: &Answer) -> ExitCode {
    for note in &answer.notes {
        complain(note);
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(answer.text.as_bytes()).and_then(|()| out.flush()) {
        // `vicino routes | head` is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(&format!("error: cannot write to standard output: {error}"));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::from(u8::from(answer.found)),
    }
}

fn complain(line: &str) {
    // Where standard error is closed nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// An error and its causes on one line. Causes that the text before them has already are left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
