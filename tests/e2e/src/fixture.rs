//! The cluster that all scenarios share: booted or found, with the product's images and the mesh on it; no assertions.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use vicino_cluster::images::Profile;
use vicino_cluster::{Cluster, wait};
use vicino_crds::ServiceMesh;
use vicino_crds::condition::{is_true, kind};

use crate::kubectl::Kubectl;
use crate::{boot, install};

/// Name of the cluster, unless `VICINO_E2E_CLUSTER` says otherwise.
const CLUSTER: &str = "e2e";
/// Nodes of the cluster.
pub const NODES: u8 = 3;
/// The mesh of the sample manifest, which scenarios use.
pub const MESH: &str = "default";
/// How long the mesh may take to be Ready; the figure itself is printed, not judged here.
pub const MESH_READY_MAX: Duration = Duration::from_mins(3);

/// What a scenario acts on.
pub struct Fixture {
    /// The cluster.
    pub cluster: Cluster,
    /// kubectl with the administrator's rights.
    pub kubectl: Kubectl,
    /// A client with the administrator's rights.
    pub client: Client,
}

/// Where pictures of failures and figures go: `VICINO_E2E_OUTPUT`, else `target/e2e` of the workspace.
pub fn output_dir() -> PathBuf {
    let given = std::env::var_os("VICINO_E2E_OUTPUT").map(PathBuf::from);
    let folder = given.unwrap_or_else(|| install::workspace().join("target/e2e"));
    // Whoever writes there says what went wrong.
    let _ = fs::create_dir_all(&folder);
    folder
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// What to build first: nothing when `VICINO_E2E_IMAGES_BUILT` is set, quick builds when `VICINO_E2E_PROFILE` is `dev`.
fn build() -> Option<Profile> {
    let dev = std::env::var("VICINO_E2E_PROFILE").is_ok_and(|profile| profile == "dev");
    let profile = if dev { Profile::Dev } else { Profile::Release };
    std::env::var_os("VICINO_E2E_IMAGES_BUILT").is_none().then_some(profile)
}

impl Fixture {
    /// Finds the cluster or boots it, with the images of the current sources on its nodes.
    pub async fn get() -> Result<Self> {
        static PREPARED: AtomicBool = AtomicBool::new(false);
        let name = std::env::var("VICINO_E2E_CLUSTER").unwrap_or_else(|_| CLUSTER.to_owned());
        let cluster = if PREPARED.swap(true, Ordering::SeqCst) {
            Cluster::attach(&name)?
        } else {
            boot::show_progress();
            boot::cluster(&name, (NODES, true), build()).await?
        };
        let kubectl =
            Kubectl { program: cluster.kubectl_path(), kubeconfig: Some(cluster.kubeconfig_path()) };
        let client = cluster.client().await?;
        Ok(Self { cluster, kubectl, client })
    }

    /// Installs the operator and the ServiceMesh `default` unless both are there and well.
    pub async fn ensure_mesh(&self) -> Result<()> {
        if self.mesh_is_ready().await && self.operator_is_available().await {
            return Ok(());
        }
        install::operator(&self.kubectl).await?;
        install::mesh(&self.kubectl).await?;
        install::mesh_ready(&self.kubectl, MESH, MESH_READY_MAX).await
    }

    async fn mesh_is_ready(&self) -> bool {
        let mesh = Api::<ServiceMesh>::all(self.client.clone()).get_opt(MESH).await.ok().flatten();
        mesh.and_then(|mesh| mesh.status).is_some_and(|status| is_true(&status.conditions, kind::READY))
    }

    async fn operator_is_available(&self) -> bool {
        vicino_cluster::health::deployment_ready(&self.client, "vicino-system", "vicino-operator").await
    }

    /// The node names in order.
    pub fn nodes(&self) -> Vec<String> {
        self.cluster.nodes().into_iter().map(|node| node.name).collect()
    }

    /// Pods of `namespace` that have all of `labels` (`a=b,c=d`), in order of name.
    pub async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let mut list = pods.list(&ListParams::default().labels(labels)).await.context("list pods")?.items;
        list.sort_by_key(ResourceExt::name_any);
        Ok(list)
    }

    /// Waits until `holds` answers true; what it asks may fail for a while (an API server that is away).
    pub async fn until<F>(&self, what: &str, bound: Duration, mut holds: F) -> Result<()>
    where
        F: AsyncFnMut() -> Result<bool>,
    {
        self.until_some(what, bound, async || Ok(holds().await?.then_some(()))).await
    }

    /// As [`Fixture::until`], until there is a value.
    pub async fn until_some<T, F>(&self, what: &str, bound: Duration, mut ask: F) -> Result<T>
    where
        F: AsyncFnMut() -> Result<Option<T>>,
    {
        let mut last = None;
        let waited = wait::until_some(what, bound, async || match ask().await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        });
        let waited = waited.await;
        waited.map_err(|error| match last {
            Some(last) => error.context(format!("the last error on the way: {last:#}")),
            None => error,
        })
    }
}
