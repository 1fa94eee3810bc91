//! A whole run from options to the last line, and the steps that a run starts inside its namespaces.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::certificates::Certificates;
use crate::clock;
use crate::figures::hops::{self, HopSample};
use crate::figures::{Callers, Sample, Verdict, summarise};
use crate::load::{self, fixed_rate, idle};
use crate::machine::Machine;
use crate::measure::Bench;
use crate::net::{self, Nodes};
use crate::options::{Command, Options, RunOptions};
use crate::peers::{Mode, Peer};
use crate::prepare::{Tools, prepare};
use crate::report::{self, Report, Results, progress, say};

/// What every process may open, if the hard limit allows.
const OPEN_FILES: u64 = 65_536;

/// Does what the command line says.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    match options.command {
        None => measure_all(&options.run),
        Some(Command::Prepare(options)) => {
            let tools = prepare(&options);
            for (program, version) in Machine::here(&tools).versions {
                say(&format!("{program:<8} {version}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Probe(target)) => {
            idle::probe(&target, Duration::from_secs(15))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::FixedRate { target, connections, rate, seconds }) => {
            let load = fixed_rate::run(&target, connections, rate, seconds)?;
            say(&serde_json::to_string(&load)?);
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Idle { target, connections }) => {
            let open = idle::open(&target, connections);
            say(&(connections as usize - open.len()).to_string());
            wait_for_end_of_input();
            drop(open);
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Hops(options)) => {
            say(&serde_json::to_string(&load::hops::run(&options)?)?);
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Janitor { namespaces, folder }) => {
            wait_for_end_of_input();
            net::clean(&namespaces, &folder);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Input ends when the process at the other end of the pipe closes it or dies.
fn wait_for_end_of_input() {
    let mut input = std::io::stdin().lock();
    // An error is an end as well.
    let _ = std::io::copy(&mut input.by_ref(), &mut std::io::sink());
}

fn measure_all(options: &RunOptions) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("network namespaces need root: run this as root");
    }
    raise_open_files();
    let tools = prepare(&options.prepare);
    let needed = [("wrk", &tools.wrk), ("h2load", &tools.h2load), ("nginx (the backend)", &tools.nginx)];
    for (needed, found) in needed {
        if let Err(reason) = found {
            bail!("nothing can be measured without {needed}: {reason}");
        }
    }
    if let (true, Err(reason)) = (options.syscalls, &tools.strace) {
        bail!("system calls cannot be counted: {reason}");
    }
    let machine = Machine::here(&tools);
    report::heading(&machine, options);
    let (peers, skipped) = available(&options.peers.0, &tools);
    let (samples, hop_samples) = repeat(&peers, options, &tools)?;
    let modes = &options.modes.0;
    let summaries: Vec<_> = modes
        .iter()
        .flat_map(|&mode| peers.iter().filter(move |p| p.has(mode)).map(move |&p| (p, mode)))
        .map(|(peer, mode)| summarise(peer, mode, &samples))
        .collect();
    let hop_summaries: Vec<_> = peers.iter().flat_map(|&peer| hops::summarise(peer, &hop_samples)).collect();
    let gates = modes.iter().flat_map(|&mode| Callers::ALL.map(|callers| (mode, callers)));
    let verdicts: Vec<_> = gates.map(|gate| Verdict::of(gate, &summaries)).collect();
    let results = Results {
        samples: &samples,
        summaries: &summaries,
        hop_samples: &hop_samples,
        hop_summaries: &hop_summaries,
        skipped: &skipped,
        verdicts: &verdicts,
    };
    if let Some(path) = &options.json {
        let report = Report {
            machine: &machine,
            seconds: options.seconds,
            connections: options.connections,
            rate: options.rate,
            idle: options.idle,
            results,
        };
        report.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for &mode in modes {
        report::tables(mode, &summaries, options);
        report::calls_table(mode, &summaries);
    }
    report::hops_table(&hop_summaries);
    report::remarks(&results);
    for verdict in &verdicts {
        say(&verdict.to_string());
    }
    Ok(if options.gate && verdicts.iter().any(|v| !v.pass) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Peers that can be measured here, and the others with the reason.
fn available(peers: &[Peer], tools: &Tools) -> (Vec<Peer>, Vec<(String, String)>) {
    let (mut there, mut skipped) = (Vec::new(), Vec::new());
    for &peer in peers {
        match peer.missing(tools) {
            None => there.push(peer),
            Some(reason) => {
                progress(&format!("skipping {peer}: {reason}"));
                skipped.push((peer.name().to_owned(), reason));
            }
        }
    }
    (there, skipped)
}

/// All peers in turn in each mode, as often as asked.
fn repeat(
    peers: &[Peer],
    options: &RunOptions,
    tools: &Tools,
) -> anyhow::Result<(Vec<Sample>, Vec<HopSample>)> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let nodes = Nodes::make().context("cannot make the two nodes")?;
    let certificates = Certificates::make(&nodes.folder.join("certificates"))?;
    let bench = Bench { nodes: &nodes, certificates: &certificates, tools, options, own: &own };
    let (mut samples, mut hop_samples) = (Vec::new(), Vec::new());
    for repetition in 1..=options.reps {
        for &mode in &options.modes.0 {
            for &peer in peers.iter().filter(|peer| peer.has(mode)) {
                samples.push(once(&bench, peer, mode, repetition));
            }
            if options.handshakes > 0 {
                let each = peers.iter().filter_map(|&peer| hops_once(&bench, peer, mode, repetition));
                hop_samples.extend(each);
            }
        }
    }
    Ok((samples, hop_samples))
}

fn once(bench: &Bench<'_>, peer: Peer, mode: Mode, repetition: u32) -> Sample {
    let (started, reps) = (clock::now(), bench.options.reps);
    let count_calls = bench.options.syscalls && repetition == reps;
    let (figures, failed) = match bench.measure(peer, mode, count_calls) {
        Ok(figures) => (Some(figures), None),
        Err(e) => (None, Some(format!("{:#}", anyhow::Error::from(e)))),
    };
    let sample = Sample { peer, mode, repetition, figures, failed };
    progress(&report::sample_line(&sample, reps, (clock::now() - started).as_secs_f64()));
    sample
}

/// None of a peer without proxies.
fn hops_once(bench: &Bench<'_>, peer: Peer, mode: Mode, repetition: u32) -> Option<HopSample> {
    let started = clock::now();
    let (opened, failed) = match bench.hops(peer, mode) {
        Ok(opened) => (Some(opened?), None),
        Err(e) => (None, Some(format!("{:#}", anyhow::Error::from(e)))),
    };
    let sample = HopSample { peer, mode, repetition, opened, failed };
    let seconds = (clock::now() - started).as_secs_f64();
    progress(&report::hop_line(&sample, bench.options.reps, seconds));
    Some(sample)
}

/// Inherited by everything that is started; a proxy with 1,000 idle connections needs more than the usual 1,024.
fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    if now.current.is_some_and(|soft| soft < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: now.maximum };
        // Within the hard limit everybody may; if not, the memory figures report connections that failed.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}
