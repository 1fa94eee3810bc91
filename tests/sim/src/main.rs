//! Simulates balancing: calls go through the product's whole data path (one `Core` for each node, frames and all), in virtual time; the same
//! calls go through client-side algorithms and through one central queue. Writes a table and plots; ends with the worst ratio.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times are far below 2^52 ns, and not negative"
)]

mod client_side;
mod events;
mod mesh;
mod report;
mod scenario;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;

use crate::client_side::Algorithm;
use crate::report::Row;
use crate::scenario::{LOADS, Scenario, scenarios};

/// Simulate balancing and compare it with client-side algorithms and one central queue
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Calls in each run; a tenth of them first warms up and is not counted
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// Run only scenarios whose name contains this
    #[arg(long)]
    scenario: Option<String>,
    /// Run only this load, in percent of what the pods can do
    #[arg(long)]
    load: Option<u32>,
    /// Seed of arrivals, service times and choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write balance.md and balance.svg into this directory
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Who places calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Mesh,
    ClientSide(Algorithm),
    Central,
}

impl Policy {
    pub(crate) const ALL: [Policy; 6] = [
        Policy::Mesh,
        Policy::Central,
        Policy::ClientSide(Algorithm::LeastRequest),
        Policy::ClientSide(Algorithm::PeakEwma),
        Policy::ClientSide(Algorithm::RoundRobin),
        Policy::ClientSide(Algorithm::Random),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Policy::Mesh => "vicino",
            Policy::Central => "central queue",
            Policy::ClientSide(Algorithm::LeastRequest) => "P2C least request",
            Policy::ClientSide(Algorithm::PeakEwma) => "P2C peak EWMA",
            Policy::ClientSide(Algorithm::RoundRobin) => "round robin",
            Policy::ClientSide(Algorithm::Random) => "random",
        }
    }

    fn run(self, scenario: &Scenario, load: u32, arguments: &Arguments) -> anyhow::Result<Row> {
        let calls = scenario.calls(load, arguments.calls, arguments.seed);
        let latencies = match self {
            Policy::Mesh => mesh::run(scenario, &calls, arguments.seed)?,
            Policy::Central => client_side::central(scenario, &calls, arguments.seed),
            Policy::ClientSide(algorithm) => client_side::run(scenario, &calls, algorithm, arguments.seed),
        };
        Ok(Row::new(scenario.name, load, self, latencies))
    }
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let wanted =
        |scenario: &Scenario| arguments.scenario.as_deref().is_none_or(|part| scenario.name.contains(part));
    let scenarios: Vec<Scenario> = scenarios().into_iter().filter(wanted).collect();
    let loads: Vec<u32> =
        LOADS.into_iter().filter(|load| arguments.load.is_none_or(|l| l == *load)).collect();
    let mut runs = Vec::new();
    for scenario in &scenarios {
        runs.extend(loads.iter().flat_map(|load| Policy::ALL.map(|policy| (scenario, *load, policy))));
    }
    anyhow::ensure!(!runs.is_empty(), "no scenario and load of that name; loads are {LOADS:?}");
    let rows = run_all(&runs, &arguments)?;
    print!("{}", report::table(&rows));
    if let Some(directory) = &arguments.output {
        report::write(directory, &rows)?;
    }
    let limited: Vec<&str> = scenarios.iter().filter(|s| s.is_limited).map(|s| s.name).collect();
    let verdict = report::judge(&rows, &limited);
    println!("{verdict}");
    Ok(if verdict.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs on all processors; rows come in the order of the runs.
fn run_all(runs: &[(&Scenario, u32, Policy)], arguments: &Arguments) -> anyhow::Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(runs.len()));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some((scenario, load, policy)) = runs.get(i) else { return };
            let row = policy.run(scenario, *load, arguments);
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((i, row));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(calls: usize) -> Arguments {
        Arguments { calls, scenario: None, load: None, seed: 7, output: None }
    }

    fn rows(name: &str, calls: usize) -> Vec<Row> {
        let scenarios = scenarios();
        let scenario = scenarios.iter().find(|scenario| scenario.name == name).unwrap();
        let run = |policy: Policy| policy.run(scenario, 80, &arguments(calls)).unwrap();
        Policy::ALL.into_iter().map(run).collect()
    }

    #[test]
    fn the_goal_is_met_with_calls_one_at_a_time() {
        for name in ["10 nodes of 5 pods", "one caller", "2 of 50 pods slow"] {
            let verdict = report::judge(&rows(name, 8_000), &[name]);
            assert!(verdict.is_met(), "{verdict}");
        }
    }

    #[test]
    fn who_is_worse_than_the_goal_or_than_others_is_told() {
        let name = "3 nodes of 3 pods";
        let mut rows = rows(name, 2_000);
        assert!(report::judge(&rows, &[name]).is_met());
        // The mesh's figures are round robin's, and the other way round.
        rows.swap(0, 4);
        let (a, b) = rows.split_at_mut(4);
        a[0].swap_policy(&mut b[0]);
        let verdict = report::judge(&rows, &[name]);
        assert!(!verdict.is_met());
        assert!(verdict.to_string().contains("beaten: 3 nodes of 3 pods: round robin"), "{verdict}");
        assert!(verdict.to_string().ends_with("NOT MET"), "{verdict}");
    }

    #[test]
    fn a_seed_repeats_itself() {
        let once = report::table(&rows("50 nodes of 2 pods", 2_000));
        assert_eq!(once, report::table(&rows("50 nodes of 2 pods", 2_000)));
    }
}
