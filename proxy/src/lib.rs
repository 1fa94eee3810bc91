//! Everything of a node's proxy that touches the world: sockets, files, the API, signals; what a call gets is decided in the engine.
//!
//! Reading order is the order in which a process comes to life:
//!
//! | module | what it does |
//! |---|---|
//! | [`options`] | command line and environment |
//! | [`log`] | log lines, and their level while running |
//! | [`config`] | documents → inputs → snapshot, from the API or from a directory |
//! | [`store`] | the last good inputs on local disk |
//! | [`worker`] | threads that turn: accept, read, let the engine decide, write once |
//! | [`witness`] | from which addresses the pods have gone that the MeshNode has there |
//! | [`guard`] | what becomes of connections around the mesh to pods of this node |
//! | [`denials`] | calls that policies were against |
//! | [`report`] | what this proxy serves, in its MeshNode status |
//! | [`lifecycle`] | how far the process has come: starting, serving, draining |
//! | [`explain`] | what a call would get and why, in words |
//! | [`metrics`], [`admin`], [`web`], [`probe`] | what scrapers, people and the kubelet ask |
//! | [`run`] | the order of it all: start, serve, drain, stop |
//!
//! # Probes, and why they are `exec`
//!
//! Proxies use the node's network, and during an upgrade (`maxSurge: 1`) two of them live on one node. A readiness port
//! would then be ambiguous: whoever holds it answers for both, so a new proxy would look ready because the old one is, and
//! the kubelet would end the old one too early. So each proxy answers on a unix socket in a directory of its own pod, and
//! the probe is this binary:
//!
//! ```yaml
//! startupProbe:   { exec: { command: [/vicino-proxy, probe, live] },  periodSeconds: 1,  timeoutSeconds: 3, failureThreshold: 60 }
//! readinessProbe: { exec: { command: [/vicino-proxy, probe, ready] }, periodSeconds: 2,  timeoutSeconds: 3 }
//! livenessProbe:  { exec: { command: [/vicino-proxy, probe, live] },  periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 }
//! volumeMounts:   [{ name: run, mountPath: /run/vicino }, { name: state, mountPath: /var/lib/vicino }]
//! volumes:        [{ name: run, emptyDir: { medium: Memory } }, { name: state, hostPath: { path: /var/lib/vicino/<mesh>, type: DirectoryOrCreate } }]
//! ```
//!
//! `probe ready` ends with 0 when listeners are bound on every worker, a snapshot is in force on every worker, and the proxy
//! does not drain; else with 1 and a reason on standard output. `probe live` ends with 0 when every worker has turned within
//! a second of being asked. The directory is `--run-dir` (`VICINO_RUN_DIR`, default `/run/vicino`), given to both.
//! Ports 9991 (metrics) and 9990 (admin) are for people and scrapers: the old proxy lets go of them when it begins to
//! drain, the new one tries to bind them until then.
//!
//! # Limits, stated
//!
//! - When a draining proxy closes its listeners it has accepted everything that waited. A handshake that is half done in
//!   that very moment is reset by the kernel, unless the node sets `net.ipv4.tcp_migrate_req=1` (Linux 5.14), which hands
//!   it to the successor's socket. The window is one round trip on the node.
//! - A proxy that has seen a younger one report is silent from then on, unless that one says that it drains. A younger one
//!   that is killed for good without a word, while the older lives on, leaves the node without reports.
//! - DNS servers, for hosts outside the mesh, are those that `/etc/resolv.conf` names at start; `/etc/hosts` is not looked into.
//! - The number of workers is read at start only; the operator replaces proxies when it changes.
//! - The allocator is the system's: a request costs no allocation (counted: 1,315 in all for 6,500 requests, 1,307 for
//!   17,300), so another could only change how much memory is held.
//!
//! # What the pod has to give
//!
//! | environment | from | default |
//! |---|---|---|
//! | `VICINO_NODE` | `spec.nodeName` | none: required |
//! | `VICINO_POD_NAME` | `metadata.name` | empty |
//! | `VICINO_NAMESPACE` | `metadata.namespace` | `vicino-proxy` |
//! | `VICINO_MESH` | the operator | `default` |
//! | `VICINO_MESH_UID` | the operator | empty |
//! | `KUBERNETES_SERVICE_HOST` | the kubelet | empty; no pod calls this address, the API server's, through the proxy |
//! | `VICINO_BOOTSTRAP` | the mounted ConfigMap | `/etc/vicino/bootstrap.yaml` |
//! | `VICINO_STATE_DIR` | a hostPath, one for each mesh | none: nothing is kept |
//! | `VICINO_RUN_DIR` | an emptyDir | `/run/vicino` |
//!
//! The capability `NET_ADMIN`, for [`guard`]; without, connections around the mesh are not seen, which is said. The node's network, for
//! [`guard`] and [`witness`].
//! RBAC: get, list, watch on ConfigMaps of its namespace, on EndpointSlices and on MeshNodes; patch on `meshnodes/status`.
//! Nothing else. `terminationGracePeriodSeconds` has to be above the bootstrap's `drainSeconds` (plus 5 is enough).

pub mod admin;
pub mod config;
pub mod denials;
pub mod explain;
pub mod guard;
pub mod identity;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod options;
pub mod probe;
pub mod report;
pub mod run;
pub mod secure;
pub mod store;
pub mod web;
pub mod witness;
pub mod worker;
