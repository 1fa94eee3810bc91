//! What others do: the caller's side picks the pod by what it knows itself, and the pod has a queue; and the bound, one queue for all.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::events::Events;
use crate::scenario::{Call, LOCAL_NS, NET_NS, Scenario};

/// How a caller's side picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// Of two pods drawn at random, the one with fewer calls of this caller in flight.
    LeastRequest,
    /// Of two pods drawn at random, the one with the lower product of calls in flight and recent worst latency.
    PeakEwma,
    RoundRobin,
    Random,
}

/// How fast a latency is forgotten by peak EWMA, as linkerd2-proxy does.
const DECAY_NS: f64 = 10e9;
/// What peak EWMA takes a pod's latency for at first, as linkerd2-proxy does.
const FIRST_LATENCY_NS: f64 = 30e6;

/// What one caller knows of one pod.
#[derive(Clone, Copy, Debug)]
struct Known {
    in_flight: u32,
    latency: f64,
    at: u64,
}

enum Event {
    Arrive(usize),
    AtPod { pod: usize, call: usize },
    Done { pod: usize, call: usize },
    Answer { pod: usize, call: usize },
}

#[derive(Clone, Debug, Default)]
struct PodState {
    busy: u32,
    line: VecDeque<usize>,
}

fn way_ns(scenario: &Scenario, pod: usize, from: usize) -> u64 {
    if scenario.pods[pod].node == from { LOCAL_NS } else { NET_NS }
}

impl Known {
    fn cost(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.at) as f64;
        self.latency * (-age / DECAY_NS).exp() * f64::from(self.in_flight + 1)
    }

    fn answered(&mut self, latency: u64, now: u64) {
        self.in_flight -= 1;
        let keep = (-(now.saturating_sub(self.at) as f64) / DECAY_NS).exp();
        let latency = latency as f64;
        let mean = self.latency * keep + latency * (1.0 - keep);
        self.latency = if latency > self.latency { latency } else { mean };
        self.at = now;
    }
}

/// Which pod; `turn` is round robin's.
fn pick(algorithm: Algorithm, of: &[Known], turn: &mut usize, now: u64, random: &mut Rng) -> usize {
    let (a, b) = (random.usize(0..of.len()), random.usize(0..of.len()));
    let is_b = match algorithm {
        Algorithm::LeastRequest => of[b].in_flight < of[a].in_flight,
        Algorithm::PeakEwma => of[b].cost(now) < of[a].cost(now),
        Algorithm::Random => false,
        Algorithm::RoundRobin => {
            *turn = (*turn + 1) % of.len();
            return *turn;
        }
    };
    if is_b { b } else { a }
}

/// Latencies in nanoseconds, in order of the calls.
pub(crate) fn run(scenario: &Scenario, calls: &[Call], algorithm: Algorithm, seed: u64) -> Vec<u64> {
    let count = scenario.pods.len();
    let fresh = Known { in_flight: 0, latency: FIRST_LATENCY_NS, at: 0 };
    let mut known = vec![vec![fresh; count]; scenario.nodes];
    let mut random = Rng::with_seed(seed ^ 0x5eed);
    let mut turns: Vec<usize> = (0..scenario.nodes).map(|_| random.usize(0..count)).collect();
    let mut pods = vec![PodState::default(); count];
    let mut latencies = vec![0; calls.len()];
    let mut events = Events::of(calls, Event::Arrive);
    while let Some((now, event)) = events.next() {
        match event {
            Event::Arrive(call) => {
                let from = calls[call].from;
                let of = &mut known[from];
                let pod = pick(algorithm, of, &mut turns[from], now, &mut random);
                of[pod].in_flight += 1;
                events.put(now + way_ns(scenario, pod, from), Event::AtPod { pod, call });
            }
            Event::AtPod { pod, call } => {
                let state = &mut pods[pod];
                if state.busy < scenario.slots {
                    state.busy += 1;
                    events.put(now + scenario.service_ns(pod, &calls[call]), Event::Done { pod, call });
                } else {
                    state.line.push_back(call);
                }
            }
            Event::Done { pod, call } => {
                events.put(now + way_ns(scenario, pod, calls[call].from), Event::Answer { pod, call });
                match pods[pod].line.pop_front() {
                    Some(next) => {
                        let done = now + scenario.service_ns(pod, &calls[next]);
                        events.put(done, Event::Done { pod, call: next });
                    }
                    None => pods[pod].busy -= 1,
                }
            }
            Event::Answer { pod, call } => {
                let latency = now - calls[call].at;
                latencies[call] = latency;
                known[calls[call].from][pod].answered(latency, now);
            }
        }
    }
    latencies
}

/// One queue in front of all pods; a free pod takes the first call at once, and a call that finds several free takes the fastest.
pub(crate) fn central(scenario: &Scenario, calls: &[Call], seed: u64) -> Vec<u64> {
    let mut random = Rng::with_seed(seed ^ 0xce);
    let mut pods = vec![PodState::default(); scenario.pods.len()];
    let mut line: VecDeque<usize> = VecDeque::new();
    let mut latencies = vec![0; calls.len()];
    let mut events = Events::of(calls, Event::Arrive);
    while let Some((now, event)) = events.next() {
        match event {
            Event::Arrive(call) => line.push_back(call),
            Event::Done { pod, call } => {
                latencies[call] = now + way_ns(scenario, pod, calls[call].from) - calls[call].at;
                pods[pod].busy -= 1;
            }
            Event::AtPod { .. } | Event::Answer { .. } => {}
        }
        while let Some(&call) = line.front() {
            let is_free = |pod: &usize| pods[*pod].busy < scenario.slots;
            let free = (0..pods.len()).filter(is_free);
            // Among equals the least busy, then by lot.
            let order =
                |pod: &usize| (-(scenario.pods[*pod].speed * 1e6) as i64, pods[*pod].busy, random.u32(..));
            let Some(pod) = free.min_by_key(order) else { break };
            line.pop_front();
            pods[pod].busy += 1;
            let way = way_ns(scenario, pod, calls[call].from);
            events.put(now + way + scenario.service_ns(pod, &calls[call]), Event::Done { pod, call });
        }
    }
    latencies
}
