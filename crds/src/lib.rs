//! The kinds of `vicino.dev` and the contract between operator and proxy; knows schemas and bytes, never a cluster.
//!
//! Reading order: [`mesh`], [`route`] with its [`rule`]s and [`node`] are the kinds that people and proxies see;
//! [`contract`] is what the operator compiles them into and the proxy reads; [`names`] are the
//! labels, annotations and ports that both sides agree on; [`generate`] writes the CRD manifests.

pub mod condition;
pub mod contract;
pub mod generate;
#[expect(unreachable_pub, reason = "KubeSchema expands to a copy of the type inside a function")]
#[allow(clippy::duplicated_attributes, reason = "each printcolumn has its own name and type_")]
pub mod mesh;
pub mod names;
#[expect(unreachable_pub, reason = "as above")]
#[allow(clippy::duplicated_attributes, reason = "as above")]
pub mod node;
#[expect(unreachable_pub, reason = "as above")]
#[allow(clippy::duplicated_attributes, reason = "as above")]
pub mod route;
#[expect(unreachable_pub, reason = "as above")]
pub mod rule;

pub use mesh::{ServiceMesh, ServiceMeshSpec, ServiceMeshStatus};
pub use node::{MeshNode, MeshNodeSpec, MeshNodeStatus};
pub use route::{MeshRoute, MeshRouteSpec, MeshRouteStatus};
