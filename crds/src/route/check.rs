//! What the schema says of numbers, and its rules in CEL, once more: for files that no API server has seen yet, and for objects that an older schema let in. Rules are checked where they are.

use std::ops::RangeInclusive;

use super::{
    AdaptiveConcurrency, Affinity, AffinityType, Backend, CircuitBreaker, Concurrency, Hedge, Queue,
    RateLimit, RateLimitKeyType, Retry, SetCookie, Timeouts,
};
use crate::MeshRouteSpec;
use crate::rule::{Flaw, RouteRule};

/// Statuses in one list.
const CODES_MAX: usize = 16;
const DAY_MILLISECONDS: i32 = 86_400_000;

/// A field, what it says, and what it may say.
type Number<'a> = (&'a str, Option<i32>, RangeInclusive<i32>);

/// The first flaw of a spec, from `spec`; of its rules [`check_all`](crate::rule::check_all) tells.
pub fn check(spec: &MeshRouteSpec) -> Result<(), Flaw> {
    // Ports, and what backends and overrides name, are judged by the Services that there are.
    let MeshRouteSpec {
        backends,
        ports: _,
        overrides: _,
        rules: _,
        timeouts,
        affinity,
        load_balancer: _,
        concurrency,
        rate_limit,
        circuit_breaker,
        retry,
        hedge,
        requeues,
        identity: _,
    } = spec;
    check_backends("", backends)?;
    check_calls("", timeouts.as_ref(), rate_limit.as_ref(), (retry.as_ref(), hedge.as_ref()))?;
    check_numbers("", &[("requeues", *requeues, 0..=5)])?;
    if let Some(affinity) = affinity {
        let Affinity { kind: _, name: _, set_cookie, max_load_percent } = affinity;
        check_affinity(affinity)?;
        let max_age = set_cookie.as_ref().and_then(|SetCookie { max_age_seconds }| *max_age_seconds);
        check_numbers(
            "affinity.",
            &[
                ("setCookie.maxAgeSeconds", max_age, 1..=31_536_000),
                ("maxLoadPercent", *max_load_percent, 101..=1000),
            ],
        )?;
    }
    concurrency.as_ref().map_or(Ok(()), check_concurrency)?;
    circuit_breaker.as_ref().map_or(Ok(()), check_breaker)
}

/// As [`check`], of what a rule may say as well as a route; `at` is the rule.
pub(crate) fn check_rule(at: &str, rule: &RouteRule) -> Result<(), Flaw> {
    let at = format!("{at}.");
    check_backends(&at, &rule.backends)?;
    let again = (rule.retry.as_ref(), rule.hedge.as_ref());
    check_calls(&at, rule.timeouts.as_ref(), rule.rate_limit.as_ref(), again)
}

/// What names say of the key; a proxy asks it of a document, too.
pub(crate) fn check_affinity(affinity: &Affinity) -> Result<(), Flaw> {
    if (affinity.kind == AffinityType::Source) != affinity.name.is_none() {
        let problem = "must say which header, cookie or query parameter, and be absent with the type Source";
        return Err(flaw("", "affinity.name", problem));
    }
    if !affinity.may_set_cookie() {
        let problem = "goes with the type Cookie, and with a name of letters, digits, '_', '.' and '-'";
        return Err(flaw("", "affinity.setCookie", problem));
    }
    Ok(())
}

fn flaw(at: &str, field: &str, problem: impl Into<String>) -> Flaw {
    Flaw { field: format!("{at}{field}"), problem: problem.into() }
}

fn check_numbers(at: &str, numbers: &[Number<'_>]) -> Result<(), Flaw> {
    let wrong = numbers.iter().find(|(_, said, may)| said.is_some_and(|said| !may.contains(&said)));
    let Some((field, _, may)) = wrong else { return Ok(()) };
    Err(flaw(at, field, format!("must be {} to {}", may.start(), may.end())))
}

fn check_codes(at: &str, codes: &[i32]) -> Result<(), Flaw> {
    if (1..=CODES_MAX).contains(&codes.len()) && codes.iter().all(|code| (400..=599).contains(code)) {
        return Ok(());
    }
    Err(flaw(at, "codes", format!("must be 1 to {CODES_MAX} statuses of 400 to 599")))
}

fn check_backends(at: &str, backends: &[Backend]) -> Result<(), Flaw> {
    for (i, backend) in backends.iter().enumerate() {
        check_numbers(&format!("{at}backends[{i}]."), &[("weight", Some(backend.weight), 0..=1_000_000)])?;
    }
    if !backends.is_empty() && backends.iter().all(|backend| backend.weight == 0) {
        let problem = "must have one with a weight above 0, or no call could go anywhere";
        return Err(flaw(at, "backends", problem));
    }
    Ok(())
}

fn check_calls(
    at: &str,
    timeouts: Option<&Timeouts>,
    rate_limit: Option<&RateLimit>,
    (retry, hedge): (Option<&Retry>, Option<&Hedge>),
) -> Result<(), Flaw> {
    if let Some(Timeouts { connect_milliseconds, request_milliseconds, idle_milliseconds }) = timeouts {
        check_numbers(
            &format!("{at}timeouts."),
            &[
                ("connectMilliseconds", *connect_milliseconds, 1..=60_000),
                ("requestMilliseconds", *request_milliseconds, 0..=DAY_MILLISECONDS),
                ("idleMilliseconds", *idle_milliseconds, 0..=DAY_MILLISECONDS),
            ],
        )?;
    }
    rate_limit.map_or(Ok(()), |limit| check_rate_limit(&format!("{at}rateLimit."), limit))?;
    retry.map_or(Ok(()), |retry| check_retry(&format!("{at}retry."), retry))?;
    hedge.map_or(Ok(()), |hedge| check_hedge(&format!("{at}hedge."), hedge))
}

fn check_rate_limit(at: &str, limit: &RateLimit) -> Result<(), Flaw> {
    let RateLimit { requests_per_second, burst, key } = limit;
    check_numbers(
        at,
        &[("requestsPerSecond", Some(*requests_per_second), 1..=1_000_000), ("burst", *burst, 1..=1_000_000)],
    )?;
    if key.as_ref().is_some_and(|key| (key.kind == RateLimitKeyType::Header) != key.name.is_some()) {
        return Err(flaw(
            at,
            "key.name",
            "must say which header, and be absent with another type than Header",
        ));
    }
    Ok(())
}

fn check_retry(at: &str, retry: &Retry) -> Result<(), Flaw> {
    let Retry {
        attempts,
        codes,
        non_idempotent: _,
        attempt_milliseconds,
        backoff_milliseconds,
        budget_percent,
        min_per_second,
    } = retry;
    check_numbers(
        at,
        &[
            ("attempts", Some(*attempts), 1..=5),
            ("attemptMilliseconds", *attempt_milliseconds, 1..=DAY_MILLISECONDS),
            ("backoffMilliseconds", Some(*backoff_milliseconds), 0..=10_000),
            ("budgetPercent", Some(*budget_percent), 0..=100),
            ("minPerSecond", Some(*min_per_second), 0..=1000),
        ],
    )?;
    check_codes(at, codes)?;
    check_budget(at, (*budget_percent, *min_per_second), ("repeated", "retry"))
}

fn check_hedge(at: &str, hedge: &Hedge) -> Result<(), Flaw> {
    let Hedge { delay_milliseconds, budget_percent, min_per_second } = hedge;
    check_numbers(
        at,
        &[
            ("delayMilliseconds", Some(*delay_milliseconds), 1..=60_000),
            ("budgetPercent", Some(*budget_percent), 0..=100),
            ("minPerSecond", Some(*min_per_second), 0..=10_000),
        ],
    )?;
    check_budget(at, (*budget_percent, *min_per_second), ("hedged", "hedge"))
}

fn check_budget(at: &str, budget: (i32, i32), (done, name): (&str, &str)) -> Result<(), Flaw> {
    if budget != (0, 0) {
        return Ok(());
    }
    let problem =
        format!("or minPerSecond must be above 0, or {name} be left out: without a budget nothing is {done}");
    Err(flaw(at, "budgetPercent", problem))
}

fn check_concurrency(concurrency: &Concurrency) -> Result<(), Flaw> {
    let Concurrency { per_pod, adaptive, queue } = concurrency;
    let Queue { length, timeout_milliseconds, standing_timeout_milliseconds } = queue;
    let both = |of: &AdaptiveConcurrency| {
        let AdaptiveConcurrency { target_milliseconds, min_per_pod } = of;
        (*target_milliseconds, *min_per_pod)
    };
    let (target, least) = adaptive.as_ref().map(both).unzip();
    check_numbers(
        "concurrency.",
        &[
            ("perPod", Some(*per_pod), 1..=100_000),
            ("adaptive.targetMilliseconds", target, 1..=600_000),
            ("adaptive.minPerPod", least, 1..=100_000),
            ("queue.length", Some(*length), 0..=100_000),
            ("queue.timeoutMilliseconds", Some(*timeout_milliseconds), 1..=60_000),
            ("queue.standingTimeoutMilliseconds", *standing_timeout_milliseconds, 1..=60_000),
        ],
    )?;
    if least.is_some_and(|least| least > *per_pod) {
        let problem = format!("must not be above perPod, which is {per_pod}");
        return Err(flaw("concurrency.", "adaptive.minPerPod", problem));
    }
    Ok(())
}

fn check_breaker(breaker: &CircuitBreaker) -> Result<(), Flaw> {
    let CircuitBreaker {
        codes,
        consecutive_failures,
        failure_percent,
        minimum_calls,
        ejection_milliseconds: first,
        max_ejection_milliseconds: longest,
        max_ejected_percent,
    } = breaker;
    let at = "circuitBreaker.";
    check_codes(at, codes)?;
    check_numbers(
        at,
        &[
            ("consecutiveFailures", Some(*consecutive_failures), 1..=1000),
            ("failurePercent", *failure_percent, 1..=100),
            ("minimumCalls", Some(*minimum_calls), 1..=100_000),
            ("ejectionMilliseconds", Some(*first), 100..=3_600_000),
            ("maxEjectionMilliseconds", Some(*longest), 100..=3_600_000),
            ("maxEjectedPercent", Some(*max_ejected_percent), 1..=100),
        ],
    )?;
    if longest < first {
        let problem = format!("is {longest}, and must not be below ejectionMilliseconds, which is {first}");
        return Err(flaw(at, "maxEjectionMilliseconds", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
