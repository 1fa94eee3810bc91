//! Owns every name, address and port of a cluster, computed from its name, its index and its node count; touches nothing.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Where the state of all clusters lives.
pub const STATE_ROOT: &str = "/run/vicino";

/// Set in the environment of every process that a cluster starts, to the cluster's state folder; this is how `down`
/// finds processes that a crash kept from being recorded.
pub const MARKER: &str = "VICINO_CLUSTER_DIR";

/// How many clusters fit beside each other on one machine: each takes a quarter of a /8's second octets from 128 on.
pub const CLUSTERS_MAX: u8 = 16;

/// How many nodes one cluster may have; the rest of its pod range is left to Nodes that tests invent.
pub const NODES_MAX: u8 = 99;

const NAME_LENGTH_MAX: usize = 24;
const FIRST_PORT: u16 = 21_000;

/// A block of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The first address.
    pub base: Ipv4Addr,
    /// The prefix length in bits.
    pub prefix: u8,
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// All that follows from a cluster's name, index and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The cluster's name: unique on the machine.
    pub name: String,
    /// The cluster's place among those that run: decides addresses, ports and link names.
    pub index: u8,
    /// How many nodes it has.
    pub nodes: u8,
}

/// One node's part of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLayout {
    /// The Kubernetes node name: `node1`, `node2`, …
    pub name: String,
    /// The node's address, that of `eth0` in its network namespace.
    pub ip: Ipv4Addr,
    /// The node's pods' addresses, also in `spec.podCIDR`.
    pub pods: Subnet,
    /// The value of the label `topology.kubernetes.io/zone`: `zone-a`, `zone-b` or `zone-c`.
    pub zone: String,
    /// The network namespace's name under `/run/netns`.
    pub netns: String,
    /// The machine's end of the node's cable.
    pub veth: String,
    /// The cgroup, relative to the root of each hierarchy, that all the node's pods are in.
    pub cgroup: String,
    /// The node's state folder.
    pub dir: PathBuf,
}

impl Layout {
    /// Checks `name` and the bounds.
    pub fn new(name: &str, index: u8, nodes: u8) -> Result<Self> {
        check_name(name)?;
        ensure!(index < CLUSTERS_MAX, "at most {CLUSTERS_MAX} clusters run beside each other");
        ensure!((1..=NODES_MAX).contains(&nodes), "a cluster has 1 to {NODES_MAX} nodes, not {nodes}");
        Ok(Self { name: name.to_owned(), index, nodes })
    }

    /// The state folder: everything that the cluster writes is below it.
    pub fn dir(&self) -> PathBuf {
        dir_of(&self.name)
    }

    /// The folder of certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// The log file of a role, e.g. `kube-apiserver` or `node1.kubelet`.
    pub fn log(&self, role: &str) -> PathBuf {
        self.dir().join("log").join(format!("{role}.log"))
    }

    /// The kubeconfig file of a user; people's is `admin`.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir().join(format!("{user}.kubeconfig"))
    }

    fn octet(&self) -> u8 {
        128 + 4 * self.index
    }

    /// The range that everything of this cluster lies in.
    pub fn all(&self) -> Subnet {
        Subnet { base: Ipv4Addr::new(10, self.octet(), 0, 0), prefix: 14 }
    }

    /// The range of the nodes' addresses.
    pub fn node_range(&self) -> Subnet {
        Subnet { base: Ipv4Addr::new(10, self.octet(), 0, 0), prefix: 24 }
    }

    /// The range of the pods' addresses: one /24 a node.
    pub fn pod_range(&self) -> Subnet {
        Subnet { base: Ipv4Addr::new(10, self.octet() + 1, 0, 0), prefix: 16 }
    }

    /// The range of ClusterIPs.
    pub fn service_range(&self) -> Subnet {
        Subnet { base: Ipv4Addr::new(10, self.octet() + 2, 0, 0), prefix: 16 }
    }

    /// The machine's address on the nodes' bridge, where the API server listens.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), 0, 1)
    }

    /// Another address of the machine there, for servers that are outside of the cluster.
    pub fn outside(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), 0, 250)
    }

    /// The ClusterIP of the Service `default/kubernetes`.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet() + 2, 0, 1)
    }

    /// The ClusterIP of cluster DNS.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet() + 2, 0, 10)
    }

    /// The bridge that the nodes hang on.
    pub fn bridge(&self) -> String {
        format!("vic{}br", self.index)
    }

    /// What the names of the machine's links that belong to this cluster begin with.
    pub fn link_prefixes(&self) -> [String; 2] {
        [self.bridge(), format!("vic{}n", self.index)]
    }

    /// The name of the CNI network: the start of the names of the CNI library's cache files.
    pub fn cni_network(&self) -> String {
        format!("vicino{}", self.index)
    }

    /// The API server's URL as everybody reaches it.
    pub fn api_url(&self) -> String {
        format!("https://{}:6443", self.gateway())
    }

    /// Loopback ports: etcd for clients, etcd for peers, controller manager, scheduler.
    pub fn ports(&self) -> [u16; 4] {
        let first = FIRST_PORT + 10 * u16::from(self.index);
        [first, first + 1, first + 2, first + 3]
    }

    /// The nodes in order.
    pub fn node_list(&self) -> Vec<NodeLayout> {
        (1..=self.nodes).map(|number| self.node_number(number)).collect()
    }

    /// The node called `name`, or an error that lists those there are.
    pub fn node(&self, name: &str) -> Result<NodeLayout> {
        let nodes = self.node_list();
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let found = nodes.into_iter().find(|node| node.name == name);
        found.ok_or_else(|| {
            anyhow::anyhow!("no node {name} in cluster {}: it has {}", self.name, names.join(", "))
        })
    }

    fn node_number(&self, number: u8) -> NodeLayout {
        let name = format!("node{number}");
        NodeLayout {
            ip: Ipv4Addr::new(10, self.octet(), 0, 10 + number),
            pods: Subnet { base: Ipv4Addr::new(10, self.octet() + 1, number, 0), prefix: 24 },
            zone: format!("zone-{}", char::from(b'a' + (number - 1) % 3)),
            netns: format!("{}-{name}", self.name),
            veth: format!("vic{}n{number}", self.index),
            cgroup: format!("vicino-{}-{name}", self.name),
            dir: self.dir().join(&name),
            name,
        }
    }
}

impl NodeLayout {
    /// The path that `nsenter --net=` and `setns` take.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    /// The containerd socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// The name of one of this node's processes, e.g. `node1.kubelet`.
    pub fn role(&self, what: &str) -> String {
        format!("{}.{what}", self.name)
    }
}

/// The state folder of the cluster `name`.
pub fn dir_of(name: &str) -> PathBuf {
    Path::new(STATE_ROOT).join(name)
}

/// A cluster's name is part of file, namespace and cgroup names.
pub fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    ensure!(
        letters && first && name.len() <= NAME_LENGTH_MAX,
        "cluster name {name:?} must be 1 to {NAME_LENGTH_MAX} of a-z, 0-9 and -, with a letter first"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Two clusters share no name, address or port, and no link name is longer than the kernel takes.
    #[test]
    fn clusters_never_share_anything() {
        let mut seen = BTreeSet::new();
        let mut claim = |what: String| assert!(seen.insert(what.clone()), "{what} is claimed twice");
        for index in 0..CLUSTERS_MAX {
            let layout = Layout::new(&format!("c{index}"), index, NODES_MAX).unwrap();
            for range in [layout.node_range(), layout.pod_range(), layout.service_range()] {
                assert_eq!(u32::from(range.base) >> 18, u32::from(layout.all().base) >> 18);
                claim(range.to_string());
            }
            layout.ports().iter().for_each(|port| claim(port.to_string()));
            claim(layout.bridge());
            for node in layout.node_list() {
                assert!(node.veth.len() <= 15 && layout.bridge().len() <= 15);
                for name in [node.ip.to_string(), node.pods.to_string(), node.netns, node.veth, node.cgroup] {
                    claim(name);
                }
            }
        }
    }

    /// A node called like another cluster's node must not make two names equal: names are compared whole.
    #[test]
    fn a_name_that_looks_like_a_node_is_another_cluster() {
        let short = Layout::new("a", 0, 1).unwrap().node_list();
        let long = Layout::new("a-node1", 1, 1).unwrap().node_list();
        assert_ne!(short[0].netns, long[0].netns);
        assert_ne!(short[0].cgroup, long[0].cgroup);
    }

    #[test]
    fn names_and_sizes_are_checked() {
        for bad in ["", "A", "1a", "-a", "a/b", "..", "a b", "abcdefghijklmnopqrstuvwxy"] {
            assert!(Layout::new(bad, 0, 3).is_err(), "{bad:?} was taken");
        }
        assert!(Layout::new("a", CLUSTERS_MAX, 3).is_err());
        assert!(Layout::new("a", 0, 0).is_err() && Layout::new("a", 0, NODES_MAX + 1).is_err());
        let error = Layout::new("a", 0, 2).unwrap().node("node3").unwrap_err();
        assert_eq!(error.to_string(), "no node node3 in cluster a: it has node1, node2");
    }
}
