//! Repetitions reduced to medians and minima, and the gates; pure.

use std::fmt;

use serde::Serialize;

use crate::measure::{Figures, Measured};
use crate::peers::{Mode, Peer};
use crate::syscalls::Calls;

pub mod hops;

/// More other load than this, in cores, disturbs a repetition.
pub const DISTURBED_CORES: f64 = 0.2;

/// Vicino may use this much of HAProxy's CPU per request at most, in the same mode and with the same callers. With mutual TLS that is a narrower gate than linkerd2-proxy
/// or nginx would be, which need more than twice what HAProxy does.
pub const GATE: f64 = 1.0;

/// What callers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Callers {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl Callers {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// As it stands in a sentence.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    fn median(self, of: &Summary) -> Option<f64> {
        let spread = match self {
            Self::Http1 => of.cpu100k,
            Self::Http2 => of.http2_cpu100k,
        };
        spread.map(|spread| spread.median)
    }

    fn cpu100k(self, of: &Figures) -> Option<f64> {
        match self {
            Self::Http1 => of.closed.cpu100k,
            Self::Http2 => of.http2?.cpu100k,
        }
    }
}

/// One peer in one repetition: its figures, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Who.
    pub peer: Peer,
    /// What lies between the proxies.
    pub mode: Mode,
    /// Which repetition, from 1.
    pub repetition: u32,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
    /// Why nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Sample {
    /// Whether something else than this run took part of the machine meanwhile.
    pub fn disturbed(&self) -> bool {
        let disturbed = |m: &Measured| m.other_cores > DISTURBED_CORES || m.steal_cores > DISTURBED_CORES;
        self.figures.is_some_and(|f| disturbed(&f.closed) || disturbed(&f.fixed))
    }
}

/// Median and best of a figure over the repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the repetitions gave at most this.
    pub median: f64,
    /// The least.
    pub min: f64,
}

impl Spread {
    /// None without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let min = *values.first()?;
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { median, min })
    }
}

/// One peer over all repetitions. Latencies in microseconds, memory in KiB, CPU in seconds per 100,000 requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Who.
    pub peer: Peer,
    /// What lies between the proxies.
    pub mode: Mode,
    /// Repetitions with figures.
    pub runs: usize,
    /// Of these, disturbed by other load.
    pub disturbed: usize,
    /// Requests without an answer of status 200, and idle connections that could not be had, over all repetitions.
    pub errors: u64,
    /// CPU of both proxies in the closed loop.
    pub cpu100k: Option<Spread>,
    /// Part of that in user code.
    pub user_share: Option<Spread>,
    /// Requests a second in the closed loop.
    pub per_second: Option<Spread>,
    /// CPU of both proxies in the closed loop over HTTP/2.
    pub http2_cpu100k: Option<Spread>,
    /// Requests a second in it.
    pub http2_per_second: Option<Spread>,
    /// Median latency in the closed loop.
    pub p50_us: Option<Spread>,
    /// 99th percentile in the closed loop.
    pub p99_us: Option<Spread>,
    /// Median latency at the fixed rate, from the moment a request was due.
    pub rate_p50_us: Option<Spread>,
    /// 99th percentile at the fixed rate.
    pub rate_p99_us: Option<Spread>,
    /// CPU of both proxies at the fixed rate.
    pub rate_cpu100k: Option<Spread>,
    /// Resident memory of both proxies after the first answer.
    pub start_kib: Option<Spread>,
    /// With the idle connections.
    pub idle_kib: Option<Spread>,
    /// Requests of the fixed rate that were due but never sent, over all repetitions.
    pub unsent: u64,
    /// System calls of L1 and L2 per request.
    pub calls: Option<[Calls; 2]>,
    /// The first failure, if any repetition failed.
    pub failed: Option<String>,
}

/// Reduces what one peer gave in one mode.
pub fn summarise(peer: Peer, mode: Mode, samples: &[Sample]) -> Summary {
    let own: Vec<&Sample> = samples.iter().filter(|s| s.peer == peer && s.mode == mode).collect();
    let figures: Vec<Figures> = own.iter().filter_map(|s| s.figures).collect();
    let spread = |of: &dyn Fn(&Figures) -> Option<f64>| Spread::of(figures.iter().filter_map(of));
    #[expect(clippy::cast_precision_loss, reason = "KiB of resident memory stay far below 2^52")]
    let kib = |kib: u64| kib as f64;
    let errors = |f: &Figures| {
        let http2 = f.http2.map_or(0, |http2| http2.load.errors);
        f.closed.load.errors + f.fixed.load.errors + http2 + f.memory.map_or(0, |m| u64::from(m.failed))
    };
    Summary {
        peer,
        mode,
        runs: figures.len(),
        disturbed: own.iter().filter(|s| s.disturbed()).count(),
        errors: figures.iter().map(errors).sum(),
        cpu100k: spread(&|f| f.closed.cpu100k),
        user_share: spread(&|f| f.closed.user_share),
        per_second: spread(&|f| Some(f.closed.load.per_second)),
        http2_cpu100k: spread(&|f| f.http2?.cpu100k),
        http2_per_second: spread(&|f| Some(f.http2?.load.per_second)),
        p50_us: spread(&|f| Some(f.closed.load.p50_us)),
        p99_us: spread(&|f| Some(f.closed.load.p99_us)),
        rate_p50_us: spread(&|f| Some(f.fixed.load.p50_us)),
        rate_p99_us: spread(&|f| Some(f.fixed.load.p99_us)),
        rate_cpu100k: spread(&|f| f.fixed.cpu100k),
        start_kib: spread(&|f| Some(kib(f.memory?.start_kib))),
        idle_kib: spread(&|f| Some(kib(f.memory?.idle_kib))),
        unsent: figures.iter().map(|f| f.fixed.load.unsent).sum(),
        calls: figures.iter().find_map(|f| f.calls),
        failed: own.iter().find_map(|s| s.failed.clone()),
    }
}

/// The median of HAProxy's CPU per request in a mode, with its better wire.
pub fn haproxy_cpu100k(summaries: &[Summary], (mode, callers): (Mode, Callers)) -> Option<f64> {
    let wires = [Peer::HaproxyH2, Peer::HaproxyH1].into_iter();
    wires.filter_map(|peer| cpu100k(summaries, peer, (mode, callers))).reduce(f64::min)
}

fn cpu100k(summaries: &[Summary], peer: Peer, (mode, callers): (Mode, Callers)) -> Option<f64> {
    callers.median(summaries.iter().find(|s| s.peer == peer && s.mode == mode)?)
}

/// Vicino's CPU per request against HAProxy's better wire.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// What lies between the proxies, of both.
    pub mode: Mode,
    /// What callers speak, of both.
    pub callers: Callers,
    /// Ratio of the medians, rounded as it is printed; none when one of the two has no figure.
    pub ratio: Option<f64>,
    /// The ratio is within the gate, and Vicino answered everything.
    pub pass: bool,
}

impl Verdict {
    /// Judges medians of one run.
    pub fn of((mode, callers): (Mode, Callers), summaries: &[Summary]) -> Self {
        let both = cpu100k(summaries, Peer::Vicino, (mode, callers))
            .zip(haproxy_cpu100k(summaries, (mode, callers)));
        let ratio = both.map(|(ours, theirs)| (ours / theirs * 100.0).round() / 100.0);
        let mut ours = summaries.iter().filter(|s| s.peer == Peer::Vicino && s.mode == mode);
        let sound = ours.any(|s| s.errors == 0 && s.failed.is_none());
        Self { mode, callers, ratio, pass: sound && ratio.is_some_and(|r| r <= GATE) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.ratio.map_or_else(|| "none".to_owned(), |r| format!("{r:.2}"));
        let word = if self.pass { "PASS" } else { "FAIL" };
        let (mode, callers) = (self.mode.phrase(), self.callers.phrase());
        write!(f, "ratio vicino/haproxy cpu per request, {mode}, {callers}: {ratio} (gate {GATE:.2}) {word}")
    }
}

/// The same ratio inside each repetition that has both, in order: what the medians hide.
pub fn ratios((mode, callers): (Mode, Callers), samples: &[Sample]) -> Vec<f64> {
    let cpu = |repetition, peer| {
        let is_it = |s: &&Sample| s.repetition == repetition && s.peer == peer && s.mode == mode;
        let sample = samples.iter().find(is_it)?;
        callers.cpu100k(&sample.figures?)
    };
    let last = samples.iter().map(|s| s.repetition).max().unwrap_or(0);
    let ratio = |repetition| {
        let haproxy = [Peer::HaproxyH2, Peer::HaproxyH1].into_iter();
        let haproxy = haproxy.filter_map(|peer| cpu(repetition, peer)).reduce(f64::min)?;
        Some(cpu(repetition, Peer::Vicino)? / haproxy)
    };
    (1..=last).filter_map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;
    use crate::measure::Memory;

    fn sample(peer: Peer, repetition: u32, cpu100k: f64) -> Sample {
        let load =
            Load { requests: 1000, errors: 0, unsent: 0, per_second: 10.0, p50_us: 20.0, p99_us: 30.0 };
        let measured = Measured {
            load,
            cpu100k: Some(cpu100k),
            user_share: Some(0.5),
            other_cores: 0.1,
            steal_cores: 0.0,
        };
        let memory = Memory { start_kib: 100, idle_kib: 200, failed: 0 };
        let figures =
            Figures { memory: Some(memory), closed: measured, fixed: measured, http2: None, calls: None };
        Sample { peer, mode: Mode::Clear, repetition, figures: Some(figures), failed: None }
    }

    fn verdict(samples: &[Sample]) -> Verdict {
        let peers = [Peer::Vicino, Peer::HaproxyH2, Peer::HaproxyH1];
        Verdict::of((Mode::Clear, Callers::Http1), &peers.map(|peer| summarise(peer, Mode::Clear, samples)))
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn the_gate_compares_medians_with_the_better_wire_as_printed() {
        let mut samples = vec![sample(Peer::HaproxyH2, 1, 2.5), sample(Peer::HaproxyH1, 1, 3.7)];
        for (repetition, cpu) in [(1, 9.0), (2, 2.3), (3, 2.0)] {
            samples.push(sample(Peer::Vicino, repetition, cpu));
        }
        let line = "ratio vicino/haproxy cpu per request, in the clear, HTTP/1.1: 0.92 (gate 1.00) PASS";
        assert_eq!(verdict(&samples).to_string(), line);
        assert_eq!(ratios((Mode::Clear, Callers::Http1), &samples), [3.6], "one repetition has both");
        samples.push(sample(Peer::Vicino, 4, 9.0));
        let line = "ratio vicino/haproxy cpu per request, in the clear, HTTP/1.1: 2.26 (gate 1.00) FAIL";
        assert_eq!(verdict(&samples).to_string(), line);
    }

    #[test]
    fn without_figures_or_with_errors_the_gate_fails() {
        let haproxy = sample(Peer::HaproxyH2, 1, 2.5);
        let line = "ratio vicino/haproxy cpu per request, in the clear, HTTP/1.1: none (gate 1.00) FAIL";
        assert_eq!(verdict(std::slice::from_ref(&haproxy)).to_string(), line);
        let mut ours = sample(Peer::Vicino, 1, 2.0);
        ours.figures.as_mut().unwrap().fixed.load.errors = 1;
        let line = "ratio vicino/haproxy cpu per request, in the clear, HTTP/1.1: 0.80 (gate 1.00) FAIL";
        assert_eq!(verdict(&[haproxy, ours]).to_string(), line);
    }

    #[test]
    fn each_mode_has_a_gate_of_its_own() {
        let peers = [Peer::Vicino, Peer::HaproxyH2];
        let mut samples = vec![sample(Peer::HaproxyH2, 1, 2.0), sample(Peer::Vicino, 1, 1.0)];
        for (peer, cpu) in [(Peer::HaproxyH2, 4.0), (Peer::Vicino, 5.0)] {
            samples.push(Sample { mode: Mode::Mtls, ..sample(peer, 1, cpu) });
        }
        let all = [Mode::Clear, Mode::Mtls].map(|mode| peers.map(|peer| summarise(peer, mode, &samples)));
        let verdict = |mode| Verdict::of((mode, Callers::Http1), all.as_flattened()).to_string();
        let said = [Mode::Clear, Mode::Mtls].map(verdict);
        let clear = "ratio vicino/haproxy cpu per request, in the clear, HTTP/1.1: 0.50 (gate 1.00) PASS";
        assert_eq!(said[0], clear);
        let mtls = "ratio vicino/haproxy cpu per request, with mutual TLS, HTTP/1.1: 1.25 (gate 1.00) FAIL";
        assert_eq!(said[1], mtls);
        assert_eq!(ratios((Mode::Mtls, Callers::Http1), &samples), [1.25]);
    }

    #[test]
    fn callers_that_speak_http2_have_a_gate_of_their_own() {
        let mut samples = vec![sample(Peer::HaproxyH2, 1, 2.0), sample(Peer::Vicino, 1, 1.0)];
        let of = |samples: &[Sample]| {
            let summaries = [Peer::Vicino, Peer::HaproxyH2].map(|peer| summarise(peer, Mode::Clear, samples));
            Verdict::of((Mode::Clear, Callers::Http2), &summaries).to_string()
        };
        let line = "ratio vicino/haproxy cpu per request, in the clear, HTTP/2: none (gate 1.00) FAIL";
        assert_eq!(of(&samples), line);
        for (sample, cpu100k) in samples.iter_mut().zip([1.0, 1.5]) {
            let figures = sample.figures.as_mut().unwrap();
            figures.http2 = Some(Measured { cpu100k: Some(cpu100k), ..figures.closed });
        }
        let line = "ratio vicino/haproxy cpu per request, in the clear, HTTP/2: 1.50 (gate 1.00) FAIL";
        assert_eq!(of(&samples), line);
        assert_eq!(ratios((Mode::Clear, Callers::Http2), &samples), [1.5]);
    }

    #[test]
    fn other_load_and_stolen_time_disturb() {
        let mut samples =
            [sample(Peer::Envoy, 1, 8.0), sample(Peer::Envoy, 2, 8.0), sample(Peer::Envoy, 3, 8.0)];
        samples[1].figures.as_mut().unwrap().closed.other_cores = 0.21;
        samples[2].figures.as_mut().unwrap().fixed.steal_cores = 0.3;
        let summary = summarise(Peer::Envoy, Mode::Clear, &samples);
        assert_eq!((summary.runs, summary.disturbed), (3, 2));
    }
}
