//! Processes of a measurement: started inside a namespace with a log file, killed when dropped; what they mean is not known here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::net;

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl CommandLine {
    /// From parts.
    pub fn new<S: Into<String>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Self {
        Self { program: program.to_owned(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    fn inside(&self, namespace: &str) -> Command {
        let [program, arguments @ ..] = net::inside(namespace);
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.program).args(&self.arguments);
        command
    }
}

/// Why a process has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with another status than 0.
    #[error("{} ended with {status}: {message}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last that it wrote to stderr.
        message: String,
    },
}

/// A process that runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program whose output goes to a file `<label>.log` in `folder`.
    pub fn start(
        line: &CommandLine,
        namespace: &str,
        folder: &Path,
        label: &str,
    ) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Start { program: line.program.clone(), source };
        let log = folder.join(format!("{label}.log"));
        let out = File::create(&log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let mut command = line.inside(namespace);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Ok(Self { child: command.spawn().map_err(failed)?, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did by itself, and the last of what it said.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("ended with {status}; {}", self.last_words()))
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; gives what it wrote to stdout.
pub fn output(line: &CommandLine, namespace: &str) -> Result<String, ProcessError> {
    let out = line
        .inside(namespace)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ProcessError::Start { program: line.program.clone(), source })?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let message = tail(&String::from_utf8_lossy(&out.stderr));
    Err(ProcessError::Failed { program: line.program.clone(), status: out.status, message })
}

/// A process that is talked to over its stdin and stdout and killed when dropped.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    /// What it reads; dropping it is the end of its input.
    pub input: ChildStdin,
    /// What it writes.
    pub output: ChildStdout,
}

impl Conversation {
    /// Starts a program.
    pub fn start(line: &CommandLine, namespace: &str) -> Result<Self, ProcessError> {
        let mut command = line.inside(namespace);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawned = command.spawn();
        let mut child =
            spawned.map_err(|source| ProcessError::Start { program: line.program.clone(), source })?;
        let input = child.stdin.take().expect("stdin is a pipe");
        let output = child.stdout.take().expect("stdout is a pipe");
        Ok(Self { child, input, output })
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last 300 characters on one line.
fn tail(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(300);
    line.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_short_and_on_one_line() {
        assert_eq!(tail(" a\n\n b\tc "), "a b c");
        let long = "é ".repeat(400);
        assert_eq!(tail(&long).chars().count(), 300);
    }
}
