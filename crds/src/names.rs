//! Labels, annotations, ports and object names that operator, proxy and people agree on; no logic beyond composing them.

/// API group of every kind of ours.
pub const GROUP: &str = "vicino.dev";
/// The one served version.
pub const VERSION: &str = "v1alpha1";
/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "vicino-operator";
/// Field manager of a proxy's report in its MeshNode status.
pub const PROXY_FIELD_MANAGER: &str = "vicino-proxy";
/// On a Namespace: the mesh that it joins. On generated objects: the mesh that they belong to.
pub const LABEL_MESH: &str = "vicino.dev/mesh";
/// On a generated ConfigMap: what it holds, one of [`CONFIG_BOOTSTRAP`], [`CONFIG_ROUTES`], [`CONFIG_POLICIES`], [`CONFIG_EGRESS`], [`CONFIG_NODES`].
pub const LABEL_CONFIG: &str = "vicino.dev/config";
/// On a routes ConfigMap: the namespace of the Services in it.
pub const LABEL_ROUTES_NAMESPACE: &str = "vicino.dev/routes-namespace";
/// On a policies ConfigMap: the namespace of the policies in it.
pub const LABEL_POLICIES_NAMESPACE: &str = "vicino.dev/policies-namespace";
/// Recommended label that marks what the operator generates.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "vicino-operator";
/// On a Service: `"true"` leaves it out of the mesh.
pub const ANNOTATION_SKIP: &str = "vicino.dev/skip";
/// On a Pod of a meshed namespace: ports, separated by commas, that are called by what is outside the mesh (scrapers, webhooks), so that calls around the mesh are taken there in any mode.
pub const ANNOTATION_PLAIN_PORTS: &str = "vicino.dev/plain-ports";
/// On a generated ConfigMap: digest of its data, see [`crate::contract::digest`].
pub const ANNOTATION_DIGEST: &str = "vicino.dev/digest";
/// On a generated object: digest of what the operator rendered, so that a field that is no longer rendered is noticed.
pub const ANNOTATION_RENDERED: &str = "vicino.dev/rendered";
/// Value of [`LABEL_CONFIG`]: the proxies' bootstrap.
pub const CONFIG_BOOTSTRAP: &str = "bootstrap";
/// Value of [`LABEL_CONFIG`]: compiled routes.
pub const CONFIG_ROUTES: &str = "routes";
/// Value of [`LABEL_CONFIG`]: compiled policies. A proxy of a release that has none does not look for it.
pub const CONFIG_POLICIES: &str = "policies";
/// Value of [`LABEL_CONFIG`]: what may be called outside the mesh. A proxy of a release that knows no egress does not look for it, and refuses all of it.
pub const CONFIG_EGRESS: &str = "egress";
/// Value of [`LABEL_CONFIG`]: the neighbourhoods.
pub const CONFIG_NODES: &str = "nodes";
/// Value of [`LABEL_CONFIG`]: the roots of the mesh's certificates.
pub const CONFIG_TRUST: &str = "trust";
/// The key of the roots in their ConfigMap.
pub const TRUST_KEY: &str = "roots.pem";
/// The key, there too, of the authority by which certificates are issued now, followed by those that signed it.
pub const TRUST_ISSUER_KEY: &str = "issuer.pem";
/// The Service before the certificate authority.
pub const AUTHORITY_SERVICE: &str = "vicino-authority";
/// The Secret, in the operator's namespace, that the authority is kept in.
pub const AUTHORITY_SECRET: &str = "vicino-authority";
/// On that Secret: a value that is not the one of [`ANNOTATION_ROTATED_ROOT`] asks for a new root in place of one that was made here.
pub const ANNOTATION_ROTATE_ROOT: &str = "vicino.dev/rotate-root";
/// On that Secret: the value of [`ANNOTATION_ROTATE_ROOT`] for which a root was made last.
pub const ANNOTATION_ROTATED_ROOT: &str = "vicino.dev/rotated-root";
/// Where operator and certificate authority live.
pub const SYSTEM_NAMESPACE: &str = "vicino-system";
/// Where the proxies and their configuration live.
pub const PROXY_NAMESPACE: &str = "vicino-proxy";
/// The condition of a MeshNode that says whether connections around the mesh to its pods are seen.
pub const CONDITION_GUARDED: &str = "Guarded";
/// The condition of a MeshNode that says whether links of its pods are found behind their addresses.
pub const CONDITION_WITNESSED: &str = "Witnessed";
/// Port of L1, explicit mode.
pub const PORT_L1: u16 = 4140;
/// Port of L2, the hop's listener.
pub const PORT_L2: u16 = 4141;
/// Port of the proxy's admin interface, on loopback only.
pub const PORT_ADMIN: u16 = 9990;
/// Port of the proxy's metrics and readiness.
pub const PORT_METRICS: u16 = 9991;
/// A generated ConfigMap is split before its data passes this many bytes.
pub const CONFIG_MAP_BYTES_MAX: usize = 512 * 1024;
/// The key of the bootstrap in its ConfigMap.
pub const BOOTSTRAP_KEY: &str = "bootstrap.yaml";

/// The key of what may be called outside the mesh, in its ConfigMap, and its file's name.
pub const EGRESS_KEY: &str = "egress.yaml";

/// Name of the DaemonSet, ServiceAccount, roles and bootstrap ConfigMap of a mesh.
pub fn mesh_object(mesh: &str) -> String {
    format!("vicino-{mesh}")
}

/// Name of the `part`-th (from 0) routes ConfigMap of a namespace. A part's number follows a '.', which no mesh and no
/// namespace has in its name: part 1 of the namespace `shop` must not be called as part 0 of the namespace `shop-1`.
pub fn routes_config_map(mesh: &str, namespace: &str, part: usize) -> String {
    numbered(format!("vicino-{mesh}-routes-{namespace}"), part)
}

/// Name of the `part`-th (from 0) policies ConfigMap of a namespace.
pub fn policies_config_map(mesh: &str, namespace: &str, part: usize) -> String {
    numbered(format!("vicino-{mesh}-policies-{namespace}"), part)
}

/// Name of the `part`-th (from 0) nodes ConfigMap.
pub fn nodes_config_map(mesh: &str, part: usize) -> String {
    numbered(format!("vicino-{mesh}-nodes"), part)
}

/// Name of the ConfigMap with the roots; no mesh has a '.' in its name.
pub fn trust_config_map(mesh: &str) -> String {
    format!("vicino-{mesh}.trust")
}

/// Name of the ConfigMap with what may be called outside the mesh.
pub fn egress_config_map(mesh: &str) -> String {
    format!("vicino-{mesh}.egress")
}

/// Data key of a Service's compiled route, of a policy or of a node, in a ConfigMap and as a file name.
pub fn data_key(name: &str) -> String {
    format!("{name}.yaml")
}

fn numbered(name: String, part: usize) -> String {
    if part == 0 { name } else { format!("{name}.{part}") }
}
