//! Connections around the mesh: counted in a Permissive mesh, refused in a Strict one, and let be where somebody says so.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::Api;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use vicino_crds::names::CONDITION_GUARDED;
use vicino_crds::route::PlainCallers;
use vicino_e2e::caller::Caller;
use vicino_e2e::fixture::MESH;
use vicino_e2e::workload::{App, EFFECT_MAX, EFFECT_SECONDS_MAX, Space};
use vicino_e2e::{Fixture, figures, install, mesh, netns, scenario};

/// Port of the sample application.
const PORT: u16 = 8080;
/// A connection is made, or reset, at once.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// How long a mesh may take to become strict: its proxies are replaced one after the other.
const STRICT_MAX: Duration = Duration::from_mins(5);

/// Whether a connection from a caller to an address stands; anything but a reset or success is an error.
async fn connects(caller: &Caller, to: SocketAddr) -> Result<bool> {
    netns::inside(&caller.netns, async move || match timeout(CONNECT_MAX, TcpStream::connect(to)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(e)) if e.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Ok(Err(e)) => Err(e).with_context(|| format!("connect to {to}")),
        Err(_elapsed) => bail!("no word from {to}"),
    })
    .await?
}

async fn until_connects(space: &Space<'_>, caller: &Caller, to: SocketAddr, wanted: bool) -> Result<()> {
    let what = format!("a connection from {} to {to} around the mesh to be {wanted}", caller.node);
    space.fixture.until(&what, EFFECT_MAX, async || Ok(connects(caller, to).await? == wanted)).await
}

fn address(pod: &Pod) -> Result<IpAddr> {
    let ip =
        pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("the pod has no address")?;
    Ok(ip.parse()?)
}

/// What the MeshRoute `quotes` says of connections around the mesh.
async fn plain_callers(space: &Space<'_>) -> Result<Option<PlainCallers>> {
    let route = mesh::route(space.fixture, &space.name, "quotes").await?;
    Ok(route.status.and_then(|status| status.plain_callers))
}

async fn set_mode(fixture: &Fixture, mode: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"identity":{{"mode":"{mode}"}}}}}}"#);
    fixture.kubectl.run(["patch", "servicemesh", MESH, "--type=merge", "--patch", &patch]).await?;
    install::mesh_ready(&fixture.kubectl, MESH, STRICT_MAX).await
}

async fn guarded(fixture: &Fixture, node: &str, reason: &str) -> Result<()> {
    let what = format!("{node} to be guarded: {reason}");
    fixture
        .until(&what, EFFECT_MAX, async || {
            let status = mesh::node(fixture, node).await?.status.unwrap_or_default();
            let condition = status.conditions.iter().find(|c| c.type_ == CONDITION_GUARDED);
            Ok(condition.is_some_and(|c| c.status == "True" && c.reason == reason))
        })
        .await
}

#[test]
fn connections_around_the_mesh_are_counted_and_then_refused() {
    scenario("strict", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "strict", &[App::new("quotes", 1).on(&nodes[1])]).await?;
        let pod = fixture.pods(&space.name, "app=quotes").await?.remove(0);
        let to = SocketAddr::new(address(&pod)?, PORT);
        let service = Api::<Service>::namespaced(fixture.client.clone(), &space.name).get("quotes").await?;
        let service = service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")?;
        let service = SocketAddr::new(service.parse()?, 80);
        let (far, near) = (space.caller(&nodes[0]), space.caller(&nodes[1]));

        guarded(fixture, &nodes[1], "Counting").await?;
        ensure!(plain_callers(&space).await?.is_none(), "nobody has called around the mesh yet");
        // The first ones may come before the pod's node knows it.
        let passed = async || {
            ensure!(connects(far, to).await?, "a Permissive mesh lets connections pass");
            Ok(plain_callers(&space).await?.is_some_and(|plain| plain.passed > 0))
        };
        fixture.until("connections to be counted", EFFECT_MAX, passed).await?;

        set_mode(fixture, "Strict").await?;
        guarded(fixture, &nodes[1], "Refusing").await?;
        for (caller, to) in [(far, to), (near, to), (far, service), (near, service)] {
            ensure!(!connects(caller, to).await?, "from {} to {to}", caller.node);
        }
        let refused = async || Ok(plain_callers(&space).await?.is_some_and(|plain| plain.refused > 0));
        fixture.until("the refusals to be counted", EFFECT_MAX, refused).await?;
        for caller in &space.callers {
            caller.reaches("http://quotes/healthz", EFFECT_MAX).await?;
        }
        // The kubelet's probes make a new one ready.
        space.kubectl(&["scale", "deployment/quotes", "--replicas=2"]).await?;
        space.pods_ready("quotes", 2).await?;
        space.kubectl(&["scale", "deployment/quotes", "--replicas=1"]).await?;
        space.pods_ready("quotes", 1).await?;
        let pod = fixture.pods(&space.name, "app=quotes").await?.remove(0);
        let to = SocketAddr::new(address(&pod)?, PORT);

        exceptions(&space, &pod, to).await?;
        no_gap(&space, to).await?;
        deletion_opens(&space, to).await?;
        space.leave().await
    });
}

/// A port of the pod's annotation, and a MeshRoute that is Permissive in a Strict mesh.
async fn exceptions(space: &Space<'_>, pod: &Pod, to: SocketAddr) -> Result<()> {
    let far = space.caller(&space.fixture.nodes()[0]);
    until_connects(space, far, to, false).await?;
    let annotate = |value: &str| {
        let value = format!("vicino.dev/plain-ports{value}");
        async move { space.kubectl(&["annotate", "pod", &pod.name_any(), &value]).await }
    };
    annotate("=9090, 8080").await?;
    until_connects(space, far, to, true).await?;
    annotate("-").await?;
    until_connects(space, far, to, false).await?;
    let mode = |mode: &str| {
        let patch = format!(r#"{{"spec":{{"identity":{mode}}}}}"#);
        async move { space.kubectl(&["patch", "meshroute", "quotes", "--type=merge", "--patch", &patch]).await }
    };
    mode(r#"{"mode":"Permissive"}"#).await?;
    mesh::programmed(space.fixture, &space.name, "quotes").await?;
    until_connects(space, far, to, true).await?;
    mode("null").await?;
    until_connects(space, far, to, false).await
}

/// While the proxy of the pod's node is away, and while it comes back, nothing gets through.
async fn no_gap(space: &Space<'_>, to: SocketAddr) -> Result<()> {
    let fixture = space.fixture;
    let nodes = fixture.nodes();
    let (far, node) = (space.caller(&nodes[0]), &nodes[1]);
    let proxy = mesh::proxy_on(fixture, node).await?.name_any();
    fixture.kubectl.run(["delete", "pod", "-n", "vicino-proxy", &proxy, "--wait=false"]).await?;
    let (mut tried, mut through) = (0, 0);
    fixture
        .until("another proxy to be ready", STRICT_MAX, async || {
            tried += 1;
            through += u32::from(connects(far, to).await?);
            sleep(Duration::from_millis(20)).await;
            let pods = fixture.pods("vicino-proxy", "app.kubernetes.io/name=vicino-proxy").await?;
            let here = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(node);
            let here: Vec<_> = pods.iter().filter(here).collect();
            Ok(here.len() == 1 && here[0].name_any() != proxy && vicino_e2e::workload::is_ready(here[0]))
        })
        .await?;
    ensure!(through == 0 && !connects(far, to).await?, "{through} of {tried} connections got through");
    figures::print(format!(
        "connections around a strict mesh while a proxy is replaced: {through} of {tried}"
    ));
    far.reaches("http://quotes/healthz", EFFECT_MAX).await
}

/// Nothing of the guard outlives the mesh.
async fn deletion_opens(space: &Space<'_>, to: SocketAddr) -> Result<()> {
    let fixture = space.fixture;
    fixture.kubectl.run(["delete", "servicemesh", MESH, EFFECT_SECONDS_MAX]).await?;
    for node in fixture.nodes() {
        fixture
            .until(&format!("the table of {node} to be gone"), EFFECT_MAX, async || {
                let output = fixture.cluster.in_node(&node, "nft", ["list", "tables"]).await?;
                ensure!(output.status.success(), "nft: {}", output.status);
                Ok(!String::from_utf8_lossy(&output.stdout).contains("table inet vicino"))
            })
            .await?;
    }
    ensure!(connects(space.caller(&fixture.nodes()[0]), to).await?, "the mesh is gone");
    fixture.ensure_mesh().await
}
