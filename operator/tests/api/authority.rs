//! Certificates, as a proxy asks for them: real tokens, real pods (of nodes without a kubelet), curl.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use vicino_crds::identity::{AUDIENCE, AUTHORITY_HOST, ISSUE_PATH, REQUEST_BYTES_MAX};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cluster::{Cluster, SOON, until};
use crate::operator::{Operator, free_address};

pub(crate) const SECRET: &str = "vicino-authority";

/// How often somebody has asked.
static ASKED: AtomicU16 = AtomicU16::new(0);

/// An operator that issues certificates.
pub(crate) struct Authority {
    pub(crate) operator: Operator,
    port: u16,
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let authority = Self::launch(cluster, "api-tests");
        authority.operator.leads(SOON * 2).await;
        authority
    }

    /// Without a wait.
    fn launch(cluster: &Cluster, identity: &str) -> Self {
        let address = free_address();
        let (port, address) = (address.port(), address.to_string());
        let arguments = ["--authority-listen", &address];
        let operator = Operator::launch_as(identity, &cluster.kubeconfig, &arguments);
        Self { operator, port, folder: tempfile::tempdir().unwrap() }
    }

    /// Waits until it answers by the authority that the Secret has.
    pub(crate) async fn is_served(&self, cluster: &Cluster) {
        until("the authority answers", SOON, async || {
            self.take_roots(cluster).await && self.ask(None, &json!({"requests": []}), &[]).0 == 401
        })
        .await;
    }

    async fn take_roots(&self, cluster: &Cluster) -> bool {
        let Some(secret) = cluster.get("Secret", "vicino-system", SECRET).await else { return false };
        let Some(roots) = secret.data["data"]["ca.crt"].as_str() else { return false };
        std::fs::write(self.folder.path().join("ca.crt"), through("base64", &["--decode"], roots)).unwrap();
        true
    }

    /// Whether its own certificate is signed by one of these.
    pub(crate) fn is_known_by(&self, roots: &str) -> bool {
        std::fs::write(self.folder.path().join("ca.crt"), roots).unwrap();
        self.ask(None, &json!({"requests": []}), &[]).0 == 401
    }

    fn url(&self) -> String {
        format!("https://{AUTHORITY_HOST}:{}{ISSUE_PATH}", self.port)
    }

    /// Status and answer; status 0 when there is none. Each comes from an address of its own, as if it were from a node of its own, where
    /// `more` has none.
    pub(crate) fn ask(&self, token: Option<&str>, body: &Value, more: &[&str]) -> (u16, Value) {
        let roots = self.folder.path().join("ca.crt");
        let resolve = format!("{AUTHORITY_HOST}:{}:127.0.0.1", self.port);
        let url = self.url();
        let [high, low] = ASKED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let from = format!("127.1.{high}.{low}");
        let bearer = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut arguments =
            vec!["--silent", "--max-time", "10", "--write-out", "\n%{http_code}", "--data-binary", "@-"];
        arguments.extend(["--resolve", &resolve, "--cacert", roots.to_str().unwrap(), "--interface", &from]);
        arguments.extend(bearer.iter().flat_map(|bearer| ["--header", bearer]));
        arguments.extend(more);
        arguments.push(&url);
        let text = String::from_utf8(through("curl", &arguments, body.to_string())).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// What a proxy gets that asks for one identity: the certificates, or the word with which it is refused.
    fn issue(&self, token: &str, identity: &str, csr: &str) -> Result<String, String> {
        let (status, answer) =
            self.ask(Some(token), &json!({"requests": [{"identity": identity, "csr": csr}]}), &[]);
        if status != 200 {
            return Err(format!("{status} {}", answer["reason"].as_str().unwrap_or_default()));
        }
        if let Some(chain) = answer["certificates"][0]["chain"].as_str() {
            return Ok(chain.to_owned());
        }
        Err(answer["refused"][0]["reason"].as_str().unwrap_or_default().to_owned())
    }
}

/// What a program makes of some bytes.
pub(crate) fn through(program: &str, arguments: &[&str], text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut command = Command::new(program);
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without having read all.
    let _ = child.stdin.take().unwrap().write_all(text.as_ref());
    child.wait_with_output().unwrap().stdout
}

/// A pod of one of the test's nodes; returns its UID.
async fn pod(cluster: &Cluster, namespace: &str, (name, account): (&str, &str), node: usize) -> String {
    let node = format!("{}-{node}", cluster.name);
    cluster
        .apply(&format!(
            "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {account}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: c, image: 'example.invalid/none:1'}}]}}
"
        ))
        .await;
    cluster.get("Pod", namespace, name).await.unwrap().metadata.uid.unwrap()
}

/// A token of a service account, as the kubelet would project it into a pod.
async fn token(
    cluster: &Cluster,
    namespace: &str,
    (account, audience): (&str, &str),
    bound_to: Option<(&str, &str)>,
) -> String {
    let api: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), namespace);
    let bound = bound_to.map(|(name, uid)| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
    });
    let spec = TokenRequestSpec {
        audiences: Some(vec![audience.to_owned()]),
        bound_object_ref: bound,
        expiration_seconds: Some(600),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let answer = api.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token.unwrap()
}

/// A token with other claims, signed with the key of the cluster that the harness made.
fn resigned(cluster: &Cluster, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let key = Path::new(&cluster.kubeconfig).with_file_name("pki/tokens.key");
    let key = std::fs::read_to_string(key).expect("a cluster of the harness, which keeps its keys");
    let key = pem::parse(key).unwrap();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.contents(), &random).unwrap();
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, _) = rest.split_once('.').unwrap();
    let mut claims: Value =
        serde_json::from_slice(&through("basenc", &["--base64url", "--decode"], padded(claims))).unwrap();
    change(&mut claims);
    let signed = format!("{head}.{}", base64url(claims.to_string().as_bytes()));
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", base64url(signature.as_ref()))
}

fn padded(text: &str) -> String {
    format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4))
}

fn base64url(bytes: &[u8]) -> String {
    let text = String::from_utf8(through("basenc", &["--base64url", "--wrap=0"], bytes)).unwrap();
    text.trim_end_matches('=').to_owned()
}

fn at_once() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

/// A namespace with pods on two nodes, and the proxies of these.
struct Shop {
    cluster: Cluster,
    authority: Authority,
    /// Of the proxies.
    account: String,
    /// Names of their pods.
    proxies: [String; 2],
    /// Their tokens.
    tokens: [String; 2],
    uid: String,
}

impl Shop {
    /// `web` runs on the first node, `pay` on the second.
    async fn open(test: &str) -> Self {
        let cluster = Cluster::new(test).await;
        let _ = cluster.api("Secret", "vicino-system").delete(SECRET, &DeleteParams::default()).await;
        let told = cluster.api("Event", "vicino-system");
        told.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        cluster.shop().await;
        let authority = Authority::start(&cluster).await;
        authority.is_served(&cluster).await;
        let account = format!("vicino-{}", cluster.name);
        pod(&cluster, &cluster.name, ("web-1", "web"), 1).await;
        pod(&cluster, &cluster.name, ("pay-1", "pay"), 2).await;
        let proxies = [1, 2].map(|number| format!("{account}-{number}"));
        let (mut tokens, mut uids) = (Vec::new(), Vec::new());
        for (i, name) in proxies.iter().enumerate() {
            let uid = pod(&cluster, "vicino-proxy", (name, &account), i + 1).await;
            tokens.push(token(&cluster, "vicino-proxy", (&account, AUDIENCE), Some((name, &uid))).await);
            uids.push(uid);
        }
        let (tokens, uid) = (tokens.try_into().unwrap(), uids.swap_remove(0));
        Self { cluster, authority, account, proxies, tokens, uid }
    }

    fn workload(&self, account: &str) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{account}", self.cluster.name)
    }

    fn node(&self, number: usize) -> String {
        format!("spiffe://cluster.local/node/{}-{number}", self.cluster.name)
    }

    async fn close(&self) {
        for name in &self.proxies {
            let _ = self.cluster.api("Pod", "vicino-proxy").delete(name, &at_once()).await;
        }
    }
}

/// Whether a certificate that was issued within the last minute is good for so many seconds.
fn is_good_for(seconds: i64, chain: &str) -> bool {
    let chain = pem::parse_many(chain).unwrap();
    let (_, leaf) = X509Certificate::from_der(chain[0].contents()).unwrap();
    let left = leaf.validity().not_after.timestamp() - Timestamp::now().as_second();
    (seconds - 60..=seconds).contains(&left)
}

/// With which words those were refused who `kind` and `name` of `namespace` stand for, as events say it.
async fn told(cluster: &Cluster, namespace: &str, (kind, name): (&str, &str)) -> BTreeSet<String> {
    let events = cluster.api("Event", namespace).list(&ListParams::default()).await.unwrap();
    let of_it = events.items.into_iter().map(|event| event.data).filter(|event| {
        event["reason"] == "CertificateRefused"
            && event["regarding"]["kind"] == kind
            && event["regarding"]["name"] == name
    });
    of_it.filter_map(|event| Some(event["note"].as_str()?.split_once(": ")?.0.to_owned())).collect()
}

fn request(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_proxy_is_given_certificates_for_who_lives_on_its_node() {
    let shop = Shop::open("issue").await;
    let key = KeyPair::generate().unwrap();
    let csr = request(&key);
    let roots = std::fs::read(shop.authority.folder.path().join("ca.crt")).unwrap();
    let root = pem::parse(&roots).unwrap();
    let (_, root) = X509Certificate::from_der(root.contents()).unwrap();
    for identity in [shop.workload("web"), shop.node(1)] {
        let chain = shop.authority.issue(&shop.tokens[0], &identity, &csr).unwrap();
        let chain = pem::parse_many(chain).unwrap();
        let (_, leaf) = X509Certificate::from_der(chain[0].contents()).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::URI(&identity)]);
    }
    assert!(shop.authority.issue(&shop.tokens[1], &shop.workload("pay"), &csr).is_ok());
    let ends = shop.authority.operator.metric("vicino_operator_authority_expiration_timestamp_seconds", "");
    assert_eq!(i64::try_from(ends), Ok(root.validity().not_after.timestamp()));

    // As long as the mesh says, from the next one on.
    let issued = || shop.authority.issue(&shop.tokens[0], &shop.node(1), &csr).unwrap();
    assert!(is_good_for(24 * 60 * 60, &issued()));
    let shorter = json!({"spec": {"identity": {"certificateLifetimeSeconds": 900}}});
    let meshes = shop.cluster.api("ServiceMesh", "");
    meshes.patch(&shop.cluster.name, &PatchParams::default(), &Patch::Merge(&shorter)).await.unwrap();
    assert!(is_good_for(900, &issued()));

    // A replica that does not lead issues as well, by the same authority.
    let other = Authority::launch(&shop.cluster, "standby");
    other.is_served(&shop.cluster).await;
    assert!(is_good_for(900, &other.issue(&shop.tokens[0], &shop.node(1), &csr).unwrap()));
    assert_eq!(other.operator.get("/readyz"), "standby");
    assert_eq!(shop.authority.operator.get("/readyz"), "leading");
    drop(other);

    // Many at once; too many; an older TLS.
    let many = |count: usize| {
        let one = json!({"identity": shop.workload("pay"), "csr": csr});
        json!({ "requests": vec![one; count] })
    };
    let ask = |count: usize, more: &[&str]| shop.authority.ask(Some(&shop.tokens[1]), &many(count), more);
    let (status, answer) = ask(512, &[]);
    assert_eq!((status, answer["certificates"].as_array().map(Vec::len)), (200, Some(512)));
    assert_eq!(ask(513, &[]).0, 400);
    let statuses = [(); 4].map(|()| ask(512, &[]).0);
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    assert!(
        shop.authority.issue(&shop.tokens[0], &shop.node(1), &csr).is_ok(),
        "others have their own quota"
    );
    assert_eq!(ask(1, &["--tls-max", "1.2"]).0, 0, "TLS 1.3 alone");
    assert!(shop.authority.operator.metric("vicino_operator_certificates_issued_total", "") >= 515);
    shop.close().await;
}

#[tokio::test]
async fn a_proxy_is_given_no_certificate_for_anybody_else_and_others_are_given_none() {
    let shop = Shop::open("refuse").await;
    let csr = request(&KeyPair::generate().unwrap());
    let refused = |token: &str, identity: &str| shop.authority.issue(token, identity, &csr).unwrap_err();
    let [proxy_1, proxy_2] = &shop.tokens;
    for (proxy, identity, reason) in [
        (proxy_1, shop.workload("pay"), "not-on-this-node"),
        (proxy_2, shop.workload("web"), "not-on-this-node"),
        (proxy_1, shop.workload("nobody"), "not-on-this-node"),
        (proxy_1, shop.node(2), "not-on-this-node"),
        (proxy_1, shop.workload("web").replace("cluster.local", "other"), "other-trust-domain"),
        (proxy_1, "web".to_owned(), "bad-identity"),
    ] {
        assert_eq!(refused(proxy, &identity), reason, "{identity}");
    }
    let web = shop.workload("web");
    assert_eq!(shop.authority.issue(proxy_1, &web, "hello"), Err("bad-request".to_owned()));

    let (cluster, name) = (&shop.cluster, &*shop.cluster.name);
    let uid = cluster.get("Pod", name, "web-1").await.unwrap().metadata.uid.unwrap();
    let of_web = token(cluster, name, ("web", AUDIENCE), Some(("web-1", &uid))).await;
    let account = &*shop.account;
    let unbound = token(cluster, "vicino-proxy", (account, AUDIENCE), None).await;
    let bound = Some((&*shop.proxies[0], &*shop.uid));
    assert_eq!(shop.authority.issue(&resigned(cluster, proxy_1, |_| {}), &web, &csr).err(), None);
    let ended = resigned(cluster, proxy_1, |claims| {
        let begun = claims["iat"].as_i64().unwrap();
        claims["exp"] = json!(begun - 60);
        claims["iat"] = json!(begun - 660);
        claims["nbf"] = json!(begun - 660);
    });
    let for_others = token(cluster, "vicino-proxy", (account, "other"), bound).await;
    let of_another_pod = resigned(cluster, proxy_1, |claims| {
        claims["kubernetes.io"]["pod"]["uid"] = json!("00000000-0000-4000-8000-000000000000");
    });
    for (token, reason) in [
        (&*of_another_pod, "401 bad-token"),
        (&*of_web, "403 not-a-proxy"),
        (&*unbound, "403 unbound-token"),
        (&*for_others, "401 bad-token"),
        (&*ended, "401 bad-token"),
        ("hello", "401 bad-token"),
        (&proxy_1[..proxy_1.len() - 4], "401 bad-token"),
    ] {
        assert_eq!(refused(token, &web), reason);
    }

    // Tokens that the API server takes, of a proxy that is not where they say, or has ended. Whether a pod has the UID that a token says is looked at by the API server
    // itself, before: nobody is ever refused as other-pod but in the moment between its answer and ours.
    let elsewhere = resigned(cluster, proxy_1, |claims| {
        claims["kubernetes.io"]["node"]["name"] = json!(format!("{name}-2"));
    });
    assert_eq!(refused(&elsewhere, &web), "403 other-node");
    let ended = json!({"status": {"phase": "Failed"}});
    let pods = cluster.api("Pod", "vicino-proxy");
    pods.patch_status(&shop.proxies[1], &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    assert_eq!(refused(proxy_2, &shop.node(2)), "403 no-such-pod");

    // A pod that goes takes its identity with it, and a proxy that is gone is nobody.
    cluster.api("Pod", name).delete("web-1", &at_once()).await.unwrap();
    until("web is gone from the node", SOON, async || refused_as(&shop, &web, &csr) == "not-on-this-node")
        .await;
    cluster.api("Pod", "vicino-proxy").delete(&shop.proxies[0], &at_once()).await.unwrap();
    until("the token is of no pod", SOON, async || refused_as(&shop, &shop.node(1), &csr) == "401 bad-token")
        .await;

    // Another of its name takes its place, and not its token.
    let proxy = &*shop.proxies[0];
    let uid = pod(cluster, "vicino-proxy", (proxy, account), 1).await;
    assert_eq!(refused(proxy_1, &shop.node(1)), "401 bad-token");
    let of_the_new = token(cluster, "vicino-proxy", (account, AUDIENCE), Some((proxy, &uid))).await;
    assert_eq!(shop.authority.issue(&of_the_new, &shop.node(1), &csr).err(), None);
    shop.close().await;
}

#[tokio::test]
async fn every_refusal_is_counted_and_told_for_itself() {
    let shop = Shop::open("told").await;
    let (cluster, csr) = (&shop.cluster, request(&KeyPair::generate().unwrap()));
    let [proxy_1, proxy_2] = &shop.tokens;
    let refused = |token: &str, identity: &str| shop.authority.issue(token, identity, &csr).unwrap_err();
    refused(proxy_1, &shop.workload("pay"));
    refused(proxy_1, "web");
    refused(proxy_2, &shop.node(1));
    refused("hello", &shop.node(1));
    refused(&token(cluster, "vicino-proxy", (&shop.account, AUDIENCE), None).await, &shop.node(1));
    refused(&token(cluster, &cluster.name, ("web", AUDIENCE), None).await, &shop.node(1));

    // What is no request, and more than anybody may ask.
    let asked = |body: &Value| {
        let (status, answer) = shop.authority.ask(Some(proxy_1), body, &[]);
        (status, answer["reason"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(asked(&json!({"requests": 1})), (400, "bad-request".to_owned()));
    assert_eq!(asked(&json!("a".repeat(REQUEST_BYTES_MAX))), (413, "too-large".to_owned()));
    let counted =
        |reason: &str| shop.authority.operator.metric("vicino_operator_certificates_refused_total", reason);
    let many = [(); 5].map(|()| TcpStream::connect(("127.0.0.1", shop.authority.port)).unwrap());
    until("one connection too many is counted", SOON, async || counted("too-many-connections") >= 1).await;
    drop(many);

    let of_proxies: [&[&str]; 2] =
        [&["bad-identity", "bad-request", "not-on-this-node", "too-large"], &["not-on-this-node"]];
    let of_nobody = ["bad-token", "not-a-proxy", "too-many-connections", "unbound-token"];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    until("events tell it, each reason for itself", SOON, async || {
        for (name, expected) in shop.proxies.iter().zip(of_proxies) {
            if told(cluster, "vicino-proxy", ("Pod", name)).await != words(expected) {
                return false;
            }
        }
        told(cluster, "vicino-system", ("Secret", SECRET)).await == words(&of_nobody)
    })
    .await;
    for reason in of_proxies.concat().into_iter().chain(of_nobody) {
        assert!(counted(reason) >= 1, "{reason}");
    }
    shop.close().await;
}

#[tokio::test]
async fn an_address_has_few_of_its_tokens_looked_at() {
    let shop = Shop::open("often").await;
    let csr = request(&KeyPair::generate().unwrap());
    let cluster = &shop.cluster;
    let of_web = token(cluster, &cluster.name, ("web", AUDIENCE), None).await;
    let none = json!({"requests": []});
    let asked = |token: &str| shop.authority.ask(Some(token), &none, &["--interface", "127.0.0.9"]);
    assert_eq!(asked(&of_web).0, 403);
    until("it asks too often", SOON, async || asked(&of_web).0 == 429).await;
    assert_eq!(asked("hello").0, 401, "what is no token is looked at by nobody");
    let counted = shop.authority.operator.metric("vicino_operator_certificates_refused_total", "too-many");
    assert!(counted >= 1);
    assert!(shop.authority.issue(&shop.tokens[0], &shop.node(1), &csr).is_ok(), "others ask as before");
    until("it may ask again", SOON, async || asked(&of_web).0 == 403).await;

    // A connection is for one request.
    let again = shop.authority.url();
    let connections = shop.authority.ask(None, &none, &["--write-out", "\n%{num_connects}", &again]).0;
    assert_eq!(connections, 1, "the second needs another");
    shop.close().await;
}

/// With which word the first proxy is refused, or none.
fn refused_as(shop: &Shop, identity: &str, csr: &str) -> String {
    shop.authority.issue(&shop.tokens[0], identity, csr).err().unwrap_or_default()
}
