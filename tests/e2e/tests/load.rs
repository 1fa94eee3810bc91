//! No failed request while pods come and go and while proxies are replaced: counts, printed, and none may be there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::ResourceExt;
use serde_json::json;
use tokio::sync::watch;
use vicino_cluster::load::{Load, Report};
use vicino_crds::names::PORT_L2;
use vicino_e2e::caller::Caller;
use vicino_e2e::fixture::{MESH, NODES};
use vicino_e2e::workload::{ANSWER_MAX, App, EFFECT_SECONDS_MAX, Space, is_ready};
use vicino_e2e::{Fixture, figures, mesh, scenario};

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
    let (target, via) = (url.to_owned(), Some(caller.proxy));
    let load = Load { target, via, rate, duration: PIECE, timeout: ANSWER_MAX, ..Load::default() };
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

/// Waits until none of these proxies is left and as many others are ready.
async fn proxies_replaced(fixture: &Fixture, before: &[String]) -> Result<()> {
    let status = ["rollout", "status", "daemonset/vicino-default", "-n", "vicino-proxy", ROLLOUT_SECONDS_MAX];
    fixture
        .until("all proxies replaced", Duration::from_mins(6), async || {
            fixture.kubectl.run(status).await?;
            let pods = mesh::proxies(fixture).await?;
            let old = pods.iter().filter_map(ResourceExt::uid).any(|uid| before.contains(&uid));
            Ok(!old && pods.len() == usize::from(NODES) && pods.iter().all(is_ready))
        })
        .await
}

/// The kubelet takes over a minute to show a changed ConfigMap to a pod, which is waited for twice, and proxies renew within a thousandth of a day.
const ROTATION_MAX: Duration = Duration::from_mins(8);

#[test]
fn no_request_fails_while_the_root_of_all_certificates_is_replaced() {
    const SECRET: [&str; 3] = ["secret/vicino-authority", "-n", "vicino-system"];
    scenario("load-root", async |fixture| {
        let space = Space::new(fixture, "root", &[App::new("quotes", 6)]).await?;
        // A caller who loses its identity meanwhile is refused, and that is a failure.
        let own = format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: own}}
spec: {{rules: [{{action: Deny, from: [{{notServiceAccounts: [{{name: default, namespace: {}}}]}}]}}]}}
",
            space.name
        );
        space.apply(&own).await?;
        space.kubectl(&["wait", "--for=condition=Programmed", "meshpolicy/own", EFFECT_SECONDS_MAX]).await?;
        let secret = async || -> Result<serde_json::Value> {
            let [name, flag, namespace] = SECRET;
            let text = fixture.kubectl.run(["get", name, flag, namespace, "-o", "json"]).await?;
            Ok(serde_json::from_str(&text)?)
        };
        let before = secret().await?;
        // A value that it had never.
        let ask = format!(
            "vicino.dev/rotate-root={}",
            before["metadata"]["resourceVersion"].as_str().unwrap_or("1")
        );
        let totals = under_load(&space, "http://quotes/slow?ms=5", async || {
            let [name, flag, namespace] = SECRET;
            fixture.kubectl.run(["annotate", "--overwrite", name, flag, namespace, &ask]).await?;
            let what = "the new root issues, every certificate is by it, and the old one is gone";
            let is_over = async || {
                let data = &secret().await?["data"];
                Ok(data["tls.crt"] != before["data"]["tls.crt"]
                    && data["active.crt"] == data["tls.crt"]
                    && data["retired-ca.crt"].is_null())
            };
            fixture.until(what, ROTATION_MAX, is_over).await
        });
        let totals = totals.await?;
        figures::print(format!("root of all certificates replaced under {RATE}/s: {totals}"));
        ensure!(totals.failed() == 0, "{totals}");
        // Kubelets bring the proxies the last word on roots within about a minute.
        fixture
            .until("every node to know one root", Duration::from_mins(3), async || {
                for node in fixture.nodes() {
                    let status = mesh::node(fixture, &node).await?.status.context("no status")?;
                    if status.certificates.is_none_or(|certificates| certificates.roots.len() != 1) {
                        return Ok(false);
                    }
                }
                Ok(true)
            })
            .await?;
        space.leave().await
    });
}

#[test]
fn no_request_fails_while_proxies_are_replaced() {
    scenario("load-rollout", async |fixture| {
        let space = Space::new(fixture, "rollout", &[App::new("quotes", 6)]).await?;
        let totals = under_load(&space, "http://quotes/slow?ms=5", async || {
            let before = set_log_level("Warn", fixture).await?;
            proxies_replaced(fixture, &before).await
        });
        let totals = totals.await;
        let before = set_log_level("Info", fixture).await?;
        let totals = totals?;
        figures::print(format!("proxies of {NODES} nodes replaced under {RATE}/s: {totals}"));
        ensure!(totals.failed() == 0, "{totals}");
        // The next scenario is not to have them replaced under its hands.
        proxies_replaced(fixture, &before).await?;
        space.leave().await
    });
}

/// The proxies that were there before.
async fn set_log_level(level: &str, fixture: &Fixture) -> Result<Vec<String>> {
    let before = mesh::proxies(fixture).await?.iter().filter_map(ResourceExt::uid).collect();
    let patch = json!({ "spec": { "proxy": { "logLevel": level } } }).to_string();
    let patch = ["patch", "servicemesh", MESH, "--type=merge", "--patch", &patch];
    fixture.kubectl.run(patch).await.context("change the mesh")?;
    Ok(before)
}

async fn set_identity_mode(mode: &str, fixture: &Fixture) -> Result<Vec<String>> {
    let before = mesh::proxies(fixture).await?.iter().filter_map(ResourceExt::uid).collect();
    let patch = json!({ "spec": { "identity": { "mode": mode } } }).to_string();
    fixture.kubectl.run(["patch", "servicemesh", MESH, "--type=merge", "--patch", &patch]).await?;
    Ok(before)
}

/// Hops that a node's proxy has accepted, by who dialled.
async fn hops_accepted(fixture: &Fixture, node: &str, peer: &str) -> Result<f64> {
    mesh::metric(fixture, node, &format!("vicino_proxy_hops_accepted_total{{peer=\"{peer}\"}}")).await
}

/// What L2 answers who speaks the hop's protocol without a certificate.
async fn plainly(caller: &Caller, hop: SocketAddr) -> Result<String> {
    caller.at(hop).raw(&mesh::hello()?, |said| said.contains("VICINO")).await
}

#[test]
fn no_request_fails_while_a_mesh_becomes_strict_and_then_nobody_is_heard_without_a_certificate() {
    scenario("load-strict", async |fixture| {
        let space = Space::new(fixture, "strict", &[App::new("quotes", 6)]).await?;
        let nodes = fixture.nodes();
        let [here, there] = [&nodes[0], &nodes[1]];
        let caller = space.caller(here);
        let hop = SocketAddr::new(space.caller(there).proxy.ip(), PORT_L2);
        let said = plainly(caller, hop).await?;
        ensure!(said.contains("VICINO"), "a mesh that is not strict takes hops without TLS: {said:?}");
        let totals = under_load(&space, "http://quotes/slow?ms=5", async || {
            let before = set_identity_mode("Strict", fixture).await?;
            proxies_replaced(fixture, &before).await
        });
        let totals = totals.await?;
        figures::print(format!("a mesh became strict under {RATE}/s: {totals}"));
        ensure!(totals.failed() == 0, "{totals}");
        let said = plainly(caller, hop).await?;
        ensure!(said.is_empty(), "L2 answered {said:?}");
        for node in &nodes {
            ensure!(hops_accepted(fixture, node, "workload").await? > 0.0, "{node}: no hop of a workload");
            let plain = hops_accepted(fixture, node, "anyone").await?;
            ensure!(plain == 0.0, "{node} has taken {plain} hops without TLS");
        }
        let before = set_identity_mode("Permissive", fixture).await?;
        proxies_replaced(fixture, &before).await?;
        mesh::proxies_ready(fixture, usize::from(NODES), Duration::from_mins(5)).await?;
        space.leave().await
    });
}
