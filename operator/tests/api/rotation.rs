//! The Secret of the authority, as people and controllers change it: followed without a restart, the last good one in force, a new root everywhere before anything is issued by it.

use kube::api::{DeleteParams, Patch, PatchParams};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use vicino_crds::identity::fingerprint;

use crate::authority::{Authority, SECRET, through};
use crate::cluster::{Cluster, SOON, condition, until};

/// The Service makes the operator tell proxies of roots.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: vicino-authority, namespace: vicino-system}
spec: {ports: [{port: 443}]}
";

/// A root of somebody's own: certificate and key.
fn root(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn name(certificate: &str) -> String {
    fingerprint(pem::parse(certificate).unwrap().contents())
}

/// A mesh, the Service of the authority, and no Secret.
async fn cluster(test: &str) -> Cluster {
    let cluster = Cluster::new(test).await;
    let _ = cluster.api("Secret", "vicino-system").delete(SECRET, &DeleteParams::default()).await;
    cluster.apply(SERVICE).await;
    cluster.shop().await;
    cluster
}

async fn put(cluster: &Cluster, (certificate, key): (&str, &str)) {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": SECRET, "namespace": "vicino-system" },
        "stringData": { "tls.crt": certificate, "tls.key": key, "ca.crt": certificate },
    });
    let params = PatchParams::apply("api-tests").force();
    let secrets = cluster.api("Secret", "vicino-system");
    secrets.patch(SECRET, &params, &Patch::Apply(&manifest)).await.unwrap();
}

/// A field of the Secret.
async fn field(cluster: &Cluster, field: &str) -> Option<String> {
    let secret = cluster.get("Secret", "vicino-system", SECRET).await?;
    let text = secret.data["data"][field].as_str()?;
    Some(String::from_utf8(through("base64", &["--decode"], text)).unwrap())
}

/// What proxies are told.
async fn roots(cluster: &Cluster) -> Vec<String> {
    let map = cluster.get("ConfigMap", "vicino-proxy", &format!("vicino-{}.trust", cluster.name)).await;
    let text = map.and_then(|map| Some(map.data["data"]["roots.pem"].as_str()?.to_owned()));
    let all = text.map(|text| pem::parse_many(text).unwrap()).unwrap_or_default();
    all.iter().map(|pem| fingerprint(pem.contents())).collect()
}

/// Status, reason and message of the condition.
async fn ready(cluster: &Cluster) -> (String, String) {
    let mesh = cluster.get("ServiceMesh", "", &cluster.name).await;
    let conditions = mesh.as_ref().and_then(|mesh| mesh.data["status"]["conditions"].as_array());
    let found = conditions.and_then(|all| all.iter().find(|one| one["type"] == "IdentityReady"));
    let message = found.and_then(|found| found["message"].as_str()).unwrap_or_default().to_owned();
    (condition(mesh.as_ref(), "IdentityReady"), message)
}

/// A ready proxy on the first node, that says that it has these roots, and certificates of that authority.
async fn report(cluster: &Cluster, roots: &[&str], issuer: &str) {
    let (name, node) = (&cluster.name, format!("{}-1", cluster.name));
    let pod = format!("vicino-{name}-reports");
    cluster
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  namespace: vicino-proxy
  labels: {{app.kubernetes.io/managed-by: vicino-operator, vicino.dev/mesh: {name}}}
spec: {{nodeName: {node}, hostNetwork: true, containers: [{{name: c, image: 'example.invalid/none:1'}}]}}
"
        ))
        .await;
    let is_ready =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let status = json!({"status": {
        "proxy": { "pod": pod, "version": "1", "contract": 1, "state": "Ready" },
        "certificates": { "count": 1, "roots": roots, "issuers": [issuer] },
    }});
    for (kind, namespace, name, status) in
        [("Pod", "vicino-proxy", &pod, is_ready), ("MeshNode", "", &node, status)]
    {
        let api = cluster.api(kind, namespace);
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
}

async fn end_reports(cluster: &Cluster) {
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let pod = format!("vicino-{}-reports", cluster.name);
    cluster.api("Pod", "vicino-proxy").delete(&pod, &at_once).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_is_given_is_followed_and_a_broken_one_leaves_the_last_good_one_in_force() {
    let cluster = cluster("given").await;
    put(&cluster, ("hello", "hello")).await;
    let authority = Authority::start(&cluster).await;
    until("it is told", SOON, async || ready(&cluster).await.0 == "False/SecretUnusable").await;
    let (_, message) = ready(&cluster).await;
    assert!(
        message.contains("tls.crt: has no certificate: it must have the authority's, in PEM"),
        "{message}"
    );
    assert!(message.ends_with("no certificate is issued"), "{message}");
    assert!(authority.operator.metric("vicino_operator_errors_total", "authority") >= 1);
    assert_eq!(authority.ask(None, &json!({}), &[]).0, 0, "nobody is served");

    let (first, second) = (root("first"), root("second"));
    put(&cluster, (&first.0, &first.1)).await;
    authority.is_served(&cluster).await;
    until("all is well", SOON, async || ready(&cluster).await.0 == "True/Ready").await;
    assert_eq!(roots(&cluster).await, [name(&first.0)]);
    assert_eq!(field(&cluster, "tls.crt").await.as_deref(), Some(&*first.0), "what is given is not changed");

    // The key of another certificate; then something that is none at all.
    for (key, said) in [(&*second.1, "tls.key: is not the key"), ("hello", "tls.key: is no private key")] {
        put(&cluster, (&first.0, key)).await;
        until("it is told", SOON, async || ready(&cluster).await.1.contains(said)).await;
        assert_eq!(ready(&cluster).await.0, "False/SecretUnusable");
        assert!(authority.is_known_by(&first.0));
    }
    // Also for an operator that is started then.
    assert!(authority.operator.terminate());
    let authority = Authority::start(&cluster).await;
    until("it serves", SOON, async || authority.is_known_by(&first.0)).await;

    // Nobody has to be waited for, since no proxy is ready.
    put(&cluster, (&second.0, &second.1)).await;
    until("the second issues", SOON, async || authority.is_known_by(&second.0)).await;
    until("the first goes", SOON * 2, async || roots(&cluster).await == [name(&second.0)]).await;
    assert_eq!(ready(&cluster).await.0, "True/Ready");

    // A Secret that goes is made anew, and the authority that was in it stays until every node has the new root.
    report(&cluster, &[&name(&second.0)], "").await;
    cluster.api("Secret", "vicino-system").delete(SECRET, &DeleteParams::default()).await.unwrap();
    until("both are told of", SOON, async || roots(&cluster).await.len() == 2).await;
    until("it waits", SOON, async || ready(&cluster).await.0 == "True/Rotating").await;
    assert!(authority.is_known_by(&second.0));
    end_reports(&cluster).await;
}

#[tokio::test]
async fn a_root_is_replaced_when_somebody_asks_for_it_and_every_node_has_the_new_one() {
    let cluster = cluster("rotate").await;
    let authority = Authority::start(&cluster).await;
    authority.is_served(&cluster).await;
    let old = field(&cluster, "tls.crt").await.unwrap();
    until("proxies are told", SOON, async || roots(&cluster).await == [name(&old)]).await;
    report(&cluster, &[&name(&old)], "of-the-old").await;
    let listed = cluster.vicino(&["identity", "-o", "json"]);
    let [of_mesh] = &listed["authorities"].as_array().unwrap()[..] else { panic!("{listed:#}") };
    assert_eq!(of_mesh["mesh"], *cluster.name);
    for place in ["chain", "roots"] {
        assert_eq!(of_mesh[place][0]["fingerprint"], name(&old), "{place}: {listed:#}");
    }
    let node = json!(format!("{}-1", cluster.name));
    let nodes = listed["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|row| row["node"] == node).unwrap();
    assert_eq!((&node["certificates"], &node["roots"]), (&json!(1), &json!([name(&old)])), "{listed:#}");
    assert_eq!(node["issuers"], json!(["of-the-old"]));

    let ask = json!({"metadata": {"annotations": {"vicino.dev/rotate-root": "1"}}});
    let secrets = cluster.api("Secret", "vicino-system");
    secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(&ask)).await.unwrap();
    until("there is a new root", SOON, async || {
        field(&cluster, "tls.crt").await.is_some_and(|new| new != old)
    })
    .await;
    let new = field(&cluster, "tls.crt").await.unwrap();
    until("proxies are told of both", SOON, async || roots(&cluster).await.len() == 2).await;
    until("it waits", SOON, async || ready(&cluster).await.0 == "True/Rotating").await;
    let (_, message) = ready(&cluster).await;
    assert!(message.contains(&name(&new)) && message.contains(&format!("{}-1", cluster.name)), "{message}");
    assert!(authority.is_known_by(&old) && !authority.is_known_by(&new));
    assert_eq!(field(&cluster, "active.crt").await.as_deref(), Some(&*old));

    // Also for an operator that knows nothing but the Secret.
    assert!(authority.operator.terminate());
    let authority = Authority::start(&cluster).await;
    until("it serves", SOON, async || authority.is_known_by(&old)).await;
    assert_eq!(field(&cluster, "tls.crt").await.as_deref(), Some(&*new), "one change makes one root");

    let retired = async || field(&cluster, "retired-issuer").await;
    report(&cluster, &[&name(&old), &name(&new)], "of-the-old").await;
    until("the new one issues", SOON, async || authority.is_known_by(&new)).await;
    let old_key = retired().await.unwrap();
    report(&cluster, &[&name(&old), &name(&new)], &old_key).await;
    // The old one's certificates are in use; then they are not.
    until("both are told of", SOON, async || roots(&cluster).await.len() == 2).await;
    report(&cluster, &[&name(&old), &name(&new)], "of-the-new").await;
    until("the old root goes", SOON * 2, async || roots(&cluster).await == [name(&new)]).await;
    assert_eq!(retired().await, None);
    until("all is well", SOON, async || ready(&cluster).await.0 == "True/Ready").await;
    let secret = cluster.get("Secret", "vicino-system", SECRET).await.unwrap();
    assert_eq!(secret.metadata.annotations.unwrap()["vicino.dev/rotated-root"], "1");
    assert_eq!(field(&cluster, "tls.crt").await.as_deref(), Some(&*new));
    end_reports(&cluster).await;
}
