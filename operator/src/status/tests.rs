//! What statuses say, from the first write to a proxy that refuses.

use expect_test::{Expect, expect};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use vicino_crds::mesh::Tally;
use vicino_crds::{contract, names};

use crate::fixture::{SHOP, converge, load, planned, proxy_pod, report, rollout, serve, world};
use crate::world::{Authority, Body, Failure, Key, Kind, ObjectId, Rollout, Step, World};

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
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
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
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
              ResolvedRefs=False BackendNotFound: spec.backends[0].name: there is no Service "nobody" in the namespace "shop"; its Services: "web", "web-v2"
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
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
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
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
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
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
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
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
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
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
          Stalled=True ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
    "#]],
    );
    route(
        &world,
        &expect![[r#"
            backends web:80,web:8080, endpoints 0/0, programmed 0/0
              Ready=False ApplyFailed: cannot write ConfigMap vicino-proxy/vicino-default-routes-shop: configmaps is forbidden: quota exceeded
              Accepted=True Accepted: the spec is valid and what it names exists
              ResolvedRefs=True ResolvedRefs: everything that it refers to exists
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
    let programmed = after[&v2].conditions.iter().find(|condition| condition.type_ == "Programmed").unwrap();
    assert_eq!(programmed.reason, "ApplyFailed");
}

#[test]
fn a_route_that_stays_behind_its_service_says_so() {
    let mut world = world(SHOP);
    converge(&mut world);
    let key = Key::new("shop", "web");
    world.services.step(Step::Gone(key.clone(), "Service:web".to_owned()));
    assert_eq!(planned(&world).statuses.routes.get(&key), None, "it is about to be deleted");
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, generation: 2}
spec: {clusterDomain: Wrong}
",
    );
    let plan = planned(&world);
    assert_eq!(plan.changes, [], "nothing of a mesh that is rejected is deleted");
    route(
        &world,
        &expect![[r#"
            backends -, endpoints -, programmed -
              Ready=False ServiceNotFound: there is no Service "web" in the namespace "shop": create it, or name the MeshRoute after the Service that it is for
              Accepted=False ServiceNotFound: there is no Service "web" in the namespace "shop": create it, or name the MeshRoute after the Service that it is for
              ResolvedRefs=Unknown ServiceNotFound: something else is wrong; see Accepted
              Programmed=False ServiceNotFound: not accepted, and there is no earlier version to go on with
              Stalled=True ServiceNotFound: there is no Service "web" in the namespace "shop": create it, or name the MeshRoute after the Service that it is for
        "#]],
    );
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
              IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
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
        "{apiVersion: vicino.dev/v1alpha1, kind: ServiceMesh, metadata: {name: default}, spec: {weather: {}}}",
    );
    route(
        &world,
        &expect![[r#"
            backends web:80,web:8080, endpoints 0/0, programmed 0/0
              Ready=False MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status
              Accepted=False MeshNotAccepted: the ServiceMesh "default" is not in force (InvalidSpec): see its status
              ResolvedRefs=Unknown MeshNotAccepted: something else is wrong; see Accepted
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

#[test]
fn what_the_authority_comes_to_is_a_condition_of_its_own() {
    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: vicino-authority, namespace: vicino-system}
spec: {clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5], ports: [{port: 443}]}
";
    let at = |days: i64| Some(Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap());
    let good = Authority {
        roots: "roots".to_owned(),
        root_count: 2,
        first_root_ends: at(3000),
        ends: at(300),
        ..Authority::default()
    };
    let said = |authority: Option<Authority>, spec: &str| {
        let mut world = world(&SHOP.replace(
            "metadata: {name: default, generation: 1}",
            &format!("metadata: {{name: default, generation: 1}}\nspec: {spec}"),
        ));
        load(&mut world, SERVICE);
        world.authority = authority;
        let plan = planned(&world);
        let conditions = &plan.statuses.meshes["default"].conditions;
        let found = conditions.iter().find(|condition| condition.type_ == "IdentityReady").unwrap();
        format!("{}={}: {}", found.reason, found.status, found.message)
    };
    let problem = || Some("tls.key: is no private key".to_owned());
    let lines = [
        said(None, "{}"),
        said(Some(good.clone()), "{}"),
        said(Some(Authority { waits: Some("the new root waits".to_owned()), ..good.clone() }), "{}"),
        said(Some(Authority { problem: problem(), ..good.clone() }), "{}"),
        said(Some(Authority { problem: problem(), ends: None, ..good.clone() }), "{}"),
        said(Some(Authority { ends: at(20), ends_soon: true, ..good.clone() }), "{}"),
        said(Some(Authority { ends: at(80), ..good }), "{identity: {certificateLifetimeSeconds: 7776000}}"),
    ];
    expect![[r"
        Starting=Unknown: the operator has not looked at the authority yet, or was started without --authority-listen
        Ready=True: 2 roots, good until 2035-04-03; the authority can issue certificates until 2027-11-11
        Rotating=True: the new root waits; the authority before issues certificates
        SecretUnusable=False: the Secret vicino-system/vicino-authority: tls.key: is no private key; the authority that was good last issues certificates, which it can until 2027-11-11
        SecretUnusable=False: the Secret vicino-system/vicino-authority: tls.key: is no private key; no certificate is issued
        AuthorityEndsSoon=True: the Secret vicino-system/vicino-authority: ends on 2027-02-04: renew it
        LifetimeCut=True: spec.identity.certificateLifetimeSeconds: certificates are good for less, since the authority ends on 2027-04-05
    "]]
    .assert_eq(&(lines.join("\n") + "\n"));
}

const POLICY: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop, generation: 1, resourceVersion: '5', uid: p}
spec: {target: {service: {name: web}}, rules: [{action: Deny}]}
";

/// The status of the MeshPolicy `shop/web`, which is called as a Service is.
fn policy(world: &World, expect: &Expect) {
    let plan = planned(world);
    let status = &plan.statuses.policies[&Key::new("shop", "web")];
    let (target, targets) = (status.target.as_deref().unwrap_or("-"), status.targets);
    let pending = status.pending_nodes.join(",");
    expect.assert_eq(&format!(
        "target {target} ({targets}), programmed {}, pending [{pending}]\n{}",
        tally(status.programmed.as_ref()),
        text(&status.conditions)
    ));
}

#[test]
fn a_policy_is_programmed_when_every_ready_proxy_says_so() {
    let mut world = world(SHOP);
    load(&mut world, POLICY);
    for node in ["node1", "node2"] {
        load(&mut world, &proxy_pod("default", node, &format!("vicino-default-{node}")));
    }
    policy(
        &world,
        &expect![[r#"
        target web (1), programmed 0/2, pending [node1,node2]
          Ready=False Pending: not written to ConfigMap vicino-proxy/vicino-default-policies-shop yet
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False Pending: not written to ConfigMap vicino-proxy/vicino-default-policies-shop yet
          Reconciling=True Pending: not written to ConfigMap vicino-proxy/vicino-default-policies-shop yet
    "#]],
    );
    converge(&mut world);
    serve(&mut world, "default", "node1");
    policy(
        &world,
        &expect![[r#"
        target web (1), programmed 1/2, pending [node2]
          Ready=False Programming: 1 of 2 ready proxies serve it; not yet: node2
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False Programming: 1 of 2 ready proxies serve it; not yet: node2
          Reconciling=True Programming: 1 of 2 ready proxies serve it; not yet: node2
    "#]],
    );
    serve(&mut world, "default", "node2");
    policy(
        &world,
        &expect![[r#"
        target web (1), programmed 2/2, pending []
          Ready=True Ready: every ready proxy serves it
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=True Programmed: every ready proxy serves it
    "#]],
    );
    // The route of the same name is another document.
    load(
        &mut world,
        &POLICY.replace("generation: 1", "generation: 2").replace("'5'", "'9'").replace("Deny", "Allow"),
    );
    converge(&mut world);
    policy(
        &world,
        &expect![[r#"
            target web (1), programmed 0/2, pending [node1,node2]
              Ready=False Programming: 0 of 2 ready proxies serve it; not yet: node1, node2
              Accepted=True Accepted: the spec is valid and what it names exists
              Programmed=False Programming: 0 of 2 ready proxies serve it; not yet: node1, node2
              Reconciling=True Programming: 0 of 2 ready proxies serve it; not yet: node1, node2
        "#]],
    );
    assert_eq!(tally(planned(&world).statuses.routes[&Key::new("shop", "web")].programmed.as_ref()), "2/2");
}

#[test]
fn a_proxy_that_knows_no_policies_is_named() {
    let mut world = world(SHOP);
    load(&mut world, POLICY);
    converge(&mut world);
    serve(&mut world, "default", "node1");
    serve(&mut world, "default", "node2");
    let mut status = json!(world.neighbourhoods.get(&Key::cluster("node2")).unwrap().value.status);
    status["proxy"]["contract"] = json!(3);
    let configs = status["configs"].as_array_mut().unwrap();
    configs.retain(|config| config["name"] != "vicino-default-policies-shop");
    report(&mut world, "node2", &status);
    policy(
        &world,
        &expect![[r#"
        target web (1), programmed 1/2, pending [node2]
          Ready=False ProxyTooOld: the proxy of node "node2", of version "1", does not know policies and enforces none: it reads contract version 3, policies are of version 4; upgrade it
          Accepted=True Accepted: the spec is valid and what it names exists
          Programmed=False ProxyTooOld: the proxy of node "node2", of version "1", does not know policies and enforces none: it reads contract version 3, policies are of version 4; upgrade it
          Reconciling=True ProxyTooOld: the proxy of node "node2", of version "1", does not know policies and enforces none: it reads contract version 3, policies are of version 4; upgrade it
    "#]],
    );
}

#[test]
fn a_policy_says_which_calls_go_past_it() {
    let mut world = world(SHOP);
    let object = "apiVersion: vicino.dev/v1alpha1\nmetadata: {name: web, namespace: shop, generation: 1}";
    let policy = "kind: MeshPolicy\nspec: {target: {service: {name: web}}, rules: [{action: Deny}]}\n";
    let route = "kind: MeshRoute\nspec: {backends: [{name: web-v2, port: 80, weight: 1}]}\n";
    for of_kind in [policy, route] {
        load(&mut world, &format!("{object}\n{of_kind}"));
    }
    let conditions = planned(&world).statuses.policies[&Key::new("shop", "web")].conditions.clone();
    let accepted = conditions.iter().find(|condition| condition.type_ == "Accepted").unwrap();
    assert_eq!(
        (&*accepted.status, &*accepted.message),
        (
            "True",
            "the spec is valid and what it names exists; what routes send to other Services is judged by the policies of these, and there is none for: shop/web-v2"
        )
    );
}

#[test]
fn a_policy_that_becomes_invalid_stays_in_force_as_it_was() {
    let mut world = world(SHOP);
    load(&mut world, POLICY);
    converge(&mut world);
    let config_map = ObjectId::new(Kind::ConfigMap, Key::new("vicino-proxy", "vicino-default-policies-shop"));
    let before = planned(&world).objects[&config_map].clone();
    let bad =
        POLICY.replace("[{action: Deny}]", "[{action: Deny, from: [{ipBlocks: [{cidr: 10.0.0.1/8}]}]}]");
    load(&mut world, &bad.replace("'5'", "'9'"));
    assert_eq!(planned(&world).objects[&config_map], before);
    policy(
        &world,
        &expect![[r#"
        target web (1), programmed 0/0, pending []
          Ready=False InvalidRule: spec.rules[0].from[0].ipBlocks[0].cidr: "10.0.0.1/8" begins within a block: write 10.0.0.0/8, or /32 for that one address
          Accepted=False InvalidRule: spec.rules[0].from[0].ipBlocks[0].cidr: "10.0.0.1/8" begins within a block: write 10.0.0.0/8, or /32 for that one address
          Programmed=False InvalidRule: not accepted; proxies go on with generation 1
          Stalled=True InvalidRule: spec.rules[0].from[0].ipBlocks[0].cidr: "10.0.0.1/8" begins within a block: write 10.0.0.0/8, or /32 for that one address
    "#]],
    );
}

const EGRESS: &str = "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, generation: 2}
spec: {egress: {allow: [{hosts: [api.example.com]}]}}
";

/// The condition `EgressProgrammed` of the ServiceMesh `default`, and whether the mesh is accepted.
fn egress(world: &World, expect: &Expect) {
    let status = planned(world).statuses.meshes.remove("default").unwrap();
    let all = status.conditions.into_iter();
    let chosen: Vec<_> =
        all.filter(|c| ["Accepted", "EgressProgrammed"].contains(&c.type_.as_str())).collect();
    expect.assert_eq(&text(&chosen).replace("  ", ""));
}

#[test]
fn what_may_be_called_outside_is_programmed_when_every_ready_proxy_says_so() {
    let mut world = world(SHOP);
    converge(&mut world);
    for node in ["node1", "node2"] {
        serve(&mut world, "default", node);
    }
    converge(&mut world);
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
    "#]],
    );
    load(&mut world, EGRESS);
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
          EgressProgrammed=False Pending: not written to ConfigMap vicino-proxy/vicino-default.egress yet
    "#]],
    );
    converge(&mut world);
    serve(&mut world, "default", "node1");
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
          EgressProgrammed=False Programming: 1 of 2 ready proxies serve it; not yet: node2
    "#]],
    );
    serve(&mut world, "default", "node2");
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
          EgressProgrammed=True Programmed: every ready proxy serves it
    "#]],
    );

    let mut status = serde_json::to_value(&neighbourhood(&world, "node2").status).unwrap();
    let configs = status["configs"].as_array_mut().unwrap();
    let config = configs.iter_mut().find(|config| config["name"] == "vicino-default.egress").unwrap();
    config["rejected"] = json!([{"key": "egress.yaml", "message": "unknown field `x`"}]);
    report(&mut world, "node2", &status);
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
          EgressProgrammed=False Rejected: the proxy of node "node2" refuses it: unknown field `x`
    "#]],
    );

    // Closed again: until proxies say that they have heard of it, they may still let calls out.
    load(&mut world, &EGRESS.replace("spec: {egress: {allow: [{hosts: [api.example.com]}]}}", "spec: {}"));
    converge(&mut world);
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
          EgressProgrammed=False Programming: nothing outside the mesh may be called any more, and 2 of 2 ready proxies go by what was so before: node1, node2
    "#]],
    );
    for node in ["node1", "node2"] {
        serve(&mut world, "default", node);
    }
    egress(
        &world,
        &expect![[r#"
          Accepted=True Accepted: the spec is valid
    "#]],
    );
}

fn neighbourhood(world: &World, node: &str) -> crate::world::Neighbourhood {
    world.neighbourhoods.get(&Key::cluster(node)).unwrap().value.clone()
}

#[test]
fn a_mesh_with_an_invalid_egress_says_which_field_and_what_is_in_force() {
    let bad = EGRESS.replace("api.example.com", "10.0.0.1").replace("generation: 2", "generation: 3");
    let mut fresh = world(SHOP);
    load(&mut fresh, &bad);
    converge(&mut fresh);
    egress(
        &fresh,
        &expect![[r#"
          Accepted=False InvalidEgress: spec.egress.allow[0].hosts[0]: is an address: write it in ipBlocks
          EgressProgrammed=False InvalidEgress: not accepted, and there is no earlier version to go on with: nothing outside the mesh is called
    "#]],
    );

    let mut world = world(SHOP);
    load(&mut world, EGRESS);
    converge(&mut world);
    load(&mut world, &bad);
    converge(&mut world);
    mesh(
        &world,
        &expect![[r#"
        proxies 0/2, routes 0/2
          Ready=False InvalidEgress: spec.egress.allow[0].hosts[0]: is an address: write it in ipBlocks
          Accepted=False InvalidEgress: spec.egress.allow[0].hosts[0]: is an address: write it in ipBlocks
          IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
          EgressProgrammed=False InvalidEgress: not accepted; proxies go on with what they were told last
          Stalled=True InvalidEgress: spec.egress.allow[0].hosts[0]: is an address: write it in ipBlocks
    "#]],
    );
}

const STRICT: &str = "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default, generation: 1}
spec: {identity: {mode: Strict}}
";

/// A node that refuses what comes around the mesh, and whose proxy has a certificate until then.
fn holds(world: &mut World, node: &str, until: Option<&str>) {
    let certificates = until.map(|until| json!({ "count": 1, "expires": until }));
    let guarded = json!({ "type": "Guarded", "status": "True", "reason": "Refusing", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    report(world, node, &json!({ "conditions": [guarded], "certificates": certificates }));
}

/// What the proxy of a node says of its guard, and of connections around the mesh.
fn guard(world: &mut World, node: &str, condition: Option<(&str, &str)>, calls: &serde_json::Value) {
    let conditions: Vec<_> = condition
        .into_iter()
        .map(|(status, reason)| {
            json!({ "type": "Guarded", "status": status, "reason": reason, "message": "why", "lastTransitionTime": "2026-01-01T00:00:00Z" })
        })
        .collect();
    report(world, node, &json!({ "conditions": conditions, "plainCalls": calls }));
}

#[test]
fn a_strict_mesh_is_ready_only_when_every_node_refuses_what_comes_around_it() {
    let mut world = world(SHOP);
    load(&mut world, STRICT);
    for node in ["node1", "node2"] {
        load(&mut world, &proxy_pod("default", node, &format!("vicino-default-{node}")));
    }
    converge(&mut world);
    rollout(&mut world, Rollout { observed: true, desired: 2, updated: 2, ready: 2 });
    guard(&mut world, "node1", Some(("True", "Refusing")), &json!([]));
    guard(&mut world, "node2", None, &json!([]));
    mesh(
        &world,
        &expect![[r#"
            proxies 2/2, routes 0/2
              Ready=False NotGuarded: spec.identity.mode: no word yet that Strict holds for connections around the mesh from the nodes: node2
              Accepted=True Accepted: the spec is valid
              IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
              Reconciling=True NotGuarded: spec.identity.mode: no word yet that Strict holds for connections around the mesh from the nodes: node2
        "#]],
    );
    guard(&mut world, "node2", Some(("False", "NotPermitted")), &json!([]));
    mesh(
        &world,
        &expect![[r#"
            proxies 2/2, routes 0/2
              Ready=False NotGuarded: spec.identity.mode: Strict does not hold on node "node2": NotPermitted: why
              Accepted=True Accepted: the spec is valid
              IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
              Stalled=True NotGuarded: spec.identity.mode: Strict does not hold on node "node2": NotPermitted: why
        "#]],
    );
    for node in ["node1", "node2"] {
        holds(&mut world, node, Some("2126-01-01T00:00:00Z"));
    }
    mesh(
        &world,
        &expect![[r#"
            proxies 2/2, routes 0/2
              Ready=True Ready: 2 proxies are ready and everything is written
              Accepted=True Accepted: the spec is valid
              IdentityReady=False NoAuthority: no authority is installed: there is no Service vicino-system/vicino-authority
        "#]],
    );
}

#[test]
fn a_strict_mesh_is_not_ready_where_a_proxy_has_no_certificate() {
    let mut world = world(SHOP);
    load(&mut world, STRICT);
    for node in ["node1", "node2"] {
        load(&mut world, &proxy_pod("default", node, &format!("vicino-default-{node}")));
    }
    converge(&mut world);
    rollout(&mut world, Rollout { observed: true, desired: 2, updated: 2, ready: 2 });
    let (ended, good) = (Some("1970-01-01T00:00:00Z"), Some("2126-01-01T00:00:00Z"));
    let mut ready = |ends: [Option<&str>; 2]| {
        for (node, ends) in ["node1", "node2"].into_iter().zip(ends) {
            holds(&mut world, node, ends);
        }
        let conditions = planned(&world).statuses.meshes["default"].conditions.clone();
        let of_ready =
            conditions.iter().filter(|condition| ["Ready", "Stalled"].contains(&&*condition.type_));
        of_ready.map(|it| format!("{} {} {}\n", it.type_, it.reason, it.message)).collect::<Vec<_>>().concat()
    };
    expect![[r"
        Ready Ready 2 proxies are ready and everything is written
    "]]
    .assert_eq(&ready([good, good]));
    expect![[r"
        Ready NoIdentity spec.identity.mode: Strict takes calls between nodes only with certificates, and proxies have none that are good on the nodes: node2
        Stalled NoIdentity spec.identity.mode: Strict takes calls between nodes only with certificates, and proxies have none that are good on the nodes: node2
    "]]
    .assert_eq(&ready([good, None]));
    expect![[r"
        Ready NoIdentity spec.identity.mode: Strict takes calls between nodes only with certificates, and proxies have none that are good on the nodes: node1, node2
        Stalled NoIdentity spec.identity.mode: Strict takes calls between nodes only with certificates, and proxies have none that are good on the nodes: node1, node2
    "]]
    .assert_eq(&ready([ended, None]));
}

#[test]
fn connections_around_the_mesh_are_summed_over_nodes() {
    let mut world = world(SHOP);
    converge(&mut world);
    assert_eq!(planned(&world).statuses.routes[&Key::new("shop", "web")].plain_callers, None);
    let calls = |service: &str, passed: i64, refused: i64, seen: &str| json!({ "namespace": "shop", "service": service, "passed": passed, "refused": refused, "lastSeen": seen });
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
    guard(&mut world, "node1", None, &json!([calls("web", 1, 2, late), calls("web-v2", 7, 0, early)]));
    guard(&mut world, "node2", None, &json!([calls("web", i64::MAX, 1, early)]));
    let plan = planned(&world);
    let plain = plan.statuses.routes[&Key::new("shop", "web")].plain_callers.clone().unwrap();
    assert_eq!((plain.passed, plain.refused), (i64::MAX, 3));
    assert_eq!(plain.last_seen.0.to_string(), late);
}

#[test]
fn calls_that_a_policy_was_against_are_summed_over_nodes() {
    let mut world = world(SHOP);
    load(
        &mut world,
        "apiVersion: vicino.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: closed, namespace: shop, generation: 1}\nspec: {rules: [{action: Deny}]}\n",
    );
    converge(&mut world);
    let denials =
        |world: &World| planned(world).statuses.policies[&Key::new("shop", "closed")].denials.clone();
    assert_eq!(denials(&world), None);
    let calls = |policy: &str, denied: i64, audited: i64, seen: &str| json!({ "namespace": "shop", "policy": policy, "denied": denied, "audited": audited, "lastSeen": seen });
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
    let of_one = json!([calls("closed", 3, 1, late), calls("other", 9, 9, late)]);
    report(&mut world, "node1", &json!({ "policyCalls": of_one }));
    report(&mut world, "node2", &json!({ "policyCalls": [calls("closed", 4, 0, early)] }));
    let sum = denials(&world).unwrap();
    assert_eq!((sum.denied, sum.audited, sum.last_seen.0.to_string()), (7, 1, late.to_owned()));
}
