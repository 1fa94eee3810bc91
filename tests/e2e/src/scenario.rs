//! Runs one test body on the shared cluster: one at a time, bounded, with a picture of the cluster when it fails.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt;
use tokio::time::Instant;

use crate::diagnose;
use crate::fixture::Fixture;

/// Scenarios of one binary take turns; binaries run one after the other anyway.
static TURN: Mutex<()> = Mutex::new(());

/// No scenario takes longer, the cluster's boot included.
const SCENARIO_SECONDS_MAX: Duration = Duration::from_mins(15);

/// Runs `body` with the operator installed and the ServiceMesh `default` Ready; panics when it fails.
pub fn scenario<F>(name: &str, body: F)
where
    F: AsyncFnOnce(&Fixture) -> Result<()>,
{
    run(name, async |fixture| {
        fixture.ensure_mesh().await?;
        body(fixture).await
    });
}

/// Runs `body` on the cluster as it is: it says itself what has to be installed.
pub fn bare_scenario<F>(name: &str, body: F)
where
    F: AsyncFnOnce(&Fixture) -> Result<()>,
{
    run(name, body);
}

fn run<F>(name: &str, body: F)
where
    F: AsyncFnOnce(&Fixture) -> Result<()>,
{
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs a few file descriptors only");
    runtime.block_on(async {
        let fixture = Fixture::get().await.unwrap_or_else(|error| panic!("{name}: no cluster: {error:#}"));
        let started = Instant::now();
        let run = AssertUnwindSafe(tokio::time::timeout(SCENARIO_SECONDS_MAX, body(&fixture))).catch_unwind();
        let failure = match run.await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(format!("{error:#}")),
            Ok(Err(_)) => Some(format!("no end within {SCENARIO_SECONDS_MAX:?}")),
            Err(panic) => Some(panic_text(panic.as_ref())),
        };
        let took = started.elapsed().as_secs_f32();
        let word = if failure.is_some() { "FAILED" } else { "done" };
        let _ = writeln!(std::io::stderr(), "scenario {name}: {word} after {took:.1} s");
        if let Some(failure) = failure {
            let _ = writeln!(std::io::stderr(), "scenario {name}: {failure}");
            diagnose::dump(&fixture, name).await;
            panic!("{name}: {failure}");
        }
    });
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    text.unwrap_or("it panicked").to_owned()
}
