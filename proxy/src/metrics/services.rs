//! Calls by Service and direction, summed over workers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::MetricType;
use vicino_engine::tally::{DURATION_BOUNDS_NS, Direction, ServiceTally, Tally};

use super::{NoLabels, Out, counter};

/// Names of [`ServiceTally::by_class`].
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
const NANOSECONDS_PER_SECOND: f64 = 1e9;

#[derive(Default)]
struct Sum {
    by_class: [u64; CLASSES.len()],
    durations: [u64; DURATION_BOUNDS_NS.len() + 1],
    duration_sum_ns: u64,
    open: u64,
}

impl Sum {
    fn add(&mut self, tally: &ServiceTally) {
        for (sum, counter) in self.by_class.iter_mut().zip(&tally.by_class) {
            *sum += counter.get();
        }
        for (sum, counter) in self.durations.iter_mut().zip(&tally.durations) {
            *sum += counter.get();
        }
        self.duration_sum_ns += tally.duration_sum_ns.get();
        self.open += tally.open.get();
    }

    /// Upper bound in seconds and count, bucket by bucket, as the encoder wants them: not cumulative.
    fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = DURATION_BOUNDS_NS.iter().map(|ns| seconds(*ns));
        bounds.chain([f64::INFINITY]).zip(self.durations).collect()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "53 bits of nanoseconds are 104 days, and what is lost is below them"
)]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / NANOSECONDS_PER_SECOND
}

pub(super) fn encode(tallies: &[Arc<Tally>], out: &mut Out<'_>) -> fmt::Result {
    let blocks: Vec<Arc<ServiceTally>> = tallies.iter().flat_map(|tally| tally.services()).collect();
    let mut sums: BTreeMap<(&str, &str, &str), Sum> = BTreeMap::new();
    for block in &blocks {
        let direction = match block.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        sums.entry((&block.service.namespace, &block.service.name, direction)).or_default().add(block);
    }
    let labels = |(namespace, service, direction): &(&str, &str, &str)| {
        [
            ("namespace", (*namespace).to_owned()),
            ("service", (*service).to_owned()),
            ("direction", (*direction).to_owned()),
        ]
    };
    out.family("requests", "Finished calls by class of status", MetricType::Counter, |family| {
        for (key, sum) in &sums {
            for (class, count) in CLASSES.iter().zip(sum.by_class).filter(|(_, count)| *count > 0) {
                let mut all = labels(key).to_vec();
                all.push(("class", (*class).to_owned()));
                counter(family, &all, count)?;
            }
        }
        Ok(())
    })?;
    out.family("requests_open", "Calls open now", MetricType::Gauge, |family| {
        for (key, sum) in &sums {
            family.encode_family(&labels(key))?.encode_gauge(&sum.open)?;
        }
        Ok(())
    })?;
    out.family("request_duration_seconds", "From head to end", MetricType::Histogram, |family| {
        for (key, sum) in &sums {
            let total = seconds(sum.duration_sum_ns);
            let count = sum.durations.iter().sum();
            family.encode_family(&labels(key))?.encode_histogram::<NoLabels>(
                total,
                count,
                &sum.buckets(),
                None,
            )?;
        }
        Ok(())
    })
}
