//! Asks the proxy of a node what a call would get, at its admin site, which only its node reaches: through the API server, as `kubectl port-forward` does.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use tokio::time::timeout;
use vicino_crds::names;
use vicino_proxy::explain::{Call, Explanation};

use super::super::Error;
use super::super::cluster::{Cluster, is_ready, read_error};

/// How long the API server and the kubelet may take to open the way to the proxy.
const OPEN_MAX: Duration = Duration::from_secs(15);
/// How long the proxy may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a node's proxy did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such node.
    #[error("there is no node {0:?}: `kubectl get nodes` lists them")]
    NoNode(String),
    /// No proxy there is ready.
    #[error(
        "node {node:?} has no ready proxy in the namespace {}: {found}; `vicino check` says why",
        names::PROXY_NAMESPACE
    )]
    NoProxy {
        /// Name of the node.
        node: String,
        /// What is there instead.
        found: String,
    },
    /// The way to the proxy was not opened.
    #[error(
        "cannot reach port {} of the pod {}/{pod}{}",
        names::PORT_ADMIN,
        names::PROXY_NAMESPACE,
        forward_hint(source)
    )]
    Forward {
        /// Name of the pod.
        pod: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The way is open, and the proxy does not answer on it.
    #[error("the proxy of node {node:?} does not answer at port {}: {problem}", names::PORT_ADMIN)]
    Silent {
        /// Name of the node.
        node: String,
        /// What happened instead.
        problem: String,
    },
    /// It is of a release that has no `/explain`.
    #[error(
        "the proxy of node {0:?} is too old to be asked; `vicino version` says how old, without --node it need not be asked"
    )]
    TooOld(String),
    /// It says why not.
    #[error("the proxy of node {node:?} answers {status}: {text}")]
    Refused {
        /// Name of the node.
        node: String,
        /// Its status.
        status: u16,
        /// What it says.
        text: String,
    },
}

fn forward_hint(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            " (ask for the verbs get and create on pods/portforward in the namespace vicino-proxy; a RoleBinding there to the ClusterRole vicino:ask-proxies gives them)"
        }
        _ => "",
    }
}

/// What a call would get that a pod of this node makes now.
pub(super) async fn ask(cluster: &Cluster, node: &str, call: &Call) -> Result<Explanation, Error> {
    let pods = Api::<Pod>::namespaced(cluster.client(), names::PROXY_NAMESPACE);
    let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let found = pods.list(&of_node).await.map_err(|source| read_error("pods of vicino-proxy", source))?.items;
    let Some(pod) = found.iter().find(|pod| may_be_asked(pod)) else {
        return Err(no_proxy(cluster, node, &found).await.into());
    };
    let name = pod.name_any();
    let silent = |problem: String| NodeError::Silent { node: node.to_owned(), problem };
    let forward = timeout(OPEN_MAX, pods.portforward(&name, &[names::PORT_ADMIN]));
    let mut forward = match forward.await {
        Ok(forward) => {
            forward.map_err(|source| NodeError::Forward { pod: name, source: Box::new(source) })?
        }
        Err(_elapsed) => {
            return Err(silent(format!("the API server opens no way to it within {OPEN_MAX:?}")).into());
        }
    };
    let (Some(stream), Some(failure)) =
        (forward.take_stream(names::PORT_ADMIN), forward.take_error(names::PORT_ADMIN))
    else {
        return Err(silent("the API server opened no stream".to_owned()).into());
    };
    let exchange = async {
        tokio::select! {
            biased;
            Some(problem) = failure => Err(problem),
            answer = post(stream, call) => answer.map_err(|error| error.to_string()),
        }
    };
    let answer = timeout(ANSWER_MAX, exchange).await;
    forward.abort();
    let (status, body) = match answer {
        Ok(answer) => answer.map_err(silent)?,
        Err(_elapsed) => return Err(silent(format!("nothing within {ANSWER_MAX:?}")).into()),
    };
    understood(node, status, &body)
}

/// One request to `/explain`, over a stream that is there.
async fn post(
    stream: tokio::io::DuplexStream,
    call: &Call,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let body = serde_json::to_vec(call)?;
    let request = Request::post("/explain")
        .header("host", format!("127.0.0.1:{}", names::PORT_ADMIN))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
        Ok((head.status, body.to_bytes()))
    };
    // Only the connection's task writes and reads; what ends it the exchange says as well.
    let (answer, _ended) = tokio::join!(exchange, connection);
    answer
}

pub(super) fn understood(node: &str, status: StatusCode, body: &[u8]) -> Result<Explanation, Error> {
    let text = || String::from_utf8_lossy(body).trim().to_owned();
    let node = || node.to_owned();
    match status {
        StatusCode::OK => serde_json::from_slice(body).map_err(|error| {
            let text = format!("an answer that this release cannot read: {error}");
            NodeError::Refused { node: node(), status: status.as_u16(), text }.into()
        }),
        StatusCode::NOT_FOUND => Err(NodeError::TooOld(node()).into()),
        // It is about the call, as it would be without a node.
        StatusCode::BAD_REQUEST => Err(Error::Usage(text())),
        _ => Err(NodeError::Refused { node: node(), status: status.as_u16(), text: text() }.into()),
    }
}

/// Why there is nobody to ask.
async fn no_proxy(cluster: &Cluster, node: &str, found: &[Pod]) -> NodeError {
    let missing = Api::<Node>::all(cluster.client()).get_opt(node).await;
    // Whoever may not read nodes is told of the proxy alone.
    if matches!(missing, Ok(None)) {
        return NodeError::NoNode(node.to_owned());
    }
    let found = match found {
        [] => "there is no pod of one".to_owned(),
        pods => {
            let names: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
            format!("{} is not ready", names.join(", "))
        }
    };
    NodeError::NoProxy { node: node.to_owned(), found }
}

/// Ready, not on its way out, and a proxy.
fn may_be_asked(pod: &Pod) -> bool {
    let is_proxy = pod.labels().contains_key(names::LABEL_MESH);
    is_ready(pod) && is_proxy && pod.metadata.deletion_timestamp.is_none()
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Self {
        Self::Node(Box::new(error))
    }
}
