//! What is simulated: nodes, pods, and calls with their service times, drawn from a seed alike for everyone who places them.

use fastrand::Rng;

/// Loads, in percent of what all pods together can do.
pub(crate) const LOADS: [u32; 5] = [50, 70, 80, 90, 95];
/// One way between two nodes.
pub(crate) const NET_NS: u64 = 200_000;
/// One way within a node.
pub(crate) const LOCAL_NS: u64 = 10_000;
/// What a call takes on average on a pod of speed 1.
const SERVICE_NS: f64 = 10_000_000.0;

#[derive(Clone, Copy, Debug)]
enum Service {
    Exponential,
    /// Log-normal with σ = 1.
    LogNormal,
    /// Pareto with α = 1.5, cut at 100 times the least.
    Pareto,
}

#[derive(Clone, Copy, Debug)]
enum Arrivals {
    Poisson,
    /// Calls come in bunches of this size on average, geometrically distributed.
    Bunches(u32),
}

/// A pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pod {
    pub(crate) node: usize,
    /// 1: as fast as others.
    pub(crate) speed: f64,
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) at: u64,
    /// The node of its caller.
    pub(crate) from: usize,
    /// Nanoseconds on a pod of speed 1.
    pub(crate) work: u64,
}

/// A cluster and what is asked of it.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) nodes: usize,
    pub(crate) pods: Vec<Pod>,
    /// Calls that a pod works on at a time.
    pub(crate) slots: u32,
    /// The mesh is told of `slots`.
    pub(crate) is_limited: bool,
    /// Nodes that have callers: the first so many.
    callers: usize,
    service: Service,
    arrivals: Arrivals,
}

impl Scenario {
    fn new(name: &'static str, nodes: usize, pods_of: impl Fn(usize) -> usize) -> Scenario {
        let pods = (0..nodes).flat_map(|node| (0..pods_of(node)).map(move |_| Pod { node, speed: 1.0 }));
        Scenario {
            name,
            nodes,
            pods: pods.collect(),
            slots: 1,
            is_limited: true,
            callers: nodes,
            service: Service::Exponential,
            arrivals: Arrivals::Poisson,
        }
    }

    fn slow(mut self, count: usize, speed: f64) -> Scenario {
        // Spread, so that no node has all of them.
        let step = self.pods.len() / count;
        for i in 0..count {
            self.pods[i * step].speed = speed;
        }
        self
    }

    /// Nanoseconds that a pod needs for a call.
    pub(crate) fn service_ns(&self, pod: usize, call: &Call) -> u64 {
        (call.work as f64 / self.pods[pod].speed) as u64
    }

    /// So many calls at that load.
    pub(crate) fn calls(&self, load: u32, count: usize, seed: u64) -> Vec<Call> {
        let mut random = Rng::with_seed(seed);
        let speed: f64 = self.pods.iter().map(|pod| pod.speed).sum();
        let mean_gap = SERVICE_NS * 100.0 / (f64::from(load) * speed * f64::from(self.slots));
        let mut at = 1e9;
        let mut calls = Vec::with_capacity(count);
        while calls.len() < count {
            let bunch = match self.arrivals {
                Arrivals::Poisson => 1,
                Arrivals::Bunches(mean) => {
                    let more = f64::from(mean - 1) / f64::from(mean);
                    1 + std::iter::repeat_with(|| random.f64()).take_while(|point| *point < more).count()
                }
            };
            let mean_bunch = if let Arrivals::Bunches(mean) = self.arrivals { f64::from(mean) } else { 1.0 };
            at += exponential(&mut random) * mean_gap * mean_bunch;
            for _ in 0..bunch {
                let from = random.usize(0..self.callers);
                let work = (SERVICE_NS * self.service.draw(&mut random)) as u64;
                calls.push(Call { at: at as u64, from, work });
            }
        }
        calls.truncate(count);
        calls
    }
}

/// Mean 1.
fn exponential(random: &mut Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

impl Service {
    /// Mean 1.
    fn draw(self, random: &mut Rng) -> f64 {
        match self {
            Service::Exponential => exponential(random),
            Service::LogNormal => {
                // Box and Muller 1958.
                let radius = (2.0 * exponential(random)).sqrt();
                let normal = radius * (2.0 * std::f64::consts::PI * random.f64()).cos();
                (normal - 0.5).exp()
            }
            Service::Pareto => {
                const ALPHA: f64 = 1.5;
                const CUT: f64 = 100.0;
                let share = 1.0 - CUT.powf(-ALPHA);
                let mean = ALPHA / (ALPHA - 1.0) * (1.0 - CUT.powf(1.0 - ALPHA)) / share;
                (1.0 - random.f64() * share).powf(-1.0 / ALPHA) / mean
            }
        }
    }
}

/// All of them.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let usual = |name| Scenario::new(name, 10, |_| 5);
    vec![
        usual("10 nodes of 5 pods"),
        Scenario::new("3 nodes of 3 pods", 3, |_| 3),
        Scenario::new("3 nodes of 50 pods", 3, |_| 50),
        Scenario::new("50 nodes of 2 pods", 50, |_| 2),
        Scenario::new("100 nodes of 1 pod", 100, |_| 1),
        Scenario::new("nodes of 1 to 9 pods", 10, |node| 1 + node * 8 / 9),
        Scenario { slots: 4, ..usual("4 calls at a time") },
        Scenario { callers: 1, ..usual("one caller") },
        Scenario { arrivals: Arrivals::Bunches(10), ..usual("bunches of 10") },
        Scenario { service: Service::LogNormal, ..usual("log-normal service") },
        Scenario { service: Service::Pareto, ..usual("Pareto service") },
        usual("2 of 50 pods slow").slow(2, 1.0 / 3.0),
        usual("10 of 50 pods slow").slow(10, 0.5),
        Scenario { slots: 4, is_limited: false, ..usual("limit not told") },
        Scenario { slots: 4, is_limited: false, ..usual("limit not told, 2 slow").slow(2, 1.0 / 3.0) },
    ]
}
