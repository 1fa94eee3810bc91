//! MeshPolicies on a real API server: what the schema refuses, what the operator accepts, writes and says, with the rights that are shipped.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SOON, condition, config, until};
use crate::operator::Operator;
use crate::programmed::proxy;

/// The operator's account.
const ACCOUNT: &str = "system:serviceaccount:vicino-system:vicino-operator";

/// Specs, and what the API server says to them.
const REFUSED: &[(&str, &str)] = &[
    ("{}", "spec.rules: Required value"),
    ("{rules: []}", "spec.rules in body should have at least 1 items"),
    ("{rules: [{}]}", "spec.rules[0].action: Required value"),
    ("{rules: [{action: Maybe}]}", "supported values: \"Allow\", \"Deny\""),
    ("{mode: Loud, rules: [{action: Deny}]}", "supported values: \"Enforce\", \"Audit\""),
    ("{rules: [{action: Deny, when: now}]}", "when: field not declared in schema"),
    (
        "{target: {service: {name: a}, pods: {matchLabels: {a: b}}}, rules: [{action: Deny}]}",
        "a policy is about a service or about pods, not about both: write two policies",
    ),
    (
        "{target: {pods: {matchLabels: {}}}, rules: [{action: Deny}]}",
        "matchLabels has 1 to 16 labels; a policy without target is about the whole namespace",
    ),
    (
        "{target: {pods: {}}, rules: [{action: Deny}]}",
        "pods are selected by matchLabels or matchExpressions; a policy without target is about the whole namespace",
    ),
    (
        "{target: {pods: {matchExpressions: [{key: a, operator: In}]}}, rules: [{action: Deny}]}",
        "In and NotIn go with values, Exists and DoesNotExist without",
    ),
    (
        "{target: {pods: {matchExpressions: [{key: a/b/c, operator: Exists}]}}, rules: [{action: Deny}]}",
        "spec.target.pods.matchExpressions[0].key",
    ),
    (
        "{rules: [{action: Deny, from: [{notIpBlocks: [{cidr: ten}]}]}]}",
        "spec.rules[0].from[0].notIpBlocks[0].cidr",
    ),
    (
        "{rules: [{action: Deny, from: [{}]}]}",
        "spec.rules[0].from[0] in body should have at least 1 properties",
    ),
    ("{rules: [{action: Deny, to: [{}]}]}", "spec.rules[0].to[0] in body should have at least 1 properties"),
    (
        "{rules: [{action: Deny, from: [{unidentified: true, namespaces: [a]}]}]}",
        "a caller that is unidentified has no service account, namespace or trust domain: give it an entry of its own in from",
    ),
    (
        "{rules: [{action: Deny, from: [{ipBlocks: [{cidr: ten}]}]}]}",
        "spec.rules[0].from[0].ipBlocks[0].cidr",
    ),
    ("{rules: [{action: Deny, from: [{trustDomains: [a*b*c]}]}]}", "spec.rules[0].from[0].trustDomains[0]"),
    ("{rules: [{action: Deny, to: [{ports: [70000]}]}]}", "spec.rules[0].to[0].ports[0]"),
    ("{rules: [{action: Deny, to: [{methods: [get]}]}]}", "spec.rules[0].to[0].methods[0]"),
    (
        "{rules: [{action: Deny, to: [{paths: [{value: a}]}]}]}",
        "value must be an absolute path: it begins with '/'",
    ),
    (
        "{rules: [{action: Deny, to: [{grpc: [{service: a.B}], methods: [GET]}]}]}",
        "an entry of to says gRPC methods, or HTTP methods and paths, not both: a gRPC call is POST /service/method",
    ),
];

fn manifest(cluster: &Cluster, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: vicino.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {{name: {name}, namespace: {}}}\nspec: {spec}\n",
        cluster.name
    )
}

async fn policy(cluster: &Cluster, name: &str) -> Option<DynamicObject> {
    cluster.get("MeshPolicy", &cluster.name, name).await
}

/// What proxies are told of the policies of this test's namespace.
async fn documents(cluster: &Cluster) -> BTreeMap<String, String> {
    let name = format!("vicino-{0}-policies-{0}", cluster.name);
    let map = cluster.get("ConfigMap", "vicino-proxy", &name).await;
    map.and_then(|map| serde_json::from_value(map.data["data"].clone()).ok()).unwrap_or_default()
}

#[tokio::test]
async fn the_schema_refuses_what_cannot_be_right_and_says_what_would_be() {
    let cluster = Cluster::new("schema").await;
    cluster.shop().await;
    let api = cluster.api("MeshPolicy", &cluster.name);
    let params = PatchParams { dry_run: true, ..PatchParams::apply("api-tests").force() };
    let refusal = async |name: &str, spec: &str| {
        let manifest: Value = serde_saphyr::from_str(&manifest(&cluster, name, spec)).unwrap();
        let answer = api.patch(name, &params, &Patch::Apply(&manifest)).await;
        answer.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    };
    let many = format!("{{rules: [{}]}}", ["{action: Deny}"; 17].join(", "));
    let many = (many.as_str(), "spec.rules: Too many: 17: must have at most 16 items");
    for (spec, expected) in REFUSED.iter().copied().chain([many]) {
        let said = refusal("bad", spec).await;
        assert!(said.contains(expected), "{spec}\nexpected: {expected}\nsaid: {said}");
    }
    let said = refusal(&"long".repeat(16), "{rules: [{action: Deny}]}").await;
    assert!(said.contains("metadata.name must have at most 63 characters"), "{said}");
    let sample = include_str!("../../../config/samples/meshpolicy.yaml");
    let sample: Value = serde_saphyr::from_str(sample).unwrap();
    assert_eq!(refusal("quotes", &sample["spec"].to_string()).await, "accepted");

    let meshes = cluster.api("ServiceMesh", "");
    for (name, spec, expected) in [
        ("a-policies-b", json!({}), "must not have '-nodes', '-policies' or '-routes' in it as a word"),
        ("a", json!({"policy": {"defaultAction": "Maybe"}}), "supported values: \"Allow\", \"Deny\""),
    ] {
        let mesh = json!({"apiVersion": "vicino.dev/v1alpha1", "kind": "ServiceMesh", "metadata": {"name": name}, "spec": spec});
        let said = meshes.patch(name, &params, &Patch::Apply(&mesh)).await.unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

/// A kubeconfig by which the operator has the rights that are shipped, and no others.
async fn as_shipped(cluster: &Cluster, folder: &tempfile::TempDir) -> String {
    for file in ["operator_cluster_role", "operator_proxy_role", "operator_system_role"] {
        let path = format!("{}/../config/rbac/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        cluster.apply(&std::fs::read_to_string(path).unwrap()).await;
    }
    let own = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
    let mut own: Value = serde_saphyr::from_str(&own).unwrap();
    for user in own["users"].as_array_mut().unwrap() {
        user["user"]["as"] = json!(ACCOUNT);
    }
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, own.to_string()).unwrap();
    let path = path.display().to_string();
    // The API server knows of roles a moment after they are there; nothing is to be refused because of that.
    let client = Client::try_from(config(&path).await).unwrap();
    let services: Api<Service> = Api::all(client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "vicino-proxy");
    let leases: Api<Lease> = Api::namespaced(client, "vicino-system");
    until("the rights that are shipped are given", SOON, async || {
        let first = ListParams::default().limit(1);
        services.list(&first).await.is_ok()
            && maps.list(&first).await.is_ok()
            && leases.get_opt("vicino-operator").await.is_ok()
    })
    .await;
    path
}

/// A node's proxy says which of the ConfigMaps it serves as they are now.
async fn report(cluster: &Cluster, (number, pod): (usize, &str), contract: i32, kinds: &[&str]) {
    let mut configs = Vec::new();
    for kind in kinds {
        let map = format!("vicino-{0}-{kind}-{0}", cluster.name);
        let live = cluster.get("ConfigMap", "vicino-proxy", &map).await.unwrap();
        configs.push(json!({"name": map, "digest": live.metadata.annotations.unwrap()["vicino.dev/digest"]}));
    }
    let node = format!("{}-{number}", cluster.name);
    let status = json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshNode", "metadata": {"name": node},
        "status": {
            "proxy": {"pod": pod, "version": "0.1.0", "contract": contract, "state": "Ready"},
            "configs": configs, "routes": 2, "rejectedCount": 0,
        },
    });
    let params = PatchParams::apply("vicino-proxy").force();
    cluster.api("MeshNode", "").patch_status(&node, &params, &Patch::Apply(&status)).await.unwrap();
}

#[tokio::test]
async fn a_policy_is_accepted_and_programmed_with_the_rights_that_are_shipped() {
    let cluster = Cluster::new("policy").await;
    cluster.shop().await;
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::launch(&as_shipped(&cluster, &folder).await);
    operator.leads(SOON * 2).await;
    cluster
        .apply(&manifest(&cluster, "web", "{target: {service: {name: web}}, rules: [{action: Deny}]}"))
        .await;
    until("it is accepted, and written", SOON, async || {
        condition(policy(&cluster, "web").await.as_ref(), "Accepted") == "True/Accepted"
            && documents(&cluster).await.get("web.yaml").is_some_and(|text| text.starts_with("version: 4\n"))
    })
    .await;
    let pods = [proxy(&cluster, 1).await, proxy(&cluster, 2).await];
    report(&cluster, (1, &pods[0]), 4, &["routes", "policies"]).await;
    report(&cluster, (2, &pods[1]), 3, &["routes"]).await;
    until("a proxy that knows none is named", SOON, async || {
        let policy = policy(&cluster, "web").await;
        condition(policy.as_ref(), "Programmed") == "False/ProxyTooOld"
            && policy.unwrap().data["status"]["pendingNodes"] == json!([format!("{}-2", cluster.name)])
    })
    .await;
    report(&cluster, (2, &pods[1]), 4, &["routes", "policies"]).await;
    until("every proxy serves it", SOON, async || {
        let policy = policy(&cluster, "web").await;
        condition(policy.as_ref(), "Programmed") == "True/Programmed"
            && condition(policy.as_ref(), "Ready") == "True/Ready"
            && policy.unwrap().data["status"]["programmed"]["summary"] == "2/2"
    })
    .await;
    let listed = cluster.vicino(&["policy", "list", "-A", "-o", "json"]);
    // Those of earlier tests may be there still, where their namespace is going.
    let mut of_it =
        listed["policies"].as_array().unwrap().iter().filter(|row| row["namespace"] == *cluster.name);
    let row = of_it.next().unwrap();
    assert_eq!(of_it.next(), None, "{listed:#}");
    for (field, expected) in [
        ("name", json!("web")),
        ("mesh", json!(cluster.name)),
        ("accepted", json!(true)),
        ("pendingNodes", json!([])),
    ] {
        assert_eq!(row[field], expected, "{field}: {listed:#}");
    }
    assert_eq!(row["programmed"]["summary"], "2/2");
    // Events about what earlier tests left are refused where their namespace is going.
    let metrics = operator.get("/metrics");
    let errors = metrics.lines().filter(|line| line.starts_with("vicino_operator_errors_total"));
    let errors: Vec<_> = errors.filter(|line| !line.contains("\"event\"")).collect();
    assert!(errors.is_empty(), "nothing was forbidden: {errors:?}");
    let namespace = cluster.api("MeshPolicy", &cluster.name);
    namespace.delete("web", &kube::api::DeleteParams::default()).await.unwrap();
    until("its document is gone", SOON, async || documents(&cluster).await.is_empty()).await;
}

#[tokio::test]
async fn a_mistake_says_what_would_be_right_and_what_was_in_force_stays() {
    let cluster = Cluster::new("mispolicy").await;
    cluster.shop().await;
    let _operator = Operator::start(&cluster).await;
    cluster.apply(&manifest(&cluster, "web", "{rules: [{action: Deny}]}")).await;
    until("it is written", SOON, async || documents(&cluster).await.contains_key("web.yaml")).await;
    let before = documents(&cluster).await;
    let wrong = "{rules: [{action: Deny, from: [{ipBlocks: [{cidr: 10.0.0.1/8}]}]}]}";
    cluster.apply(&manifest(&cluster, "web", wrong)).await;
    until("it is refused", SOON, async || {
        condition(policy(&cluster, "web").await.as_ref(), "Accepted") == "False/InvalidRule"
    })
    .await;
    let status = policy(&cluster, "web").await.unwrap().data["status"].to_string();
    assert!(
        status.contains("spec.rules[0].from[0].ipBlocks[0].cidr") && status.contains("write 10.0.0.0/8"),
        "{status}"
    );
    assert_eq!(documents(&cluster).await, before);

    let early = "{target: {service: {name: later}}, rules: [{action: Deny}]}";
    cluster.apply(&manifest(&cluster, "early", early)).await;
    until("a policy whose Service is not there says so, and is written", SOON, async || {
        condition(policy(&cluster, "early").await.as_ref(), "Accepted") == "False/TargetNotFound"
            && documents(&cluster).await.contains_key("early.yaml")
    })
    .await;
    cluster.service("later", 80).await;
    until("it is accepted once there is", SOON, async || {
        condition(policy(&cluster, "early").await.as_ref(), "Accepted") == "True/Accepted"
    })
    .await;
}
