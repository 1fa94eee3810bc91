//! One peer, once: starts backend and both proxies, asks for memory, closed loop and fixed rate, and ends them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::certificates::Certificates;
use crate::clock;
use crate::load::{Load, LoadError, closed, http2};
use crate::net::Nodes;
use crate::options::{RunOptions, Target};
use crate::peers::{self, Leg, Mode, Peer, PeerError, Role};
use crate::prepare::Tools;
use crate::process::{CommandLine, Conversation, ProcessError, Running, output};
use crate::procfs::{self, Cpu, MachineStat};
use crate::syscalls::{Calls, Counting, SyscallError};

mod hops;

/// Seconds of load before anything is counted.
const WARM_UP_SECONDS: u64 = 1;

/// Seconds of load while system calls are counted.
const COUNTING_SECONDS: u64 = 2;

/// What one peer gave in one repetition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// None without proxies.
    pub memory: Option<Memory>,
    /// As many requests as the peer can take.
    pub closed: Measured,
    /// A fixed rate.
    pub fixed: Measured,
    /// As many requests over HTTP/2 as the peer can take, the backend spoken to in HTTP/1.1; none of peers that need another listener for it.
    pub http2: Option<Measured>,
    /// System calls of L1 and L2 per request in a closed loop, where they were counted.
    pub calls: Option<[Calls; 2]>,
}

/// Resident memory of both proxies in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// After the first answer.
    pub start_kib: u64,
    /// While the idle connections are open.
    pub idle_kib: u64,
    /// Idle connections that could not be had.
    pub failed: u32,
}

/// A load and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// What the generator saw.
    pub load: Load,
    /// CPU seconds of both proxies per 100,000 requests; none without proxies.
    pub cpu100k: Option<f64>,
    /// The part of that in user code, from 0 to 1; the kernel samples it, so it is rough.
    pub user_share: Option<f64>,
    /// Cores that processes outside of this run kept busy meanwhile.
    pub other_cores: f64,
    /// Cores that the hypervisor took away meanwhile.
    pub steal_cores: f64,
}

/// Why a peer has no figures in a repetition.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// It could not be configured.
    #[error("cannot configure {0}")]
    Configure(&'static str, #[source] PeerError),
    /// A program did not start or ended badly.
    #[error("cannot run {0}")]
    Run(&'static str, #[source] ProcessError),
    /// A proxy or the backend ended.
    #[error("{0}")]
    Ended(String),
    /// A load generator gave no figures.
    #[error("cannot measure {0}")]
    Load(&'static str, #[source] LoadError),
    /// A load generator of ours wrote something else than figures.
    #[error("{0} wrote no figures")]
    Figures(&'static str, #[source] serde_json::Error),
    /// A load generator of ours ended.
    #[error("cannot talk to the idle connections")]
    Idle(#[source] std::io::Error),
    /// No system calls were counted.
    #[error("cannot count system calls")]
    Syscalls(#[source] SyscallError),
    /// Not on Linux.
    #[error("/proc/stat cannot be read")]
    Procfs,
}

/// What all measurements of a run share.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The namespaces.
    pub nodes: &'a Nodes,
    /// What the proxies know each other by.
    pub certificates: &'a Certificates,
    /// The programs.
    pub tools: &'a Tools,
    /// Lengths and rates.
    pub options: &'a RunOptions,
    /// This program.
    pub own: &'a Path,
}

impl Bench<'_> {
    /// Measures `peer` once; its files go to a folder that is removed afterwards.
    pub fn measure(&self, peer: Peer, mode: Mode, count_calls: bool) -> Result<Figures, MeasureError> {
        let folder = self.nodes.folder.join(peer.name());
        // A backend that cannot write its files says so itself.
        let _ = std::fs::create_dir_all(&folder);
        let mut standing = self.start(peer, mode, &folder)?;
        let mut figures = self.figures(peer, &standing);
        if let (true, Ok(figures)) = (count_calls, &mut figures) {
            figures.calls = self.calls(peer, &standing, &folder)?;
        }
        // A proxy that died explains a failure better than the generator's view of it.
        let ended = standing.ended();
        drop(standing);
        let _ = std::fs::remove_dir_all(&folder);
        match ended {
            Some(ended) => Err(MeasureError::Ended(ended)),
            None => figures,
        }
    }

    fn start(&self, peer: Peer, mode: Mode, folder: &Path) -> Result<Standing, MeasureError> {
        let nginx = self.tools.nginx.clone().map_err(PeerError::Missing);
        let backend = nginx.and_then(|nginx| peers::backend(&nginx, folder));
        let backend = backend.map_err(|e| MeasureError::Configure("the backend", e))?;
        let backend = Running::start(&backend, self.namespace(Role::L2), folder, "backend");
        let backend = backend.map_err(|e| MeasureError::Run("the backend", e))?;
        let mut standing = Standing { all: vec![("backend", backend)], proxies: Vec::new() };
        self.probe(&Peer::Direct.target(), &mut standing)?;
        let certificates = self.certificates(mode);
        for leg in [Leg::l2(certificates), Leg::l1(certificates)] {
            self.start_proxy(peer, &leg, folder, &mut standing)?;
        }
        self.probe(&peer.target(), &mut standing)?;
        Ok(standing)
    }

    /// None in the clear.
    fn certificates(&self, mode: Mode) -> Option<&Certificates> {
        (mode == Mode::Mtls).then_some(self.certificates)
    }

    fn start_proxy(
        &self,
        peer: Peer,
        leg: &Leg<'_>,
        folder: &Path,
        standing: &mut Standing,
    ) -> Result<(), MeasureError> {
        let line = peer.proxy(leg, self.tools, folder);
        if let Some(line) = line.map_err(|e| MeasureError::Configure(leg.label(), e))? {
            let proxy = Running::start(&line, self.namespace(leg.role), folder, leg.label());
            let proxy = proxy.map_err(|e| MeasureError::Run(leg.label(), e))?;
            standing.proxies.push(proxy.pid());
            standing.all.push((leg.label(), proxy));
        }
        Ok(())
    }

    fn figures(&self, peer: Peer, standing: &Standing) -> Result<Figures, MeasureError> {
        let options = self.options;
        let memory =
            if standing.proxies.is_empty() { None } else { Some(self.memory(&peer.target(), standing)?) };
        self.closed(peer, WARM_UP_SECONDS)?;
        let closed = standing.watch(|| self.closed(peer, options.seconds))?;
        let fixed = standing.watch(|| self.fixed(peer))?;
        let http2 = peer.speaks_http2().then(|| standing.watch(|| self.http2(peer))).transpose()?;
        Ok(Figures { memory, closed, fixed, http2, calls: None })
    }

    fn calls(
        &self,
        peer: Peer,
        standing: &Standing,
        folder: &Path,
    ) -> Result<Option<[Calls; 2]>, MeasureError> {
        let (Ok(strace), &[l2, l1]) = (&self.tools.strace, standing.proxies.as_slice()) else {
            return Ok(None);
        };
        let l1 = Counting::attach(strace, l1, folder, "l1").map_err(MeasureError::Syscalls)?;
        let l2 = Counting::attach(strace, l2, folder, "l2").map_err(MeasureError::Syscalls)?;
        let requests = self.closed(peer, COUNTING_SECONDS)?.requests;
        let l1 = l1.finish(requests).map_err(MeasureError::Syscalls)?;
        let l2 = l2.finish(requests).map_err(MeasureError::Syscalls)?;
        Ok(Some([l1, l2]))
    }

    fn closed(&self, peer: Peer, seconds: u64) -> Result<Load, MeasureError> {
        let wrk = self.tools.wrk.clone().map_err(PeerError::Missing);
        let wrk = wrk.map_err(|e| MeasureError::Configure("the closed loop", e))?;
        let line =
            CommandLine::new(&wrk, closed::arguments(&peer.target(), self.options.connections, seconds));
        let report = output(&line, self.namespace(Role::L1)).map_err(|e| MeasureError::Run("wrk", e))?;
        closed::parse(&report).map_err(|e| MeasureError::Load("the closed loop", e))
    }

    fn http2(&self, peer: Peer) -> Result<Load, MeasureError> {
        let h2load = self.tools.h2load.clone().map_err(PeerError::Missing);
        let h2load = h2load.map_err(|e| MeasureError::Configure("the closed loop over HTTP/2", e))?;
        let arguments = http2::arguments(&peer.target(), self.options.connections, self.options.seconds);
        let line = CommandLine::new(&h2load, arguments);
        let report = output(&line, self.namespace(Role::L1)).map_err(|e| MeasureError::Run("h2load", e))?;
        http2::parse(&report).map_err(|e| MeasureError::Load("the closed loop over HTTP/2", e))
    }

    fn fixed(&self, peer: Peer) -> Result<Load, MeasureError> {
        let options = self.options;
        let numbers = [
            ("--connections", u64::from(options.connections)),
            ("--rate", u64::from(options.rate)),
            ("--seconds", options.seconds),
        ];
        let line = self.own("fixed-rate", &peer.target(), &numbers);
        let text =
            output(&line, self.namespace(Role::L1)).map_err(|e| MeasureError::Run("the fixed rate", e))?;
        serde_json::from_str(&text).map_err(|e| MeasureError::Figures("the fixed rate", e))
    }

    fn memory(&self, target: &Target, standing: &Standing) -> Result<Memory, MeasureError> {
        let start_kib = procfs::tree_rss_kib(&standing.proxies);
        let line = self.own("idle", target, &[("--connections", u64::from(self.options.idle))]);
        let mut idle = Conversation::start(&line, self.namespace(Role::L1))
            .map_err(|e| MeasureError::Run("the idle connections", e))?;
        let mut failed = String::new();
        BufReader::new(&mut idle.output).read_line(&mut failed).map_err(MeasureError::Idle)?;
        let failed = failed.trim().parse().map_err(std::io::Error::other).map_err(MeasureError::Idle)?;
        // What is given back with a delay counts as given back: the least within a second.
        let mut idle_kib = u64::MAX;
        let _ = clock::wait_for(Duration::from_secs(1), || {
            idle_kib = idle_kib.min(procfs::tree_rss_kib(&standing.proxies));
            None::<()>
        });
        Ok(Memory { start_kib, idle_kib, failed })
    }

    /// Waits until `target` answers, or says which process ended.
    fn probe(&self, target: &Target, standing: &mut Standing) -> Result<(), MeasureError> {
        let probed = output(&self.own("probe", target, &[]), self.namespace(Role::L1));
        match (probed, standing.ended()) {
            (_, Some(ended)) => Err(MeasureError::Ended(ended)),
            (Err(e), None) => Err(MeasureError::Ended(format!("{e}; {}", standing.last_words()))),
            (Ok(_), None) => Ok(()),
        }
    }

    /// A step of this program, to be run inside a namespace.
    fn own(&self, step: &str, target: &Target, numbers: &[(&str, u64)]) -> CommandLine {
        let mut arguments = vec![step.to_owned(), "--address".to_owned(), target.address.to_string()];
        arguments.extend(["--host".to_owned(), target.host.clone()]);
        arguments.extend(numbers.iter().flat_map(|(name, n)| [(*name).to_owned(), n.to_string()]));
        CommandLine::new(self.own, arguments)
    }

    fn namespace(&self, role: Role) -> &str {
        match role {
            Role::L1 => &self.nodes.caller,
            Role::L2 => &self.nodes.callee,
        }
    }
}

/// The backend and the proxies of a measurement, as they run.
struct Standing {
    all: Vec<(&'static str, Running)>,
    /// Process ids of L2 and L1, in the order of their start.
    proxies: Vec<u32>,
}

impl Standing {
    fn ended(&mut self) -> Option<String> {
        self.all.iter_mut().find_map(|(label, process)| Some(format!("{label} {}", process.ended()?)))
    }

    fn last_words(&self) -> String {
        let said = self.all.iter().map(|(label, process)| (label, process.last_words()));
        let said =
            said.filter(|(_, words)| !words.is_empty()).map(|(label, words)| format!("{label}: {words}"));
        said.collect::<Vec<_>>().join("; ")
    }

    /// Runs a load and takes the difference that it makes.
    fn watch(&self, load: impl FnOnce() -> Result<Load, MeasureError>) -> Result<Measured, MeasureError> {
        let before = self.counters()?;
        let load = load()?;
        let after = self.counters()?;
        Ok(measured(load, &before, &after, !self.proxies.is_empty()))
    }

    fn counters(&self) -> Result<Counters, MeasureError> {
        Ok(Counters {
            proxies: procfs::tree_cpu(&self.proxies),
            run: procfs::tree_cpu(&[std::process::id()]),
            machine: procfs::machine().ok_or(MeasureError::Procfs)?,
            at: clock::now(),
        })
    }
}

/// What is read before and after a load.
struct Counters {
    proxies: Cpu,
    /// This program and all that it started: proxies, backend, generators.
    run: Cpu,
    machine: MachineStat,
    at: Instant,
}

fn measured(load: Load, before: &Counters, after: &Counters, proxies: bool) -> Measured {
    let wall = (after.at - before.at).as_secs_f64();
    let cpu = after.proxies.since(before.proxies);
    let busy = procfs::seconds(after.machine.busy - before.machine.busy);
    let other = busy - after.run.since(before.run).total();
    #[expect(clippy::cast_precision_loss, reason = "a count of requests stays far below 2^52")]
    let requests = load.requests.max(1) as f64;
    Measured {
        load,
        cpu100k: proxies.then(|| cpu.total() / requests * 1e5),
        user_share: proxies.then(|| cpu.user / cpu.total().max(1e-9)),
        other_cores: other.max(0.0) / wall,
        steal_cores: procfs::seconds(after.machine.steal - before.machine.steal) / wall,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_the_proxies_share_and_the_rest_of_the_machine_is_other_load() {
        let at = clock::now();
        let cpu = |user, system| Cpu { user, system };
        let before = Counters {
            proxies: cpu(1.0, 1.0),
            run: cpu(10.0, 0.0),
            machine: MachineStat { busy: 5_000, steal: 100 },
            at,
        };
        let after = Counters {
            proxies: cpu(1.5, 2.5),
            run: cpu(16.0, 2.0),
            machine: MachineStat { busy: 5_900, steal: 150 },
            at: at + Duration::from_secs(5),
        };
        let load =
            Load { requests: 100_000, errors: 0, unsent: 0, per_second: 20_000.0, p50_us: 1.0, p99_us: 1.0 };
        let measured = measured(load, &before, &after, true);
        let ticks = 100.0 / f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap());
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        close(measured.cpu100k.unwrap(), 2.0);
        close(measured.user_share.unwrap(), 0.25);
        close(measured.other_cores, (9.0 * ticks - 8.0) / 5.0);
        close(measured.steal_cores, 0.5 * ticks / 5.0);
    }
}
