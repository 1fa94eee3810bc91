//! Users' objects stay users': no drift for GitOps tools, defaults that come back, pruning; and a proxy that may write its
//! own report only.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::Value;
use vicino_cluster::wait;
use vicino_crds::MeshNode;
use vicino_crds::names::{LABEL_MANAGED_BY, LABEL_MESH};
use vicino_e2e::kubectl::Kubectl;
use vicino_e2e::workload::{App, EFFECT_MAX, EFFECT_SECONDS_MAX, Space, list, service};
use vicino_e2e::{Fixture, install, mesh, scenario};

const SERVER_SIDE: &[&str] = &["--server-side", "--field-manager=argo"];
const PLAIN: &[&str] = &[];

fn route(labels: &str) -> String {
    format!(
        "apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {{name: quotes, labels: {labels}}}\n\
         spec: {{requeues: 2, timeouts: {{requestMilliseconds: 5000}}}}\n"
    )
}

/// `kubectl diff` finds nothing: what a GitOps tool would call in sync.
///
/// It reads the object twice, as it is and as it would be after a dry run, which leaves the resource version alone. Where
/// that differs, a controller wrote its status between the two, and nothing is known yet.
async fn in_sync(kubectl: &Kubectl, arguments: &[&str], manifest: &str) -> Result<()> {
    let diff = ["diff", "-f", "-"];
    let compared = wait::until("the object to stand still while it is compared", EFFECT_MAX, async || {
        let output = kubectl.output_with(diff.iter().chain(arguments), manifest).await?;
        let found = String::from_utf8_lossy(&output.stdout);
        if found.lines().any(|line| line.starts_with("-  resourceVersion:")) {
            return Ok(false);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "drift: {}: {said}{found}", output.status);
        Ok(true)
    });
    compared.await
}

#[test]
fn what_a_user_applied_shows_no_drift() {
    scenario("gitops", async |fixture| {
        let space = Space::new(fixture, "gitops", &[App::new("quotes", 2)]).await?;
        let sample = std::fs::read_to_string(install::config("samples/servicemesh.yaml"))?;
        for how in [SERVER_SIDE, PLAIN] {
            let namespaced: Vec<_> = ["-n", &space.name].into_iter().chain(how.iter().copied()).collect();
            the_default_is_the_operators(fixture, &space).await?;
            apply(&fixture.kubectl, how, &sample).await?;
            apply(&fixture.kubectl, &namespaced, &route("{team: a}")).await?;
            mesh::programmed(fixture, &space.name, "quotes").await?;
            it_is_the_users(fixture, &space).await?;
            // Again and again, as a tool does it, with everybody else having had their turn.
            let generation = mesh::route(fixture, &space.name, "quotes").await?.metadata.generation;
            for _ in 0..3 {
                in_sync(&fixture.kubectl, how, &sample).await?;
                in_sync(&fixture.kubectl, &namespaced, &route("{team: a}")).await?;
                apply(&fixture.kubectl, &namespaced, &route("{team: a}")).await?;
            }
            let after = mesh::route(fixture, &space.name, "quotes").await?;
            ensure!(after.metadata.generation == generation, "somebody changes the spec: {after:?}");
            ensure!(after.spec.requeues == Some(2), "{after:?}");
            space.kubectl(&["delete", "meshroute", "quotes", EFFECT_SECONDS_MAX]).await?;
        }
        the_default_is_the_operators(fixture, &space).await?;
        pruning_works(fixture, &space).await?;
        space.leave().await
    });
}

async fn apply(kubectl: &Kubectl, how: &[&str], manifest: &str) -> Result<()> {
    let arguments = ["apply", "-f", "-"];
    kubectl.run_with(arguments.iter().chain(how), manifest).await.map(drop)
}

/// While nobody else manages fields of it: our labels, and the mesh as its owner, so that it goes with the mesh.
async fn the_default_is_the_operators(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    mesh::programmed(fixture, &space.name, "quotes").await?;
    fixture
        .until("the default to carry the operator's labels and owner", EFFECT_MAX, async || {
            let route = mesh::route(fixture, &space.name, "quotes").await?;
            let labels = route.labels();
            let marked = labels.contains_key(LABEL_MESH) && labels.contains_key(LABEL_MANAGED_BY);
            let owned = route.owner_references().iter().any(|owner| owner.kind == "ServiceMesh");
            Ok(marked && owned && route.spec == vicino_crds::MeshRouteSpec::default())
        })
        .await
}

/// As soon as somebody does, both are dropped: GitOps engines neither prune nor compare what has owners.
async fn it_is_the_users(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    let mut seen = String::new();
    let dropped = fixture.until("the operator to let go of labels and owner", EFFECT_MAX, async || {
        let route = mesh::route(fixture, &space.name, "quotes").await?;
        seen = format!("{:?}", route.metadata);
        let labels: Vec<_> = route.labels().keys().map(String::as_str).collect();
        Ok(labels == ["team"] && route.owner_references().is_empty())
    });
    let dropped = dropped.await;
    dropped.with_context(|| seen)
}

/// A set that no longer has the route: the tool deletes it, and the default comes back.
async fn pruning_works(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    let mut tools_service = service("tools");
    tools_service["metadata"]["labels"] = serde_json::json!({ "team": "a" });
    let route: Value = serde_json::json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshRoute",
        "metadata": { "name": "quotes", "labels": { "team": "a" } }, "spec": { "requeues": 3 },
    });
    let prune = [
        "-n",
        &space.name,
        "--prune",
        "--selector=team=a",
        "--prune-allowlist=vicino.dev/v1alpha1/MeshRoute",
        "--prune-allowlist=core/v1/Service",
    ];
    apply(&fixture.kubectl, &prune, &list(&[tools_service.clone(), route])).await?;
    it_is_the_users(fixture, space).await?;
    apply(&fixture.kubectl, &prune, &list(&[tools_service])).await?;
    the_default_is_the_operators(fixture, space).await
}

#[test]
fn a_proxy_may_write_only_its_own_report() {
    scenario("admission", async |fixture| {
        let nodes = fixture.nodes();
        let (own, other) = (&nodes[0], &nodes[1]);
        let proxy = mesh::proxy_on(fixture, own).await?;
        let pod = proxy.name_any();
        let account = proxy.spec.and_then(|spec| spec.service_account_name).context("no service account")?;
        let bound = ["--bound-object-kind=Pod", &format!("--bound-object-name={pod}")];
        let as_proxy = WithToken::new(fixture, &account, &bound).await?;
        as_proxy.reports(own).await?.context("a proxy may write its own report")?;
        let said = not_reported(as_proxy.reports(other).await?)?;
        ensure!(said.contains(own) && said.contains("only"), "{said}");
        let node_name =
            ["patch", "meshnode", own, "--type=merge", "--patch", r#"{"spec":{"zone":"elsewhere"}}"#];
        refusal(&as_proxy.kubectl.output(node_name).await?)?;
        for forbidden in [
            &["delete", "meshnode", own][..],
            &["create", "configmap", "x", "-n", "vicino-proxy"],
            &["get", "secrets", "-A"],
            &["get", "pods", "-A"],
            &["patch", "servicemesh", "default", "--type=merge", "--patch", "{}"],
        ] {
            refusal(&as_proxy.kubectl.output(forbidden).await?).with_context(|| format!("{forbidden:?}"))?;
        }
        let unbound = WithToken::new(fixture, &account, &[]).await?;
        let said = not_reported(unbound.reports(own).await?)?;
        ensure!(said.contains("names no node"), "{said}");
        // What was written in the proxy's name is its own again.
        fixture
            .until("the proxy to report again", EFFECT_MAX, async || {
                let status = mesh::node(fixture, own).await?.status.context("no status")?;
                Ok(status.routes < 1_000_000)
            })
            .await
    });
}

fn refusal(output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it was allowed");
    ensure!(said.to_lowercase().contains("forbidden"), "refused for another reason: {said}");
    Ok(said)
}

fn not_reported(answer: Result<(), kube::Error>) -> Result<String> {
    match answer {
        Ok(()) => anyhow::bail!("it was allowed"),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(status.message.clone()),
        Err(error) => Err(error).context("refused for another reason"),
    }
}

/// kubectl with nothing but a service account's token.
struct WithToken {
    kubectl: Kubectl,
    file: PathBuf,
}

impl Drop for WithToken {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl WithToken {
    async fn new(fixture: &Fixture, account: &str, bound: &[&str]) -> Result<Self> {
        let create = ["create", "token", account, "-n", "vicino-proxy"];
        let token = fixture.kubectl.run(create.iter().chain(bound)).await?;
        let config = fixture.kubectl.run(["config", "view", "--raw", "-o", "json"]).await?;
        let mut config: Value = serde_json::from_str(&config).context("read the kubeconfig")?;
        for user in config["users"].as_array_mut().into_iter().flatten() {
            user["user"] = serde_json::json!({ "token": token.trim() });
        }
        let name = format!("token-{}-{}.kubeconfig", std::process::id(), bound.len());
        let file = vicino_e2e::fixture::output_dir().join(name);
        write_private(&file, &config.to_string())?;
        let kubectl = Kubectl { program: fixture.kubectl.program.clone(), kubeconfig: Some(file.clone()) };
        Ok(Self { kubectl, file })
    }

    /// Tries to write the status of a node. Not by kubectl, which reads before it writes: proxies may not.
    async fn reports(&self, node: &str) -> Result<Result<(), kube::Error>> {
        let config = Kubeconfig::read_from(&self.file)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let api = Api::<MeshNode>::all(Client::try_from(config)?);
        let patch = Patch::Merge(serde_json::json!({ "status": { "routes": 1_000_000 } }));
        Ok(api.patch_status(node, &PatchParams::default(), &patch).await.map(drop))
    }
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    let mut open = options.create(true).truncate(true).write(true).mode(0o600).open(file)?;
    open.write_all(text.as_bytes()).with_context(|| format!("write {}", file.display()))
}
