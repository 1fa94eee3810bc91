//! What one call would get, and why, in words: made of a snapshot, the call's head and who calls, by the functions that serve calls. It changes nothing, and
//! nothing here decides.
//!
//! The command line asks it about documents that the operator would write, the admin site about the snapshot that is served by.

use serde::{Deserialize, Serialize};
use vicino_engine::reply::Reason;
use vicino_engine::route::{Decision, decide, route};
use vicino_engine::snapshot::Snapshot;
use vicino_wire::head::RequestHead;
use vicino_wire::http1::{Reject, Slots, parse_request};

mod egress;
mod explanation;
mod node;
pub mod policy;
mod target;

pub use egress::Egress;
pub use explanation::{Explanation, Faults, Limits, OwnAnswer, Tested};
pub use node::{Here, Moment, Node, OwnPod, at_node};
pub use target::Target;

use policy::{Caller, Pods};

/// The call that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    /// Method; `CONNECT` for a tunnel.
    #[serde(default = "get")]
    pub method: String,
    /// The authority: name or address, and a port where it is not 80.
    pub host: String,
    /// Path and query, with the first `/`; empty for a tunnel, which is what a call to https:// is to the mesh.
    #[serde(default = "root")]
    pub path: String,
    /// `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Namespace of the caller, or `namespace/name` of its pod or service account.
    pub from: String,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

impl Call {
    /// Namespace of the caller, where short names are looked up.
    pub fn namespace(&self) -> &str {
        self.from.split_once('/').map_or(&self.from, |(namespace, _)| namespace)
    }

    /// The caller's pod, or its service account.
    pub fn who(&self) -> Option<&str> {
        self.from.split_once('/').map(|(_, name)| name)
    }

    /// Whether it asks for a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.path.is_empty()
    }
}

/// Why a call cannot be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It asks for a tunnel to a Service of the mesh.
    #[error(
        "https is end to end: the mesh passes it through and sees neither path nor header; ask for http://"
    )]
    Https,
    /// More or less than one request comes of it.
    #[error("the call is not one request: has a header field a line break?")]
    NotOne,
    /// A proxy does not take it.
    #[error("a proxy refuses such a request with {status} {reason}: {_0}", status = _0.status(), reason = _0.reason())]
    Refused(Reject),
}

/// What the data path makes of the call, after it was read as the data path reads it.
pub fn explain(
    snapshot: &Snapshot,
    call: &Call,
    (caller, pods): (&Caller, &Pods),
) -> Result<Explanation, Wrong> {
    read(snapshot, call, |head| {
        let decision = decide(snapshot, call.namespace(), head);
        judge(snapshot, (call, head), &decision, (caller, pods))
    })
}

/// Hands the call's head on as the data path reads it.
fn read<T>(snapshot: &Snapshot, call: &Call, with: impl FnOnce(&RequestHead<'_>) -> T) -> Result<T, Wrong> {
    let tunnel = || route(snapshot, call.namespace(), &call.host);
    if call.is_tunnel() && !matches!(tunnel(), Err(Reason::NotInMesh | Reason::NoSuchService)) {
        return Err(Wrong::Https);
    }
    let Call { method, host, path, headers, .. } = call;
    let target = if call.is_tunnel() { host } else { path };
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for field in headers {
        bytes.extend([field, "\r\n"]);
    }
    bytes.push_str("\r\n");
    let mut slots = Slots::default();
    match parse_request(bytes.as_bytes(), &mut slots) {
        Ok(Some(request)) if request.len == bytes.len() => Ok(with(&request.head)),
        Ok(_) => Err(Wrong::NotOne),
        Err(reject) => Err(Wrong::Refused(reject)),
    }
}

fn judge(
    snapshot: &Snapshot,
    (call, head): (&Call, &RequestHead<'_>),
    decision: &Result<Decision, Reason>,
    (caller, pods): (&Caller, &Pods),
) -> Explanation {
    let mut explanation = explanation::of(snapshot, (call, head), decision);
    match decision {
        Ok(decision) => explanation.policy = policy::judged(snapshot, decision, (head, caller), pods),
        Err(reason) => {
            if let Some((egress, refused)) = egress::judged(snapshot, (head.authority, *reason), caller) {
                explanation.egress = Some(egress);
                explanation.answer = refused.map(OwnAnswer::from);
            }
        }
    }
    explanation
}

#[cfg(test)]
pub(crate) mod tests;
