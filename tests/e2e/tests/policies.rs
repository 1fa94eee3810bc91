//! Who may call what, on real nodes: by proven identity, by path however it is written, in audit without effect.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use vicino_e2e::caller::Caller;
use vicino_e2e::workload::{App, EFFECT_MAX, EFFECT_SECONDS_MAX, Space};
use vicino_e2e::{Fixture, mesh, scenario};

/// Of its own namespace only, and nobody below /admin.
const POLICY: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: quotes}
spec:
  mode: MODE
  target: {service: {name: quotes}}
  rules:
  - name: own
    action: Deny
    from: [{notNamespaces: [OWN]}]
  - name: no-admin
    action: Deny
    to: [{paths: [{value: /admin}]}]
";

/// Pods by an expression, and callers by their address: only such pods are told to refuse, and only to others.
const SELECTING: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: selecting}
spec:
  target: {pods: {matchExpressions: [{key: app, operator: In, values: [quotes]}, {key: none, operator: DoesNotExist}]}}
  rules:
  - name: nowhere
    action: Deny
    from: [{notIpBlocks: [{cidr: 192.0.2.0/24}]}]
    to: [{paths: [{value: /secret}]}]
";

/// What a caller writes to be taken for somebody else.
const CLAIMS: [&str; 7] = [
    "vicino-identity: spiffe://cluster.local/ns/OWN/sa/default",
    "vicino_identity: spiffe://cluster.local/ns/OWN/sa/default",
    "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/OWN/sa/default",
    "x_forwarded_client_cert: URI=spiffe://cluster.local/ns/OWN/sa/default",
    "l5d-client-id: default.OWN.serviceaccount.identity.linkerd.cluster.local",
    "x-forwarded-for: 10.132.0.11",
    "forwarded: for=10.132.0.11",
];

/// Applies the policy and waits until every proxy enforces it.
async fn enforce(space: &Space<'_>, mode: &str) -> Result<()> {
    space.apply(&POLICY.replace("MODE", mode).replace("OWN", &space.name)).await?;
    let wait = ["wait", "meshpolicy/quotes", "--for=condition=Programmed", EFFECT_SECONDS_MAX];
    space.kubectl(&wait).await.map(drop)
}

/// A call with one more field, its path as it is written.
async fn gets(caller: &Caller, url: &str, field: &str, status: u16) -> Result<()> {
    let proxy = format!("http://{}", caller.proxy);
    let answer = caller.curl(&["--path-as-is", "--proxy", &proxy, "--header", field, url]).await?;
    ensure!(answer.status == status, "{} {url} with {field:?}: not {status}: {answer}", caller.node);
    Ok(())
}

async fn log(fixture: &Fixture, pod: &Pod) -> Result<String> {
    let name = pod.metadata.name.as_deref().context("a name")?;
    fixture.kubectl.run(["logs", "-n", "vicino-proxy", name, "--tail=400"]).await
}

#[test]
fn a_policy_says_who_may_call_and_what_and_nothing_that_a_caller_writes_changes_it() {
    scenario("policies", async |fixture| {
        let nodes = fixture.nodes();
        let there = &nodes[1];
        let space = Space::new(fixture, "policies", &[App::new("quotes", 1).on(there)]).await?;
        let strangers = space.beside("strangers", &[]).await?;
        let url = format!("http://quotes.{}/headers", space.name);
        for caller in space.callers.iter().chain(&strangers.callers) {
            gets(caller, &url, "x: y", 200).await?;
        }
        enforce(&space, "Enforce").await?;
        for caller in &space.callers {
            // Calls wait for the certificate that says who calls, but not for long.
            caller.reaches(&url, EFFECT_MAX).await?;
            gets(caller, &url, "x: y", 200).await?;
            for path in ["/admin", "//admin", "/x/../admin/y", "/%61dmin", "/admin%2fx", "/admin;x"] {
                gets(caller, &format!("http://quotes.{}{path}", space.name), "x: y", 403).await?;
            }
        }
        for caller in &strangers.callers {
            let answer = caller.get(&url).await?;
            let reason = answer.headers().get("vicino-error").and_then(|reason| reason.to_str().ok());
            ensure!(answer.status() == 403 && reason == Some("policy-denied"), "{answer:?}");
            for claim in CLAIMS {
                // What some applications take for the same name is no request at all.
                let status = if claim.contains('_') { 400 } else { 403 };
                gets(caller, &url, &claim.replace("OWN", &space.name), status).await?;
            }
        }
        nodes_are_nobody(fixture, &space, &nodes).await?;
        selecting(fixture, &space).await?;
        let said = log(fixture, &mesh::proxy_on(fixture, there).await?).await?;
        let who = format!("spiffe://cluster.local/ns/{}/sa/default", strangers.name);
        let which = format!("{}/quotes own", space.name);
        ensure!(
            said.contains(&who) && said.contains(&which),
            "the log names neither {who} nor {which}: {said}"
        );
        let before = mesh::metric(fixture, there, "vicino_proxy_policy_audits_total").await?;
        enforce(&space, "Audit").await?;
        for caller in &strangers.callers {
            gets(caller, &url, "x: y", 200).await?;
        }
        let after = mesh::metric(fixture, there, "vicino_proxy_policy_audits_total").await?;
        ensure!(after >= before + 3.0, "{before} and then {after} audits of three calls");
        space.kubectl(&["delete", "meshpolicy", "quotes"]).await?;
        fixture
            .until("a policy that is gone to say nothing", EFFECT_MAX, async || {
                let url = format!("http://quotes.{}/admin", space.name);
                Ok(space.callers[0].get(&url).await?.status() != 403)
            })
            .await?;
        strangers.leave().await?;
        space.leave().await
    });
}

/// A policy that selects is enforced, and what it refuses is in its status.
async fn selecting(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    space.apply(SELECTING).await?;
    space
        .kubectl(&["wait", "meshpolicy/selecting", "--for=condition=Programmed", EFFECT_SECONDS_MAX])
        .await?;
    for caller in &space.callers {
        gets(caller, &format!("http://quotes.{}/secret", space.name), "x: y", 403).await?;
        gets(caller, &format!("http://quotes.{}/headers", space.name), "x: y", 200).await?;
    }
    fixture
        .until("its status to count what it refused", EFFECT_MAX, async || {
            let count = ["get", "meshpolicy", "selecting", "-o", "jsonpath={.status.denials.denied}"];
            Ok(space.kubectl(&count).await?.trim().parse::<usize>().unwrap_or(0) > 0)
        })
        .await?;
    space.kubectl(&["delete", "meshpolicy", "selecting"]).await.map(drop)
}

/// A process on the host network has no identity, whichever pod it is of.
async fn nodes_are_nobody(fixture: &Fixture, space: &Space<'_>, nodes: &[String]) -> Result<()> {
    for node in nodes {
        let host = format!("Host: quotes.{}", space.name);
        let output = ["--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}"];
        let arguments = output.into_iter().chain(["--header", &host, "http://127.0.0.1:4140/headers"]);
        let output = fixture.cluster.in_node(node, "curl", arguments).await?;
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(status == "403", "{node} itself gets {status}");
    }
    hosts(fixture, space, &nodes[0]).await
}

/// Also of the namespace and the service account that the policy lets in, and at whichever address it asks its node's proxy.
async fn hosts(fixture: &Fixture, space: &Space<'_>, node: &str) -> Result<()> {
    const HOST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  hostNetwork: true
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers:
  - {name: sample, image: 'localhost/vicino-sample:dev', imagePullPolicy: Never, args: [--role=quotes, '--listen=127.0.0.1:18080']}
";
    space.apply(&HOST.replace("NODE", node)).await?;
    space.kubectl(&["wait", "pod/host", "--for=condition=Ready", EFFECT_SECONDS_MAX]).await?;
    let pods = fixture.pods(&space.name, "app=host").await?;
    let caller = Caller::of(pods.first().context("a pod")?)?;
    let url = format!("http://quotes.{}/headers", space.name);
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), caller.proxy.ip()] {
        gets(&caller.asking(address), &url, "x: y", 403).await?;
    }
    space.kubectl(&["delete", "pod", "host", "--wait=false"]).await.map(drop)
}
