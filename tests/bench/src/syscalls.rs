//! How many system calls a proxy makes per request, counted by strace: what decides the cost of a lean proxy, and a figure
//! that other load on the machine hardly moves. Its own cost is large, so nothing else is measured meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::clock;

/// System calls of one proxy per request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    /// Sending: write, writev, sendto, sendmsg, sendmmsg, splice.
    pub writes: f64,
    /// Receiving: read, readv, recvfrom, recvmsg, recvmmsg.
    pub reads: f64,
    /// Waiting for readiness: epoll_wait and its kin, poll, select.
    pub waits: f64,
    /// All others.
    pub others: f64,
}

/// Why nothing was counted.
#[derive(Debug, thiserror::Error)]
pub enum SyscallError {
    /// strace is not there or says no.
    #[error("cannot run strace: {0}")]
    Start(#[source] std::io::Error),
    /// It did not attach or did not end in time.
    #[error("strace did not {0} within {1} s")]
    Stuck(&'static str, u64),
    /// No table was written.
    #[error("cannot read what strace counted: {0}")]
    Read(#[source] std::io::Error),
}

/// strace, attached to a process; detached and gone when dropped.
#[derive(Debug)]
pub struct Counting {
    child: Child,
    table: PathBuf,
}

const PATIENCE: Duration = Duration::from_secs(5);

impl Counting {
    /// Attaches to a process and all its threads; its files go to `folder`.
    pub fn attach(strace: &Path, pid: u32, folder: &Path, label: &str) -> Result<Self, SyscallError> {
        let table = folder.join(format!("strace-{label}.txt"));
        let mut command = Command::new(strace);
        command.args(["-q", "-f", "-c", "-o"]).arg(&table).args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(SyscallError::Start)?;
        let counting = Self { child, table };
        let traced = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:"))?.trim();
            (tracer != "0").then_some(())
        };
        clock::wait_for(PATIENCE, traced).ok_or(SyscallError::Stuck("attach", PATIENCE.as_secs()))?;
        Ok(counting)
    }

    /// Detaches; gives the calls per request.
    pub fn finish(mut self, requests: u64) -> Result<Calls, SyscallError> {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // Fails only when strace is gone already, and then there is a table or there is not.
            let _ = kill_process(pid, Signal::INT);
        }
        let ended = clock::wait_for(PATIENCE, || self.child.try_wait().ok().flatten());
        ended.ok_or(SyscallError::Stuck("end", PATIENCE.as_secs()))?;
        let table = std::fs::read_to_string(&self.table).map_err(SyscallError::Read)?;
        Ok(per_request(&parse(&table), requests))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names and counts in the table of `strace -c`.
fn parse(table: &str) -> Vec<(&str, u64)> {
    let mut counts = Vec::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // % time, seconds, usecs/call, calls, [errors,] name
        if let [_, _, _, calls, .., name] = words.as_slice()
            && let Ok(calls) = calls.parse()
            && *name != "total"
        {
            counts.push((*name, calls));
        }
    }
    counts
}

fn per_request(counts: &[(&str, u64)], requests: u64) -> Calls {
    let mut calls = Calls::default();
    for &(name, count) in counts {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let each = count as f64 / requests.max(1) as f64;
        let kind = match name {
            "write" | "writev" | "sendto" | "sendmsg" | "sendmmsg" | "splice" => &mut calls.writes,
            "read" | "readv" | "recvfrom" | "recvmsg" | "recvmmsg" => &mut calls.reads,
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "poll" | "ppoll" | "select" | "pselect6" => {
                &mut calls.waits
            }
            _ => &mut calls.others,
        };
        *kind += each;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 52.11    0.500000          12     40000           sendto
 40.00    0.400000          10     30000     10000 recvfrom
  5.00    0.050000          10       500           epoll_wait
  2.00    0.020000          10      2000         1 epoll_ctl
------ ----------- ----------- --------- --------- ----------------
100.00    0.970000          12     72500     10001 total
";

    #[test]
    fn calls_are_counted_by_what_they_do() {
        let calls = per_request(&parse(TABLE), 20_000);
        assert_eq!(calls, Calls { writes: 2.0, reads: 1.5, waits: 0.025, others: 0.1 });
    }

    #[test]
    fn an_empty_table_is_no_calls() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("strace: Process 7 detached\n"), []);
    }
}
