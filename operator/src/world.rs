//! The cluster as the pipeline sees it: plain, ordered tables of trimmed objects; knows no client and decides nothing.
//!
//! What is kept of an object bounds the operator's memory. Reckoned from the fields, with names of 20 characters: a Service 0.5 KiB, an EndpointSlice 0.3 KiB, a Pod 0.8 KiB with its labels, a Node 2 KiB (all its labels, since a nodeSelector may
//! name any), a Namespace 0.2 KiB, a MeshRoute 1.5 KiB, a MeshPolicy 1.5 KiB, a route in its ConfigMap 0.5 KiB, a MeshNode 0.4 KiB and
//! 0.7 KiB for each of its pods. 2,000 Services and 200 nodes with 30 pods each are about 15 MiB. Measured by the
//! ignored API test `scale`, 2,000 Services and 200 nodes without pods: the whole process has 54 MiB resident at its peak.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use vicino_crds::node::PlainPorts;
use vicino_crds::route::PortProtocol;
use vicino_crds::{
    MeshNodeSpec, MeshNodeStatus, MeshPolicySpec, MeshPolicyStatus, MeshRouteSpec, MeshRouteStatus,
    ServiceMeshSpec, ServiceMeshStatus,
};

mod history;
mod load;
mod object;
mod table;
pub(crate) mod trim;

pub use history::{DIGESTS_MAX, History};
pub use load::LoadError;
pub(crate) use load::written;
pub use object::{Key, Kind, ObjectId};
pub use table::{Row, Step, Table};

/// What the operator was started with and renders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of proxies whose mesh names none.
    pub proxy_image: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { proxy_image: concat!("localhost/vicino-proxy:", env!("CARGO_PKG_VERSION")).to_owned() }
    }
}

/// A ServiceMesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`; the older of two meshes that want one node has it.
    pub created: Timestamp,
    /// Whether it is being deleted: nothing of it is written any more.
    pub deleting: bool,
    /// Its spec, or why it could not be read.
    pub spec: Result<ServiceMeshSpec, String>,
    /// Its status as last written.
    pub status: ServiceMeshStatus,
}

/// A MeshRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Value of the label `vicino.dev/mesh`, when the object carries the operator's labels.
    pub labelled: Option<String>,
    /// Objects that own it.
    pub owners: Vec<Owner>,
    /// Whether the operator manages fields of it outside its status.
    pub ours: bool,
    /// Whether somebody else does.
    pub others: bool,
    /// Its spec, or why it could not be read.
    pub spec: Result<MeshRouteSpec, String>,
    /// Its status as last written.
    pub status: MeshRouteStatus,
}

/// A MeshPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether it is being deleted; it is in force until it is gone.
    pub deleting: bool,
    /// Its spec, or why it could not be read.
    pub spec: Result<MeshPolicySpec, String>,
    /// Its status as last written.
    pub status: MeshPolicyStatus,
}

/// A MeshNode.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbourhood {
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Labels of the operator.
    pub labels: BTreeMap<String, String>,
    /// Objects that own it.
    pub owners: Vec<Owner>,
    /// Who lives there, as last written.
    pub spec: MeshNodeSpec,
    /// What its proxy reports.
    pub status: MeshNodeStatus,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Value of the label `vicino.dev/mesh`.
    pub mesh: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its TCP ports, in its own order.
    pub ports: Vec<ServicePort>,
    /// Its cluster IPs; none for a headless one.
    pub cluster_ips: Vec<String>,
    /// Whether calls stay on the caller's node (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// The name that it stands for, when its type is ExternalName.
    pub external_name: Option<String>,
    /// Whether it carries the annotation that leaves it out of the mesh.
    pub skip: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its number.
    pub port: u16,
    /// Its name; empty for an only port.
    pub name: String,
    /// What its `appProtocol`, or else its name, says is spoken on it.
    pub protocol: PortProtocol,
}

/// An EndpointSlice, as far as the ENDPOINTS column needs it; proxies watch slices themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Service that it belongs to.
    pub service: String,
    /// `IPv4` or `IPv6`: a dual-stack pod is in one slice of each.
    pub address_type: String,
    /// Endpoints that are ready.
    pub ready: usize,
    /// All endpoints.
    pub total: usize,
}

/// A `ReferenceGrant` of the Gateway API, as far as it is about MeshRoutes that name Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Namespaces whose MeshRoutes may.
    pub from: Vec<String>,
    /// Services of the grant's own namespace; None is every one.
    pub to: Vec<Option<String>>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses of type InternalIP.
    pub addresses: Vec<String>,
    /// Its addresses of type ExternalIP.
    pub external_addresses: Vec<String>,
    /// Blocks of addresses that its pods have, as far as it says.
    pub pod_cidrs: Vec<String>,
}

/// A Pod that is bound to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Node that it is bound to.
    pub node: String,
    /// Service account that it runs as.
    pub service_account: String,
    /// Its own addresses; none while it has none, when it shares its node's, and once it has ended.
    pub ips: Vec<String>,
    /// All its labels, while it has addresses of its own: by these policies select it.
    pub labels: BTreeMap<String, String>,
    /// What is wrong with them, when they are too long to be told to a proxy; then there are none.
    pub labels_problem: Option<String>,
    /// Mesh whose proxy it is.
    pub proxy_of: Option<String>,
    /// Whether it is ready and not being deleted; kept for proxies only.
    pub ready: bool,
    /// Ports where calls around the mesh are taken in any mode, as its annotation says, sorted.
    pub plain_ports: PlainPorts,
    /// Since when it has its network, as its kubelet says.
    pub network_since: Option<Time>,
}

/// A live object of a kind in [`Kind::CHILDREN`] that carries the operator's label.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations in `vicino.dev`.
    pub annotations: BTreeMap<String, String>,
    /// Objects that own it.
    pub owners: Vec<Owner>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it says.
    pub body: Body,
    /// For a DaemonSet: how its pods are.
    pub rollout: Option<Rollout>,
}

/// What an object says, besides its metadata and status.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// `data` of a ConfigMap.
    Data(BTreeMap<String, String>),
    /// `spec` of a MeshNode.
    Neighbours(MeshNodeSpec),
    /// Nothing: a MeshRoute, whose spec is the user's.
    Nothing,
    /// The top-level fields of any other kind.
    Fields(Value),
}

/// An owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// UID of the owner.
    pub uid: String,
}

/// A DaemonSet's status and the generation that it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Whether the DaemonSet controller has seen the newest spec.
    pub observed: bool,
    /// Pods that should run.
    pub desired: usize,
    /// Pods of the newest spec.
    pub updated: usize,
    /// Nodes whose pod is ready.
    pub ready: usize,
}

/// How the authority is, as this replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    /// PEM of the roots by which its certificates are known, and those of the one before and the one that comes; empty while there are none.
    pub roots: String,
    /// How many they are.
    pub root_count: usize,
    /// When the first of them ends.
    pub first_root_ends: Option<Timestamp>,
    /// PEM of the authority by which certificates are issued, then of those that signed it.
    pub chain: String,
    /// When that authority ends; None: none are issued.
    pub ends: Option<Timestamp>,
    /// Whether somebody should renew it.
    pub ends_soon: bool,
    /// What is wrong with the authority that its Secret has.
    pub problem: Option<String>,
    /// Why the authority that its Secret has is not in force yet.
    pub waits: Option<String>,
}

/// Why an object could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For people, without the object's name.
    pub message: String,
    /// Whether trying again may help without anybody changing anything.
    pub transient: bool,
}

/// What a watch of any kind says.
#[derive(Clone, Debug)]
pub enum Change {
    /// ServiceMeshes.
    Mesh(Step<Mesh>),
    /// MeshRoutes.
    Route(Box<Step<Route>>),
    /// MeshPolicies.
    Policy(Box<Step<Policy>>),
    /// MeshNodes.
    Neighbourhood(Step<Neighbourhood>),
    /// Namespaces.
    Namespace(Step<Namespace>),
    /// Services.
    Service(Step<Service>),
    /// EndpointSlices.
    Slice(Step<Slice>),
    /// `ReferenceGrant`s.
    Grant(Step<Grant>),
    /// Nodes.
    Node(Step<Node>),
    /// Pods.
    Pod(Step<Pod>),
    /// Generated objects of one kind.
    Child(Kind, Step<Child>),
    /// How the authority is.
    Authority(Authority),
}

/// Everything that the pipeline may look at.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// What the operator was started with.
    pub settings: Settings,
    /// How the authority is; None while that is not known here.
    pub authority: Option<Authority>,
    /// ServiceMeshes.
    pub meshes: Table<Mesh>,
    /// MeshRoutes.
    pub routes: Table<Route>,
    /// MeshPolicies.
    pub policies: Table<Policy>,
    /// MeshNodes.
    pub neighbourhoods: Table<Neighbourhood>,
    /// Namespaces.
    pub namespaces: Table<Namespace>,
    /// Services.
    pub services: Table<Service>,
    /// EndpointSlices.
    pub slices: Table<Slice>,
    /// `ReferenceGrant`s.
    pub grants: Table<Grant>,
    /// Nodes.
    pub nodes: Table<Node>,
    /// Pods.
    pub pods: Table<Pod>,
    /// Generated objects, one table for each kind in [`Kind::CHILDREN`].
    pub children: Children,
    /// What generated ConfigMaps have held.
    pub history: History,
    /// Writes that failed last time.
    pub failures: BTreeMap<ObjectId, Failure>,
    /// Objects that the API server keeps otherwise than rendered (it normalises quantities, or somebody else adds to
    /// a list): the version that our last write left, and the digest of what was written. At that version it is in force.
    pub settled: BTreeMap<ObjectId, (u64, String)>,
}

/// Tables of generated objects.
#[derive(Clone, Debug)]
pub struct Children(BTreeMap<Kind, Table<Child>>);

impl Default for Children {
    fn default() -> Self {
        Self(Kind::CHILDREN.into_iter().map(|kind| (kind, Table::default())).collect())
    }
}

impl Children {
    /// The table of a kind in [`Kind::CHILDREN`].
    pub fn of(&self, kind: Kind) -> &Table<Child> {
        self.0.get(&kind).expect("every kind of Kind::CHILDREN has a table, and callers ask for no other")
    }

    /// See [`Children::of`].
    pub fn of_mut(&mut self, kind: Kind) -> &mut Table<Child> {
        self.0.get_mut(&kind).expect("every kind of Kind::CHILDREN has a table, and callers ask for no other")
    }
}

impl World {
    /// Whether MeshRoutes of a namespace may name a Service of another.
    pub fn is_granted(&self, from: &str, to: &Key) -> bool {
        let grants = self.grants.in_namespace(&to.namespace).map(|(_, row)| &row.value);
        from == to.namespace
            || grants.into_iter().any(|grant| {
                let is_to = |name: &Option<String>| name.as_ref().is_none_or(|name| *name == to.name);
                grant.from.iter().any(|namespace| namespace == from) && grant.to.iter().any(is_to)
            })
    }

    /// Takes in what a watch says; true when that may change the plan.
    pub fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Mesh(step) => self.meshes.step(step),
            Change::Route(step) => self.routes.step(*step),
            Change::Policy(step) => self.policies.step(*step),
            Change::Neighbourhood(step) => self.neighbourhoods.step(step),
            Change::Namespace(step) => self.namespaces.step(step),
            Change::Service(step) => self.services.step(step),
            Change::Slice(step) => self.slices.step(step),
            Change::Grant(step) => self.grants.step(step),
            Change::Node(step) => self.nodes.step(step),
            Change::Pod(step) => self.pods.step(step),
            Change::Child(Kind::ConfigMap, step) => self.take_config_map(step),
            Change::Authority(authority) => {
                let is_news = self.authority.as_ref() != Some(&authority);
                self.authority = Some(authority);
                is_news
            }
            Change::Child(kind, step) => self.children.of_mut(kind).step(step),
        }
    }

    fn take_config_map(&mut self, step: Step<Child>) -> bool {
        let table = self.children.of_mut(Kind::ConfigMap);
        let named = match &step {
            Step::Put(key, _) | Step::Written(key, _) | Step::Gone(key, _) => Some(key.clone()),
            Step::Listing | Step::Listed => None,
        };
        let changed = table.step(step);
        if changed && let Some(key) = named {
            self.observe_config_map(&key);
        }
        changed
    }

    fn observe_config_map(&mut self, key: &Key) {
        match self.children.of(Kind::ConfigMap).get(key).map(|row| &row.value.body) {
            Some(Body::Data(data)) => self.history.observe(&key.name, data),
            _ => self.history.forget(&key.name),
        }
    }

    /// An object was deleted by this process.
    pub fn bury(&mut self, id: &ObjectId, uid: &str) {
        match id.kind {
            Kind::MeshRoute => self.routes.bury(&id.key, uid),
            Kind::MeshNode => self.neighbourhoods.bury(&id.key, uid),
            kind => self.children.of_mut(kind).bury(&id.key, uid),
        }
        if id.kind == Kind::ConfigMap {
            self.history.forget(&id.key.name);
        }
        self.settled.remove(id);
    }

    /// Whether every kind has been listed once: before that nothing may be rendered.
    pub fn synced(&self) -> bool {
        self.meshes.synced()
            && self.routes.synced()
            && self.policies.synced()
            && self.neighbourhoods.synced()
            && self.namespaces.synced()
            && self.services.synced()
            && self.slices.synced()
            && self.grants.synced()
            && self.nodes.synced()
            && self.pods.synced()
            && self.children.0.values().all(Table::synced)
    }

    /// How many objects of each kind are kept, for the metric.
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let mut sizes = vec![
            ("ServiceMesh", self.meshes.len()),
            ("MeshRoute", self.routes.len()),
            ("MeshPolicy", self.policies.len()),
            ("MeshNode", self.neighbourhoods.len()),
            ("Namespace", self.namespaces.len()),
            ("Service", self.services.len()),
            ("EndpointSlice", self.slices.len()),
            ("ReferenceGrant", self.grants.len()),
            ("Node", self.nodes.len()),
            ("Pod", self.pods.len()),
        ];
        sizes.extend(self.children.0.iter().map(|(kind, table)| (kind.as_str(), table.len())));
        sizes
    }

    /// Version and UID of a live object.
    pub fn identity(&self, id: &ObjectId) -> Option<(u64, &str)> {
        fn of<T>(row: Option<&Row<T>>) -> Option<(u64, &str)> {
            row.map(|row| (row.version, row.uid.as_str()))
        }
        match id.kind {
            Kind::MeshRoute => of(self.routes.get(&id.key)),
            Kind::MeshNode => of(self.neighbourhoods.get(&id.key)),
            kind => of(self.children.of(kind).get(&id.key)),
        }
    }
}
