//! Golden tests of every kind of object that is rendered.

use std::fs;
use std::path::Path;

use expect_test::{ExpectFile, expect, expect_file};

use serde_json::Value;
use vicino_crds::mesh::IdentityMode;
use vicino_crds::names;

use crate::fixture::{SHOP, converge, load, manifests, planned, proxy_pod, world};
use crate::world::{Body, Key, Kind, ObjectId, Step, World};

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
fn pods_have_their_labels_where_a_policy_may_select_them() {
    let mut world = world(SHOP);
    load(&mut world, "{apiVersion: v1, kind: Namespace, metadata: {name: other}}");
    for namespace in ["shop", "other"] {
        load(
            &mut world,
            &format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: {namespace}, namespace: {namespace}, labels: {{app: web, tier: a}}}}
spec: {{nodeName: node1, containers: []}}
status: {{podIPs: [{{ip: 10.1.0.1}}]}}
"
            ),
        );
    }
    let plan = planned(&world);
    let node = &plan.objects[&ObjectId::new(Kind::MeshNode, Key::cluster("node1"))];
    let Body::Neighbours(spec) = &node.body else { panic!("a MeshNode has neighbours") };
    let labels: Vec<_> = spec.pods.iter().map(|pod| (&*pod.namespace, pod.labels.len())).collect();
    assert_eq!(labels, [("other", 0), ("shop", 2)]);
}

#[test]
fn pods_have_the_time_of_their_network_while_it_stands() {
    let mut world = world(SHOP);
    for (name, status) in [("stands", "True"), ("torn-down", "False")] {
        load(
            &mut world,
            &format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec: {{nodeName: node1, containers: []}}
status:
  podIPs: [{{ip: 10.1.0.1}}]
  conditions: [{{type: PodReadyToStartContainers, status: '{status}', lastTransitionTime: '2026-01-02T03:04:05Z'}}]
"
            ),
        );
    }
    let plan = planned(&world);
    let node = &plan.objects[&ObjectId::new(Kind::MeshNode, Key::cluster("node1"))];
    let Body::Neighbours(spec) = &node.body else { panic!("a MeshNode has neighbours") };
    let since = spec.pods.iter().map(|pod| {
        let since = pod.network_since.as_ref().map(|since| since.0.to_string());
        (pod.name.clone(), since.unwrap_or_default())
    });
    let mut since: Vec<_> = since.collect();
    since.sort();
    assert_eq!(
        since,
        [("stands".into(), "2026-01-02T03:04:05Z".into()), ("torn-down".into(), String::new())]
    );
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

/// Nodes with what proxies have to know of them for calls out of the mesh, one of them in no mesh.
const OUTSIDE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {kubernetes.io/os: linux}}
spec: {podCIDR: 10.1.1.0/24, podCIDRs: [10.1.1.0/24, "fd01:1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: 198.51.100.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2, labels: {kubernetes.io/os: linux}}
spec: {podCIDR: 10.1.2.0/24}
status: {addresses: [{type: InternalIP, address: 10.0.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: node3, labels: {kubernetes.io/os: windows}}
status: {addresses: [{type: ExternalIP, address: 198.51.100.3}, {type: InternalIP, address: 10.0.0.3}, {type: InternalIP, address: "fd00::3"}, {type: Hostname, address: node3}]}
---
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, generation: 2}
spec:
  egress:
    allow:
    - {hosts: [api.example.com, "*.example.org"], ports: [443]}
    - {ipBlocks: [{cidr: 203.0.113.0/24, except: [203.0.113.8/29]}], from: [{serviceAccounts: [{name: web, namespace: shop}]}]}
"#;

fn egress_of(world: &World) -> Option<String> {
    let id = ObjectId::new(Kind::ConfigMap, Key::new(names::PROXY_NAMESPACE, "vicino-default.egress"));
    match &planned(world).objects.get(&id)?.body {
        Body::Data(data) => data.get("egress.yaml").cloned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_may_be_called_outside_and_what_proxies_know_of_nodes_for_it() {
    let mut world = world(SHOP);
    assert_eq!(egress_of(&world), None);
    let daemon_set = |world: &World| {
        let objects = planned(world).objects.into_values();
        objects.filter(|object| object.id.kind == Kind::DaemonSet).collect::<Vec<_>>()
    };
    let before = daemon_set(&world);
    load(&mut world, OUTSIDE);
    check(&world, Kind::ConfigMap, "vicino-default.egress", &expect_file!["golden/egress.yaml"]);
    check(&world, Kind::ConfigMap, "vicino-default-nodes", &expect_file!["golden/nodes_with_pod_cidrs.yaml"]);
    assert_eq!(daemon_set(&world), before, "proxies go on");
}

#[test]
fn an_egress_that_becomes_invalid_stays_in_force_as_it_was_and_disturbs_nothing_else() {
    let mut world = world(SHOP);
    load(&mut world, OUTSIDE);
    converge(&mut world);
    let before = egress_of(&world).unwrap();
    load(&mut world, &OUTSIDE.replace("api.example.com", "Api.example.com"));
    assert_eq!(egress_of(&world).unwrap(), before);
    load(
        &mut world,
        r#"
apiVersion: v1
kind: Node
metadata: {name: node4, labels: {kubernetes.io/os: windows}}
status: {addresses: [{type: InternalIP, address: 10.0.0.4}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop}
spec: {nodeName: node1, containers: []}
status: {phase: Running, podIPs: [{ip: 10.1.1.9}]}
"#,
    );
    let told = egress_of(&world).unwrap();
    assert_eq!(told, before.replace("- \"10.0.0.3\"\n", "- \"10.0.0.3\"\n- \"10.0.0.4\"\n"));
    let objects = planned(&world).objects;
    let Body::Neighbours(node) = &objects[&ObjectId::new(Kind::MeshNode, Key::cluster("node1"))].body else {
        panic!("a MeshNode has neighbours")
    };
    assert_eq!(node.pods.len(), 1, "a new pod is known");
}

#[test]
fn an_egress_that_was_never_valid_lets_nothing_out() {
    let mut world = world(SHOP);
    load(&mut world, &OUTSIDE.replace("api.example.com", "Api.example.com"));
    assert_eq!(egress_of(&world), None);
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

#[test]
fn where_there_is_an_authority_proxies_are_told_of_it() {
    const AUTHORITY: &str = "
apiVersion: v1
kind: Service
metadata: {name: vicino-authority, namespace: vicino-system}
spec: {clusterIP: 10.96.0.5, ports: [{name: https, port: 443}]}
";
    let named = |world: &World, kind: Kind, name: &str| {
        let objects = planned(world).objects.into_values();
        objects.filter(|object| object.id.kind == kind && object.id.key.name == name).collect::<Vec<_>>()
    };
    let mut world = world(SHOP);
    let authority = crate::world::Authority { roots: "roots".to_owned(), ..Default::default() };
    world.take(crate::world::Change::Authority(authority));
    assert!(named(&world, Kind::ConfigMap, "vicino-default.trust").is_empty(), "nobody serves them");
    load(&mut world, AUTHORITY);
    let trust = named(&world, Kind::ConfigMap, "vicino-default.trust");
    let Body::Data(data) = &trust[0].body else { panic!("{trust:?}") };
    assert_eq!(data.get("roots.pem").map(String::as_str), Some("roots"));
    let daemon_set = named(&world, Kind::DaemonSet, "vicino-default")[0].manifest();
    let pod = &daemon_set["spec"]["template"]["spec"];
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let value =
        |name: &str| env.iter().find(|variable| variable["name"] == name).map(|variable| &variable["value"]);
    assert_eq!(value("VICINO_AUTHORITY"), Some(&serde_json::json!("10.96.0.5:443")));
    let sources = &pod["volumes"].as_array().unwrap().last().unwrap()["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"]["audience"], "vicino-authority");
    assert_eq!(sources[1]["configMap"]["name"], "vicino-default.trust");

    // An operator that does not know the roots yet changes nothing.
    converge(&mut world);
    world.authority = None;
    assert_eq!(named(&world, Kind::ConfigMap, "vicino-default.trust"), trust);

    // Nor does one that misses the Service: proxies would be replaced by some without certificates.
    let service = Key::new(names::SYSTEM_NAMESPACE, names::AUTHORITY_SERVICE);
    world.services.step(Step::Gone(service, "Service:vicino-authority".to_owned()));
    assert_eq!(crate::render::trust::authority(&world), None);
    let plan = planned(&world);
    assert_eq!(plan.changes, []);
    let conditions = &plan.statuses.meshes["default"].conditions;
    let identity = conditions.iter().find(|condition| condition.type_ == "IdentityReady").unwrap();
    assert_eq!(identity.reason, "AuthorityAway");
}

#[test]
fn labels_of_one_pod_do_not_keep_a_node_from_knowing_the_others() {
    let mut world = world(SHOP);
    let label = |number: usize| format!("l{number}: {}", "x".repeat(60));
    let pod = |name: &str, namespace: &str, labels: usize| {
        let labels: Vec<_> = (0..labels).map(label).collect();
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{{}}}}}
spec: {{nodeName: node1, containers: []}}
status: {{phase: Running, podIPs: [{{ip: 10.1.0.1}}]}}
",
            labels.join(", ")
        )
    };
    for (name, namespace, labels) in
        [("few", "shop", 3), ("many", "shop", 5000), ("other", "elsewhere", 5000)]
    {
        load(&mut world, &pod(name, namespace, labels));
    }
    let plan = planned(&world);
    let Body::Neighbours(spec) = &plan.objects[&ObjectId::new(Kind::MeshNode, Key::cluster("node1"))].body
    else {
        panic!("{plan:?}")
    };
    let mut pods: Vec<_> = spec.pods.iter().map(|pod| (&*pod.name, pod.labels.len())).collect();
    pods.sort_unstable();
    assert_eq!(pods, [("few", 3), ("other", 0)], "of other namespaces no labels are told");
    let notices = crate::event::notices(&world, &plan, &mut crate::event::Said::default());
    let of_pods: Vec<_> = notices.iter().filter(|n| n.regarding.kind.as_deref() == Some("Pod")).collect();
    assert_eq!((of_pods.len(), &*of_pods[0].reason), (1, "LabelsTooLong"));
}

#[test]
fn pods_of_the_mesh_say_how_they_are_called_around_it_and_others_do_not() {
    let mut world = world(SHOP);
    for (name, namespace, ports) in
        [("a", "shop", "9100, 9090,,9090,x,0,70000"), ("b", "elsewhere", "9090"), ("c", "shop", "")]
    {
        load(
            &mut world,
            &format!(
                "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, annotations: {{vicino.dev/plain-ports: '{ports}'}}}}
spec: {{nodeName: node1, containers: []}}
status: {{phase: Running, podIPs: [{{ip: 10.1.0.1}}]}}
"
            ),
        );
    }
    let said = |world: &World| {
        let objects = planned(world).objects;
        let node = &objects[&ObjectId::new(Kind::MeshNode, Key::cluster("node1"))];
        let Body::Neighbours(spec) = &node.body else { panic!("{node:?}") };
        spec.pods
            .iter()
            .map(|pod| (pod.name.clone(), pod.inbound, pod.plain_ports.clone()))
            .collect::<Vec<_>>()
    };
    let expected = |mode| {
        let mode = Some(mode);
        [
            ("a".to_owned(), mode, vec![9090, 9100]),
            ("b".to_owned(), None, vec![]),
            ("c".to_owned(), mode, vec![]),
        ]
    };
    let mut pods = said(&world);
    pods.sort();
    assert_eq!(pods, expected(IdentityMode::Permissive));
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, generation: 1}
spec: {identity: {mode: Strict}}
",
    );
    let mut pods = said(&world);
    pods.sort();
    assert_eq!(pods, expected(IdentityMode::Strict));
}
