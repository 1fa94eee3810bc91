//! Owns starting, recognising and ending operating system processes; knows nothing of Kubernetes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::layout::MARKER;
use crate::wait;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Process {
    /// The process id.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub(crate) started: u64,
}

impl Process {
    /// The process that has this id now, if there is one that is not a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let (run_state, started) = stat(pid)?;
        (run_state != 'Z' && run_state != 'X').then_some(Self { pid, started })
    }

    /// Whether it still runs (a stopped one does, a zombie does not).
    pub(crate) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Whether it is stopped by a signal.
    pub(crate) fn stopped(self) -> bool {
        stat(self.pid).is_some_and(|(run_state, started)| run_state == 'T' && started == self.started)
    }

    /// Sends a signal to this process and never to another; a process that is gone is no error.
    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        // The descriptor is taken before the identity is checked, so that the number cannot change hands in between.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if !self.alive() {
            return Ok(());
        }
        match pidfd_send_signal(descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal:?} to process {}", self.pid)),
        }
    }

    /// Asks it to end; kills it when it has not ended within `patience`.
    pub(crate) async fn end(self, patience: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        if wait::until("the process to end", patience, async || Ok(!self.alive())).await.is_ok() {
            return Ok(());
        }
        self.signal(Signal::KILL)?;
        let what = format!("process {} to end after SIGKILL", self.pid);
        wait::until(&what, Duration::from_secs(10), async || Ok(!self.alive())).await
    }
}

/// The run state letter and start time.
fn stat(pid: i32) -> Option<(char, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything, so count from the last parenthesis.
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_whitespace();
    let run_state = fields.next()?.chars().next()?;
    Some((run_state, fields.nth(18)?.parse().ok()?))
}

/// Every process whose environment has the marker of the cluster in `dir`.
pub(crate) fn marked(dir: &Path) -> Vec<Process> {
    let marker = [MARKER.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let has_marker = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marker)
    };
    numbers().filter(has_marker).filter_map(Process::of).collect()
}

/// The ids of all processes.
fn numbers() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A long-running program of a cluster, as it is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// The network namespace to start it in; none is the machine's own.
    pub(crate) netns: Option<PathBuf>,
    /// Where its output goes, after what is there.
    pub(crate) log: PathBuf,
    /// The cluster's state folder: its working folder and its marker.
    pub(crate) dir: PathBuf,
}

impl Launch {
    /// Starts it in a session of its own, so that it outlives its starter and no terminal's signal reaches it.
    pub(crate) fn start(&self) -> Result<Process> {
        let name = self.program.display();
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let errors = log.try_clone().with_context(|| format!("open {}", self.log.display()))?;
        // Both wrappers replace themselves, so the id stays the same. Nothing of the starter's environment is handed
        // on but the path: whatever it holds would be readable by pods' processes.
        let mut command = Command::new("setsid");
        if let Some(netns) = &self.netns {
            command.arg("nsenter").arg(format!("--net={}", netns.display()));
        }
        command.arg(&self.program).args(&self.arguments).current_dir(&self.dir);
        command.env_clear().env("PATH", path()).env(MARKER, &self.dir);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Process::of).with_context(|| format!("{name} ended at once"))
    }
}

/// The search path for programs, with the folders that only root's usually has.
pub(crate) fn path() -> String {
    let given = std::env::var("PATH").unwrap_or_default();
    format!("{given}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Runs a program to its end, within `patience`; what it says on failure is the error.
pub(crate) async fn run(command: &mut Command, patience: Duration) -> Result<String> {
    let shown = shown(command);
    let output = output(command, patience).await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end, within `patience`, whatever it answers.
pub(crate) async fn output(command: &mut Command, patience: Duration) -> Result<Output> {
    let shown = shown(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let finished = tokio::time::timeout(patience, command.output()).await;
    finished
        .with_context(|| format!("{shown}: did not end within {} s", patience.as_secs()))?
        .with_context(|| format!("run {shown}"))
}

/// Runs a program with `text` as its input.
pub(crate) async fn run_with_input(command: &mut Command, text: &str, patience: Duration) -> Result<String> {
    use tokio::io::AsyncWriteExt;
    let shown = shown(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("run {shown}"))?;
    let mut input = child.stdin.take().expect("stdin is piped");
    let talk = async {
        // A program that refuses its input early says why on its standard error.
        let _ = input.write_all(text.as_bytes()).await;
        drop(input);
        child.wait_with_output().await
    };
    let finished = tokio::time::timeout(patience, talk).await;
    let output = finished.with_context(|| format!("{shown}: no end within {} s", patience.as_secs()))?;
    let output = output.with_context(|| format!("run {shown}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(std::ffi::OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The last lines of a log file, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
    format!("the end of {}:\n  {last}", log.display())
}

/// Kills everything that `alive` lists, again and again, until it lists nothing.
pub(crate) async fn kill_all(what: &str, alive: impl Fn() -> Vec<Process>) -> Result<()> {
    let mut failures: BTreeMap<i32, String> = BTreeMap::new();
    let done = wait::until(what, Duration::from_secs(20), async || {
        let left = alive();
        for process in &left {
            if let Err(error) = process.signal(Signal::KILL) {
                failures.insert(process.pid, format!("{error:#}"));
            }
        }
        Ok(left.is_empty())
    });
    let done = done.await;
    done.with_context(|| format!("still there: {:?}; {failures:?}", alive()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose start time is another's means another process: it is not alive and gets no signal.
    #[tokio::test]
    async fn a_reused_number_is_not_the_process() {
        let mut child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let process = Process::of(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let earlier = Process { started: process.started - 1, ..process };
        assert!(process.alive() && !earlier.alive());
        earlier.signal(Signal::KILL).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "the wrong process was killed");
        process.signal(Signal::KILL).unwrap();
        let status = tokio::time::timeout(Duration::from_secs(5), child.wait()).await.unwrap().unwrap();
        assert!(!status.success() && !process.alive());
    }

    #[tokio::test]
    async fn a_failing_program_says_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let error = run(&mut command, Duration::from_secs(5)).await.unwrap_err().to_string();
        assert!(error.ends_with("exit status: 3: no such thing"), "{error}");
    }
}
