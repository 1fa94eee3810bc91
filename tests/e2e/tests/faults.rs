//! What breaks: the operator, the API server, a proxy, a node, a generated config. Calls go on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use tokio::time::{Instant, sleep};
use vicino_cluster::Fault;
use vicino_cluster::load::{Load, Report};
use vicino_crds::condition::kind;
use vicino_crds::names::routes_config_map;
use vicino_e2e::caller::Caller;
use vicino_e2e::fixture::{MESH, NODES};
use vicino_e2e::workload::{ANSWER_MAX, App, EFFECT_MAX, Space, container, process, service};
use vicino_e2e::{Fixture, figures, mesh, scenario};

const OPERATOR: [&str; 4] = ["deployment/vicino-operator", "-n", "vicino-system", "--timeout=120s"];
/// How long the API server is away.
const AWAY: Duration = Duration::from_mins(1);
/// How long everything may take to follow the API server again. An API server that ends takes itself out of the Service
/// `kubernetes`, and kube-proxy, whose own pauses grow to half a minute, refuses connections to it for that long.
const API_BACK_MAX: Duration = Duration::from_mins(3);
/// How long Kubernetes may take to notice that a node came back.
const NODE_BACK_MAX: Duration = Duration::from_mins(3);

/// How long a proxy stands still: as long as its neighbours wait before they take it for lost.
const STALL: Duration = Duration::from_secs(3);

/// A load of `seconds` from one caller.
async fn load(caller: &Caller, url: &str, seconds: u64) -> Result<Report> {
    let (target, via, duration) = (url.to_owned(), Some(caller.proxy), Duration::from_secs(seconds));
    caller.load(Load { target, via, rate: 50, duration, timeout: ANSWER_MAX, ..Load::default() }).await
}

/// Prints what came of a load.
fn print(what: &str, report: &Report) {
    let Report { sent, p99_us, max_us, .. } = report;
    let (failed, p99, slowest) = (report.failed_total(), p99_us / 1000, max_us / 1000);
    figures::print(format!("{what}: {failed} of {sent} failed, p99 {p99} ms, the slowest {slowest} ms"));
}

async fn operator_replicas(fixture: &Fixture, count: usize) -> Result<()> {
    let [name, flag, namespace, _] = OPERATOR;
    let replicas = format!("--replicas={count}");
    fixture.kubectl.run(["scale", name, flag, namespace, &replicas]).await?;
    fixture
        .until("the operator's pods", Duration::from_mins(2), async || {
            let pods = fixture.pods(namespace, "app.kubernetes.io/name=vicino-operator").await?;
            Ok(pods.len() == count && pods.iter().all(vicino_e2e::workload::is_ready))
        })
        .await
}

#[test]
fn calls_go_on_and_changes_arrive_however_often_the_operator_is_killed() {
    scenario("operator-killed", async |fixture| {
        let space = Space::new(fixture, "killed", &[App::new("quotes", 3)]).await?;
        let kill =
            ["delete", "pods", "-n", "vicino-system", "--selector=app.kubernetes.io/name=vicino-operator"];
        let kill = kill.into_iter().chain(["--grace-period=0", "--force", "--wait=false"]);
        let disturb = async {
            for round in 0..5_u32 {
                for name in ["a", "b", "c"] {
                    space.apply(&service(&format!("{name}{round}")).to_string()).await?;
                }
                fixture.kubectl.run(kill.clone()).await?;
                space.kubectl(&["delete", "service", &format!("a{round}"), "--wait=false"]).await?;
            }
            anyhow::Ok(())
        };
        let (report, disturbed) =
            tokio::join!(load(&space.callers[0], "http://quotes/status?code=200", 30), disturb);
        disturbed?;
        let report = report?;
        ensure!(report.failed_total() == 0, "calls while the operator is killed: {report}");
        for round in 0..5 {
            mesh::programmed(fixture, &space.name, &format!("b{round}")).await?;
            mesh::programmed(fixture, &space.name, &format!("c{round}")).await?;
        }
        fixture
            .until("routes of deleted Services to be gone", EFFECT_MAX, async || {
                let routes = space.kubectl(&["get", "meshroutes", "-o", "name"]).await?;
                Ok(!routes.lines().any(|route| route.starts_with("meshroute.vicino.dev/a")))
            })
            .await?;
        operator_replicas(fixture, 2).await?;
        space.leave().await
    });
}

#[test]
fn calls_go_on_while_the_api_server_is_away_also_through_a_proxy_that_restarts() {
    scenario("api-away", async |fixture| {
        let space = Space::new(fixture, "away", &[App::new("quotes", 3)]).await?;
        let node = space.callers[0].node.clone();
        let proxy = mesh::proxy_on(fixture, &node).await?;
        fixture.cluster.fault(Fault::StopApi).await?;
        let outage = while_away(&space, &proxy).await;
        fixture.cluster.fault(Fault::StartApi).await?;
        outage?;
        space.apply(&service("fresh").to_string()).await?;
        mesh::programmed_within(fixture, &space.name, "fresh", API_BACK_MAX).await?;
        mesh::proxies_ready(fixture, usize::from(NODES), Duration::from_mins(2)).await?;
        frozen(fixture, &space).await?;
        space.leave().await
    });
}

async fn while_away(space: &Space<'_>, proxy: &Pod) -> Result<()> {
    let away = Instant::now();
    let url = "http://quotes/status?code=200";
    let report = load(&space.callers[1], url, 15).await?;
    ensure!(report.failed_total() == 0, "without the API server: {report}");
    let restarted = Instant::now();
    kill_process(process(proxy)?, Signal::KILL).context("kill the proxy")?;
    // The kubelet starts it again, and it serves from its copy on disk.
    for caller in &space.callers {
        caller.reaches(url, Duration::from_mins(2)).await.context("after the proxy was killed")?;
    }
    let took = restarted.elapsed().as_secs_f32();
    figures::print(format!(
        "proxy killed without an API server -> its node's calls are answered: {took:.1} s"
    ));
    for caller in &space.callers {
        let report = load(caller, url, 5).await?;
        ensure!(report.failed_total() == 0, "after a proxy restarted without the API server: {report}");
    }
    // A minute is what is promised; it is an amount, not a synchronisation.
    while away.elapsed() < AWAY {
        let report = load(&space.callers[0], url, 5).await?;
        ensure!(report.failed_total() == 0, "after {:?} without the API server: {report}", away.elapsed());
    }
    Ok(())
}

/// An API server that answers nothing, with connections open, is another failure than one that is gone.
async fn frozen(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    fixture.cluster.fault(Fault::FreezeApi).await?;
    let report = load(&space.callers[2], "http://quotes/status?code=200", 10).await;
    fixture.cluster.fault(Fault::ThawApi).await?;
    let report = report?;
    ensure!(report.failed_total() == 0, "with a frozen API server: {report}");
    space.apply(&service("fresher").to_string()).await?;
    mesh::programmed(fixture, &space.name, "fresher").await
}

#[test]
fn calls_to_other_nodes_go_on_when_a_node_is_cut_off() {
    scenario("node-cut", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there, lost) = (&nodes[0], &nodes[1], &nodes[2]);
        let apps = [App::new("quotes", 3), App::new("authors", 2).on(there)];
        let space = Space::new(fixture, "cut", &apps).await?;
        let outage = while_lost(&space, here, Fault::CutNode { node: lost.clone() }).await;
        fixture.cluster.fault(Fault::JoinNode { node: lost.clone() }).await?;
        outage?;
        mesh::proxies_ready(fixture, usize::from(NODES), NODE_BACK_MAX).await?;
        space.pods_ready("quotes", 3).await?;
        space.caller(lost).reaches("http://authors/", NODE_BACK_MAX).await?;
        space.leave().await
    });
}

#[test]
fn calls_to_other_nodes_go_on_when_a_node_dies_and_it_serves_again_when_it_is_back() {
    scenario("node-killed", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there, lost) = (&nodes[0], &nodes[1], &nodes[2]);
        let apps = [App::new("quotes", 3), App::new("authors", 2).on(there), App::new("ratings", 1).on(lost)];
        let mut space = Space::new(fixture, "died", &apps).await?;
        let outage = while_lost(&space, here, Fault::KillNode { node: lost.clone() }).await;
        // Once it was noticed, what is said of its pods afterwards is of their new containers.
        let noticed = mesh::mesh_says(fixture, MESH, kind::READY, "False", lost).await;
        let started = Instant::now();
        fixture.cluster.fault(Fault::StartNode { node: lost.clone() }).await?;
        outage?;
        noticed.context("the mesh names the node whose proxy is gone")?;
        mesh::proxies_ready(fixture, usize::from(NODES), NODE_BACK_MAX).await?;
        let took = started.elapsed().as_secs_f32();
        figures::print(format!(
            "a node started again after its power failed -> its proxy ready: {took:.1} s"
        ));
        for app in &apps {
            space.pods_ready(&app.name, app.replicas as usize).await?;
        }
        space.find_callers().await?;
        for app in &apps {
            space.reachable(&app.name).await?;
            let url = format!("http://{}/status?code=200", app.name);
            let report = load(space.caller(lost), &url, 5).await?;
            ensure!(report.failed_total() == 0, "from the node that is back: {report}");
        }
        let report = load(space.caller(here), "http://ratings/status?code=200", 5).await?;
        ensure!(report.failed_total() == 0, "to the node that is back: {report}");
        space.leave().await
    });
}

/// A node is lost under load: calls to pods elsewhere do not fail, and of calls to pods everywhere only those that were on their way
/// to it may, until it is known to be gone.
async fn while_lost(space: &Space<'_>, here: &str, fault: Fault) -> Result<()> {
    let caller = space.caller(here);
    let what = fault.to_string();
    let (all, other, done) = tokio::join!(
        load(caller, "http://quotes/status?code=200", 20),
        load(caller, "http://authors/status?code=200", 20),
        space.fixture.cluster.fault(fault)
    );
    done?;
    let (all, other) = (all?, other?);
    print(&format!("{what} of three, 50/s for 20 s to pods on all of them"), &all);
    ensure!(other.failed_total() == 0, "calls to another node: {other}");
    ensure!(
        all.failed.keys().all(|kind| kind == "status 502 hop-lost"),
        "calls that were not on their way: {all}"
    );
    // Once it is known to be gone (by its hop, or by Kubernetes), nothing is sent there.
    space
        .fixture
        .until("calls without a failure", Duration::from_mins(2), async || {
            let report = load(caller, "http://quotes/status?code=200", 5).await?;
            Ok(report.failed_total() == 0)
        })
        .await
}

#[test]
fn a_proxy_that_is_stopped_for_a_while_delays_calls_and_fails_none() {
    scenario("proxy-stalled", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        let apps = [App::new("quotes", 3), App::new("authors", 2).on(there)];
        let space = Space::new(fixture, "stalled", &apps).await?;
        let proxy = mesh::proxy_on(fixture, there).await?;
        let (caller, process) = (space.caller(here), process(&proxy)?);
        let stall = async {
            kill_process(process, Signal::STOP).context("stop the proxy")?;
            // An amount, not a synchronisation.
            sleep(STALL).await;
            kill_process(process, Signal::CONT).context("continue the proxy")
        };
        let (all, stalled, done) = tokio::join!(
            load(caller, "http://quotes/status?code=200", 10),
            load(caller, "http://authors/status?code=200", 10),
            stall
        );
        done?;
        for (pods, report) in [("all nodes", all?), ("its node alone", stalled?)] {
            print(&format!("a proxy of three stopped for 3 s, 50/s for 10 s to pods on {pods}"), &report);
            // Each may be done twice, so it is late at worst, or was placed again.
            ensure!(report.failed_total() == 0, "calls to pods on {pods}: {report}");
        }
        for caller in &space.callers {
            for service in ["quotes", "authors"] {
                let report = load(caller, &format!("http://{service}/status?code=200"), 2).await?;
                ensure!(report.failed_total() == 0, "afterwards: {report}");
            }
        }
        mesh::proxies_ready(fixture, usize::from(NODES), Duration::from_mins(1)).await?;
        let same = mesh::proxy_on(fixture, there).await?;
        ensure!(container(&same)? == container(&proxy)?, "it was started anew");
        space.leave().await
    });
}

#[test]
fn a_spoiled_config_is_refused_and_named_and_everything_else_goes_on() {
    scenario("spoiled-config", async |fixture| {
        let apps = [App::new("quotes", 3), App::new("authors", 1), App::new("ratings", 1)];
        let space = Space::new(fixture, "spoiled", &apps).await?;
        operator_replicas(fixture, 0).await?;
        let spoiled = spoil(fixture, &space).await;
        operator_replicas(fixture, 2).await?;
        spoiled?;
        // The operator writes what is right again, and nothing is refused any more.
        for node in fixture.nodes() {
            nothing_refused(fixture, &node).await?;
        }
        space.leave().await
    });
}

async fn spoil(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    let name = routes_config_map(MESH, &space.name, 0);
    let api = Api::<ConfigMap>::namespaced(fixture.client.clone(), "vicino-proxy");
    let good = api.get(&name).await.with_context(|| format!("get {name}"))?.data.unwrap_or_default();
    let document = |key: &str| good.get(key).cloned().with_context(|| format!("{name} has no {key}"));
    let quotes = document("quotes.yaml")?;
    let half = quotes.split_at(quotes.len() / 2).0.to_owned();
    let newer = quotes.replacen("version: 1", "version: 99", 1);
    ensure!(newer != quotes, "the document has no version: {quotes}");
    // In the same write another Service changes for good: it has to take effect.
    let moved = document("authors.yaml")?.replace("service: authors", "service: ratings");
    let moved = moved.replacen("service: ratings", "service: authors", 1);
    for (what, text, part) in [
        ("corrupted", "{ this is : [ not a route".to_owned(), ""),
        ("half-written", half, "half-written"),
        ("from a newer version", newer, "version 99"),
    ] {
        let data = json!({ "data": { "quotes.yaml": text, "authors.yaml": moved } });
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&data)).await?;
        for node in fixture.nodes() {
            culprit_is_named(fixture, &node, (&name, "quotes.yaml"), part).await.context(what)?;
        }
        for caller in &space.callers {
            let report = load(caller, "http://quotes/status?code=200", 1).await?;
            ensure!(report.failed_total() == 0, "{what}: the last good one is not in force: {report}");
            caller
                .calls_until("http://authors/", EFFECT_MAX, |answer| {
                    let pod = answer.as_ref().ok().and_then(|a| a.headers().get("x-pod"));
                    pod.is_some_and(|pod| pod.as_bytes().starts_with(b"ratings"))
                })
                .await
                .with_context(|| format!("{what}: the other key of the same write"))?;
        }
        let restored = json!({ "data": good });
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&restored)).await?;
        for node in fixture.nodes() {
            nothing_refused(fixture, &node).await.context(what)?;
        }
    }
    Ok(())
}

/// In the MeshNode's status, and in the proxy's metrics.
async fn culprit_is_named(
    fixture: &Fixture,
    node: &str,
    (config, key): (&str, &str),
    part: &str,
) -> Result<()> {
    let (mut seen, what) = (String::new(), format!("{node} to refuse {key}"));
    let named = fixture.until(&what, EFFECT_MAX, async || {
        let status = mesh::node(fixture, node).await?.status.context("no status")?;
        seen = format!("{:?}", status.configs);
        let served = status.configs.iter().find(|served| served.name == config);
        let rejected = served.and_then(|served| served.rejected.iter().find(|rejected| rejected.key == key));
        Ok(status.rejected_count == 1 && rejected.is_some_and(|rejected| rejected.message.contains(part)))
    });
    let named = named.await;
    named.with_context(|| format!("with {part:?}: {seen}"))?;
    let metric = async || Ok(refused_metric(fixture, node).await? >= 1.0);
    fixture.until(&format!("the metric of {node} to say so"), EFFECT_MAX, metric).await
}

async fn nothing_refused(fixture: &Fixture, node: &str) -> Result<()> {
    fixture
        .until(&format!("{node} to refuse nothing"), EFFECT_MAX, async || {
            let status = mesh::node(fixture, node).await?.status.context("no status")?;
            Ok(status.rejected_count == 0)
        })
        .await
}

/// The sum of the proxy's gauge of refused configs.
async fn refused_metric(fixture: &Fixture, node: &str) -> Result<f64> {
    let text = mesh::metrics(fixture, node).await?;
    let lines = text.lines().filter(|line| line.starts_with("vicino_proxy_config_documents_refused"));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    ensure!(!values.is_empty(), "{node} has no metric vicino_proxy_config_documents_refused: {text}");
    Ok(values.iter().sum())
}

#[test]
fn a_restarted_kubelet_and_containerd_and_api_server_change_nothing() {
    scenario("restarts", async |fixture| {
        let space = Space::new(fixture, "restarts", &[App::new("quotes", 3)]).await?;
        let uids = |pods: Vec<Pod>| pods.iter().filter_map(ResourceExt::uid).collect::<Vec<_>>();
        let before = uids(mesh::proxies(fixture).await?);
        let node = space.callers[1].node.clone();
        for fault in [
            Fault::RestartKubelet { node: node.clone() },
            Fault::RestartContainerd { node: node.clone() },
            Fault::RestartApi,
            Fault::RestartEtcd,
        ] {
            let what = fault.to_string();
            let (report, done) = tokio::join!(
                load(&space.callers[1], "http://quotes/status?code=200", 10),
                fixture.cluster.fault(fault)
            );
            done?;
            let report = report?;
            ensure!(report.failed_total() == 0, "{what}: {report}");
        }
        mesh::proxies_ready(fixture, usize::from(NODES), Duration::from_mins(2)).await?;
        let after = uids(mesh::proxies(fixture).await?);
        ensure!(after == before, "proxies {before:?} were replaced by {after:?}");
        space.leave().await
    });
}
