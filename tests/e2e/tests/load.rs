//! No failed request while pods come and go and while proxies are replaced: counts, printed, and none may be there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::ResourceExt;
use serde_json::json;
use tokio::sync::watch;
use vicino_cluster::load::{Load, Report};
use vicino_e2e::caller::Caller;
use vicino_e2e::fixture::{MESH, NODES};
use vicino_e2e::workload::{App, Space, is_ready};
use vicino_e2e::{figures, mesh, scenario};

/// Requests per second, of all callers together.
const RATE: u32 = 200;
/// One piece of the load; pieces follow each other until the disturbance is over, and for at least a minute.
const PIECE: Duration = Duration::from_secs(10);
const PIECES_MIN: usize = 6;
/// How long the proxies of three nodes may take to be replaced.
const ROLLOUT_SECONDS_MAX: &str = "--timeout=400s";

/// A load from every node at once, as long as `disturb` runs and for at least a minute.
async fn under_load<F>(space: &Space<'_>, url: &str, disturb: F) -> Result<Totals>
where
    F: AsyncFnOnce() -> Result<()>,
{
    let (over, running) = watch::channel(false);
    let load = async {
        let all = space.callers.iter().map(|caller| load_from(caller, url, running.clone()));
        try_join_all(all).await
    };
    let disturb = async {
        let result = disturb().await;
        over.send_replace(true);
        result
    };
    let (reports, disturbed) = tokio::join!(load, disturb);
    let totals = Totals(reports?.concat());
    disturbed.with_context(|| totals.to_string())?;
    Ok(totals)
}

async fn load_from(caller: &Caller, url: &str, over: watch::Receiver<bool>) -> Result<Vec<Report>> {
    let rate = RATE / u32::from(NODES);
    let load =
        Load { target: url.to_owned(), via: Some(caller.proxy), rate, duration: PIECE, ..Load::default() };
    let mut reports = Vec::new();
    while reports.len() < PIECES_MIN || !*over.borrow() {
        reports.push(caller.load(load.clone()).await?);
    }
    Ok(reports)
}

struct Totals(Vec<Report>);

impl Totals {
    fn sent(&self) -> u64 {
        self.0.iter().map(|report| report.sent).sum()
    }

    fn failed(&self) -> u64 {
        self.0.iter().map(Report::failed_total).sum()
    }

    fn slowest_ms(&self) -> u64 {
        self.0.iter().map(|report| report.max_us / 1000).max().unwrap_or(0)
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} requests failed, the slowest took {} ms",
            self.failed(),
            self.sent(),
            self.slowest_ms()
        )?;
        self.0
            .iter()
            .filter(|report| report.failed_total() > 0)
            .try_for_each(|report| write!(f, "\n{report}"))
    }
}

#[test]
fn no_request_fails_while_pods_come_and_go() {
    scenario("load-churn", async |fixture| {
        let space = Space::new(fixture, "churn", &[App::new("quotes", 6)]).await?;
        let url = "http://quotes/slow?ms=5";
        let totals = under_load(&space, url, async || {
            for pod in fixture.pods(&space.name, "app=quotes").await? {
                space.kubectl(&["delete", "pod", &pod.name_any(), "--wait=false"]).await?;
                ready_again(&space, 6).await?;
            }
            for replicas in [2, 8, 2, 8] {
                let count = format!("--replicas={replicas}");
                space.kubectl(&["scale", "deployment/quotes", &count]).await?;
                ready_again(&space, replicas).await?;
            }
            Ok(())
        });
        let totals = totals.await?;
        figures::print(format!("pods deleted one by one and scaled 2<->8 under {RATE}/s: {totals}"));
        // Pods leave as applications should, so none dies holding a request.
        ensure!(totals.failed() == 0, "{totals}");
        space.leave().await
    });
}

/// Waits until `count` pods are ready, those on their way out aside.
async fn ready_again(space: &Space<'_>, count: usize) -> Result<()> {
    let what = format!("{count} ready pods");
    space
        .fixture
        .until(&what, vicino_e2e::workload::PODS_READY_MAX, async || {
            let pods = space.fixture.pods(&space.name, "app=quotes").await?;
            let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            Ok(staying.clone().count() == count && staying.clone().all(is_ready))
        })
        .await
}

#[test]
fn no_request_fails_while_proxies_are_replaced() {
    scenario("load-rollout", async |fixture| {
        let space = Space::new(fixture, "rollout", &[App::new("quotes", 6)]).await?;
        let before: Vec<_> = mesh::proxies(fixture).await?.iter().filter_map(ResourceExt::uid).collect();
        let totals = under_load(&space, "http://quotes/slow?ms=5", async || {
            set_log_level("Warn", fixture).await?;
            let status =
                ["rollout", "status", "daemonset/vicino-default", "-n", "vicino-proxy", ROLLOUT_SECONDS_MAX];
            fixture
                .until("all proxies replaced", Duration::from_mins(6), async || {
                    fixture.kubectl.run(status).await?;
                    let pods = mesh::proxies(fixture).await?;
                    let old = pods.iter().filter_map(ResourceExt::uid).any(|uid| before.contains(&uid));
                    Ok(!old && pods.len() == usize::from(NODES) && pods.iter().all(is_ready))
                })
                .await
        });
        let totals = totals.await;
        set_log_level("Info", fixture).await?;
        let totals = totals?;
        figures::print(format!("proxies of {NODES} nodes replaced under {RATE}/s: {totals}"));
        ensure!(totals.failed() == 0, "{totals}");
        mesh::proxies_ready(fixture, usize::from(NODES), Duration::from_mins(5)).await?;
        space.leave().await
    });
}

async fn set_log_level(level: &str, fixture: &vicino_e2e::Fixture) -> Result<()> {
    let patch = json!({ "spec": { "proxy": { "logLevel": level } } }).to_string();
    let patch = ["patch", "servicemesh", MESH, "--type=merge", "--patch", &patch];
    fixture.kubectl.run(patch).await.context("change the mesh").map(drop)
}
