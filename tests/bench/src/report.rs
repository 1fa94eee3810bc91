//! Everything that people read: progress on stderr, tables on stdout, the last line, and the JSON file.

use std::path::Path;

use serde::Serialize;

use crate::figures::hops::{HopSample, HopSummary};
use crate::figures::{Callers, DISTURBED_CORES, Sample, Spread, Summary, Verdict, haproxy_cpu100k, ratios};
use crate::load::hops::Handshake;
use crate::machine::Machine;
use crate::measure::Measured;
use crate::options::RunOptions;
use crate::peers::Mode;
use crate::syscalls::Calls;

/// A line for whoever waits.
#[expect(clippy::print_stderr, reason = "progress is for people and must not mix with the figures on stdout")]
pub fn progress(line: &str) {
    eprintln!("{line}");
}

/// A line of the result.
#[expect(clippy::print_stdout, reason = "figures are this program's output")]
pub fn say(line: &str) {
    println!("{line}");
}

/// What was measured, on what.
pub fn heading(machine: &Machine, options: &RunOptions) {
    say(&format!(
        "Two-hop meshes: {} cores {}, {} MiB, Linux {}",
        machine.cores, machine.cpu, machine.memory_mib, machine.kernel
    ));
    for (program, version) in &machine.versions {
        say(&format!("  {program:<8} {version}"));
    }
    say(&format!(
        "{} repetitions of {} s, {} connections, HTTP/1.1, 1 KiB answers, one worker thread a proxy",
        options.reps, options.seconds, options.connections
    ));
}

/// One measurement, as progress.
pub fn sample_line(sample: &Sample, of: u32, seconds: f64) -> String {
    let head =
        format!("[{}/{of}] {:<5} {:<11} {seconds:>4.0} s ", sample.repetition, sample.mode, sample.peer);
    let Some(figures) = sample.figures else {
        return head + "failed: " + sample.failed.as_deref().unwrap_or("no reason");
    };
    let (closed, fixed) = (&figures.closed, &figures.fixed);
    let cpu = closed.cpu100k.map_or_else(String::new, |cpu| format!(" cpu100k {cpu:.2}"));
    let latency = format!("p50 {:.0} us, fixed rate p50 {:.0} us", closed.load.p50_us, fixed.load.p50_us);
    let disturbed = if sample.disturbed() {
        let cores = |m: &Measured| format!("{:.1}+{:.1}", m.other_cores, m.steal_cores);
        format!(" DISTURBED: cores taken by others+hypervisor {} and {}", cores(closed), cores(fixed))
    } else {
        String::new()
    };
    format!("{head}{cpu} {:.0}/s {latency}{disturbed}", closed.load.per_second)
}

/// The opening of a peer's hops, as progress.
pub fn hop_line(sample: &HopSample, of: u32, seconds: f64) -> String {
    let head =
        format!("[{}/{of}] {:<5} {:<11} {seconds:>4.0} s  hops", sample.repetition, sample.mode, sample.peer);
    let Some(opened) = &sample.opened else {
        return head + " failed: " + sample.failed.as_deref().unwrap_or("no reason");
    };
    let ways = opened.openings.iter().map(|o| format!(" {} {:.0}/s", way(o.handshake), o.per_second));
    head + &ways.collect::<Vec<_>>().join(",")
}

fn way(handshake: Handshake) -> &'static str {
    match handshake {
        Handshake::None => "clear",
        Handshake::Full => "full",
        Handshake::Resumed => "resumed",
    }
}

/// The tables of all peers in one mode.
pub fn tables(mode: Mode, all: &[Summary], options: &RunOptions) {
    let summaries: Vec<&Summary> = all.iter().filter(|s| s.mode == mode).collect();
    let haproxy = haproxy_cpu100k(all, (mode, Callers::Http1));
    say(&format!("\n== {} between the proxies ==", mode.phrase()));
    say(
        "Median (least) over the repetitions; cpu100k: CPU seconds of both proxies per 100,000 requests; ratio: to HAProxy's\nbetter wire here\n",
    );
    say(
        "closed loop    cpu100k          ratio  user %  requests/s  p50 us           p99 us           errors",
    );
    for s in &summaries {
        let ratio =
            s.cpu100k.zip(haproxy).map_or_else(dash, |(x, haproxy)| format!("{:.2}", x.median / haproxy));
        let per_second = s.per_second.map_or_else(dash, |x| format!("{:.0}", x.median));
        let user = s.user_share.map_or_else(dash, |x| format!("{:.0}", x.median * 100.0));
        say(format!(
            "{:<14} {:<16} {ratio:<6} {user:<7} {per_second:<11} {:<16} {:<16} {}",
            s.peer,
            cell(s.cpu100k, 2),
            cell(s.p50_us, 0),
            cell(s.p99_us, 0),
            s.errors
        )
        .trim_end());
    }
    say(&format!(
        "\n{:<14} p50 us           p99 us           cpu100k          not sent",
        format!("at {}/s", options.rate)
    ));
    for s in &summaries {
        let cells = [cell(s.rate_p50_us, 0), cell(s.rate_p99_us, 0), cell(s.rate_cpu100k, 2)];
        say(&format!("{:<14} {:<16} {:<16} {:<16} {}", s.peer, cells[0], cells[1], cells[2], s.unsent));
    }
    say("\nHTTP/2         cpu100k          requests/s");
    for s in summaries.iter().filter(|s| s.http2_per_second.is_some()) {
        let per_second = s.http2_per_second.map_or_else(dash, |x| format!("{:.0}", x.median));
        say(&format!("{:<14} {:<16} {per_second}", s.peer, cell(s.http2_cpu100k, 2)));
    }
    say(&format!("\nmemory, MiB    start       +{} idle  KiB a connection", options.idle));
    for s in &summaries {
        let (Some(start), Some(idle)) = (s.start_kib, s.idle_kib) else { continue };
        let each = (idle.median - start.median) / f64::from(options.idle);
        say(&format!(
            "{:<14} {:<11.1} {:<11.1} {each:.1}",
            s.peer,
            start.median / 1024.0,
            idle.median / 1024.0
        ));
    }
}

/// The table of the opening of hops, if it was measured.
pub fn hops_table(summaries: &[HopSummary]) {
    if summaries.is_empty() {
        return;
    }
    say("\n== opening hops to L2 ==");
    say(
        "By a dialler of this program, the same for all, until L2 has spoken; s/1,000: CPU seconds per 1,000 hops opened and\nclosed again; KiB a hop: resident memory of L2\n",
    );
    say("hops           TLS      opened/s   L2 s/1,000       dialler s/1,000  KiB a hop");
    for s in summaries {
        let kib = s.kib.map_or_else(dash, |x| format!("{:.1}", x.median));
        let (listener, dialler) = (cell(s.listener_cpu, 3), cell(s.dialler_cpu, 3));
        let per_second = s.per_second.map_or_else(dash, |x| format!("{:.0}", x.median));
        say(&format!(
            "{:<14} {:<8} {per_second:<10} {listener:<16} {dialler:<16} {kib}",
            s.peer,
            way(s.handshake)
        ));
    }
}

/// The table of system calls in one mode, if they were counted.
pub fn calls_table(mode: Mode, summaries: &[Summary]) {
    let summaries = summaries.iter().filter(|s| s.mode == mode);
    let counted: Vec<_> = summaries.filter_map(|s| Some((s.peer, s.calls?))).collect();
    if counted.is_empty() {
        return;
    }
    say("\nsystem calls a request      writes   reads    waits    others");
    for (peer, [l1, l2]) in counted {
        for (role, calls) in [("L1", l1), ("L2", l2)] {
            let Calls { writes, reads, waits, others } = calls;
            say(&format!("{peer:<20} {role:<6} {writes:<8.2} {reads:<8.2} {waits:<8.2} {others:.2}"));
        }
    }
}

/// What a reader of the figures has to know besides.
pub fn remarks(results: &Results<'_>) {
    let Results { samples, summaries, hop_samples, skipped, .. } = *results;
    say("");
    for (peer, reason) in skipped {
        say(&format!("skipped {peer}: {reason}"));
    }
    for s in summaries {
        if let Some(reason) = &s.failed {
            say(&format!(
                "failed {} {} in {} of {} repetitions: {reason}",
                s.peer,
                s.mode.phrase(),
                samples_of(s, samples) - s.runs,
                samples_of(s, samples)
            ));
        }
    }
    for s in hop_samples {
        if let Some(reason) = &s.failed {
            say(&format!(
                "failed hops of {} {} in repetition {}: {reason}",
                s.peer,
                s.mode.phrase(),
                s.repetition
            ));
        }
    }
    let mut disturbed: Vec<String> = samples
        .iter()
        .filter(|s| s.disturbed())
        .map(|s| format!("{} {} {}", s.repetition, s.mode, s.peer))
        .collect();
    if !disturbed.is_empty() {
        if disturbed.len() == samples.len() {
            disturbed = vec!["all".to_owned()];
        }
        say(&format!(
            "disturbed (others or the hypervisor took more than {DISTURBED_CORES} cores), compare with care: {}",
            disturbed.join(", ")
        ));
    }
    for verdict in results.verdicts {
        let each = ratios((verdict.mode, verdict.callers), samples);
        let each: Vec<String> = each.iter().map(|r| format!("{r:.2}")).collect();
        if !each.is_empty() {
            let (mode, callers) = (verdict.mode.phrase(), verdict.callers.phrase());
            say(&format!("vicino/haproxy {mode}, {callers}, per repetition: {}", each.join(" ")));
        }
    }
}

fn samples_of(summary: &Summary, samples: &[Sample]) -> usize {
    samples.iter().filter(|s| s.peer == summary.peer && s.mode == summary.mode).count()
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(dash, |s| format!("{:.digits$} ({:.digits$})", s.median, s.min))
}

fn dash() -> String {
    "-".to_owned()
}

/// All of a run, for programs.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// What it ran on.
    pub machine: &'a Machine,
    /// Seconds of each load.
    pub seconds: u64,
    /// Connections of the load generators.
    pub connections: u32,
    /// Requests a second of the fixed rate.
    pub rate: u32,
    /// Idle connections of the memory figures.
    pub idle: u32,
    /// What came out.
    #[serde(flatten)]
    pub results: Results<'a>,
}

/// What came out of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Results<'a> {
    /// Every measurement.
    pub samples: &'a [Sample],
    /// Medians and minima.
    pub summaries: &'a [Summary],
    /// Every measurement of hops.
    pub hop_samples: &'a [HopSample],
    /// Their medians and minima.
    pub hop_summaries: &'a [HopSummary],
    /// Peers that could not be had, and why.
    pub skipped: &'a [(String, String)],
    /// The gates, two of each mode.
    pub verdicts: &'a [Verdict],
}

impl Report<'_> {
    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        std::fs::write(path, text + "\n")
    }
}
