//! The closed loop over HTTP/2 with prior knowledge: h2load's command line, and its report as figures.

use super::{Load, LoadError};
use crate::options::Target;

/// Streams on each connection; there are so many fewer connections.
pub const STREAMS: u32 = 10;

/// Arguments of h2load: as many requests at a time as wrk has.
pub fn arguments(target: &Target, connections: u32, seconds: u64) -> Vec<String> {
    vec![
        format!("--duration={seconds}"),
        format!("--clients={}", connections.div_ceil(STREAMS)),
        format!("--max-concurrent-streams={STREAMS}"),
        format!("--header=:authority: {}", target.host),
        format!("http://{}/", target.address),
    ]
}

/// Reads the report that h2load prints.
pub fn parse(report: &str) -> Result<Load, LoadError> {
    let number = |text: &str| text.trim_end_matches(',').parse::<u64>().ok();
    let (mut per_second, mut answered, mut errors) = (None, None, None);
    for line in report.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["finished", "in", _, rate, "req/s,", ..] => per_second = rate.parse().ok(),
            ["requests:", .., failed, "failed,", errored, "errored,", timeout, "timeout"] => {
                errors = [failed, errored, timeout].into_iter().map(|n| number(n)).sum::<Option<u64>>();
            }
            ["status", "codes:", good, "2xx,", others @ ..] => {
                answered = number(good);
                let others = others.iter().filter_map(|n| number(n)).sum::<u64>();
                errors = errors.map(|errors| errors + others);
            }
            _ => {}
        }
    }
    Ok(Load {
        requests: answered.ok_or(LoadError::Report("status codes"))?,
        errors: errors.ok_or(LoadError::Report("failed requests"))?,
        unsent: 0,
        per_second: per_second.ok_or(LoadError::Report("req/s"))?,
        p50_us: 0.0,
        p99_us: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
starting benchmark...
Application protocol: h2c

finished in 5.00s, 63480.74 req/s, 72.22MB/s
requests: 317410 total, 317450 started, 317410 done, 317403 succeeded, 7 failed, 1 errored, 0 timeout
status codes: 317403 2xx, 0 3xx, 2 4xx, 5 5xx
traffic: 361.10MB (378644124) total, 1.20MB (1258291) headers (space savings 95.00%), 343.75MB (360448000) data
                     min         max         mean         sd        +/- sd
time for request:      101us     10.10ms       702us       266us    76.31%
";

    #[test]
    fn figures_come_out_of_the_report() {
        let load = parse(REPORT).unwrap();
        assert_eq!((load.requests, load.errors, load.per_second), (317_403, 15, 63_480.74));
        assert!(matches!(parse("finished in 5s"), Err(LoadError::Report("status codes"))));
    }
}
