//! The one place where the command line asks a cluster: a connection and listings; it never writes, and judges nothing.

use std::path::Path;
use std::time::Duration;

use futures::future::{try_join_all, try_join3};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;
use vicino_crds::names;

use super::arguments::Global;
use super::manifests::Manifest;
use crate::world::{Kind, Settings};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may stay away.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one page of a listing.
const PAGE: u32 = 500;
/// The operator's Deployment.
pub const OPERATOR: &str = "vicino-operator";
/// The environment variable by which the operator is told the proxies' image.
const PROXY_IMAGE: &str = "VICINO_PROXY_IMAGE";

/// Kinds that the pipeline looks at, besides what it generates.
const INPUTS: [(&str, &str, &str, &str); 9] = [
    ("", "v1", "Namespace", "namespaces"),
    ("", "v1", "Node", "nodes"),
    ("", "v1", "Pod", "pods"),
    ("", "v1", "Service", "services"),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    (names::GROUP, names::VERSION, "ServiceMesh", "servicemeshes"),
    (names::GROUP, names::VERSION, "MeshRoute", "meshroutes"),
    (names::GROUP, names::VERSION, "MeshPolicy", "meshpolicies"),
    (names::GROUP, names::VERSION, "MeshNode", "meshnodes"),
];

/// A kind of the Gateway API that the pipeline looks at where the cluster has it.
const GRANTS: (&str, &str, &str, &str) =
    ("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant", "referencegrants");

/// Why the cluster did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("cannot use {what}; name another with --kubeconfig, $KUBECONFIG or --context")]
    Kubeconfig {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: KubeconfigError,
    },
    /// There is no kubeconfig, and this is no pod.
    #[error("no cluster is named: give --kubeconfig, set $KUBECONFIG, or write ~/.kube/config")]
    NoKubeconfig(#[source] kube::config::InferConfigError),
    /// The connection cannot be set up.
    #[error("cannot set up the connection to {url}")]
    Client {
        /// The API server.
        url: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A request failed.
    #[error("cannot read {what}{}", hint(source))]
    Read {
        /// What was asked for.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
}

/// What would be right, where that can be told.
fn hint(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            " (are the kinds installed? `kubectl apply -k config/default`)"
        }
        kube::Error::Api(status) if status.code == 401 => {
            " (does the kubeconfig name a user that the cluster knows?)"
        }
        kube::Error::Api(status) if status.code == 403 => {
            " (ask for the ClusterRoles view and vicino:inspect; `vicino routes` of one namespace needs view there alone)"
        }
        kube::Error::HyperError(_) | kube::Error::Service(_) => {
            " (does the cluster run, and is it the right --context?)"
        }
        _ => "",
    }
}

/// A connection.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The namespace that was asked for, or that of the context.
    pub namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// What a listing is restricted to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Only<'a> {
    /// One namespace.
    pub namespace: Option<&'a str>,
    /// Objects with these labels.
    pub labels: Option<&'a str>,
}

impl Cluster {
    /// Sets up a connection as the flags say; nothing is asked yet.
    pub async fn connect(global: &Global) -> Result<Self, ClusterError> {
        let mut config = config(global).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config);
        let client = client.map_err(|source| ClusterError::Client { url, source: Box::new(source) })?;
        Ok(Self { client, namespace })
    }

    /// The client, for typed requests.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// All objects of a kind, as JSON with `apiVersion` and `kind`.
    pub async fn list(
        &self,
        resource: &ApiResource,
        only: Only<'_>,
    ) -> Result<Vec<DynamicObject>, ClusterError> {
        let api: Api<DynamicObject> = match only.namespace {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, resource),
            None => Api::all_with(self.client(), resource),
        };
        let mut params = ListParams::default().limit(PAGE);
        if let Some(labels) = only.labels {
            params = params.labels(labels);
        }
        let types = TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() };
        let mut objects = Vec::new();
        loop {
            let page = api.list(&params).await.map_err(|source| read_error(&resource.plural, source))?;
            objects.extend(page.items.into_iter().map(|mut object| {
                object.types = Some(types.clone());
                object
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(objects),
            }
        }
    }

    /// All objects of one of our kinds, typed.
    pub async fn list_as<T: DeserializeOwned>(
        &self,
        (group, version, kind, plural): (&str, &str, &str, &str),
        only: Only<'_>,
    ) -> Result<Vec<T>, ClusterError> {
        let resource = resource(group, version, kind, plural);
        let objects = self.list(&resource, only).await?;
        let typed = |object: DynamicObject| serde_json::from_value(json(object));
        objects
            .into_iter()
            .map(typed)
            .collect::<Result<_, _>>()
            .map_err(|error| read_error(plural, kube::Error::SerdeError(error)))
    }

    /// What the operator was started with, as far as its Deployment says it.
    pub async fn settings(&self) -> Result<Settings, ClusterError> {
        let deployment = self.operator().await?;
        let image = deployment.as_ref().and_then(proxy_image);
        Ok(image.map_or_else(Settings::default, |proxy_image| Settings { proxy_image }))
    }

    /// The operator's Deployment.
    pub async fn operator(&self) -> Result<Option<Deployment>, ClusterError> {
        let api: Api<Deployment> = Api::namespaced(self.client(), names::SYSTEM_NAMESPACE);
        api.get_opt(OPERATOR).await.map_err(|source| read_error("the operator's Deployment", source))
    }
}

/// What a cluster holds of what the pipeline looks at and generates.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// What the pipeline looks at.
    pub inputs: Vec<Manifest>,
    /// What the operator has written, without MeshRoutes and MeshNodes, which are inputs too.
    pub written: Vec<(Kind, DynamicObject)>,
}

/// Reads all of it. The listings are of slightly different moments.
pub async fn live(cluster: &Cluster) -> Result<Live, ClusterError> {
    let inputs = try_join_all(INPUTS.map(async |(group, version, kind, plural)| {
        cluster.list(&resource(group, version, kind, plural), Only::default()).await
    }));
    let label = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY);
    let written = try_join_all(Kind::CHILDREN.map(async |kind| {
        let everywhere = matches!(kind, Kind::ClusterRole | Kind::ClusterRoleBinding);
        let namespace = (!everywhere).then_some(names::PROXY_NAMESPACE);
        let objects = cluster.list(&kind.resource(), Only { namespace, labels: Some(&label) }).await?;
        Ok(objects.into_iter().map(|object| (kind, object)).collect::<Vec<_>>())
    }));
    let grants = async {
        let (group, version, kind, plural) = GRANTS;
        match cluster.list(&resource(group, version, kind, plural), Only::default()).await {
            Err(ClusterError::Read { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 404) => {
                Ok(Vec::new())
            }
            grants => grants,
        }
    };
    let (inputs, written, grants) = try_join3(inputs, written, grants).await?;
    let manifest = |object| Manifest { source: "cluster".to_owned(), object: json(object) };
    Ok(Live {
        inputs: inputs.into_iter().flatten().chain(grants).map(manifest).collect(),
        written: written.into_iter().flatten().collect(),
    })
}

async fn config(global: &Global) -> Result<Config, ClusterError> {
    let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
    let from = |path: Option<&Path>| path.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    let what = |path: Option<&Path>| {
        path.map_or_else(|| "the kubeconfig".to_owned(), |path| format!("the kubeconfig {}", path.display()))
    };
    let path = global.kubeconfig.as_deref();
    if path.is_none() && global.context.is_none() {
        return Config::infer().await.map_err(ClusterError::NoKubeconfig);
    }
    let failed = |source| ClusterError::Kubeconfig { what: what(path), source };
    Config::from_custom_kubeconfig(from(path).map_err(failed)?, &options).await.map_err(failed)
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

impl ClusterError {
    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 404))
    }
}

/// Whether a pod's condition `Ready` says so.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A request for `what` that failed.
pub fn read_error(what: &str, source: kube::Error) -> ClusterError {
    ClusterError::Read { what: what.to_owned(), source: Box::new(source) }
}

fn json(object: DynamicObject) -> Value {
    serde_json::to_value(object).expect("what came as JSON goes as JSON")
}

fn proxy_image(deployment: &Deployment) -> Option<String> {
    let containers = &deployment.spec.template.spec.as_ref()?.containers;
    let mut variables = containers.iter().filter_map(|container| container.env.as_ref()).flatten();
    variables.find(|variable| variable.name == PROXY_IMAGE).and_then(|variable| variable.value.clone())
}
