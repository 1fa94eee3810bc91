//! The demo on a cluster that is there already (kind, k3d, any): what it needs, and taking away what the demo put there.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::install;
use crate::kubectl::Kubectl;

/// ValidatingAdmissionPolicy and selectable fields are there from this minor version on.
const MINOR_MIN: u32 = 30;

/// The cluster that KUBECONFIG names, if it will do.
pub(super) async fn cluster() -> Result<Kubectl> {
    let kubectl = Kubectl { program: PathBuf::from("kubectl"), kubeconfig: None };
    let text = kubectl.run(["version", "-o", "json", "--request-timeout=15s"]).await;
    let text = text.context(
        "no cluster: CLUSTER=current needs kubectl, and KUBECONFIG (or ~/.kube/config) naming a cluster",
    )?;
    let version: Value = serde_json::from_str(&text).context("read what kubectl says of versions")?;
    let minor = minor(&version["serverVersion"]["minor"]).context("the server does not say its version")?;
    ensure!(minor >= MINOR_MIN, "the cluster is Kubernetes 1.{minor}; it takes 1.{MINOR_MIN} or newer");
    permitted(&kubectl).await?;
    super::say(&needs())?;
    Ok(kubectl)
}

/// `"30+"` is how some providers write 30.
fn minor(value: &Value) -> Option<u32> {
    value.as_str()?.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

async fn permitted(kubectl: &Kubectl) -> Result<()> {
    let output = kubectl.output(["auth", "can-i", "*", "*", "--all-namespaces"]).await?;
    if !output.status.success() {
        bail!(
            "this user may not install it: kinds, cluster roles and namespaces need a cluster administrator"
        );
    }
    Ok(())
}

fn needs() -> String {
    "What the demo needs of this cluster:
  - the images of `make images` on its nodes, under the names that config/default and config/demo say:
      kind load image-archive target/images/archives/vicino-{operator,proxy,sample}.tar
      k3d image import target/images/archives/vicino-{operator,proxy,sample}.tar
    or in a registry, with `images` in those two kustomization.yaml files saying where;
  - the namespace vicino-proxy may be `privileged` (Pod Security): proxies use their node's network and disk;
  - ports 4140, 4141, 9990 and 9991 free on the nodes, and 4141 open between them."
        .to_owned()
}

/// Takes away what the demo put there.
pub(super) async fn remove(kubectl: &Kubectl) -> Result<()> {
    let gone = "--ignore-not-found";
    kubectl.run(["delete", "-k", &install::config("demo"), gone]).await.context("delete config/demo")?;
    let sample = install::config("samples/servicemesh.yaml");
    // Its kind may be gone already.
    let _ = kubectl.output(["delete", "-f", &sample, gone]).await?;
    kubectl
        .run(["delete", "-k", &install::config("default"), gone])
        .await
        .context("delete config/default")?;
    super::say("What the demo put into the cluster is gone.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_providers_write_them() {
        assert_eq!(minor(&Value::from("34")), Some(34));
        assert_eq!(minor(&Value::from("30+")), Some(30));
        assert_eq!(minor(&Value::Null), None);
    }
}
