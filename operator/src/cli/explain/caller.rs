//! Who calls, and whose pods may be called, as far as the API's objects say it.

use vicino_engine::snapshot::Snapshot;
use vicino_proxy::config::Inputs;
use vicino_proxy::explain::Call;
use vicino_proxy::explain::policy::{Caller, Pods};

use crate::world::{Key, World};

/// What a pod runs as that says nothing.
const ACCOUNT_DEFAULT: &str = "default";

/// The pod of that name, or else the service account.
pub(super) fn of(world: &World, snapshot: &Snapshot, call: &Call) -> Caller {
    let (namespace, name) = (call.namespace(), call.who());
    let pod = name.and_then(|name| world.pods.get(&Key::new(namespace, name))).map(|row| &row.value);
    let account = match (pod, name) {
        (Some(pod), _) if pod.service_account.is_empty() => ACCOUNT_DEFAULT,
        (Some(pod), _) => &pod.service_account,
        (None, name) => name.unwrap_or(ACCOUNT_DEFAULT),
    };
    let identity = [&*snapshot.trust_domain, namespace, account].map(str::to_owned);
    let address = pod.and_then(|pod| pod.ips.first()?.parse().ok());
    Caller { identity: Some(identity), address }
}

/// What a pod of a file, which has no UID, is told apart by.
pub(super) fn uid(uid: &str, address: Option<&String>) -> String {
    if uid.is_empty() { address.cloned().unwrap_or_default() } else { uid.to_owned() }
}

/// The pods of all slices.
pub(super) fn pods(inputs: &Inputs) -> Pods {
    let mut pods = Pods::new();
    for ((namespace, service), slices) in inputs.services() {
        let of = pods.entry((namespace.to_string(), service.to_string())).or_default();
        for endpoint in slices.values().flat_map(|slice| &slice.endpoints) {
            let uid = uid(&endpoint.uid, Some(&endpoint.address.to_string()));
            if !of.contains(&uid) {
                of.push(uid);
            }
        }
    }
    pods
}
