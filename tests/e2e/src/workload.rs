//! Applications for scenarios: services of the sample application in a namespace of their own, and a caller on every node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use rustix::process::Pid;
use serde_json::{Value, json};
use vicino_cluster::images::GRPC_IMAGE;

use crate::caller::Caller;
use crate::fixture::{Fixture, MESH};
use crate::{mesh, netns};

/// Marks namespaces of scenarios, so that what a failed one left is removed by the next.
pub const LABEL: &str = "vicino-e2e.test/space";
/// The sample application's image.
pub const IMAGE: &str = "localhost/vicino-sample:dev";
/// How long pods may take to be ready on a busy machine.
pub const PODS_READY_MAX: Duration = Duration::from_mins(3);
/// How long the mesh may take to serve what changed on a busy machine; the figure is measured in a scenario of its own.
pub const EFFECT_MAX: Duration = Duration::from_mins(2);
/// How late an answer may be that is not taken for a failure: what stands still with the machine is not the mesh alone.
pub const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The same as [`EFFECT_MAX`] for `kubectl wait`.
pub const EFFECT_SECONDS_MAX: &str = "--timeout=120s";
/// A probe of the kubelet fails after so many seconds, and a pod is out after so many probes: what a pause of the machine
/// makes late is well.
const PROBE_SECONDS_MAX: u32 = 5;
const PROBE_FAILURES_MAX: u32 = 6;

/// One Service and the Deployment behind it.
#[derive(Clone, Debug)]
pub struct App {
    /// Name of both, and what the pods answer as when it is one of the sample application's roles.
    pub name: String,
    /// How many pods.
    pub replicas: u32,
    /// The node that they run on; `None` spreads them.
    pub node: Option<String>,
    /// Seconds that a pod goes on serving after SIGTERM.
    pub shutdown_delay_seconds: u32,
}

impl App {
    /// `replicas` pods, spread over the nodes.
    pub fn new(name: &str, replicas: u32) -> Self {
        Self { name: name.to_owned(), replicas, node: None, shutdown_delay_seconds: 3 }
    }

    /// On one node.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }

    fn role(&self) -> &str {
        let role = ["web", "quotes", "ratings"].into_iter().find(|role| *role == self.name);
        role.unwrap_or("authors")
    }

    /// The manifests.
    pub fn manifests(&self) -> Vec<Value> {
        let labels = json!({ "app": self.name });
        let mut pod = pod_spec(self.role(), self.shutdown_delay_seconds);
        match &self.node {
            Some(node) => pod["nodeSelector"] = json!({ "kubernetes.io/hostname": node }),
            None => {
                pod["topologySpreadConstraints"] = json!([{
                    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": { "matchLabels": labels },
                }]);
            }
        }
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": self.name },
            "spec": {
                "replicas": self.replicas, "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": pod },
            },
        });
        vec![service(&self.name), deployment]
    }
}

/// A Service on port 80 for the pods of the app of the same name.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

/// A Service whose pod speaks gRPC, as its port's name says, and the pod, on one node.
pub fn grpc(name: &str, node: &str) -> [Value; 2] {
    let labels = json!({ "app": name });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": labels, "ports": [{ "name": "grpc", "port": 80, "targetPort": 8080 }] },
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "containers": [{
                "name": "app", "image": GRPC_IMAGE, "imagePullPolicy": "Never", "args": ["--port=8080"],
                "readinessProbe": {
                    "tcpSocket": { "port": 8080 }, "periodSeconds": 1,
                    "timeoutSeconds": PROBE_SECONDS_MAX, "failureThreshold": PROBE_FAILURES_MAX,
                },
                "resources": { "requests": { "cpu": "50m", "memory": "16Mi" } },
            }],
        },
    });
    [service, pod]
}

fn pod_spec(role: &str, shutdown_delay_seconds: u32) -> Value {
    let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    json!({
        "terminationGracePeriodSeconds": 30,
        "containers": [{
            "name": "app", "image": IMAGE, "imagePullPolicy": "Never",
            "args": ["--role", role, "--shutdown-delay-seconds", shutdown_delay_seconds.to_string()],
            "env": [
                { "name": "POD_NAME", "valueFrom": field("metadata.name") },
                { "name": "NODE_NAME", "valueFrom": field("spec.nodeName") },
                { "name": "NODE_IP", "valueFrom": field("status.hostIP") },
                { "name": "http_proxy", "value": "http://$(NODE_IP):4140" },
            ],
            "readinessProbe": {
                "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1,
                "timeoutSeconds": PROBE_SECONDS_MAX, "failureThreshold": PROBE_FAILURES_MAX,
            },
            "resources": { "requests": { "cpu": "50m", "memory": "16Mi" } },
        }],
    })
}

/// A pod on every node, to call from.
fn callers() -> Value {
    let labels = json!({ "app": "caller" });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "caller" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod_spec("web", 0) },
        },
    })
}

/// Several manifests as one document for kubectl.
pub fn list(manifests: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": manifests }).to_string()
}

/// A namespace of one scenario.
#[derive(Debug)]
pub struct Space<'a> {
    /// The cluster that it is in.
    pub fixture: &'a Fixture,
    /// Its name.
    pub name: String,
    /// A caller on each node, in order of the nodes.
    pub callers: Vec<Caller>,
}

impl<'a> Space<'a> {
    /// A new namespace in the mesh, with `apps` and a caller on every node; returns when each caller is known and reaches each pod of each app.
    pub async fn new(fixture: &'a Fixture, what: &str, apps: &[App]) -> Result<Self> {
        let name = create(fixture, what, Some(MESH)).await?;
        Self::of(fixture, name, apps).await
    }

    /// The same beside this one, which stays.
    pub async fn beside(&self, what: &str, apps: &[App]) -> Result<Self> {
        let name = create_beside(self.fixture, what, Some(MESH)).await?;
        Self::of(self.fixture, name, apps).await
    }

    async fn of(fixture: &'a Fixture, name: String, apps: &[App]) -> Result<Self> {
        let mut space = Self { fixture, name, callers: Vec::new() };
        let manifests: Vec<_> = apps.iter().flat_map(App::manifests).chain([callers()]).collect();
        space.apply(&list(&manifests)).await?;
        for app in apps {
            space.pods_ready(&app.name, app.replicas as usize).await?;
        }
        space.find_callers().await?;
        for caller in &space.callers {
            caller.is_known(EFFECT_MAX).await?;
        }
        for app in apps {
            mesh::programmed(fixture, &space.name, &app.name).await?;
            mesh::endpoints(fixture, &space.name, &app.name, app.replicas).await?;
            space.all_reachable(&app.name, app.replicas as usize).await?;
        }
        Ok(space)
    }

    /// Waits for a caller on every node and finds out how to call from it. That changes when a node is started anew: its pods
    /// get other network namespaces and addresses.
    pub async fn find_callers(&mut self) -> Result<()> {
        let nodes = self.fixture.nodes();
        self.pods_ready("caller", nodes.len()).await?;
        // Of a container that has gone meanwhile the API still says the number.
        let callers = self.fixture.until_some("processes of the callers", PODS_READY_MAX, async || {
            let pods = self.fixture.pods(&self.name, "app=caller").await?;
            pods.iter().map(Caller::of).collect::<Result<Vec<_>>>().map(Some)
        });
        self.callers = callers.await?;
        self.callers.sort_by(|a, b| a.node.cmp(&b.node));
        ensure!(self.callers.iter().map(|c| &c.node).eq(&nodes), "a caller on every node");
        Ok(())
    }

    /// The caller on a node.
    pub fn caller(&self, node: &str) -> &Caller {
        self.callers.iter().find(|caller| caller.node == node).expect("there is a caller on every node")
    }

    /// Applies manifests to this namespace.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.fixture.kubectl.run_with(["apply", "-n", &self.name, "-f", "-"], manifests).await
    }

    /// kubectl in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.fixture.kubectl.run(["-n", &self.name].iter().chain(arguments)).await
    }

    /// Waits until `count` pods of an app are ready and no other is left.
    pub async fn pods_ready(&self, app: &str, count: usize) -> Result<()> {
        let label = format!("app={app}");
        let what = format!("{count} ready pods of {app} in {}", self.name);
        self.fixture
            .until(&what, PODS_READY_MAX, async || {
                let pods = self.fixture.pods(&self.name, &label).await?;
                Ok(pods.len() == count && pods.iter().all(is_ready))
            })
            .await
    }

    /// Waits until each caller's calls to a Service are answered.
    pub async fn reachable(&self, service: &str) -> Result<()> {
        for caller in &self.callers {
            caller.reaches(&format!("http://{service}/healthz"), EFFECT_MAX).await?;
        }
        Ok(())
    }

    /// Waits until each caller was answered by each of the `count` pods of a Service: proxies learn of pods by themselves,
    /// which no status tells.
    pub async fn all_reachable(&self, service: &str, count: usize) -> Result<()> {
        for caller in &self.callers {
            caller.reaches_all(&format!("http://{service}/healthz"), count, EFFECT_MAX).await?;
        }
        Ok(())
    }

    /// Waits until nothing of other scenarios is left.
    pub async fn alone(&self) -> Result<()> {
        let names = ["get", "namespaces", "--selector", LABEL, "--output", "name"];
        let own = format!("namespace/{}", self.name);
        let is_own = async || Ok(self.fixture.kubectl.run(names).await?.trim() == own);
        self.fixture.until("namespaces of earlier scenarios to be gone", PODS_READY_MAX, is_own).await
    }

    /// Has the namespace deleted, without waiting for it: the next scenario has one of its own.
    pub async fn leave(self) -> Result<()> {
        self.fixture.kubectl.run(["delete", "namespace", &self.name, "--wait=false"]).await.map(drop)
    }
}

/// The id of a pod's only container.
pub fn container(pod: &Pod) -> Result<String> {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.and_then(|all| all.first()?.container_id.clone()).context("no container")
}

/// The process of a pod, for signals behind Kubernetes' back.
pub fn process(pod: &Pod) -> Result<Pid> {
    let number = netns::process_of(&container(pod)?)?;
    Pid::from_raw(number).context("a process has a number above 0")
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// A new namespace, in `mesh` if one is given. What earlier scenarios left goes.
pub async fn create(fixture: &Fixture, what: &str, mesh: Option<&str>) -> Result<String> {
    let left = ["delete", "namespaces", "--wait=false", "--ignore-not-found", "--selector", LABEL];
    fixture.kubectl.run(left).await?;
    create_beside(fixture, what, mesh).await
}

/// The same, and what earlier scenarios left stays.
async fn create_beside(fixture: &Fixture, what: &str, mesh: Option<&str>) -> Result<String> {
    let mut labels = json!({ LABEL: what });
    if let Some(mesh) = mesh {
        labels[vicino_crds::names::LABEL_MESH] = json!(mesh);
    }
    let namespace = json!({ "metadata": { "generateName": format!("e2e-{what}-"), "labels": labels } });
    let namespace: Namespace = serde_json::from_value(namespace).expect("a constant manifest is valid");
    let api = Api::<Namespace>::all(fixture.client.clone());
    let made = api.create(&PostParams::default(), &namespace).await.context("create a namespace")?;
    Ok(made.name_any())
}
