//! The table, the plots, and whether the goal is met.

use std::fmt::{self, Write as _};
use std::path::Path;

use plotters::prelude::*;

use crate::Policy;

/// Most that our p99 may be of the central queue's at [`GOAL_LOAD`], where pods have a limit.
const GOAL_RATIO: f64 = 1.15;
const GOAL_LOAD: u32 = 80;

/// What one run came to.
#[derive(Debug)]
pub(crate) struct Row {
    scenario: &'static str,
    load: u32,
    policy: Policy,
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Row {
    /// From latencies in nanoseconds; the first tenth is not counted.
    pub(crate) fn new(scenario: &'static str, load: u32, policy: Policy, mut latencies: Vec<u64>) -> Row {
        let mut counted = latencies.split_off(latencies.len() / 10);
        counted.sort_unstable();
        let quantile = |share: f64| {
            let at = (counted.len() as f64 * share) as usize;
            counted.get(at.min(counted.len().saturating_sub(1))).map_or(0.0, |ns| *ns as f64 / 1e6)
        };
        Row { scenario, load, policy, p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999) }
    }
}

#[cfg(test)]
impl Row {
    pub(crate) fn swap_policy(&mut self, other: &mut Row) {
        std::mem::swap(&mut self.policy, &mut other.policy);
    }
}

/// Consecutive rows of one scenario and load.
fn groups(rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    rows.chunk_by(|a, b| (a.scenario, a.load) == (b.scenario, b.load))
}

fn p99_of(group: &[Row], policy: Policy) -> f64 {
    group.iter().find(|row| row.policy == policy).map_or(f64::NAN, |row| row.p99)
}

/// Markdown: p50, p99, p99.9 in milliseconds for each policy.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut out = String::from("| scenario | load | of central |");
    for policy in Policy::ALL {
        let _ = write!(out, " {} |", policy.name());
    }
    out.push_str("\n|---|---|---|---|---|---|---|---|---|\n");
    for group in groups(rows) {
        let Some(first) = group.first() else { continue };
        let ratio = p99_of(group, Policy::Mesh) / p99_of(group, Policy::Central);
        let _ = write!(out, "| {} | {} % | {ratio:.2} |", first.scenario, first.load);
        for row in group {
            let _ = write!(out, " {:.1} / {:.1} / {:.1} |", row.p50, row.p99, row.p999);
        }
        out.push('\n');
    }
    out
}

/// What the rows say about the goal.
#[derive(Debug)]
pub(crate) struct Verdict {
    worst: f64,
    scenario: &'static str,
    /// Scenarios in which a client-side algorithm has the lower p99.
    beaten: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_met(&self) -> bool {
        self.worst <= GOAL_RATIO && self.beaten.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for beaten in &self.beaten {
            writeln!(f, "beaten: {beaten}")?;
        }
        write!(
            f,
            "worst p99 at {GOAL_LOAD} % load, of the central queue's: {:.2} ({}); goal {GOAL_RATIO}: {}",
            self.worst,
            self.scenario,
            if self.is_met() { "met" } else { "NOT MET" }
        )
    }
}

/// The worst ratio at 80 % load of the scenarios named, and wherever a client-side algorithm is better.
pub(crate) fn judge(rows: &[Row], limited: &[&str]) -> Verdict {
    let mut verdict = Verdict { worst: 0.0, scenario: "none was run", beaten: Vec::new() };
    for group in groups(rows).filter(|group| group.first().is_some_and(|row| row.load == GOAL_LOAD)) {
        let Some(first) = group.first() else { continue };
        let mesh = p99_of(group, Policy::Mesh);
        let ratio = mesh / p99_of(group, Policy::Central);
        if limited.contains(&first.scenario) && ratio > verdict.worst {
            (verdict.worst, verdict.scenario) = (ratio, first.scenario);
        }
        for row in group.iter().filter(|row| matches!(row.policy, Policy::ClientSide(_)) && row.p99 < mesh) {
            let text =
                format!("{}: {} {:.1} ms, vicino {mesh:.1} ms", row.scenario, row.policy.name(), row.p99);
            verdict.beaten.push(text);
        }
    }
    verdict
}

/// Writes `balance.md` and `balance.svg`.
pub(crate) fn write(directory: &Path, rows: &[Row]) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let text = format!(
        "# Balancing, simulated\n\nWritten by `make sim`. p50 / p99 / p99.9 in milliseconds; calls take 10 ms on average, a way between nodes \
         0.2 ms. *Of central*: our p99 by the central queue's.\n\n{}",
        table(rows)
    );
    std::fs::write(directory.join("balance.md"), text)?;
    plot(&directory.join("balance.svg"), rows)
}

const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (420, 300);

/// p99 over load, a panel for each scenario.
fn plot(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let scenarios: Vec<&[Row]> = rows.chunk_by(|a, b| a.scenario == b.scenario).collect();
    let lines = scenarios.len().div_ceil(COLUMNS);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * lines as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, rows) in area.split_evenly((lines, COLUMNS)).iter().zip(scenarios) {
        let Some(first) = rows.first() else { continue };
        let most = rows.iter().map(|row| row.p99).fold(1.0, f64::max) * 1.2;
        let least = rows.iter().map(|row| row.p99).fold(most, f64::min) * 0.8;
        let mut chart = ChartBuilder::on(panel)
            .caption(first.scenario, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(30)
            .y_label_area_size(50)
            .build_cartesian_2d(45.0..100.0, (least..most).log_scale())?;
        chart.configure_mesh().x_desc("load, %").y_desc("p99, ms").light_line_style(TRANSPARENT).draw()?;
        for (i, policy) in Policy::ALL.into_iter().enumerate() {
            let style = Palette99::pick(i).stroke_width(if policy == Policy::Mesh { 3 } else { 1 });
            let points = rows.iter().filter(|row| row.policy == policy);
            let series = LineSeries::new(points.map(|row| (f64::from(row.load), row.p99)), style);
            chart
                .draw_series(series)?
                .label(policy.name())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).draw()?;
    }
    area.present()?;
    Ok(())
}
