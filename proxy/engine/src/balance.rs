//! Which backend, which node, which pod: pure choices over plain numbers; nothing is counted or remembered here.

use crate::random::Random;

/// By what a node, and on it a pod, is chosen for a call that has no key to go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Least in flight.
    #[default]
    LeastRequest,
    /// Least in flight times the time that calls take.
    PeakEwma,
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
}

/// The index of a weight, drawn in proportion to the weights. None when all are 0.
pub(crate) fn pick_weighted(
    weights: impl Iterator<Item = u64> + Clone,
    random: &mut Random,
) -> Option<usize> {
    let total: u64 = weights.clone().sum();
    if total == 0 {
        return None;
    }
    let mut point = random.below(total);
    for (i, weight) in weights.enumerate() {
        if point < weight {
            return Some(i);
        }
        point -= weight;
    }
    None
}

/// One node that may take a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Usable pods there, at least 1.
    pub(crate) pods: u32,
    /// 0: not to be asked again; above, the higher the better: those of a lower grade are asked when there are none of a higher.
    pub(crate) grade: u8,
}

/// Power of two choices (Mitzenmacher 2001): of two nodes of the best grade, drawn in proportion to their pods, the one with less load per pod;
/// the first drawn when they are equal. None when all are of grade 0.
pub(crate) fn pick_node(
    candidates: &(impl Iterator<Item = Candidate> + Clone),
    load: impl Fn(usize) -> u64,
    random: &mut Random,
) -> Option<usize> {
    let best = candidates.clone().map(|c| c.grade).max().filter(|grade| *grade > 0)?;
    let weight = move |c: Candidate| if c.grade == best { u64::from(c.pods.max(1)) } else { 0 };
    let first = pick_weighted(candidates.clone().map(weight), random)?;
    let others = candidates.clone().enumerate().map(move |(i, c)| if i == first { 0 } else { weight(c) });
    let Some(second) = pick_weighted(others, random) else { return Some(first) };
    let pods = |i| candidates.clone().nth(i).map_or(1, |c: Candidate| u64::from(c.pods.max(1)));
    let first_load = load(first).saturating_mul(pods(second));
    let second_load = load(second).saturating_mul(pods(first));
    Some(if second_load < first_load { second } else { first })
}

/// As [`pick_node`] over nodes of the best grade there can be only, at a price that does not grow with their number: by drawing until it hits. `cumulative` are the sums of
/// pods up to each node. None, when luck fails or few nodes are good, says nothing: [`pick_node`] decides then.
pub(crate) fn draw_node(
    cumulative: &[u32],
    is_best: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> u64,
    random: &mut Random,
) -> Option<usize> {
    const DRAWS_MAX: u32 = 8;
    let total = u64::from(*cumulative.last()?);
    let mut first = None;
    for _ in 0..DRAWS_MAX {
        let point = random.below(total);
        let drawn = cumulative.partition_point(|sum| u64::from(*sum) <= point);
        match first {
            _ if !is_best(drawn) => {}
            None if cumulative.len() == 1 => return Some(drawn),
            None => first = Some(drawn),
            Some(first) if first == drawn => {}
            Some(first) => {
                let pods =
                    |i: usize| u64::from(cumulative[i] - i.checked_sub(1).map_or(0, |i| cumulative[i]));
                let first_load = load(first).saturating_mul(pods(drawn));
                let second_load = load(drawn).saturating_mul(pods(first));
                return Some(if second_load < first_load { drawn } else { first });
            }
        }
    }
    None
}

/// The node whose turn it is: of as many turns as there are pods, each node has as many as it has, not one after the other. A node that is not of the best grade is passed over. None, when it
/// takes too long to find one that is, says nothing, as with [`draw_node`].
pub(crate) fn next_node(
    cumulative: &[u32],
    is_best: impl Fn(usize) -> bool,
    turn: impl Fn() -> u32,
) -> Option<usize> {
    const TURNS_MAX: u32 = 64;
    let total = *cumulative.last()?;
    let stride = u64::from(stride(total));
    (0..TURNS_MAX).find_map(|_| {
        let point = u64::from(turn() % total) * stride % u64::from(total);
        let node = cumulative.partition_point(|sum| u64::from(*sum) <= point);
        is_best(node).then_some(node)
    })
}

/// A step that leads through all of `total` places, in leaps of about the golden ratio, which leaves no part of them out for long.
fn stride(total: u32) -> u32 {
    let divides = |mut a: u32, mut b: u32| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let golden = u32::try_from(u64::from(total) * 618 / 1000).unwrap_or(1);
    (golden.max(1)..=total).find(|step| divides(total, *step)).unwrap_or(1)
}

/// The index of the least load; ties are broken at random. None marks a pod that is not to be asked.
pub(crate) fn pick_pod(loads: impl Iterator<Item = Option<u64>>, random: &mut Random) -> Option<usize> {
    let mut best: Option<(usize, u64)> = None;
    let mut ties = 0;
    for (i, load) in loads.enumerate() {
        let Some(load) = load else { continue };
        match best {
            Some((_, least)) if load > least => {}
            Some((_, least)) if load == least => {
                ties += 1;
                if random.below(ties) == 0 {
                    best = Some((i, load));
                }
            }
            _ => {
                best = Some((i, load));
                ties = 1;
            }
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRAWS: u32 = 40_000;

    fn shares(count: usize, mut pick: impl FnMut() -> usize) -> Vec<f64> {
        let mut counts = vec![0_u32; count];
        for _ in 0..DRAWS {
            counts[pick()] += 1;
        }
        counts.iter().map(|c| f64::from(*c) / f64::from(DRAWS)).collect()
    }

    #[test]
    fn backends_get_their_weights() {
        let mut random = Random::new(1);
        let weights = [90_u64, 0, 10];
        let got = shares(3, || pick_weighted(weights.iter().copied(), &mut random).unwrap());
        assert!((got[0] - 0.9).abs() < 0.01 && got[1] == 0.0 && (got[2] - 0.1).abs() < 0.01, "{got:?}");
        assert_eq!(pick_weighted([0, 0].into_iter(), &mut random), None);
    }

    #[test]
    fn idle_nodes_get_calls_in_proportion_to_their_pods() {
        let mut random = Random::new(2);
        let nodes = [1, 2, 5].map(|pods| Candidate { pods, grade: 2 });
        let got = shares(3, || pick_node(&nodes.iter().copied(), |_| 0, &mut random).unwrap());
        for (share, pods) in got.iter().zip([1.0, 2.0, 5.0]) {
            assert!((share - pods / 8.0).abs() < 0.01, "{got:?}");
        }
    }

    #[test]
    fn under_load_each_pod_gets_its_share_and_a_slow_node_less() {
        // Each node ends a call after as many draws as it is slow; the choice sees only what is in flight.
        let mut random = Random::new(3);
        let nodes = [2, 2, 4].map(|pods| Candidate { pods, grade: 2 });
        let mut open: Vec<std::collections::VecDeque<u32>> = vec![std::collections::VecDeque::default(); 3];
        let mut counts = [0_u32; 3];
        for draw in 0..DRAWS {
            for queue in &mut open {
                while queue.front().is_some_and(|end| *end <= draw) {
                    queue.pop_front();
                }
            }
            let i = pick_node(&nodes.iter().copied(), |i| open[i].len() as u64, &mut random).unwrap();
            counts[i] += 1;
            open[i].push_back(draw + if i == 0 { 64 } else { 16 });
        }
        let share = |i: usize| f64::from(counts[i]) / f64::from(DRAWS);
        assert!(share(0) < 0.17, "the slow node's share of pods is 0.25, it got {}", share(0));
        assert!((share(2) / share(1) - 2.0).abs() < 0.3, "{counts:?}");
    }

    #[test]
    fn drawing_gives_the_shares_that_weighing_gives() {
        let pods = [3_u32, 1, 4, 2];
        let cumulative = [3, 4, 8, 10];
        let loads = [1, 5, 0, 3];
        let is_good = |i: usize| i != 2;
        let candidates = |i: usize| Candidate { pods: pods[i], grade: if is_good(i) { 2 } else { 1 } };
        let mut random = Random::new(5);
        let weighed = shares(4, || pick_node(&(0..4).map(candidates), |i| loads[i], &mut random).unwrap());
        let drawn = shares(4, || {
            loop {
                if let Some(i) = draw_node(&cumulative, is_good, |i| loads[i], &mut random) {
                    return i;
                }
            }
        });
        for (a, b) in weighed.iter().zip(&drawn) {
            assert!((a - b).abs() < 0.02, "{weighed:?} {drawn:?}");
        }
        assert_eq!(draw_node(&cumulative, |_| false, |_| 0, &mut random), None);
        assert_eq!(draw_node(&[], |_| true, |_| 0, &mut random), None);
        assert_eq!(draw_node(&[2], |_| true, |_| 0, &mut random), Some(0));
    }

    proptest! {
        #[test]
        fn a_picked_node_is_of_the_best_grade(
            nodes in prop::collection::vec((1_u32..9, 0_u8..3, 0_u64..9), 0..8),
            seed: u64,
        ) {
            let candidates: Vec<Candidate> = nodes.iter().map(|n| Candidate { pods: n.0, grade: n.1 }).collect();
            let picked = pick_node(&candidates.iter().copied(), |i| nodes[i].2, &mut Random::new(seed));
            let best = candidates.iter().map(|c| c.grade).max().unwrap_or(0);
            prop_assert_eq!(picked.map(|i| candidates[i].grade), (best > 0).then_some(best));
        }

        #[test]
        fn of_two_nodes_the_less_loaded_per_pod_is_picked(
            a in (1_u32..9, 0_u64..99), b in (1_u32..9, 0_u64..99), seed: u64,
        ) {
            let nodes = [a, b].map(|n| Candidate { pods: n.0, grade: 2 });
            let loads = [a.1, b.1];
            let i = pick_node(&nodes.iter().copied(), |i| loads[i], &mut Random::new(seed)).unwrap();
            let other = 1 - i;
            prop_assert!(loads[i] * u64::from(nodes[other].pods) <= loads[other] * u64::from(nodes[i].pods));
        }

        #[test]
        fn a_picked_pod_has_the_least_in_flight(
            loads in prop::collection::vec(prop::option::of(0_u64..5), 0..12),
            seed: u64,
        ) {
            let picked = pick_pod(loads.iter().copied(), &mut Random::new(seed));
            let least = loads.iter().flatten().min().copied();
            prop_assert_eq!(picked.and_then(|i| loads[i]), least);
        }
    }

    #[test]
    fn in_turn_each_node_gets_exactly_its_share() {
        for pods in [vec![1], vec![1, 1], vec![3, 1, 4, 2], vec![50, 1, 49], vec![7; 30]] {
            let cumulative: Vec<u32> = pods
                .iter()
                .scan(0, |sum, n| {
                    Some({
                        *sum += n;
                        *sum
                    })
                })
                .collect();
            let turn = std::cell::Cell::new(u32::MAX - 2);
            let next = || turn.replace(turn.get().wrapping_add(1));
            let total = *cumulative.last().unwrap();
            // Past the wrap.
            for _ in 0..3 {
                next_node(&cumulative, |_| true, next);
            }
            let mut counts = vec![0; pods.len()];
            for _ in 0..total {
                counts[next_node(&cumulative, |_| true, next).unwrap()] += 1;
            }
            assert_eq!(counts, pods);
        }
        let turn = std::cell::Cell::new(0);
        let next = || turn.replace(turn.get() + 1);
        let some: Vec<_> = (0..4).map(|_| next_node(&[1, 2, 3], |i| i != 1, next).unwrap()).collect();
        assert!(some.iter().all(|i| *i != 1) && some.contains(&0) && some.contains(&2), "{some:?}");
        assert_eq!(next_node(&[2], |_| false, next), None);
        assert_eq!(next_node(&[], |_| true, next), None);
    }

    #[test]
    fn ties_between_pods_are_broken_evenly() {
        let mut random = Random::new(4);
        let loads = [Some(1), Some(0), Some(0), None, Some(0)];
        let got = shares(5, || pick_pod(loads.into_iter(), &mut random).unwrap());
        assert!(got[0] == 0.0 && got[3] == 0.0);
        for i in [1, 2, 4] {
            assert!((got[i] - 1.0 / 3.0).abs() < 0.01, "{got:?}");
        }
    }
}
