//! The closed loop: wrk's command line, and its report as figures.

use super::{Load, LoadError};
use crate::options::Target;

/// Arguments of wrk: one thread, which is far from busy when proxies are the bottleneck.
pub fn arguments(target: &Target, connections: u32, seconds: u64) -> Vec<String> {
    vec![
        "-t1".to_owned(),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        "--latency".to_owned(),
        "-H".to_owned(),
        format!("Host: {}", target.host),
        format!("http://{}/", target.address),
    ]
}

/// Reads the report that `wrk --latency` prints.
pub fn parse(report: &str) -> Result<Load, LoadError> {
    let mut requests = None;
    let mut per_second = None;
    let mut percentiles = [None, None];
    let mut errors = 0;
    for line in report.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [count, "requests", "in", ..] => requests = count.parse().ok(),
            ["Requests/sec:", rate] => per_second = rate.parse().ok(),
            ["50%", time] => percentiles[0] = microseconds(time),
            ["99%", time] => percentiles[1] = microseconds(time),
            ["Socket", "errors:", counts @ ..] => {
                errors +=
                    counts.iter().filter_map(|c| c.trim_end_matches(',').parse::<u64>().ok()).sum::<u64>();
            }
            ["Non-2xx", .., count] => errors += count.parse::<u64>().unwrap_or(0),
            _ => {}
        }
    }
    Ok(Load {
        requests: requests.ok_or(LoadError::Report("count of requests"))?,
        errors,
        unsent: 0,
        per_second: per_second.ok_or(LoadError::Report("Requests/sec"))?,
        p50_us: percentiles[0].ok_or(LoadError::Report("50%"))?,
        p99_us: percentiles[1].ok_or(LoadError::Report("99%"))?,
    })
}

/// A time as wrk prints it: `182.00us`, `1.43ms`, `1.02s` or `1.50m`.
fn microseconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
Running 5s test @ http://10.99.0.1:4140/
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.52ms  331.07us   8.91ms   88.37%
    Req/Sec    33.06k     1.66k   36.01k    74.00%
  Latency Distribution
     50%    1.43ms
     75%    1.61ms
     90%  990.50us
     99%    1.02s
  164481 requests in 5.00s, 180.07MB read
  Socket errors: connect 1, read 20, write 0, timeout 3
  Non-2xx or 3xx responses: 7
Requests/sec:  32894.77
Transfer/sec:     36.01MB
";

    #[test]
    fn figures_come_out_of_the_report_in_one_unit() {
        let load = parse(REPORT).unwrap();
        let expected = Load {
            requests: 164_481,
            errors: 31,
            unsent: 0,
            per_second: 32_894.77,
            p50_us: 1430.0,
            p99_us: 1_020_000.0,
        };
        assert_eq!(load, expected);
    }

    #[test]
    fn a_report_that_was_cut_off_is_no_figure() {
        let cut = REPORT.find("Requests/sec").unwrap();
        assert!(matches!(parse(&REPORT[..cut]), Err(LoadError::Report("Requests/sec"))));
        assert!(matches!(parse("unable to connect"), Err(LoadError::Report(_))));
        assert_eq!(microseconds("5.0h"), None);
    }
}
