//! What `check` looks at, read side by side; a request that fails is a fact too, so that one refusal hides nothing else.

use futures::join;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use serde::de::DeserializeOwned;
use vicino_crds::{MeshNode, MeshPolicy, MeshRoute, ServiceMesh, names};

use super::super::cluster::{Cluster, ClusterError, Only, read_error};
use super::super::policy::list::MESH_POLICIES;
use super::super::routes::{CONFIG_MAPS, MESH_ROUTES};
use super::super::version::MESH_NODES;
use crate::lease;

/// The policies of `config/admission`.
pub(super) const POLICIES: [&str; 2] = ["vicino-proxy-own-node", "vicino-operator-own-roles"];

/// An answer, or why there is none.
pub(super) type Fact<T> = Result<T, String>;

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `v1.34.4`.
    pub(super) server: Fact<String>,
    /// Those of our group.
    pub(super) crds: Fact<Vec<CustomResourceDefinition>>,
    pub(super) operator: Fact<Option<Deployment>>,
    pub(super) lease: Fact<Option<Lease>>,
    /// Policies and bindings of [`POLICIES`], as far as they exist.
    pub(super) policies: Fact<(Vec<ValidatingAdmissionPolicy>, Vec<ValidatingAdmissionPolicyBinding>)>,
    pub(super) meshes: Fact<Vec<ServiceMesh>>,
    pub(super) nodes: Fact<Vec<MeshNode>>,
    pub(super) routes: Fact<Vec<MeshRoute>>,
    pub(super) mesh_policies: Fact<Vec<MeshPolicy>>,
    /// Generated ones.
    pub(super) config_maps: Fact<Vec<ConfigMap>>,
    /// The proxies'.
    pub(super) pods: Fact<Vec<Pod>>,
    /// Those with a mesh's label.
    pub(super) namespaces: Fact<Vec<Namespace>>,
}

pub(super) async fn gather(cluster: &Cluster) -> Facts {
    let crd = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions");
    let mesh = (names::GROUP, names::VERSION, "ServiceMesh", "servicemeshes");
    let managed = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY);
    let proxies = Only { namespace: Some(names::PROXY_NAMESPACE), labels: Some(&managed) };
    let part_of = Only { namespace: None, labels: Some("app.kubernetes.io/part-of=vicino") };
    let meshed = Only { namespace: None, labels: Some(names::LABEL_MESH) };
    let (server, crds, operator, lease, policies) = join!(
        server(cluster),
        list(cluster, crd, part_of),
        cluster.operator(),
        lease(cluster),
        policies(cluster)
    );
    let (meshes, nodes, routes, mesh_policies) = join!(
        list(cluster, mesh, Only::default()),
        list(cluster, MESH_NODES, Only::default()),
        list(cluster, MESH_ROUTES, Only::default()),
        list(cluster, MESH_POLICIES, Only::default()),
    );
    let (config_maps, pods, namespaces) = join!(
        list(cluster, CONFIG_MAPS, proxies),
        list(cluster, ("", "v1", "Pod", "pods"), proxies),
        list(cluster, ("", "v1", "Namespace", "namespaces"), meshed),
    );
    let operator = fact(operator);
    Facts {
        server,
        crds,
        operator,
        lease,
        policies,
        meshes,
        nodes,
        routes,
        mesh_policies,
        config_maps,
        pods,
        namespaces,
    }
}

fn fact<T>(answer: Result<T, ClusterError>) -> Fact<T> {
    answer.map_err(|error| super::super::chain(&error))
}

async fn list<T: DeserializeOwned>(
    cluster: &Cluster,
    kind: (&str, &str, &str, &str),
    only: Only<'_>,
) -> Fact<Vec<T>> {
    fact(cluster.list_as(kind, only).await)
}

async fn server(cluster: &Cluster) -> Fact<String> {
    let info = cluster.client().apiserver_version().await;
    fact(info.map(|info| info.git_version).map_err(|source| read_error("the API server's version", source)))
}

async fn lease(cluster: &Cluster) -> Fact<Option<Lease>> {
    let api: Api<Lease> = Api::namespaced(cluster.client(), names::SYSTEM_NAMESPACE);
    fact(api.get_opt(lease::NAME).await.map_err(|source| read_error("the operator's Lease", source)))
}

async fn policies(
    cluster: &Cluster,
) -> Fact<(Vec<ValidatingAdmissionPolicy>, Vec<ValidatingAdmissionPolicyBinding>)> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client());
    let (mut found, mut bound) = (Vec::new(), Vec::new());
    for name in POLICIES {
        let failed = |source| read_error("admission policies", source);
        found.extend(fact(policies.get_opt(name).await.map_err(failed))?);
        bound.extend(fact(bindings.get_opt(name).await.map_err(failed))?);
    }
    Ok((found, bound))
}
