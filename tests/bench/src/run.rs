//! A whole run from options to the last line, and the steps that a run starts inside its namespaces.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use crate::figures::{Sample, Verdict, summarise};
use crate::load::{fixed_rate, idle};
use crate::machine::Machine;
use crate::measure::Bench;
use crate::net::{self, Nodes};
use crate::options::{Command, Options, RunOptions};
use crate::prepare::{Tools, prepare};
use crate::report::{self, Report, progress, say};
use crate::{clock, peers::Peer};

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
    let samples = repeat(&peers, options, &tools)?;
    let summaries: Vec<_> = peers.iter().map(|&peer| summarise(peer, &samples)).collect();
    let verdict = Verdict::of(&summaries);
    if let Some(path) = &options.json {
        let report = Report {
            machine: &machine,
            seconds: options.seconds,
            connections: options.connections,
            rate: options.rate,
            idle: options.idle,
            samples: &samples,
            summaries: &summaries,
            skipped: &skipped,
            verdict,
        };
        report.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    report::tables(&summaries, options);
    report::calls_table(&summaries);
    report::remarks(&summaries, &samples, &skipped);
    say(&verdict.to_string());
    Ok(if options.gate && !verdict.pass { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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

/// All peers in turn, as often as asked.
fn repeat(peers: &[Peer], options: &RunOptions, tools: &Tools) -> anyhow::Result<Vec<Sample>> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let nodes = Nodes::make().context("cannot make the two nodes")?;
    let bench = Bench { nodes: &nodes, tools, options, own: &own };
    let mut samples = Vec::new();
    for repetition in 1..=options.reps {
        for &peer in peers {
            let started = clock::now();
            let count_calls = options.syscalls && repetition == options.reps;
            let measured = bench.measure(peer, count_calls);
            let (figures, failed) = match measured {
                Ok(figures) => (Some(figures), None),
                Err(e) => (None, Some(format!("{:#}", anyhow::Error::from(e)))),
            };
            let sample = Sample { peer, repetition, figures, failed };
            progress(&report::sample_line(&sample, options.reps, (clock::now() - started).as_secs_f64()));
            samples.push(sample);
        }
    }
    Ok(samples)
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
