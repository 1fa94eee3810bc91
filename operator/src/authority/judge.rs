//! Who may have which certificate: what the API server says of a token and of pods in, verdict out. The order of the checks is that of Istio's node authorizer
//! (`security/pkg/server/ca/node_auth.go`): the caller is a mesh's proxy, what it asks for is an identity, its pod exists, has the token's UID and node, and a pod with that identity lives on
//! that node now.

use std::collections::BTreeSet;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::core::v1::Pod;
use vicino_crds::identity::{AUDIENCE, Identity, Subject};
use vicino_crds::names;

/// Keys of what a TokenReview says of a token that is bound to a pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A token of a service account has about 1 KiB.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The proxy that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The mesh that it is of.
    pub mesh: String,
    /// Its pod.
    pub pod: String,
    /// UID of that pod.
    pub pod_uid: String,
    /// The node that it runs on.
    pub node: String,
}

/// Why nothing, or not this, is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or none that is good here and now.
    BadToken,
    /// A token that is not bound to a pod on a node.
    UnboundToken,
    /// Somebody else's than a proxy's.
    NotAProxy,
    /// The mesh of that proxy does not exist.
    NoSuchMesh,
    /// The proxy's pod is gone.
    NoSuchPod,
    /// There is a pod of that name, but it is another.
    OtherPod,
    /// The pod runs on another node than the token says.
    OtherNode,
    /// What is asked for is no identity.
    BadIdentity,
    /// An identity of another trust domain.
    OtherTrustDomain,
    /// An identity that nobody on the node has.
    NotOnThisNode,
    /// Not a request for a certificate, or for a key of another kind.
    BadRequest,
    /// A body of more bytes than a request has.
    TooLarge,
    /// So many connections of one address at one time.
    TooManyConnections,
    /// So much was asked for, of a node or from an address, in so short a time.
    TooMany,
    /// The authority cannot issue.
    Unavailable,
}

impl Refusal {
    /// One word of a bounded set, for answers, metrics and events.
    pub fn word(self) -> &'static str {
        match self {
            Self::BadToken => "bad-token",
            Self::UnboundToken => "unbound-token",
            Self::NotAProxy => "not-a-proxy",
            Self::NoSuchMesh => "no-such-mesh",
            Self::NoSuchPod => "no-such-pod",
            Self::OtherPod => "other-pod",
            Self::OtherNode => "other-node",
            Self::BadIdentity => "bad-identity",
            Self::OtherTrustDomain => "other-trust-domain",
            Self::NotOnThisNode => "not-on-this-node",
            Self::BadRequest => "bad-request",
            Self::TooLarge => "too-large",
            Self::TooManyConnections => "too-many-connections",
            Self::TooMany => "too-many",
            Self::Unavailable => "unavailable",
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::BadToken => {
                "the token is missing, has ended, or is for another audience than vicino-authority"
            }
            Self::UnboundToken => "the token is not bound to a pod on a node: it has to be a projected one",
            Self::NotAProxy => "only proxies, with the service account of their mesh, are given certificates",
            Self::NoSuchMesh => "there is no such ServiceMesh",
            Self::NoSuchPod => "the pod that the token is bound to does not exist any more",
            Self::OtherPod => "the pod that the token is bound to was replaced by another of its name",
            Self::OtherNode => "the pod that the token is bound to runs on another node than the token says",
            Self::BadIdentity => {
                "that is no identity: spiffe://<trust domain>/ns/<namespace>/sa/<service account>, or /node/<node>"
            }
            Self::OtherTrustDomain => "the mesh has another trust domain",
            Self::NotOnThisNode => {
                "no pod of this node runs as that service account now, or it is another node's identity"
            }
            Self::BadRequest => {
                "the request for a certificate is no PKCS #10 in PEM, signed with the ECDSA P-256 key that it is for"
            }
            Self::TooLarge => "the body has more bytes than a request for certificates may have",
            Self::TooManyConnections => {
                "this address has many connections already: a proxy needs one, and closes it"
            }
            Self::TooMany => "this node, or this address, has asked for much in a short time",
            Self::Unavailable => "the authority cannot issue certificates now; its log says why",
        }
    }

    /// The status of an answer that says nothing else.
    pub fn status(self) -> u16 {
        match self {
            Self::BadToken => 401,
            Self::TooLarge => 413,
            Self::TooMany | Self::TooManyConnections => 429,
            Self::Unavailable => 503,
            Self::BadRequest => 400,
            _ => 403,
        }
    }
}

/// Whether it can be a token of a service account at all: three parts in base64url (RFC 7515 §3.1), not long.
pub fn is_token(token: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    token.len() <= TOKEN_BYTES_MAX && token.split('.').count() == 3 && token.split('.').all(is_part)
}

/// Who shows a token, by the API server's word.
pub fn caller(review: &TokenReviewStatus) -> Result<Caller, Refusal> {
    let is_for_us = review.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
    let user = review.user.as_ref().filter(|_| review.authenticated == Some(true) && is_for_us);
    let user = user.ok_or(Refusal::BadToken)?;
    let account = user.username.as_deref().unwrap_or_default();
    let prefix = format!("system:serviceaccount:{}:{}", names::PROXY_NAMESPACE, names::mesh_object(""));
    let mesh = account.strip_prefix(&prefix).filter(|mesh| !mesh.is_empty()).ok_or(Refusal::NotAProxy)?;
    let extra = |key: &str| {
        let values = user.extra.as_ref().and_then(|extra| extra.get(key));
        match values.map(Vec::as_slice) {
            Some([one]) if !one.is_empty() => Ok(one.clone()),
            _ => Err(Refusal::UnboundToken),
        }
    };
    Ok(Caller {
        mesh: mesh.to_owned(),
        pod: extra(POD_NAME)?,
        pod_uid: extra(POD_UID)?,
        node: extra(NODE_NAME)?,
    })
}

/// Whether the pod that a token is bound to is the one that there is.
pub fn check_pod(caller: &Caller, pod: Option<&Pod>) -> Result<(), Refusal> {
    let pod = pod.ok_or(Refusal::NoSuchPod)?;
    // The API server compares the UID before it takes a token, so that OtherPod is met only when the pod is replaced between its answer and this.
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match () {
        () if pod.metadata.uid.as_ref() != Some(&caller.pod_uid) => Err(Refusal::OtherPod),
        () if node != Some(&caller.node) => Err(Refusal::OtherNode),
        () if !is_live(pod) => Err(Refusal::NoSuchPod),
        () => Ok(()),
    }
}

/// Who lives on a node: namespaces and service accounts of its pods that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Residents(BTreeSet<(String, String)>);

impl Residents {
    /// Of the pods that the API server lists for `node`.
    pub fn of<'p>(node: &str, pods: impl IntoIterator<Item = &'p Pod>) -> Self {
        let on_it = |pod: &&Pod| {
            let spec = pod.spec.as_ref();
            // Pods on the host's network have its address, by which nobody can be told from others.
            let has_address = spec.is_some_and(|spec| spec.host_network != Some(true));
            spec.and_then(|spec| spec.node_name.as_deref()) == Some(node) && has_address && is_live(pod)
        };
        let account = |pod: &Pod| {
            let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
            Some((pod.metadata.namespace.clone()?, account.filter(|account| !account.is_empty())?))
        };
        Self(pods.into_iter().filter(on_it).filter_map(account).collect())
    }
}

fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Failed" | "Succeeded"))
}

/// The identity that is asked for, when it is one of the mesh.
pub fn identity(asked: &str, trust_domain: &str) -> Result<Identity, Refusal> {
    let identity: Identity = asked.parse().map_err(|_| Refusal::BadIdentity)?;
    if identity.trust_domain() == trust_domain { Ok(identity) } else { Err(Refusal::OtherTrustDomain) }
}

/// Whether a proxy may speak for an identity: its own node's, or that of a pod that lives there.
pub fn check_identity(caller: &Caller, identity: &Identity, residents: &Residents) -> Result<(), Refusal> {
    let is_here = match identity.subject() {
        Subject::Node(node) => **node == *caller.node,
        Subject::Workload { namespace, service_account } => {
            residents.0.contains(&(namespace.to_string(), service_account.to_string()))
        }
    };
    if is_here { Ok(()) } else { Err(Refusal::NotOnThisNode) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Change = fn(&mut serde_json::Value);

    fn review(change: impl FnOnce(&mut serde_json::Value)) -> TokenReviewStatus {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["vicino-authority"],
            "user": {
                "username": "system:serviceaccount:vicino-proxy:vicino-default",
                "extra": {POD_NAME: ["vicino-default-x"], POD_UID: ["u1"], NODE_NAME: ["node1"]},
            },
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    fn pod(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": "u1"},
            "spec": {"nodeName": "node1", "serviceAccountName": name, "containers": []},
            "status": {"phase": "Running"},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn proxy() -> Caller {
        caller(&review(|_| {})).unwrap()
    }

    #[test]
    fn a_token_says_which_proxy_asks() {
        let Caller { mesh, pod, pod_uid, node } = proxy();
        assert_eq!([&*mesh, &*pod, &*pod_uid, &*node], ["default", "vicino-default-x", "u1", "node1"]);
        let changes: [(Change, Refusal); 9] = [
            (|s| s["authenticated"] = json!(false), Refusal::BadToken),
            (|s| s["authenticated"] = json!(null), Refusal::BadToken),
            // The API server answers so where it knows no audiences.
            (|s| s["audiences"] = json!(null), Refusal::BadToken),
            (|s| s["audiences"] = json!(["https://kubernetes.default.svc"]), Refusal::BadToken),
            (
                |s| s["user"]["username"] = json!("system:serviceaccount:shop:vicino-default"),
                Refusal::NotAProxy,
            ),
            (
                |s| s["user"]["username"] = json!("system:serviceaccount:vicino-proxy:default"),
                Refusal::NotAProxy,
            ),
            (
                |s| s["user"]["username"] = json!("system:serviceaccount:vicino-proxy:vicino-"),
                Refusal::NotAProxy,
            ),
            (|s| s["user"]["extra"] = json!({}), Refusal::UnboundToken),
            (|s| s["user"]["extra"][NODE_NAME] = json!(["node1", "node2"]), Refusal::UnboundToken),
        ];
        for (change, refusal) in changes {
            assert_eq!(caller(&review(change)), Err(refusal));
        }
    }

    #[test]
    fn what_is_no_token_is_seen_without_asking() {
        assert!(is_token("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJhIn0.-_09"));
        let long = |bytes: usize| format!("a.b.{}", "c".repeat(bytes - 4));
        assert!(is_token(&long(TOKEN_BYTES_MAX)) && !is_token(&long(TOKEN_BYTES_MAX + 1)));
        for other in
            ["", "hello", "a.b", "a.b.c.d", "a..c", ".b.c", "a.b.", "a.b.c=", "a.b.c d", "a.b.ä", "a+.b.c"]
        {
            assert!(!is_token(other), "{other}");
        }
    }

    #[test]
    fn its_pod_is_the_one_that_there_is() {
        let caller = proxy();
        assert_eq!(check_pod(&caller, Some(&pod("p", |_| {}))), Ok(()));
        assert_eq!(check_pod(&caller, None), Err(Refusal::NoSuchPod));
        let check = |change: fn(&mut serde_json::Value)| check_pod(&caller, Some(&pod("p", change)));
        assert_eq!(check(|p| p["metadata"]["uid"] = json!("u2")), Err(Refusal::OtherPod));
        assert_eq!(check(|p| p["spec"]["nodeName"] = json!("node2")), Err(Refusal::OtherNode));
        assert_eq!(check(|p| p["spec"]["nodeName"] = json!(null)), Err(Refusal::OtherNode));
        assert_eq!(check(|p| p["status"]["phase"] = json!("Failed")), Err(Refusal::NoSuchPod));
    }

    #[test]
    fn it_speaks_for_who_lives_on_its_node() {
        let pods = vec![
            pod("web", |_| {}),
            pod("away", |p| p["spec"]["nodeName"] = json!("node2")),
            pod("waits", |p| p["spec"]["nodeName"] = json!(null)),
            pod("done", |p| p["status"]["phase"] = json!("Succeeded")),
            pod("failed", |p| p["status"]["phase"] = json!("Failed")),
            pod("host", |p| p["spec"]["hostNetwork"] = json!(true)),
            pod("none", |p| p["spec"]["serviceAccountName"] = json!("")),
            pod("starts", |p| p["status"]["phase"] = json!("Pending")),
        ];
        let residents = Residents::of("node1", &pods);
        let may = |asked: &str| {
            let identity = identity(&format!("spiffe://cluster.local/{asked}"), "cluster.local")?;
            check_identity(&proxy(), &identity, &residents)
        };
        for here in ["ns/shop/sa/web", "ns/shop/sa/starts", "node/node1"] {
            assert_eq!(may(here), Ok(()), "{here}");
        }
        for other in ["away", "waits", "done", "failed", "host", "none"] {
            assert_eq!(may(&format!("ns/shop/sa/{other}")), Err(Refusal::NotOnThisNode), "{other}");
        }
        assert_eq!(may("ns/bank/sa/web"), Err(Refusal::NotOnThisNode));
        assert_eq!(may("node/node2"), Err(Refusal::NotOnThisNode));
        assert_eq!(may("web"), Err(Refusal::BadIdentity));
        let other = identity("spiffe://other/ns/shop/sa/web", "cluster.local");
        assert_eq!(other, Err(Refusal::OtherTrustDomain));
    }
}
