//! Golden tests of every kind of object that is rendered.

use std::fs;
use std::path::Path;

use expect_test::{ExpectFile, expect, expect_file};

use serde_json::Value;
use vicino_crds::names;

use crate::fixture::{SHOP, load, manifests, planned, proxy_pod, world};
use crate::world::{Kind, World};

/// Every rendered object of `kind` whose name starts with `name`, as YAML.
fn check(world: &World, kind: Kind, name: &str, expect: &ExpectFile) {
    let plan = planned(world);
    let chosen = plan.objects.iter().filter(|(id, _)| id.kind == kind && id.key.name.starts_with(name));
    let documents: Vec<_> =
        chosen.map(|(_, object)| serde_saphyr::to_string(&object.manifest()).unwrap()).collect();
    expect.assert_eq(&documents.join("---\n"));
}

/// A mesh may be called anything that a label may be: what it generates must never be one of the objects that were shipped.
#[test]
fn no_shipped_object_has_a_name_that_a_mesh_can_give() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut looked_at = 0;
    for folder in ["rbac", "operator", "admission"] {
        for file in fs::read_dir(config.join(folder)).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            for object in manifests(&text) {
                let said = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
                let (kind, name) = (said("/kind"), said("/metadata/name"));
                let here = ["", names::PROXY_NAMESPACE].contains(&said("/metadata/namespace"));
                let is_rendered = Kind::CHILDREN.iter().any(|child| child.as_str() == kind);
                if here && is_rendered {
                    looked_at += 1;
                    let mesh = name.strip_prefix(&names::mesh_object("")).unwrap_or(":");
                    assert!(mesh.contains(':'), "a mesh called {mesh:?} would replace the {kind} {name:?}");
                }
            }
        }
    }
    assert!(looked_at >= 4, "{looked_at} objects of kinds that are rendered too were found");
}

#[test]
fn daemon_set() {
    check(&world(SHOP), Kind::DaemonSet, "", &expect_file!["golden/daemon_set.yaml"]);
}

#[test]
fn a_daemon_set_takes_what_the_mesh_says() {
    let mut world = world(SHOP);
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default}
spec:
  proxy:
    image: registry.example/proxy:1
    imagePullPolicy: Always
    drainSeconds: 7
    nodeSelector: {topology.kubernetes.io/zone: a}
    tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
    resources: {limits: {memory: 1Gi}}
    priorityClassName: high
",
    );
    let plan = planned(&world);
    let object = plan.objects.values().find(|object| object.id.kind == Kind::DaemonSet).unwrap().manifest();
    let pod = &object["spec"]["template"]["spec"];
    let seen: Vec<_> = [
        "/containers/0/image",
        "/containers/0/imagePullPolicy",
        "/containers/0/resources",
        "/terminationGracePeriodSeconds",
        "/nodeSelector",
        "/tolerations",
        "/priorityClassName",
    ]
    .map(|path| format!("{path} {}", pod.pointer(path).unwrap()))
    .into();
    expect![[r#"
        /containers/0/image "registry.example/proxy:1"
        /containers/0/imagePullPolicy "Always"
        /containers/0/resources {"limits":{"memory":"1Gi"}}
        /terminationGracePeriodSeconds 12
        /nodeSelector {"kubernetes.io/os":"linux","topology.kubernetes.io/zone":"a"}
        /tolerations [{"effect":"NoSchedule","key":"gpu","operator":"Exists"}]
        /priorityClassName "high""#]]
    .assert_eq(&seen.join("\n"));
}

#[test]
fn service_account() {
    check(&world(SHOP), Kind::ServiceAccount, "", &expect_file!["golden/service_account.yaml"]);
}

#[test]
fn rights() {
    check(&world(SHOP), Kind::ClusterRole, "", &expect_file!["golden/cluster_role.yaml"]);
    check(&world(SHOP), Kind::ClusterRoleBinding, "", &expect_file!["golden/cluster_role_binding.yaml"]);
    check(&world(SHOP), Kind::Role, "", &expect_file!["golden/role.yaml"]);
    check(&world(SHOP), Kind::RoleBinding, "", &expect_file!["golden/role_binding.yaml"]);
}

#[test]
fn bootstrap_and_routes() {
    check(&world(SHOP), Kind::ConfigMap, "vicino-default", &expect_file!["golden/config_maps.yaml"]);
}

#[test]
fn a_route_takes_what_its_meshroute_and_mesh_say() {
    let mut world = world(SHOP);
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default}
spec: {defaults: {connectTimeoutMilliseconds: 300, requestTimeoutMilliseconds: 9000, requeues: 3}}
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web-v2, namespace: shop, generation: 4}
spec:
  backends: [{name: web-v2, weight: 9}, {name: web, port: 8080}]
  timeouts: {requestMilliseconds: 0}
  requeues: 0
",
    );
    let plan = planned(&world);
    let routes =
        plan.objects.values().find(|object| object.id.key.name == "vicino-default-routes-shop").unwrap();
    expect![[r#"
        version: 1
        namespace: shop
        service: web-v2
        generation: 4
        ports:
        - port: 80
          protocol: HTTP
          backends:
          - service: web-v2
            port: 80
            portName: ""
            weight: 9
          - service: web
            port: 8080
            portName: admin
            weight: 1
        connectTimeoutMilliseconds: 300
        requestTimeoutMilliseconds: 0
        requeues: 0
        ...
    "#]]
    .assert_eq(routes.manifest()["data"]["web-v2.yaml"].as_str().unwrap());
}

#[test]
fn mesh_nodes() {
    let mut world = world(SHOP);
    let pods = [
        ("b", "node1", "false", "Running", "[{ip: 10.1.0.2}, {ip: 'fd01::2'}]"),
        ("a", "node1", "false", "Pending", "[{ip: 10.1.0.1}]"),
        ("no-address-yet", "node1", "false", "Pending", "[]"),
        ("ended", "node1", "false", "Succeeded", "[{ip: 10.1.0.3}]"),
        ("host-network", "node1", "true", "Running", "[{ip: 10.0.0.1}]"),
        ("elsewhere", "node9", "false", "Running", "[{ip: 10.9.0.1}]"),
    ];
    for (name, node, host, phase, ips) in pods {
        load(
            &mut world,
            &format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec: {{nodeName: {node}, hostNetwork: {host}, serviceAccountName: robot, containers: []}}
status: {{phase: {phase}, podIPs: {ips}}}
"
            ),
        );
    }
    check(&world, Kind::MeshNode, "", &expect_file!["golden/mesh_nodes.yaml"]);
}

#[test]
fn nodes_say_whether_their_proxy_is_ready() {
    let mut world = world(SHOP);
    load(&mut world, &proxy_pod("default", "node2", "vicino-default-x"));
    check(
        &world,
        Kind::ConfigMap,
        "vicino-default-nodes",
        &expect_file!["golden/nodes_with_a_ready_proxy.yaml"],
    );
}

#[test]
fn a_meshroute_is_marked_only_while_nobody_else_manages_it() {
    let mut world = world(SHOP);
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop, generation: 1}
spec: {requeues: 2}
",
    );
    check(&world, Kind::MeshRoute, "", &expect_file!["golden/mesh_routes.yaml"]);
}
