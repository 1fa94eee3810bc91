//! Worlds for tests: from manifests, and as an API server would leave them after a plan; no cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use vicino_crds::names;

use crate::apply::Change;
use crate::plan::{Plan, plan};
use crate::world::{Key, Kind, Rollout, World};

/// What every cluster has: the proxies' namespace, two nodes, a mesh and a meshed namespace with two Services.
pub(crate) const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: vicino-proxy}
---
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {kubernetes.io/os: linux, topology.kubernetes.io/zone: a}}
status: {addresses: [{type: Hostname, address: node1}, {type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: "fd00::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2, labels: {kubernetes.io/os: linux}}
status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}
---
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, generation: 1}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {vicino.dev/mesh: default}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: admin, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}
"#;

/// A World of the manifests in `text`, each with a UID made of its kind and name.
pub(crate) fn world(text: &str) -> World {
    let mut world = World::default();
    load(&mut world, text);
    world
}

/// Adds manifests.
pub(crate) fn load(world: &mut World, text: &str) {
    for document in manifests(text) {
        assert!(world.load(document).unwrap(), "a kind that the pipeline does not look at");
    }
}

/// The manifests in `text`.
pub(crate) fn manifests(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| {
            let mut manifest: Value = serde_saphyr::from_str(document).unwrap();
            let said =
                |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let uid = format!("{}:{}", said("/kind"), said("/metadata/name"));
            if manifest.pointer("/metadata/uid").is_none() {
                manifest["metadata"]["uid"] = json!(uid);
            }
            manifest
        })
        .collect()
}

/// The time in tests.
pub(crate) fn now() -> Time {
    Time(Timestamp::from_second(1_800_000_000).unwrap())
}

/// What follows from `world`.
pub(crate) fn planned(world: &World) -> Plan {
    plan(world, &now())
}

/// Does to `world` what an API server would make of the plan's writes, objects and statuses, until nothing is left to write.
pub(crate) fn converge(world: &mut World) -> Plan {
    for _ in 0..5 {
        let plan = planned(world);
        for change in &plan.changes {
            write(world, &plan, change);
        }
        for (key, status) in &plan.statuses.routes {
            // Deleted in this round.
            let Some(row) = world.routes.get(key).cloned() else { continue };
            let mut value = row.value;
            value.status = status.clone();
            world.routes.put(key.clone(), crate::world::Row { value, ..row });
        }
        for (key, status) in &plan.statuses.policies {
            let row = world.policies.get(key).unwrap().clone();
            let mut value = row.value;
            value.status = status.clone();
            world.policies.put(key.clone(), crate::world::Row { value, ..row });
        }
        for (name, status) in &plan.statuses.meshes {
            let key = Key::cluster(name);
            let row = world.meshes.get(&key).unwrap().clone();
            let mut value = row.value;
            value.status = status.clone();
            world.meshes.put(key, crate::world::Row { value, ..row });
        }
        if plan.changes.is_empty() {
            return planned(world);
        }
    }
    panic!("the pipeline writes again and again");
}

fn write(world: &mut World, plan: &Plan, change: &Change) {
    let id = change.id();
    let Change::Apply(_, live) = change else {
        let uid = world.identity(id).unwrap().1.to_owned();
        world.bury(id, &uid);
        return;
    };
    let object = &plan.objects[id];
    let mut manifest = object.manifest();
    manifest["metadata"]["uid"] = json!(live.clone().unwrap_or_else(|| format!("made:{id}")));
    manifest["metadata"]["generation"] = json!(1);
    let version = world.identity(id).map_or(1, |(version, _)| version + 1);
    manifest["metadata"]["resourceVersion"] = json!(version.to_string());
    if id.kind == Kind::MeshRoute {
        let row = world.routes.get(&id.key);
        let manager =
            |name: &str| json!({"manager": name, "operation": "Apply", "fieldsV1": {"f:metadata": {}}});
        let mut managers = Vec::new();
        if object.owner.is_some() {
            managers.push(manager(names::FIELD_MANAGER));
        }
        if let Some(row) = row {
            if row.value.others {
                managers.push(manager("kubectl"));
            }
            manifest["spec"] = json!(row.value.spec.clone().unwrap());
            manifest["metadata"]["generation"] = json!(row.value.generation);
        }
        manifest["metadata"]["managedFields"] = json!(managers);
    }
    world.take_written(id.kind, serde_json::from_value(manifest).unwrap());
}

/// A ready proxy on `node` that serves every ConfigMap of the mesh as it is now.
pub(crate) fn serve(world: &mut World, mesh: &str, node: &str) {
    let pod = format!("vicino-{mesh}-{node}");
    load(world, &proxy_pod(mesh, node, &pod));
    let mut configs = Vec::new();
    for (key, row) in world.children.of(Kind::ConfigMap).iter() {
        let digest = row.value.annotations.get(names::ANNOTATION_DIGEST);
        configs.push(json!({"name": key.name, "digest": digest}));
    }
    report(
        world,
        node,
        &json!({"proxy": {"pod": pod, "version": "1", "contract": vicino_crds::contract::CONTRACT_VERSION, "state": "Ready"}, "configs": configs}),
    );
}

/// A ready pod of the mesh's DaemonSet.
pub(crate) fn proxy_pod(mesh: &str, node: &str, pod: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  namespace: vicino-proxy
  labels: {{app.kubernetes.io/managed-by: vicino-operator, vicino.dev/mesh: {mesh}}}
spec: {{nodeName: {node}, hostNetwork: true, containers: []}}
status: {{conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

/// The status of `node`'s MeshNode becomes `status`.
pub(crate) fn report(world: &mut World, node: &str, status: &Value) {
    let key = Key::cluster(node);
    let mut row = world.neighbourhoods.get(&key).unwrap().clone();
    row.value.status = serde_json::from_value(status.clone()).unwrap();
    world.neighbourhoods.put(key, row);
}

/// How far the DaemonSet of the mesh `default` has come.
pub(crate) fn rollout(world: &mut World, rollout: Rollout) {
    let key = Key::new(names::PROXY_NAMESPACE, &names::mesh_object("default"));
    let mut row = world.children.of(Kind::DaemonSet).get(&key).unwrap().clone();
    row.value.rollout = Some(rollout);
    world.children.of_mut(Kind::DaemonSet).put(key, row);
}
