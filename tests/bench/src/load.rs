//! Load generators: wrk for the closed loop, h2load for the one of HTTP/2, our own for the fixed rate, for idle connections and for hops; no process is started here.

pub mod closed;
pub mod exchange;
pub mod fixed_rate;
pub mod hops;
pub mod http2;
pub mod idle;

use serde::{Deserialize, Serialize};

/// What a load generator saw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests without an answer or with another status than 200.
    pub errors: u64,
    /// Requests of a fixed rate that were due but never sent, since all connections were busy until the end: the rate was
    /// not kept, by the proxy or by the machine.
    pub unsent: u64,
    /// Answers a second.
    pub per_second: f64,
    /// Median latency in microseconds; 0 from h2load, which does not tell it.
    pub p50_us: f64,
    /// 99th percentile of the latency in microseconds; 0 from h2load.
    pub p99_us: f64,
}

/// Why a load generator has no figures.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A system call of the generator itself failed.
    #[error("cannot {0}")]
    Io(&'static str, #[source] std::io::Error),
    /// The target did not answer 200 in time.
    #[error("no answer with status 200 from {target} within {seconds} s; last: {last}")]
    NotReady {
        /// Whom it called.
        target: std::net::SocketAddr,
        /// How long it tried.
        seconds: u64,
        /// What the last try gave.
        last: String,
    },
    /// What wrk or h2load printed lacks a figure.
    #[error("the generator's report has no {0}")]
    Report(&'static str),
}
