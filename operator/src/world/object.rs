//! Names of objects: which kinds the operator generates, and how one object is named; no content.

use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};
use vicino_crds::names;

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `metadata.namespace`, or empty.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// A namespaced object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A cluster-scoped object.
    pub fn cluster(name: &str) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Kinds that the operator generates, in the order in which they are applied: what others need comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One per Service of a meshed namespace.
    MeshRoute,
    /// The proxies' identity towards the API server.
    ServiceAccount,
    /// What proxies may read in the whole cluster.
    ClusterRole,
    /// See [`Kind::ClusterRole`].
    ClusterRoleBinding,
    /// What proxies may read in their namespace.
    Role,
    /// See [`Kind::Role`].
    RoleBinding,
    /// One per node.
    MeshNode,
    /// Bootstrap, routes, nodes.
    ConfigMap,
    /// The proxies.
    DaemonSet,
}

impl Kind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: [Self; 9] = [
        Self::MeshRoute,
        Self::ServiceAccount,
        Self::ClusterRole,
        Self::ClusterRoleBinding,
        Self::Role,
        Self::RoleBinding,
        Self::MeshNode,
        Self::ConfigMap,
        Self::DaemonSet,
    ];

    /// Kinds whose live objects are kept as [`super::Child`]; the others have rows of their own.
    pub const CHILDREN: [Self; 7] = [
        Self::ServiceAccount,
        Self::ClusterRole,
        Self::ClusterRoleBinding,
        Self::Role,
        Self::RoleBinding,
        Self::ConfigMap,
        Self::DaemonSet,
    ];

    /// The kind's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MeshRoute => "MeshRoute",
            Self::ServiceAccount => "ServiceAccount",
            Self::ClusterRole => "ClusterRole",
            Self::ClusterRoleBinding => "ClusterRoleBinding",
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
            Self::MeshNode => "MeshNode",
            Self::ConfigMap => "ConfigMap",
            Self::DaemonSet => "DaemonSet",
        }
    }

    fn group_version_plural(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::MeshRoute => (names::GROUP, names::VERSION, "meshroutes"),
            Self::MeshNode => (names::GROUP, names::VERSION, "meshnodes"),
            Self::ServiceAccount => ("", "v1", "serviceaccounts"),
            Self::ConfigMap => ("", "v1", "configmaps"),
            Self::ClusterRole => ("rbac.authorization.k8s.io", "v1", "clusterroles"),
            Self::ClusterRoleBinding => ("rbac.authorization.k8s.io", "v1", "clusterrolebindings"),
            Self::Role => ("rbac.authorization.k8s.io", "v1", "roles"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "v1", "rolebindings"),
            Self::DaemonSet => ("apps", "v1", "daemonsets"),
        }
    }

    /// Where the API serves it.
    pub fn resource(self) -> ApiResource {
        let (group, version, plural) = self.group_version_plural();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.as_str()), plural)
    }

    /// `apiVersion` of its objects.
    pub fn api_version(self) -> String {
        let (group, version, _) = self.group_version_plural();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }
}

/// One generated object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub key: Key,
}

impl ObjectId {
    /// An object of `kind`.
    pub fn new(kind: Kind, key: Key) -> Self {
        Self { kind, key }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.key)
    }
}
