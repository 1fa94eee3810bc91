//! The operator: how soon a mesh is Ready, that a steady cluster is left alone, who leads, what its metrics say, and that
//! whatever is deleted in whatever order leaves nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use tokio::time::{Instant, sleep};
use vicino_e2e::fixture::{MESH, MESH_READY_MAX};
use vicino_e2e::scenario::bare_scenario;
use vicino_e2e::workload::{self, App, EFFECT_SECONDS_MAX, PODS_READY_MAX, Space, is_ready, service};
use vicino_e2e::{Fixture, figures, install, mesh, scenario};

/// Everything that the operator makes, or that is about it.
const GENERATED: &str = "daemonsets,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,pods";
const GENERATED_CLUSTER: &str = "clusterroles,clusterrolebindings";
const OPERATOR: &str = "app.kubernetes.io/name=vicino-operator";
const GONE_MAX: Duration = Duration::from_mins(2);
/// How long a steady cluster is looked at.
const STEADY: Duration = Duration::from_secs(30);

#[test]
fn a_mesh_is_ready_soon_after_it_was_applied() {
    scenario("ready", async |fixture| {
        fixture.kubectl.run(["delete", "servicemesh", MESH, EFFECT_SECONDS_MAX]).await?;
        nothing_generated(fixture).await?;
        let start = Instant::now();
        install::mesh(&fixture.kubectl).await?;
        install::mesh_ready(&fixture.kubectl, MESH, MESH_READY_MAX).await?;
        let took = start.elapsed().as_secs_f32();
        figures::print(format!("ServiceMesh applied -> Ready on three nodes: {took:.1} s"));
        let mesh = mesh::mesh(fixture, MESH).await?;
        let proxies = mesh.status.and_then(|status| status.proxies).context("no tally of proxies")?;
        ensure!(proxies.summary == "3/3", "{proxies:?}");
        Ok(())
    });
}

/// What the operator made, as `kind/name` lines; empty when nothing is left.
async fn generated(fixture: &Fixture) -> Result<String> {
    let label = "app.kubernetes.io/managed-by=vicino-operator";
    let proxies = ["get", GENERATED, "-n", "vicino-proxy", "-l", label, "-o", "name"];
    let cluster = ["get", GENERATED_CLUSTER, "-l", label, "-o", "name"];
    let mut all = fixture.kubectl.run(proxies).await? + &fixture.kubectl.run(cluster).await?;
    for kind in ["meshroutes", "meshnodes"] {
        let output = fixture.kubectl.output(["get", kind, "-A", "-o", "name"]).await?;
        // The kind itself may be gone.
        all += &String::from_utf8_lossy(&output.stdout);
    }
    Ok(all)
}

async fn nothing_generated(fixture: &Fixture) -> Result<()> {
    let mut left = String::new();
    let gone = fixture.until("everything generated to be gone", GONE_MAX, async || {
        left = generated(fixture).await?;
        Ok(left.trim().is_empty())
    });
    let gone = gone.await;
    gone.with_context(|| format!("left behind:\n{left}"))
}

/// Resource versions of everything generated and of everything with a status of ours.
async fn versions(fixture: &Fixture) -> Result<BTreeMap<String, String>> {
    let columns =
        "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name,V:.metadata.resourceVersion";
    let mut all = BTreeMap::new();
    for (kinds, more) in [
        ("daemonsets,configmaps,serviceaccounts,roles,rolebindings", &["-n", "vicino-proxy"][..]),
        (GENERATED_CLUSTER, &["-l", "app.kubernetes.io/managed-by=vicino-operator"]),
        ("servicemeshes,meshroutes,meshnodes", &["-A"]),
    ] {
        let ask = ["get", kinds, "-o", columns, "--no-headers"];
        for line in fixture.kubectl.run(ask.iter().chain(more)).await?.lines() {
            if let Some((name, version)) = line.trim_end().rsplit_once(char::is_whitespace) {
                all.insert(name.trim().to_owned(), version.to_owned());
            }
        }
    }
    Ok(all)
}

/// Waits until there are two replicas of the operator, both ready, and one leads that is not called `former`: these, and that one.
async fn led(fixture: &Fixture, former: &str) -> Result<(Vec<Pod>, Pod)> {
    let leases = Api::<Lease>::namespaced(fixture.client.clone(), "vicino-system");
    fixture
        .until_some("two operators, of which one leads", PODS_READY_MAX, async || {
            let pods = fixture.pods("vicino-system", OPERATOR).await?;
            let lease = leases.get_opt("vicino-operator").await?;
            let holder = lease.and_then(|lease| lease.spec?.holder_identity).context("nobody leads")?;
            let leader = pods.iter().find(|pod| holder.contains(&pod.name_any())).cloned();
            let leader = leader.with_context(|| format!("{holder} leads, which is no pod"))?;
            let is_so = pods.len() == 2 && pods.iter().all(is_ready) && leader.name_any() != former;
            Ok(is_so.then_some((pods, leader)))
        })
        .await
}

/// What a pod of the operator answers at a path.
async fn ask(fixture: &Fixture, pod: &Pod, path: &str) -> Result<String> {
    let ip =
        pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the pod has no address")?;
    let url = format!("http://{ip}:8080{path}");
    let node = fixture.nodes().remove(0);
    let output =
        fixture.cluster.in_node(&node, "curl", ["--silent", "--fail", "--max-time", "30", &url]).await?;
    ensure!(output.status.success(), "{url}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sum over all labels of a counter.
fn sum(metrics: &str, name: &str) -> Option<f64> {
    let lines = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[test]
fn a_steady_cluster_is_left_alone() {
    scenario("steady", async |fixture| {
        let space = Space::new(fixture, "steady", &[App::new("quotes", 3), App::new("web", 2)]).await?;
        space.alone().await?;
        let mut before = versions(fixture).await?;
        fixture
            .until("the cluster to settle", Duration::from_mins(2), async || {
                sleep(Duration::from_secs(5)).await;
                let now = versions(fixture).await?;
                let settled = now == before;
                before = now;
                Ok(settled)
            })
            .await?;
        let (_, leader) = led(fixture, "").await?;
        let writes = async || {
            sum(&ask(fixture, &leader, "/metrics").await?, "vicino_operator_writes_total")
                .context("no such metric")
        };
        let written = writes().await?;
        // An observation, not a synchronisation: whatever ticks has ticked by then.
        sleep(STEADY).await;
        let (after, written_after) = (versions(fixture).await?, writes().await?);
        let changed: Vec<_> =
            after.iter().filter(|(name, version)| before.get(*name) != Some(version)).collect();
        ensure!(
            changed.is_empty() && after.len() == before.len(),
            "rewritten in a steady cluster: {changed:?}"
        );
        ensure!(written.to_bits() == written_after.to_bits(), "{written} writes became {written_after}");
        figures::print(format!(
            "writes of the operator in {} s of a steady cluster: {}",
            STEADY.as_secs(),
            written_after - written
        ));
        space.leave().await
    });
}

#[test]
fn another_operator_takes_over() {
    scenario("failover", async |fixture| {
        let space = Space::new(fixture, "failover", &[App::new("quotes", 1)]).await?;
        let (pods, leader) = led(fixture, "").await?;
        for pod in &pods {
            ensure!(ask(fixture, pod, "/healthz").await.is_ok(), "/healthz of {}", pod.name_any());
            ensure!(ask(fixture, pod, "/readyz").await.is_ok(), "/readyz of {}", pod.name_any());
        }
        let metrics = ask(fixture, &leader, "/metrics").await?;
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            ensure!(
                line.starts_with("vicino_operator_") || line.starts_with("process_"),
                "no prefix: {line}"
            );
        }
        let start = Instant::now();
        // Killed, not asked to go: the lease has to run out.
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        Api::<Pod>::namespaced(fixture.client.clone(), "vicino-system")
            .delete(&leader.name_any(), &now)
            .await?;
        // Its process outlives its pod for a moment, in which it would do what is asked of the next one.
        led(fixture, &leader.name_any()).await?;
        space.apply(&service("fresh").to_string()).await?;
        mesh::programmed(fixture, &space.name, "fresh").await?;
        figures::print(format!(
            "leader killed -> a new Service Programmed: {:.1} s",
            start.elapsed().as_secs_f32()
        ));
        install::operator(&fixture.kubectl).await?;
        space.leave().await
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Operator,
    Mesh,
    Namespace,
}

#[test]
fn deleting_in_any_order_leaves_nothing_behind() {
    bare_scenario("deletion", async |fixture| {
        use Thing::{Mesh, Namespace, Operator};
        for order in [
            [Operator, Mesh, Namespace],
            [Operator, Namespace, Mesh],
            [Mesh, Operator, Namespace],
            [Mesh, Namespace, Operator],
            [Namespace, Operator, Mesh],
            [Namespace, Mesh, Operator],
        ] {
            one_order(fixture, order).await.with_context(|| format!("in the order {order:?}"))?;
        }
        everything_at_once(fixture).await
    });
}

/// Nothing waits between two deletions: each finds the other's half-done.
async fn one_order(fixture: &Fixture, order: [Thing; 3]) -> Result<()> {
    fixture.ensure_mesh().await?;
    let namespace = with_two_services(fixture).await?;
    for thing in order {
        let what = match thing {
            Thing::Operator => ["deployment/vicino-operator", "--namespace=vicino-system"],
            Thing::Mesh => ["servicemesh/default", "--cascade=background"],
            Thing::Namespace => ["namespace", &namespace],
        };
        fixture.kubectl.run(["delete", "--wait=false"].iter().chain(&what)).await?;
    }
    nothing_generated(fixture).await?;
    namespace_gone(fixture, &namespace).await
}

async fn with_two_services(fixture: &Fixture) -> Result<String> {
    let namespace = workload::create(fixture, "deletion", Some(MESH)).await?;
    for name in ["one", "two"] {
        let manifest = service(name).to_string();
        fixture.kubectl.run_with(["apply", "-n", &namespace, "-f", "-"], &manifest).await?;
    }
    for name in ["one", "two"] {
        mesh::programmed(fixture, &namespace, name).await?;
    }
    Ok(namespace)
}

async fn namespace_gone(fixture: &Fixture, namespace: &str) -> Result<()> {
    let wait = ["wait", "--for=delete", &format!("namespace/{namespace}"), "--timeout=120s"];
    fixture.kubectl.run(wait).await.with_context(|| format!("namespace {namespace} is stuck")).map(drop)
}

/// `kubectl delete -k config/default` with a mesh and a meshed namespace there: kinds and namespaces go too.
async fn everything_at_once(fixture: &Fixture) -> Result<()> {
    fixture.ensure_mesh().await?;
    let namespace = with_two_services(fixture).await?;
    let delete = ["delete", "-k", &install::config("default"), "--timeout=180s"];
    fixture.kubectl.run(delete).await.context("delete config/default")?;
    let kinds = fixture.kubectl.run(["get", "crd", "-o", "name"]).await?;
    ensure!(!kinds.contains("vicino.dev"), "kinds are left: {kinds}");
    nothing_generated(fixture).await?;
    fixture.kubectl.run(["delete", "namespace", &namespace, "--wait=false"]).await?;
    namespace_gone(fixture, &namespace).await
}
