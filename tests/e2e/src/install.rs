//! Installs the mesh on a cluster as the README tells people to, and takes it away again; nothing that a test needs only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::kubectl::Kubectl;

/// How long the operator may take to be available; pulling images is not part of it here.
const OPERATOR_SECONDS_MAX: Duration = Duration::from_mins(2);

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate is in tests/e2e of the workspace").to_owned()
}

/// A path of `config/`, for kubectl.
pub fn config(path: &str) -> String {
    workspace().join("config").join(path).display().to_string()
}

/// `kubectl apply -k config/default`, then waits for the kinds and the operator.
pub async fn operator(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(["apply", "-k", &config("default")]).await.context("apply config/default")?;
    let seconds = format!("--timeout={}s", OPERATOR_SECONDS_MAX.as_secs());
    let kinds = ["crd/servicemeshes.vicino.dev", "crd/meshroutes.vicino.dev", "crd/meshnodes.vicino.dev"];
    let wait = ["wait", "--for=condition=Established", &seconds];
    kubectl.run(wait.into_iter().chain(kinds)).await.context("wait for the kinds")?;
    let rollout = ["rollout", "status", "deployment/vicino-operator", "-n", "vicino-system", &seconds];
    kubectl.run(rollout).await.context("wait for the operator")?;
    Ok(())
}

/// Applies the sample ServiceMesh, which is called `default`.
pub async fn mesh(kubectl: &Kubectl) -> Result<()> {
    let sample = config("samples/servicemesh.yaml");
    kubectl.run(["apply", "-f", &sample]).await.context("apply the sample ServiceMesh").map(drop)
}

/// Waits until the ServiceMesh is Ready.
pub async fn mesh_ready(kubectl: &Kubectl, mesh: &str, bound: Duration) -> Result<()> {
    let object = format!("servicemesh/{mesh}");
    let seconds = format!("--timeout={}s", bound.as_secs());
    let wait = ["wait", "--for=condition=Ready", &object, &seconds];
    kubectl.run(wait).await.with_context(|| format!("wait for {object} to be Ready")).map(drop)
}
