//! Log lines: format and level at start, level while running; decides about nothing else.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};
use vicino_crds::contract::{self, Bootstrap, DOCUMENT_BYTES_MAX};

use crate::config::directory::read_file;
use crate::options::{LogFormat, RunOptions};

/// The level when nobody says another.
const DEFAULT: &str = "info";

/// What of libraries is written, whatever the level. The client's own lines repeat the errors that it returns to us.
const LIBRARIES: [&str; 4] = ["kube_client=off", "kube_runtime=error", "hyper=warn", "tower=warn"];

/// Why a level is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// Neither a level nor directives.
    #[error(
        "`{text}` is no log level: error, warn, info, debug, trace or directives such as vicino_proxy=debug"
    )]
    Unknown {
        /// What was asked for.
        text: String,
        /// Why it can't be read.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was not set up in this process.
    #[error("log lines are not written by this process")]
    Gone,
}

/// Changes the level while the process runs.
#[derive(Clone, Debug)]
pub struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Sets logging up for the process; a second call fails.
pub fn start(level: &str, format: Option<LogFormat>) -> Result<Level, anyhow::Error> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let lines = match format {
        LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(Level { handle })
}

/// The level to start with: the flag's, else what the bootstrap says now. The bootstrap is followed later on, but by then the
/// lines of a start have been written.
pub fn first(options: &RunOptions) -> String {
    let in_directory = options.config_dir.as_ref().map(|directory| directory.join("bootstrap.yaml"));
    let bootstrap = in_directory.as_ref().unwrap_or(&options.bootstrap);
    let says = || {
        // Whoever follows it says what is wrong with it.
        let bytes = read_file(bootstrap, DOCUMENT_BYTES_MAX).ok()?;
        let level = contract::read::<Bootstrap>(&bytes).ok()?.document.log_level;
        filter(&level).is_ok().then_some(level)
    };
    options.log_level.clone().or_else(says).unwrap_or_else(|| DEFAULT.to_owned())
}

impl Level {
    /// What is in force.
    pub fn current(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts another in force.
    pub fn set(&self, level: &str) -> Result<(), LevelError> {
        self.handle.reload(filter(level)?).map_err(|_gone| LevelError::Gone)
    }
}

fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let all = LIBRARIES.iter().fold(level.trim().to_owned(), |all, library| format!("{all},{library}"));
    EnvFilter::try_new(all).map_err(|source| LevelError::Unknown { text: level.to_owned(), source })
}

/// An error and what caused it, in one line. Lines in JSON would show the error alone; what an error's own text repeats of its
/// cause is said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("can't write")]
        Write(#[source] Box<Failure>),
        #[error("no answer: {0}")]
        Library(#[source] std::io::Error),
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let cause = std::io::Error::other("connection reset");
        let error = Failure::Write(Box::new(Failure::Library(cause)));
        assert_eq!(chain(&error), "can't write: no answer: connection reset");
    }
}
