//! What statuses say, from the first write to a proxy that refuses.

use expect_test::{Expect, expect};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use vicino_crds::mesh::Tally;
use vicino_crds::{contract, names};

use crate::fixture::{SHOP, converge, load, planned, proxy_pod, report, rollout, serve, world};
use crate::world::{Body, Failure, Key, Kind, ObjectId, Rollout, World};

fn text(conditions: &[Condition]) -> String {
    let line = |c: &Condition| format!("  {}={} {}: {}\n", c.type_, c.status, c.reason, c.message);
    conditions.iter().map(line).collect()
}

fn tally(tally: Option<&Tally>) -> String {
    tally.map_or("-".to_owned(), |tally| tally.summary.clone())
}

/// The status of the MeshRoute `shop/web`.
fn route(world: &World, expect: &Expect) {
    let plan = planned(world);
    let status = &plan.statuses.routes[&Key::new("shop", "web")];
    let (endpoints, programmed) = (tally(status.endpoints.as_ref()), tally(status.programmed.as_ref()));
    let backends = status.backends.as_deref().unwrap_or("-");
    expect.assert_eq(&format!(
        "backends {backends}, endpoints {endpoints}, programmed {programmed}\n{}",
        text(&status.conditions)
    ));
}

/// The status of the ServiceMesh `default`.
fn mesh(world: &World, expect: &Expect) {
    let plan = planned(world);
    let status = &plan.statuses.meshes["default"];
    let (proxies, routes) = (tally(status.proxies.as_ref()), tally(status.routes.as_ref()));
    expect.assert_eq(&format!("proxies {proxies}, routes {routes}\n{}", text(&status.conditions)));
}

#[test]
fn from_nothing_to_programmed() {
    let mut world = world(SHOP);
    mesh(
        &world,
        &expect![[r#"
        proxies 0/2, routes 0/2
          Ready=False Applying: 13 objects are still to be written or deleted
          Accepted=True Accepted: the spec is valid
          Reconciling=True Applying: 13 objects are still to be written or deleted
    "#]],
    );
    converge(&mut world);
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/0
          Ready=False NoReadyProxy: no proxy of the mesh "default" is ready
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False NoReadyProxy: no proxy of the mesh "default" is ready
          Reconciling=True NoReadyProxy: no proxy of the mesh "default" is ready
    "#]],
    );
    load(&mut world, &proxy_pod("default", "node1", "vicino-default-node1"));
    converge(&mut world);
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/1
          Ready=False Programming: 0 of 1 ready proxies serve it; not yet: node1
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False Programming: 0 of 1 ready proxies serve it; not yet: node1
          Reconciling=True Programming: 0 of 1 ready proxies serve it; not yet: node1
    "#]],
    );
    serve(&mut world, "default", "node1");
    load(&mut world, &proxy_pod("default", "node2", "vicino-default-node2"));
    converge(&mut world);
    serve(&mut world, "default", "node2");
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 2/2
          Ready=True Ready: every ready proxy serves it
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=True Programmed: every ready proxy serves it
    "#]],
    );
}

#[test]
fn endpoints_count_once_for_each_pod_of_a_dual_stack_service() {
    let mut world = world(SHOP);
    converge(&mut world);
    for (name, family, ready) in
        [("web-4", "IPv4", "true"), ("web-6", "IPv6", "true"), ("web-4b", "IPv4", "false")]
    {
        load(
            &mut world,
            &format!(
                "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
endpoints: [{{addresses: [10.1.0.1], conditions: {{ready: {ready}}}}}, {{addresses: [10.1.0.2]}}]
"
            ),
        );
    }
    let plan = planned(&world);
    assert_eq!(tally(plan.statuses.routes[&Key::new("shop", "web")].endpoints.as_ref()), "3/4");
}

#[test]
fn an_unrelated_change_leaves_a_route_programmed_and_its_own_does_not() {
    let mut world = world(SHOP);
    converge(&mut world);
    for node in ["node1", "node2"] {
        serve(&mut world, "default", node);
    }
    converge(&mut world);
    let programmed = |world: &World, name: &str| {
        tally(planned(world).statuses.routes[&Key::new("shop", name)].programmed.as_ref())
    };
    assert_eq!((programmed(&world, "web"), programmed(&world, "web-v2")), ("2/2".into(), "2/2".into()));
    load(
        &mut world,
        "
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {ports: [{port: 81}]}
",
    );
    assert_eq!(programmed(&world, "web-v2"), "0/2", "compiled, not written");
    converge(&mut world);
    assert_eq!((programmed(&world, "web"), programmed(&world, "web-v2")), ("2/2".into(), "0/2".into()));
}

#[test]
fn the_word_of_a_proxy_that_is_not_ready_counts_for_nothing() {
    let mut world = world(SHOP);
    converge(&mut world);
    serve(&mut world, "default", "node1");
    let mut status = json!(world.neighbourhoods.get(&Key::cluster("node1")).unwrap().value.status);
    status["proxy"]["pod"] = json!("vicino-default-draining");
    report(&mut world, "node1", &status);
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/1
          Ready=False Programming: 0 of 1 ready proxies serve it; not yet: node1
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False Programming: 0 of 1 ready proxies serve it; not yet: node1
          Reconciling=True Programming: 0 of 1 ready proxies serve it; not yet: node1
    "#]],
    );
}

#[test]
fn a_refused_key_is_named_and_a_full_list_of_refusals_counts_for_every_key() {
    let mut world = world(SHOP);
    converge(&mut world);
    serve(&mut world, "default", "node1");
    let mut status = json!(world.neighbourhoods.get(&Key::cluster("node1")).unwrap().value.status);
    let at =
        status["configs"].as_array().unwrap().iter().position(|c| c["name"] == "vicino-default-routes-shop");
    let rejected = |key: String| json!({"key": key, "message": "ports[0].port: must be 1 to 65535"});
    status["configs"][at.unwrap()]["rejected"] = json!([rejected("web.yaml".to_owned())]);
    report(&mut world, "node1", &status);
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/1
          Ready=False Rejected: the proxy of node "node1" refuses it: ports[0].port: must be 1 to 65535
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False Rejected: the proxy of node "node1" refuses it: ports[0].port: must be 1 to 65535
          Stalled=True Rejected: the proxy of node "node1" refuses it: ports[0].port: must be 1 to 65535
    "#]],
    );
    let many: Vec<_> = (0..20).map(|i| rejected(format!("other-{i}.yaml"))).collect();
    status["configs"][at.unwrap()]["rejected"] = json!(many);
    report(&mut world, "node1", &status);
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/1
          Ready=False Programming: 0 of 1 ready proxies serve it; not yet: node1
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False Programming: 0 of 1 ready proxies serve it; not yet: node1
          Reconciling=True Programming: 0 of 1 ready proxies serve it; not yet: node1
    "#]],
    );
}

#[test]
fn an_invalid_meshroute_keeps_what_was_in_force() {
    let mut world = world(SHOP);
    converge(&mut world);
    let before = planned(&world).objects[&routes_of_shop()].clone();
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: web, namespace: shop, generation: 2, resourceVersion: '9', uid: 'made:MeshRoute shop/web'}
spec: {backends: [{name: nobody}]}
",
    );
    let plan = planned(&world);
    assert_eq!(plan.objects[&routes_of_shop()], before);
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/0
          Ready=False BackendNotFound: spec.backends[0].name: there is no Service "nobody" in the namespace "shop"; its Services: "web", "web-v2"
          Accepted=False BackendNotFound: spec.backends[0].name: there is no Service "nobody" in the namespace "shop"; its Services: "web", "web-v2"
          Programmed=False BackendNotFound: not accepted; proxies go on with generation 1
          Stalled=True BackendNotFound: spec.backends[0].name: there is no Service "nobody" in the namespace "shop"; its Services: "web", "web-v2"
    "#]],
    );
}

fn routes_of_shop() -> ObjectId {
    ObjectId::new(Kind::ConfigMap, Key::new("vicino-proxy", "vicino-default-routes-shop"))
}

#[test]
fn a_mesh_is_ready_when_all_is_written_and_every_proxy_runs_the_newest_spec() {
    let mut world = world(SHOP);
    converge(&mut world);
    let all = Rollout { observed: true, desired: 2, updated: 2, ready: 2 };
    mesh(
        &world,
        &expect![[r#"
        proxies 0/2, routes 0/2
          Ready=False ProxiesStarting: the DaemonSet has no pods yet
          Accepted=True Accepted: the spec is valid
          Reconciling=True ProxiesStarting: the DaemonSet has no pods yet
    "#]],
    );
    rollout(&mut world, Rollout { updated: 1, ..all });
    mesh(
        &world,
        &expect![[r#"
        proxies 2/2, routes 0/2
          Ready=False ProxiesRolling: 1 of 2 proxies are of the newest spec
          Accepted=True Accepted: the spec is valid
          Reconciling=True ProxiesRolling: 1 of 2 proxies are of the newest spec
    "#]],
    );
    rollout(&mut world, Rollout { ready: 1, ..all });
    mesh(
        &world,
        &expect![[r#"
        proxies 1/2, routes 0/2
          Ready=False ProxiesNotReady: 1 of 2 proxies are ready; not: node1, node2
          Accepted=True Accepted: the spec is valid
          Reconciling=True ProxiesNotReady: 1 of 2 proxies are ready; not: node1, node2
    "#]],
    );
    rollout(&mut world, all);
    mesh(
        &world,
        &expect![[r#"
        proxies 2/2, routes 0/2
          Ready=True Ready: 2 proxies are ready and everything is written
          Accepted=True Accepted: the spec is valid
    "#]],
    );
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut world = world(SHOP);
    converge(&mut world);
    let key = Key::new("vicino-proxy", "vicino-default-routes-shop");
    let row = world.children.of(Kind::ConfigMap).get(&key).unwrap().clone();
    world.bury(&routes_of_shop(), &row.uid);
    let failure = Failure { message: "configmaps is forbidden: quota exceeded".to_owned(), transient: false };
    world.failures.insert(routes_of_shop(), failure);
    mesh(
        &world,
        &expect![[r#"
        proxies 0/2, routes 0/2
          Ready=False ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
          Accepted=True Accepted: the spec is valid
          Stalled=True ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
    "#]],
    );
    route(
        &world,
        &expect![[r#"
        backends web:80,web:8080, endpoints 0/0, programmed 0/0
          Ready=False ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
          Reconciling=True ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
    "#]],
    );
}

#[test]
fn a_route_that_is_live_does_not_suffer_from_a_neighbours_failure() {
    let mut world = world(SHOP);
    load(&mut world, &proxy_pod("default", "node1", "vicino-default-node1"));
    converge(&mut world);
    let before = planned(&world).statuses.routes;
    let (web, v2) = (Key::new("shop", "web"), Key::new("shop", "web-v2"));
    load(
        &mut world,
        "
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 81}]}
",
    );
    let failure = Failure { message: "timeout".to_owned(), transient: true };
    world.failures.insert(routes_of_shop(), failure);
    let after = planned(&world).statuses.routes;
    assert_eq!(after[&web].conditions, before[&web].conditions);
    assert_eq!(after[&v2].conditions[2].reason, "ApplyFailed");
}

#[test]
fn what_cannot_be_deleted_is_named() {
    let mut world = world(SHOP);
    converge(&mut world);
    load(
        &mut world,
        "{apiVersion: v1, kind: Node, metadata: {name: node2, labels: {kubernetes.io/os: windows}}}",
    );
    let failure = Failure { message: "a webhook refuses".to_owned(), transient: false };
    world.failures.insert(ObjectId::new(Kind::MeshNode, Key::cluster("node2")), failure);
    mesh(
        &world,
        &expect![[r#"
            proxies 0/1, routes 0/2
              Ready=False ApplyFailed: cannot delete MeshNode node2: a webhook refuses
              Accepted=True Accepted: the spec is valid
              Stalled=True ApplyFailed: cannot delete MeshNode node2: a webhook refuses
        "#]],
    );
}

#[test]
fn routes_of_a_mesh_that_is_not_in_force_any_more_say_what_proxies_go_on_with() {
    let mut world = world(SHOP);
    converge(&mut world);
    load(
        &mut world,
        "{apiVersion: vicino.dev/v1alpha1, kind: ServiceMesh, metadata: {name: default}, spec: {identity: {}}}",
    );
    route(
        &world,
        &expect![[r#"
            backends web:80,web:8080, endpoints 0/0, programmed 0/0
              Ready=False MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status
              Accepted=False MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status
              Programmed=False MeshNotAccepted: not accepted; proxies go on with generation 1
              Stalled=True MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status
        "#]],
    );
}

#[test]
fn a_condition_keeps_its_time_while_its_status_stays() {
    let mut world = world(SHOP);
    let first = converge(&mut world);
    let later = k8s_openapi::jiff::Timestamp::from_second(1_900_000_000).unwrap();
    let again = crate::plan(&world, &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later));
    assert_eq!(first.statuses.routes, again.statuses.routes);
    assert_eq!(first.statuses.meshes, again.statuses.meshes);
}

/// YAML readers take many a name for something else than a text.
#[test]
fn what_is_compiled_reads_back_whatever_it_is_called() {
    let mut world = world(SHOP);
    for name in ["y", "no", "on", "off", "null", "true", "e3"] {
        load(
            &mut world,
            &format!(
                "
apiVersion: v1
kind: Service
metadata: {{name: '{name}', namespace: shop}}
spec: {{ports: [{{name: '{name}', port: 80}}]}}
"
            ),
        );
    }
    for name in ["1e3", "0x1f", "10", "1.5", "0777", "1:30"] {
        load(
            &mut world,
            &format!(
                "
apiVersion: v1
kind: Node
metadata: {{name: '{name}', labels: {{kubernetes.io/os: linux, topology.kubernetes.io/zone: '{name}'}}}}
"
            ),
        );
    }
    let plan = planned(&world);
    for object in plan.objects.values() {
        let Body::Data(data) = &object.body else { continue };
        for (key, text) in data {
            let name = match object.labels[names::LABEL_CONFIG].as_str() {
                names::CONFIG_ROUTES => {
                    contract::read::<contract::CompiledRoute>(text.as_bytes()).unwrap().document.service
                }
                names::CONFIG_NODES => {
                    contract::read::<contract::CompiledNode>(text.as_bytes()).unwrap().document.name
                }
                _ => continue,
            };
            assert_eq!(names::data_key(&name), *key);
        }
    }
}
