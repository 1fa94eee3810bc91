//! What only a node knows of a call that one of its pods makes: which pod that is, and how the pods here are that may take it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vicino_crds::contract::CONTRACT_VERSION;
use vicino_engine::Time;
use vicino_engine::identify::Doubts;
use vicino_engine::route::{Decision, Route, decide};
use vicino_engine::snapshot::{Backend, NamedPod, Neighbour, PodSlot, PortEndpoints, ServiceName, Snapshot};
use vicino_wire::head::RequestHead;

use super::policy::{Caller, ELSEWHERE, Pods, destinations};
use super::{Call, Explanation, Wrong, judge, read};

/// What a node serves by, and when it is.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// What its workers serve by.
    pub snapshot: &'a Snapshot,
    /// Its pods that have gone from their addresses.
    pub doubts: &'a Doubts,
    /// How long a source of its configuration has not been heard of.
    pub config_age: Duration,
    /// What time it is for its workers.
    pub time: Time,
}

/// The node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Version of its proxy.
    pub version: String,
    /// Highest version of the contract with the operator that its proxy knows.
    pub contract: i32,
    /// Snapshots that its proxy has built since it started; the call is judged by the last of them.
    pub snapshot: u64,
    /// Seconds for which a source of its configuration has not been heard of; 0 while all are in step.
    pub config_age_seconds: u64,
    /// As whom the call is made, and how that is known.
    pub caller: String,
    /// Where the call may be delivered on this node.
    pub backends: Vec<Here>,
}

/// Pods of one Service's port on the node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Here {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Calls that wait for one of the pods.
    pub waiting: u32,
    /// Calls that may wait; absent where the pods have no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_max: Option<u32>,
    /// The ready ones, or, while there is none, those that still serve while they end.
    pub pods: Vec<OwnPod>,
}

/// A pod of the node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnPod {
    /// `namespace/name`; absent where the node does not know whose address it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is dialled.
    pub address: String,
    /// Calls that it has now, from whichever node.
    pub in_flight: u32,
    /// Calls that it takes at a time now; absent: as many as come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Milliseconds for which its failures leave it out still, 0: a call tries it next, or does so now; absent while it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out_milliseconds: Option<u64>,
}

/// What a call of a pod of this node would get now.
pub fn at_node(moment: Moment<'_>, call: &Call) -> Result<Explanation, Wrong> {
    let Moment { snapshot, doubts, config_age, time } = moment;
    let (caller, said) = caller(snapshot, doubts, call);
    let (backends, mut explanation) = read(snapshot, call, |head| {
        let decision = decide(snapshot, call.namespace(), head);
        let places = decision.as_ref().map(|decision| places(decision, head)).unwrap_or_default();
        let here = places.iter().map(|place| place.here(snapshot, time)).collect::<Vec<_>>();
        let pods = places.iter().map(|place| (place.key(), place.uids(snapshot))).collect::<Pods>();
        (here, judge(snapshot, (call, head), &decision, (&caller, &pods)))
    })?;
    explanation.node = Some(Node {
        name: snapshot.node.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        contract: CONTRACT_VERSION,
        snapshot: snapshot.version,
        config_age_seconds: config_age.as_secs(),
        caller: said,
        backends,
    });
    Ok(explanation)
}

/// Who that is among the pods of this node, and how that is known: the pod of that name, else the pods that run as the service account of that name; without a name the namespace's default one.
fn caller(snapshot: &Snapshot, doubts: &Doubts, call: &Call) -> (Caller, String) {
    let namespace = call.namespace();
    let identity = |account: &str| Some([&*snapshot.trust_domain, namespace, account].map(str::to_owned));
    let Some(name) = call.who() else {
        let caller = Caller { identity: identity("default"), address: None };
        let said = format!("{caller}: no pod is named, so the default service account of {namespace}");
        return (caller, said);
    };
    let is_there = |(address, pod): &(&IpAddr, &Arc<Neighbour>)| {
        &*pod.namespace == namespace && !doubts.hold(**address, &pod.uid)
    };
    let neighbours = || snapshot.neighbours.iter().filter(is_there);
    // A pod may have two addresses.
    let of_name = neighbours().filter(|(_, pod)| &*pod.name == name).min_by_key(|(address, _)| **address);
    if let Some((address, pod)) = of_name {
        let caller = Caller { identity: identity(&pod.service_account), address: Some(*address) };
        let said = format!("{caller}: the pod {namespace}/{name} at {address}");
        return (caller, said);
    }
    let mut of_account: Vec<&str> =
        neighbours().filter(|(_, pod)| &*pod.service_account == name).map(|(_, pod)| &*pod.name).collect();
    of_account.sort_unstable();
    of_account.dedup();
    if let Some(first) = of_account.first() {
        let caller = Caller { identity: identity(name), address: None };
        let more =
            if of_account.len() > 1 { format!(" and {} more", of_account.len() - 1) } else { String::new() };
        let said = format!("{caller}: the service account of the pod {namespace}/{first}{more}");
        return (caller, said);
    }
    let said = format!(
        "unidentified: no pod of this node is {namespace}/{name} or runs as a service account of that name"
    );
    (Caller::default(), said)
}

/// Where a call may be delivered.
struct Place<'a> {
    service: &'a ServiceName,
    port: u16,
    port_name: &'a str,
    /// The only pod that is meant; breakers are not for calls that name one.
    only: Option<&'a NamedPod>,
}

fn places<'a>(decision: &'a Decision, head: &RequestHead<'_>) -> Vec<Place<'a>> {
    let Route { service, pod, .. } = &decision.route;
    if let Some(pod) = pod {
        let port = decision.route.port().port;
        return vec![Place { service: &service.name, port, port_name: &pod.port_name, only: Some(&pod.at) }];
    }
    let place = |backend: &'a Backend| {
        let Backend { service, port, port_name, .. } = backend;
        Place { service, port: *port, port_name, only: None }
    };
    destinations(decision, head).into_iter().map(place).collect()
}

impl Place<'_> {
    fn key(&self) -> (String, String) {
        (self.service.namespace.to_string(), self.service.name.to_string())
    }

    fn endpoints<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s PortEndpoints> {
        snapshot.endpoints(&self.service.namespace, &self.service.name, self.port_name)
    }

    /// The pods of this node that are meant.
    fn slots<'s>(&self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s PodSlot> {
        let only = self.only.map(|pod| pod.address);
        let local = self.endpoints(snapshot).into_iter().flat_map(|port| &port.local);
        local.map(|slot| &**slot).filter(move |slot| only.is_none_or(|only| slot.address.ip() == only))
    }

    /// Of the pods of this node, and one that stands for those of others.
    fn uids(&self, snapshot: &Snapshot) -> Vec<String> {
        let is_others = |node: &str| *node != *snapshot.node;
        let is_elsewhere = match self.only {
            Some(pod) => is_others(&pod.node),
            None => {
                self.endpoints(snapshot).is_some_and(|port| port.nodes.iter().any(|of| is_others(&of.node)))
            }
        };
        let here = self.slots(snapshot).map(|slot| slot.uid.to_string());
        here.chain(is_elsewhere.then(|| ELSEWHERE.to_owned())).collect()
    }

    fn here(&self, snapshot: &Snapshot, time: Time) -> Here {
        let service = snapshot.service(&self.service.namespace, &self.service.name);
        let concurrency = service.and_then(|service| service.concurrency);
        let has_breaker = self.only.is_none() && service.is_some_and(|service| service.breaker.is_some());
        let pod = |slot: &PodSlot| {
            let pod = snapshot.neighbours.get(&slot.address.ip()).filter(|pod| pod.uid == slot.uid);
            let left_out = slot.left_out_for(time).filter(|_| has_breaker);
            OwnPod {
                name: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)),
                address: slot.address.to_string(),
                in_flight: slot.in_flight(),
                limit: concurrency.map(|concurrency| slot.limit(&concurrency)),
                left_out_milliseconds: left_out
                    .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            }
        };
        Here {
            service: format!("{}/{}", self.service.namespace, self.service.name),
            port: self.port,
            waiting: self.endpoints(snapshot).map_or(0, |port| port.queue.waiting()),
            waiting_max: concurrency.map(|concurrency| concurrency.queue_length),
            pods: self.slots(snapshot).map(pod).collect(),
        }
    }
}
