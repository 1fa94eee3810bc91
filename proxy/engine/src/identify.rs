//! Who calls, judged from the address alone; what a caller writes is never looked at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::snapshot::{Neighbour, Snapshot};

/// Namespace in which the short names of callers that are no pods resolve.
pub const NAMESPACE_OF_NODE: &str = "default";

/// Who calls L1.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    /// A pod of the own neighbourhood.
    Neighbour(Arc<Neighbour>),
    /// A process of the own node.
    Node,
    /// Another node, or a proxy of one.
    Foreign,
    /// Nobody that the snapshot knows: perhaps a pod that has just started.
    Unknown,
}

impl Caller {
    /// Where short names resolve; None for a caller that gets nothing.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Caller::Neighbour(pod) => Some(&pod.namespace),
            Caller::Node => Some(NAMESPACE_OF_NODE),
            Caller::Foreign | Caller::Unknown => None,
        }
    }
}

/// Pods that are not behind their addresses any more, although the snapshot still has them there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Grows with every change in this process.
    pub version: u64,
    /// UID of the pod that an address is not. Of another pod at that address nothing is said.
    pub pods: HashMap<IpAddr, Arc<str>>,
}

impl Doubts {
    /// Whether this pod is not behind this address.
    pub fn hold(&self, address: IpAddr, uid: &str) -> bool {
        self.pods.get(&address).is_some_and(|doubted| **doubted == *uid)
    }
}

/// Tells who calls from `peer`. `own` are further addresses of this process.
pub fn identify(snapshot: &Snapshot, doubts: &Doubts, own: &[IpAddr], peer: IpAddr) -> Caller {
    let peer = peer.to_canonical();
    if snapshot.version == 0 {
        return Caller::Unknown;
    }
    if let Some(pod) = snapshot.neighbours.get(&peer) {
        let is_doubted = doubts.hold(peer, &pod.uid);
        return if is_doubted { Caller::Unknown } else { Caller::Neighbour(Arc::clone(pod)) };
    }
    if peer.is_loopback() || snapshot.node_addresses.contains(&peer) || own.contains(&peer) {
        return Caller::Node;
    }
    if snapshot.foreign_addresses.contains_key(&peer) { Caller::Foreign } else { Caller::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_says_who_calls() {
        let pod = Arc::new(Neighbour {
            uid: "u".into(),
            namespace: "demo".into(),
            name: "web-0".into(),
            service_account: "web".into(),
        });
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let snapshot = Snapshot {
            version: 1,
            node_addresses: vec![ip("10.0.0.1"), ip("fd00::1")],
            neighbours: [(ip("10.1.0.5"), Arc::clone(&pod))].into(),
            foreign_addresses: [(ip("10.0.0.2"), "b".into())].into(),
            ..Snapshot::default()
        };
        for (peer, caller) in [
            ("10.1.0.5", Caller::Neighbour(Arc::clone(&pod))),
            ("::ffff:10.1.0.5", Caller::Neighbour(pod)),
            ("127.0.0.1", Caller::Node),
            ("::1", Caller::Node),
            ("10.0.0.1", Caller::Node),
            ("fd00::1", Caller::Node),
            ("192.0.2.9", Caller::Node),
            ("10.0.0.2", Caller::Foreign),
            ("10.1.0.6", Caller::Unknown),
        ] {
            let own = [ip("192.0.2.9")];
            assert_eq!(identify(&snapshot, &Doubts::default(), &own, ip(peer)), caller, "{peer}");
        }
        let nothing = Snapshot::default();
        let of_node = identify(&nothing, &Doubts::default(), &[], ip("127.0.0.1"));
        assert_eq!(of_node, Caller::Unknown, "no snapshot yet");
        for (uid, is_unknown) in [("u", true), ("older", false)] {
            let doubts = Doubts { version: 1, pods: [(ip("10.1.0.5"), uid.into())].into() };
            for peer in ["10.1.0.5", "::ffff:10.1.0.5"] {
                let caller = identify(&snapshot, &doubts, &[], ip(peer));
                assert_eq!(caller == Caller::Unknown, is_unknown, "{uid} {peer}");
            }
        }
    }
}
