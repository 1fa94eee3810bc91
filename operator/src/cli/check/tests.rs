use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vicino_crds::{MeshNode, MeshPolicy, MeshRoute, ServiceMesh};

use super::facts::Facts;
use super::*;

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z" })
}

fn manifest<T: DeserializeOwned>(text: &str, at: usize) -> T {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    object(documents.remove(at))
}

fn policy(name: &str, conditions: &[(&str, &str, &str)]) -> MeshPolicy {
    let conditions: Vec<_> =
        conditions.iter().map(|(kind, status, reason)| condition(kind, status, reason, "why")).collect();
    object(json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshPolicy", "metadata": { "name": name, "namespace": "demo" },
        "spec": { "rules": [{ "action": "Deny" }] }, "status": { "conditions": conditions },
    }))
}

/// Everything is well: one mesh, one node, one route, one policy.
fn well() -> Facts {
    let crd = |crd| {
        let mut crd = serde_json::to_value(crd).unwrap();
        crd["status"] = json!({ "conditions": [condition("Established", "True", "InitialNamesAccepted", "")], "acceptedNames": { "kind": "", "plural": "" }, "storedVersions": [] });
        object(crd)
    };
    let (proxy, operator) = (
        include_str!("../../../../config/admission/proxy_policy.yaml"),
        include_str!("../../../../config/admission/operator_policy.yaml"),
    );
    let mut deployment: Value =
        serde_saphyr::from_str(include_str!("../../../../config/operator/deployment.yaml")).unwrap();
    deployment["status"] = json!({ "readyReplicas": 2 });
    let meta = |name: &str| json!({ "name": name, "generation": 1, "namespace": "demo" });
    let tally = json!({ "ready": 1, "total": 1, "summary": "1/1" });
    let labels = json!({ "vicino.dev/mesh": "default", "vicino.dev/config": "routes" });
    Facts {
        server: Ok("v1.34.4".to_owned()),
        crds: Ok([ServiceMesh::crd(), MeshRoute::crd(), MeshPolicy::crd(), MeshNode::crd()].map(crd).into()),
        operator: Ok(Some(object(deployment))),
        lease: Ok(Some(object(json!({ "metadata": {}, "spec": {
            "holderIdentity": "vicino-operator-1", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z" } })))),
        policies: Ok((
            vec![manifest(proxy, 0), manifest(operator, 0)],
            vec![manifest(proxy, 1), manifest(operator, 1)],
        )),
        meshes: Ok(vec![object(
            json!({ "apiVersion": "vicino.dev/v1alpha1", "kind": "ServiceMesh", "metadata": meta("default"), "spec": {},
            "status": { "observedGeneration": 1, "conditions": [condition("Ready", "True", "Ready", "")], "proxies": tally, "routes": tally } }),
        )]),
        nodes: Ok(vec![object(
            json!({ "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshNode", "metadata": meta("node1"), "spec": { "mesh": "default" },
            "status": { "proxy": { "pod": "p1", "version": env!("CARGO_PKG_VERSION"), "contract": vicino_crds::contract::CONTRACT_VERSION, "state": "Ready" }, "routes": 1,
                "conditions": [condition("Guarded", "True", "Counting", "")],
                "configs": [{ "name": "c", "digest": "d" }] } }),
        )]),
        routes: Ok(vec![object(
            json!({ "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshRoute", "metadata": meta("web"), "spec": {},
            "status": { "conditions": [condition("Accepted", "True", "Accepted", ""), condition("Programmed", "True", "Programmed", "")] } }),
        )]),
        mesh_policies: Ok(vec![policy(
            "web",
            &[("Accepted", "True", "Accepted"), ("Programmed", "True", "Programmed")],
        )]),
        config_maps: Ok(vec![object(
            json!({ "metadata": { "name": "c", "labels": labels, "annotations": { "vicino.dev/digest": "d" } } }),
        )]),
        pods: Ok(vec![object(
            json!({ "metadata": { "name": "p1" }, "spec": { "nodeName": "node1", "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }),
        )]),
        namespaces: Ok(vec![object(
            json!({ "metadata": { "name": "demo", "labels": { "vicino.dev/mesh": "default" } } }),
        )]),
    }
}

fn text(facts: &Facts) -> String {
    let now = "2026-01-01T00:00:10Z".parse().unwrap();
    show(&findings::judge(facts, now), Format::Table)
}

/// What is not as it should be after `change`.
fn wrong(change: impl FnOnce(&mut Facts), expected: &Expect) {
    let mut facts = well();
    change(&mut facts);
    let text = text(&facts);
    let lines = text.lines().filter(|line| !line.starts_with('√')).map(str::to_owned);
    expected.assert_eq(&output::lines(lines));
}

#[test]
fn everything_is_well() {
    expect![[r"
        √ kubernetes  API server: v1.34.4
        √ kinds       servicemeshes.vicino.dev: served as v1alpha1
        √ kinds       meshroutes.vicino.dev: served as v1alpha1
        √ kinds       meshpolicies.vicino.dev: served as v1alpha1
        √ kinds       meshnodes.vicino.dev: served as v1alpha1
        √ operator    Deployment: 2/2 replicas ready
        √ operator    leader: vicino-operator-1
        √ operator    version: 0.1.0 (vicino-operator)
        √ admission   vicino-proxy-own-node: in force
        √ admission   vicino-operator-own-roles: in force
        √ meshes      default: 1/1 proxies ready, 1/1 routes programmed
        √ nodes       node1: ready, 1 routes, version 0.1.0
        √ identity    calls around default: nobody has called around the mesh since 2026-01-01T00:00:00Z; Strict is safe when that is a day
        √ namespaces  in a mesh: 1
        √ routes      programmed: 1 of 1
        √ policies    programmed: 1 of 1
        everything is well
    "]]
    .assert_eq(&text(&well()));
}

#[test]
fn a_proxy_of_an_older_release_that_refuses_nothing_is_a_warning() {
    wrong(
        |facts| {
            let status = facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
            status.proxy.as_mut().unwrap().contract -= 1;
        },
        &expect![[r#"
            ‼ nodes       node1: ready, 1 routes, version 0.1.0, reads contract 4 and would refuse what needs 5 → upgrade the proxies
            everything works; 1 to look at (‼)
        "#]],
    );
}

#[test]
fn without_an_api_server_nothing_else_is_said() {
    wrong(
        |facts| facts.server = Err("cannot read the API server's version: connection refused".to_owned()),
        &expect![[r"
            × kubernetes  API server: cannot read the API server's version: connection refused → start the cluster, or name the right one with --kubeconfig or --context
            1 failed (×)
        "]],
    );
    wrong(
        |facts| facts.server = Ok("v1.29.3-gke.1".to_owned()),
        &expect![[r"
            × kubernetes  API server: v1.29.3-gke.1 is too old → use Kubernetes 1.30 or newer
            1 failed (×)
        "]],
    );
}

#[test]
fn an_installation_with_holes() {
    wrong(
        |facts| {
            facts.crds.as_mut().unwrap().remove(1);
            let served = &mut facts.crds.as_mut().unwrap()[2].spec.versions[0];
            served.schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap().properties = None;
            facts.operator.as_mut().unwrap().as_mut().unwrap().status = None;
            facts.lease = Ok(None);
            let (policies, bindings) = facts.policies.as_mut().unwrap();
            policies.remove(0);
            bindings.remove(1);
        },
        &expect![[r#"
            × kinds       meshroutes.vicino.dev: is not installed → kubectl apply -k config/default
            ‼ kinds       meshnodes.vicino.dev: has other fields than this command knows: they are of different releases → apply config/crd of the operator's release, or use the command of that release
            × operator    Deployment: 0/2 replicas ready → kubectl describe pods -n vicino-system -l app.kubernetes.io/name=vicino-operator
            × operator    leader: nobody leads → kubectl logs -n vicino-system deployment/vicino-operator
            × admission   vicino-proxy-own-node: the policy is missing, so nothing limits who writes what → kubectl apply -k config/admission
            × admission   vicino-operator-own-roles: no binding makes the policy deny anything → kubectl apply -k config/admission
            5 failed (×), 1 to look at (‼)
        "#]],
    );
}

#[test]
fn a_leader_that_does_not_renew() {
    wrong(
        |facts| {
            let lease = facts.lease.as_mut().unwrap().as_mut().unwrap();
            let renewed = serde_json::from_value(json!("2025-12-31T23:50:00.000000Z")).unwrap();
            lease.spec.as_mut().unwrap().renew_time = Some(renewed);
        },
        &expect![[r"
            × operator    leader: vicino-operator-1 led and has not renewed its lease for 610 s → kubectl logs -n vicino-system deployment/vicino-operator
            1 failed (×)
        "]],
    );
}

#[test]
fn a_proxy_that_lags_refuses_or_is_of_another_release() {
    fn status(facts: &mut Facts) -> &mut vicino_crds::MeshNodeStatus {
        facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap()
    }
    wrong(
        |facts| status(facts).configs[0].digest = "old".to_owned(),
        &expect![[r"
            × nodes       node1: does not serve the newest c → kubectl logs -n vicino-proxy p1
            1 failed (×)
        "]],
    );
    wrong(
        |facts| {
            let rejected = json!([{ "key": "web.yaml", "message": "ports[0].port: must be 1 to 65535" }]);
            status(facts).configs[0].rejected = object(rejected);
            status(facts).rejected_count = 1;
        },
        &expect![[r"
            × nodes       node1: refuses 1 configs: web.yaml of c: ports[0].port: must be 1 to 65535 → the last good ones stay in force; has somebody edited the ConfigMap? kubectl logs -n vicino-proxy p1
            1 failed (×)
        "]],
    );
    wrong(
        |facts| status(facts).proxy.as_mut().unwrap().version = "0.0.9".to_owned(),
        &expect![[r"
            ‼ nodes       node1: ready, 1 routes, version 0.0.9, this command has 0.1.0 → kubectl rollout status -n vicino-proxy daemonset, or use the command of that release
            everything works; 1 to look at (‼)
        "]],
    );
    wrong(
        |facts| facts.pods = Ok(Vec::new()),
        &expect![[r"
            × nodes       node1: no proxy runs there → kubectl describe daemonset -n vicino-proxy
            1 failed (×)
        "]],
    );
}

#[test]
fn a_node_whose_links_do_not_tell_who_calls_is_named() {
    let witnessed = |facts: &mut Facts, status: &str| {
        let condition = condition("Witnessed", status, "AddressesStale", "10.1.0.5 is not its pod's");
        let node = facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
        node.conditions.push(object(condition));
    };
    wrong(
        |facts| witnessed(facts, "True"),
        &expect![[r"
        everything is well
    "]],
    );
    wrong(
        |facts| witnessed(facts, "False"),
        &expect![[r#"
        ‼ identity    node1: who calls is not told by the node's links: AddressesStale: 10.1.0.5 is not its pod's → kubectl describe meshnode node1
        everything works; 1 to look at (‼)
    "#]],
    );
}

/// The line on calls around the mesh, and what is wrong, for a node that saw `calls`.
fn around(mode: &str, guarded: &str, calls: &serde_json::Value, expected: &Expect) {
    let mut facts = well();
    let mesh = &mut facts.meshes.as_mut().unwrap()[0];
    mesh.spec.identity.mode = object(json!(mode));
    let status = facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
    let mut condition = condition("Guarded", guarded, "NotPermitted", "no capability");
    condition["lastTransitionTime"] = json!("2025-12-30T00:00:00Z");
    status.conditions = vec![object(condition)];
    status.plain_calls = object(calls.clone());
    let text = text(&facts);
    let lines = text.lines().filter(|line| !line.starts_with('√') || line.contains("calls around"));
    expected.assert_eq(&output::lines(lines.map(str::to_owned)));
}

#[test]
fn annotations_that_cannot_be_read_are_told_once_for_a_workload() {
    let mut facts = well();
    let pod = |name: &str, problem: Option<&str>| {
        json!({
            "uid": name, "namespace": "demo", "name": name, "serviceAccount": "default", "ips": [],
            "plainPortsProblem": problem,
        })
    };
    let pods =
        [pod("web-b", Some("why")), pod("web-a", Some("why")), pod("quotes", None), pod("x", Some("other"))];
    facts.nodes.as_mut().unwrap()[0].spec.pods = object(json!(pods));
    let text = text(&facts);
    let lines = text.lines().filter(|line| line.contains("plain-ports"));
    expect![[r#"
        ‼ identity    ports of default: annotation vicino.dev/plain-ports of pod demo/x: other → put vicino.dev/plain-ports right in the pod template of its workload
        ‼ identity    ports of default: annotation vicino.dev/plain-ports of pod demo/web-a and 1 more: why → put vicino.dev/plain-ports right in the pod template of its workload
    "#]].assert_eq(&output::lines(lines.map(str::to_owned)));
}

#[test]
fn whether_strict_would_refuse_anybody_is_told() {
    let (recent, old) = ("2025-12-31T12:00:00Z", "2025-12-30T12:00:00Z");
    let calls = |service: &str, seen: &str| json!({ "namespace": "demo", "service": service, "passed": 1, "lastSeen": seen });
    around(
        "Permissive",
        "True",
        &json!([calls("web", old)]),
        &expect![[r#"
            √ identity    calls around default: Strict is safe: nobody has called around the mesh for a day
            everything is well
        "#]],
    );
    let many = json!([
        calls("", recent),
        calls("quotes", recent),
        calls("ratings", recent),
        calls("web", recent),
        calls("old", old)
    ]);
    around(
        "Permissive",
        "True",
        &many,
        &expect![[r#"
        √ identity    calls around default: Strict is not safe yet: called around the mesh within a day: demo (ports without a Service), demo/quotes, demo/ratings and 1 more
        everything is well
    "#]],
    );
    around(
        "Strict",
        "True",
        &json!([calls("web", recent)]),
        &expect![[r#"
        √ identity    calls around default: Strict: tried or allowed around the mesh within a day: demo/web
        everything is well
    "#]],
    );
    around(
        "Permissive",
        "False",
        &many,
        &expect![[r#"
        ‼ identity    node1: connections around the mesh are not counted: NotPermitted: no capability → kubectl describe meshnode node1
        everything works; 1 to look at (‼)
    "#]],
    );
    around(
        "Strict",
        "False",
        &json!([]),
        &expect![[r#"
        × identity    node1: Strict does not hold around the mesh: NotPermitted: no capability → kubectl describe meshnode node1
        1 failed (×)
    "#]],
    );
}

#[test]
fn a_mesh_a_namespace_and_a_route_that_need_somebody() {
    wrong(
        |facts| {
            let mesh = &mut facts.meshes.as_mut().unwrap()[0];
            mesh.status.as_mut().unwrap().conditions =
                vec![object(condition("Ready", "False", "ProxiesNotReady", "2 of 3 proxies are ready"))];
            let labels = facts.namespaces.as_mut().unwrap()[0].metadata.labels.as_mut().unwrap();
            labels.insert("vicino.dev/mesh".to_owned(), "defualt".to_owned());
            facts.routes.as_mut().unwrap()[0].status.as_mut().unwrap().conditions = vec![object(condition(
                "Accepted",
                "False",
                "BackendNotFound",
                "spec.backends[0].name: there is no Service",
            ))];
        },
        &expect![[r#"
            × meshes      default: ProxiesNotReady: 2 of 3 proxies are ready → kubectl describe servicemesh default
            × namespaces  demo: its label vicino.dev/mesh names the mesh "defualt", which does not exist → create that ServiceMesh, or kubectl label --overwrite namespace demo vicino.dev/mesh=<mesh>
            ‼ routes      programmed: 0 of 1 → vicino routes -A -o wide
            ‼ routes      demo/web: not Accepted: BackendNotFound: spec.backends[0].name: there is no Service → kubectl describe meshroute -n demo web
            2 failed (×), 2 to look at (‼)
        "#]],
    );
}

#[test]
fn a_mesh_whose_egress_is_not_served_as_it_is_written_is_told() {
    let with = |status: &'static str| {
        move |facts: &mut Facts| {
            let conditions = &mut facts.meshes.as_mut().unwrap()[0].status.as_mut().unwrap().conditions;
            conditions.push(object(condition("EgressProgrammed", status, "Programming", "not yet: node1")));
        }
    };
    wrong(
        with("False"),
        &expect![[r#"
        ‼ egress      default: not EgressProgrammed: Programming: not yet: node1 → kubectl describe servicemesh default
        everything works; 1 to look at (‼)
    "#]],
    );
    wrong(
        with("True"),
        &expect![[r#"
        everything is well
    "#]],
    );
}

#[test]
fn policies_that_are_refused_or_not_everywhere_yet_are_told() {
    wrong(
        |facts| {
            let policies = facts.mesh_policies.as_mut().unwrap();
            policies.push(policy("refused", &[("Accepted", "False", "InvalidSpec")]));
            let late = [("Accepted", "True", "Accepted"), ("Programmed", "False", "ProxyTooOld")];
            policies.push(policy("late", &late));
            policies.push(policy("new", &[]));
            // Proxies have it, and it is about nothing.
            let idle = [("Accepted", "False", "TargetNotFound"), ("Programmed", "True", "Programmed")];
            policies.push(policy("idle", &idle));
        },
        &expect![[r"
            ‼ policies    programmed: 1 of 5 → vicino policy list -A -o wide
            ‼ policies    demo/refused: not Accepted: InvalidSpec: why → kubectl describe meshpolicy -n demo refused
            ‼ policies    demo/late: not Programmed: ProxyTooOld: why → kubectl describe meshpolicy -n demo late
            ‼ policies    demo/new: the operator has not seen it → kubectl describe meshpolicy -n demo new
            ‼ policies    demo/idle: not Accepted: TargetNotFound: why → kubectl describe meshpolicy -n demo idle
            everything works; 5 to look at (‼)
        "]],
    );
    wrong(
        |facts| facts.mesh_policies = Err("cannot list MeshPolicies: forbidden".to_owned()),
        &expect![[r"
            × policies    MeshPolicies: cannot list MeshPolicies: forbidden → repeat the check once this can be read
            1 failed (×)
        "]],
    );
}

#[test]
fn a_refused_request_hides_nothing_else() {
    wrong(
        |facts| {
            facts.pods = Err("cannot read pods: forbidden".to_owned());
            facts.lease = Ok(None);
        },
        &expect![[r"
            × operator    leader: nobody leads → kubectl logs -n vicino-system deployment/vicino-operator
            × nodes       proxies' Pods: cannot read pods: forbidden → repeat the check once this can be read
            2 failed (×)
        "]],
    );
}

#[test]
fn many_lines_are_cut_and_the_wrong_ones_come_first() {
    let mut facts = well();
    let nodes = facts.nodes.as_mut().unwrap();
    let mut lost = nodes[0].clone();
    nodes.extend(std::iter::repeat_n(nodes[0].clone(), 200));
    lost.metadata.name = Some("lost".to_owned());
    nodes.push(lost);
    let text = text(&facts);
    let nodes: Vec<_> = text.lines().filter(|line| line.contains(" nodes ")).collect();
    assert_eq!(nodes.len(), 21);
    assert_eq!(
        nodes[0],
        "× nodes       lost: no proxy runs there → kubectl describe daemonset -n vicino-proxy"
    );
    assert_eq!(nodes[20], "√ nodes       182 more: as they should be");
}

#[test]
fn programs_see_the_same() {
    let mut facts = well();
    facts.lease = Ok(None);
    let findings = findings::judge(&facts, "2026-01-01T00:00:10Z".parse().unwrap());
    let value: Value = serde_json::from_str(&show(&findings, Format::Json)).unwrap();
    assert_eq!(value["ok"], false);
    let failures =
        value["findings"].as_array().unwrap().iter().filter(|finding| finding["verdict"] == "failure");
    let expected = json!({ "area": "operator", "subject": "leader", "verdict": "failure", "detail": "nobody leads",
        "todo": "kubectl logs -n vicino-system deployment/vicino-operator" });
    assert_eq!(failures.collect::<Vec<_>>(), [&expected]);
    assert_eq!(show(&findings, Format::Name), "operator/leader\n");
}

/// The roots of the mesh, which end after so many days.
fn trust(days: &[u64]) -> ConfigMap {
    let root = |days: &u64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2026, 1, 1) + std::time::Duration::from_hours(24 * days);
        params.self_signed(&key).unwrap().pem()
    };
    let labels = json!({ "vicino.dev/mesh": "default", "vicino.dev/config": "trust" });
    let pem: String = days.iter().map(root).collect();
    object(
        json!({ "metadata": { "name": "vicino-default.trust", "labels": labels }, "data": { "roots.pem": pem } }),
    )
}

fn certificates(facts: &mut Facts, expires: &str) {
    let status = facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
    status.certificates = Some(object(json!({ "count": 3, "expires": expires })));
}

#[test]
fn certificates_that_are_not_renewed_and_roots_that_end() {
    wrong(
        |facts| {
            facts.config_maps.as_mut().unwrap().push(trust(&[1000]));
            certificates(facts, "2026-01-01T23:00:00Z");
        },
        &expect![[r"
            everything is well
        "]],
    );
    wrong(
        |facts| {
            facts.config_maps.as_mut().unwrap().push(trust(&[30]));
            certificates(facts, "2026-01-01T01:00:10Z");
        },
        &expect![[r#"
            ‼ identity    roots of default: good until 2026-01-31 → renew the authority in the Secret vicino-system/vicino-authority
            ‼ identity    node1: a certificate ends in 60 min and is not renewed → kubectl logs -n vicino-proxy p1
            everything works; 2 to look at (‼)
        "#]],
    );
    wrong(
        |facts| facts.config_maps.as_mut().unwrap().push(trust(&[0])),
        &expect![[r#"
            ‼ identity    roots of default: have ended, and no certificate is good any more → renew the authority in the Secret vicino-system/vicino-authority
            ‼ identity    node1: its proxy has no certificates → kubectl logs -n vicino-proxy p1
            everything works; 2 to look at (‼)
        "#]],
    );
}

#[test]
fn a_strict_mesh_does_not_work_without_certificates() {
    let strict = |facts: &mut Facts, days: u64| {
        facts.meshes.as_mut().unwrap()[0].spec.identity.mode = object(json!("Strict"));
        facts.config_maps.as_mut().unwrap().push(trust(&[days]));
    };
    wrong(
        |facts| strict(facts, 0),
        &expect![[r"
            × identity    roots of default: have ended, and no certificate is good any more → renew the authority in the Secret vicino-system/vicino-authority
            × identity    node1: its proxy has no certificates → kubectl logs -n vicino-proxy p1
            2 failed (×)
        "]],
    );
    wrong(
        |facts| {
            strict(facts, 1000);
            certificates(facts, "2026-01-01T00:00:00Z");
        },
        &expect![[r"
            × identity    node1: a certificate has ended and is not renewed → kubectl logs -n vicino-proxy p1
            1 failed (×)
        "]],
    );
}

#[test]
fn a_root_that_ends_before_another_takes_no_certificate_with_it() {
    wrong(
        |facts| {
            facts.config_maps.as_mut().unwrap().push(trust(&[0, 1000]));
            certificates(facts, "2026-01-01T23:00:00Z");
        },
        &expect![[r"
            everything is well
        "]],
    );
}

#[test]
fn clocks_that_differ_and_what_the_operator_says_of_the_authority() {
    let trust = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let labels = json!({ "vicino.dev/mesh": "default", "vicino.dev/config": "trust" });
        object(
            json!({ "metadata": { "name": "vicino-default.trust", "labels": labels }, "data": { "roots.pem": pem } }),
        )
    };
    wrong(
        |facts| {
            facts.config_maps.as_mut().unwrap().push(trust());
            let mesh = &mut facts.meshes.as_mut().unwrap()[0];
            // A quarter of an hour, of which a quarter is not left.
            mesh.spec.identity.certificate_lifetime_seconds = 900;
            mesh.status.as_mut().unwrap().conditions.push(object(json!({
                "type": "IdentityReady", "status": "False", "reason": "SecretUnusable", "message": "tls.key: is no private key",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })));
            let status = facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
            let expires = "2026-01-01T00:03:50Z";
            status.certificates = Some(object(
                json!({ "count": 1, "expires": expires, "clockSkewSeconds": -301, "rootsProblem": "roots.pem: is no text" }),
            ));
        },
        &expect![[r"
            ‼ identity    authority of default: SecretUnusable: tls.key: is no private key → put the Secret vicino-system/vicino-authority right
            ‼ identity    node1: a certificate ends in 3 min and is not renewed → kubectl logs -n vicino-proxy p1
            ‼ identity    node1: cannot use the roots that it was given last, and goes on by those before: roots.pem: is no text → put the Secret vicino-system/vicino-authority right
            ‼ identity    node1: its clock is 301 s ahead of the authority's: certificates seem to begin, and to end, at other times → set the node's clock (NTP)
            everything works; 4 to look at (‼)
        "]],
    );
}
