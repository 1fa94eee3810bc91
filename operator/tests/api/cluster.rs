//! A cluster for one test: its own mesh, nodes and namespace, applied as a user would, and removed by the next test.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

/// On everything cluster-scoped that a test makes.
const LABEL: &str = "vicino.dev/api-test";
/// How long a test waits for what should happen at once; generous, since the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_mins(1);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) kubeconfig: String,
    /// Name of the mesh, and part of all other names.
    pub(crate) name: String,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// The cluster, with CRDs and namespaces, without what earlier tests left.
    pub(crate) async fn new(test: &str) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let kubeconfig = std::env::var("VICINO_TEST_KUBECONFIG").unwrap_or_else(|_| {
            panic!(
                "VICINO_TEST_KUBECONFIG is not set, so this test did not run. Boot a cluster with `cargo run -p vicino-cluster -- up` \
                 and set it to what `cargo run -p vicino-cluster -- kubeconfig` prints."
            )
        });
        let client = Client::try_from(config(&kubeconfig).await).unwrap();
        let name = format!("{test}-{}", std::process::id());
        let cluster = Self { client, kubeconfig, name, _turn: turn };
        cluster.prepare().await;
        cluster
    }

    /// How to reach its API server.
    pub(crate) async fn config(&self) -> Config {
        config(&self.kubeconfig).await
    }

    async fn prepare(&self) {
        for file in ["servicemeshes", "meshroutes", "meshpolicies", "meshnodes"] {
            let path = format!("{}/../config/crd/vicino.dev_{file}.yaml", env!("CARGO_MANIFEST_DIR"));
            self.apply(&std::fs::read_to_string(path).unwrap()).await;
        }
        for namespace in ["vicino-system", "vicino-proxy"] {
            self.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n")).await;
        }
        // Where it is, proxies are told of an authority.
        let _ =
            self.api("Service", "vicino-system").delete("vicino-authority", &DeleteParams::default()).await;
        until("the CRDs are served", SOON, async || {
            self.api("ServiceMesh", "").list(&ListParams::default()).await.is_ok()
                && self.api("MeshNode", "").list(&ListParams::default()).await.is_ok()
                && self.api("MeshRoute", "").list(&ListParams::default()).await.is_ok()
                && self.api("MeshPolicy", "").list(&ListParams::default()).await.is_ok()
        })
        .await;
        for kind in ["ServiceMesh", "Node", "Namespace"] {
            let list = self.api(kind, "").list(&ListParams::default().labels(LABEL)).await.unwrap();
            for object in list.items {
                let name = object.metadata.name.unwrap();
                let _ = self.api(kind, "").delete(&name, &DeleteParams::background()).await;
            }
        }
        // Their meshes are gone, and what collects them takes its time: proxies and their reports would still be believed.
        for (kind, namespace) in [("MeshNode", ""), ("Pod", "vicino-proxy")] {
            for object in self.api(kind, namespace).list(&ListParams::default()).await.unwrap().items {
                let (name, now) = (object.metadata.name.unwrap(), DeleteParams::default().grace_period(0));
                let _ = self.api(kind, namespace).delete(&name, &now).await;
            }
        }
        let meshes = self.api("ServiceMesh", "").list(&ListParams::default()).await.unwrap();
        let others: Vec<_> = meshes.items.iter().filter_map(|mesh| mesh.metadata.name.as_deref()).collect();
        assert!(
            others.is_empty(),
            "this cluster has other meshes, which may want the tests' nodes: {others:?}"
        );
    }

    /// Two nodes of this test's own, a mesh on them, a meshed namespace with the Services `web` and `quotes`.
    pub(crate) async fn shop(&self) {
        for number in 1..=2 {
            self.node(number).await;
        }
        let name = &self.name;
        self.apply(&format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {{name: {name}, labels: {{{LABEL}: '1'}}}}
spec: {{proxy: {{nodeSelector: {{{LABEL}: {name}}}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{{LABEL}: '1', vicino.dev/mesh: {name}}}}}
"
        ))
        .await;
        self.service("web", 80).await;
        self.service("quotes", 80).await;
    }

    /// With a block for its pods, or the cluster gives it another one each time.
    pub(crate) async fn node(&self, number: usize) {
        let name = &self.name;
        let place = format!("{}.{}", number / 250, number % 250);
        self.apply(&format!(
            "
apiVersion: v1
kind: Node
metadata: {{name: {name}-{number}, labels: {{{LABEL}: {name}, kubernetes.io/os: linux}}}}
spec: {{podCIDR: 10.78.{place}/32, podCIDRs: [10.78.{place}/32]}}
"
        ))
        .await;
        let address = format!("10.77.{place}");
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        let node = format!("{name}-{number}");
        self.api("Node", "")
            .patch_status(&node, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    pub(crate) async fn service(&self, service: &str, port: u16) {
        let name = &self.name;
        self.apply(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: {name}}}
spec: {{clusterIP: None, ports: [{{port: {port}}}]}}
"
        ))
        .await;
    }

    /// A MeshRoute of this test's namespace as a user applies it; returns its UID.
    pub(crate) async fn users_route(&self, name: &str, spec: &str) -> String {
        let namespace = &self.name;
        self.apply(&format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"
        ))
        .await;
        self.route(name).await.unwrap().metadata.uid.unwrap()
    }

    /// Server-side-applies manifests as a user's tool does.
    pub(crate) async fn apply(&self, text: &str) {
        for document in text.split("\n---\n").filter(|document| !document.trim().is_empty()) {
            let manifest: Value = serde_saphyr::from_str(document).unwrap();
            let said =
                |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let api = self.api(&said("/kind"), &said("/metadata/namespace"));
            let params = PatchParams::apply("api-tests").force();
            api.patch(&said("/metadata/name"), &params, &Patch::Apply(&manifest)).await.unwrap();
        }
    }

    /// What the command line answers in JSON.
    pub(crate) fn vicino(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vicino"));
        let output = command.args(["--kubeconfig", &self.kubeconfig]).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }

    /// Objects of a kind; of no namespace when that is empty.
    pub(crate) fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "ServiceMesh" | "MeshRoute" | "MeshPolicy" | "MeshNode" => ("vicino.dev", "v1alpha1"),
            "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1"),
            "DaemonSet" => ("apps", "v1"),
            "Event" => ("events.k8s.io", "v1"),
            "Lease" => ("coordination.k8s.io", "v1"),
            "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => {
                ("rbac.authorization.k8s.io", "v1")
            }
            _ => ("", "v1"),
        };
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = match kind {
            // Guessed, it would be `meshpolicys`.
            "MeshPolicy" => ApiResource::from_gvk_with_plural(&gvk, "meshpolicies"),
            _ => ApiResource::from_gvk(&gvk),
        };
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// One object, if it exists.
    pub(crate) async fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<DynamicObject> {
        self.api(kind, namespace).get_opt(name).await.unwrap()
    }

    /// Whether the statuses of what [`Self::shop`] made say that everything is written; they are the last that is.
    pub(crate) async fn converged(&self) -> bool {
        let mesh = self.get("ServiceMesh", "", &self.name).await;
        // The DaemonSet's controller is at work too, and where events are swallowed any of its steps may be the last seen.
        let waits = ["False/ProxiesStarting", "False/ProxiesRolling", "False/ProxiesNotReady"];
        let mut all = condition(mesh.as_ref(), "Accepted") == "True/Accepted"
            && waits.contains(&condition(mesh.as_ref(), "Ready").as_str());
        for name in ["web", "quotes"] {
            let route = self.route(name).await;
            all = all
                && condition(route.as_ref(), "Accepted") == "True/Accepted"
                && condition(route.as_ref(), "Programmed") == "False/NoReadyProxy";
        }
        all
    }

    /// Waits until the DaemonSet's controller has done what it does, too: no step of its leads to a status any more.
    pub(crate) async fn waits_for_proxies(&self) {
        until("the mesh waits for its proxies", SOON, async || {
            let mesh = self.get("ServiceMesh", "", &self.name).await;
            condition(mesh.as_ref(), "Ready") == "False/ProxiesNotReady"
        })
        .await;
    }

    /// A MeshRoute of this test's namespace.
    pub(crate) async fn route(&self, name: &str) -> Option<DynamicObject> {
        self.get("MeshRoute", &self.name, name).await
    }

    /// What proxies are told about the Services of this test's namespace.
    pub(crate) async fn routes(&self) -> BTreeMap<String, String> {
        let name = format!("vicino-{}-routes-{}", self.name, self.name);
        let map = self.get("ConfigMap", "vicino-proxy", &name).await;
        map.and_then(|map| serde_json::from_value(map.data["data"].clone()).ok()).unwrap_or_default()
    }

    /// Kind, name and version of everything that the operator generates for this test's mesh.
    pub(crate) async fn generated(&self) -> BTreeMap<String, String> {
        let all = self.generated_objects().await.into_iter();
        all.map(|(id, object)| (id, object.metadata.resource_version.unwrap())).collect()
    }

    /// Everything that the operator generates for this test's mesh, by kind and name.
    pub(crate) async fn generated_objects(&self) -> BTreeMap<String, DynamicObject> {
        let mut all = BTreeMap::new();
        let ours = ListParams::default().labels(&format!("vicino.dev/mesh={}", self.name));
        for (kind, namespace) in [
            ("ConfigMap", "vicino-proxy"),
            ("DaemonSet", "vicino-proxy"),
            ("ServiceAccount", "vicino-proxy"),
            ("Role", "vicino-proxy"),
            ("RoleBinding", "vicino-proxy"),
            ("ClusterRole", ""),
            ("ClusterRoleBinding", ""),
            ("MeshNode", ""),
            ("MeshRoute", &self.name),
        ] {
            for object in self.api(kind, namespace).list(&ours).await.unwrap().items {
                all.insert(format!("{kind} {}", object.metadata.name.as_ref().unwrap()), object);
            }
        }
        all
    }
}

/// By a kubeconfig.
pub(crate) async fn config(kubeconfig: &str) -> Config {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap()
}

/// The reason and status of a condition, `True/Ready`.
pub(crate) fn condition(object: Option<&DynamicObject>, kind: &str) -> String {
    let conditions = object.and_then(|o| o.data.pointer("/status/conditions")).and_then(Value::as_array);
    let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == kind));
    found.map_or_else(
        || "absent".to_owned(),
        |c| format!("{}/{}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap()),
    )
}

/// Waits until `holds`, or fails and says what was waited for.
pub(crate) async fn until(what: &str, at_most: Duration, holds: impl AsyncFn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < at_most, "waited {} s in vain until {what}", at_most.as_secs());
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}
