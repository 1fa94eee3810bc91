//! Everything that people read: progress on stderr, tables on stdout, the last line, and the JSON file.

use std::path::Path;

use serde::Serialize;

use crate::figures::{DISTURBED_CORES, Sample, Spread, Summary, Verdict, ratios};
use crate::machine::Machine;
use crate::measure::Measured;
use crate::options::RunOptions;
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
        "Two-hop meshes in the clear: {} cores {}, {} MiB, Linux {}",
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
    let head = format!("[{}/{of}] {:<11} {seconds:>4.0} s ", sample.repetition, sample.peer);
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

/// The tables of all peers.
pub fn tables(summaries: &[Summary], options: &RunOptions) {
    say("\nMedian (least) over the repetitions; cpu100k: CPU seconds of both proxies per 100,000 requests\n");
    say("closed loop    cpu100k          user %     requests/s  p50 us           p99 us           errors");
    for s in summaries {
        let per_second = s.per_second.map_or_else(dash, |x| format!("{:.0}", x.median));
        let user = s.user_share.map_or_else(dash, |x| format!("{:.0}", x.median * 100.0));
        say(format!(
            "{:<14} {:<16} {user:<10} {per_second:<11} {:<16} {:<16} {}",
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
    for s in summaries {
        let cells = [cell(s.rate_p50_us, 0), cell(s.rate_p99_us, 0), cell(s.rate_cpu100k, 2)];
        say(&format!("{:<14} {:<16} {:<16} {:<16} {}", s.peer, cells[0], cells[1], cells[2], s.unsent));
    }
    say("\nHTTP/2         cpu100k          requests/s");
    for s in summaries.iter().filter(|s| s.http2_per_second.is_some()) {
        let per_second = s.http2_per_second.map_or_else(dash, |x| format!("{:.0}", x.median));
        say(&format!("{:<14} {:<16} {per_second}", s.peer, cell(s.http2_cpu100k, 2)));
    }
    say(&format!("\nmemory, MiB    start       +{} idle  KiB a connection", options.idle));
    for s in summaries {
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

/// The table of system calls, if they were counted.
pub fn calls_table(summaries: &[Summary]) {
    let counted: Vec<_> = summaries.iter().filter_map(|s| Some((s.peer, s.calls?))).collect();
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
pub fn remarks(summaries: &[Summary], samples: &[Sample], skipped: &[(String, String)]) {
    say("");
    for (peer, reason) in skipped {
        say(&format!("skipped {peer}: {reason}"));
    }
    for s in summaries {
        if let Some(reason) = &s.failed {
            say(&format!(
                "failed {} in {} of {} repetitions: {reason}",
                s.peer,
                samples_of(s, samples) - s.runs,
                samples_of(s, samples)
            ));
        }
    }
    let mut disturbed: Vec<String> =
        samples.iter().filter(|s| s.disturbed()).map(|s| format!("{} {}", s.repetition, s.peer)).collect();
    if !disturbed.is_empty() {
        if disturbed.len() == samples.len() {
            disturbed = vec!["all".to_owned()];
        }
        say(&format!(
            "disturbed (others or the hypervisor took more than {DISTURBED_CORES} cores), compare with care: {}",
            disturbed.join(", ")
        ));
    }
    let each: Vec<String> = ratios(samples).iter().map(|r| format!("{r:.2}")).collect();
    if !each.is_empty() {
        say(&format!("vicino/haproxy per repetition: {}", each.join(" ")));
    }
}

fn samples_of(summary: &Summary, samples: &[Sample]) -> usize {
    samples.iter().filter(|s| s.peer == summary.peer).count()
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
    /// Every measurement.
    pub samples: &'a [Sample],
    /// Medians and minima.
    pub summaries: &'a [Summary],
    /// Peers that could not be had, and why.
    pub skipped: &'a [(String, String)],
    /// The gate.
    pub verdict: Verdict,
}

impl Report<'_> {
    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        std::fs::write(path, text + "\n")
    }
}
