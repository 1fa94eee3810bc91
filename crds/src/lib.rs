//! The kinds of `vicino.dev` and the contract between operator and proxy; knows schemas and bytes, never a cluster.
//!
//! Reading order: [`mesh`], [`route`] with its [`rule`]s, [`policy`] and [`node`] are the kinds that people and proxies see; [`egress`] is what a mesh lets its pods call outside;
//! [`identity`] is who somebody is in the mesh; [`contract`] is what the operator compiles them into and the proxy reads; [`names`] are the
//! labels, annotations and ports that both sides agree on; [`generate`] writes the CRD manifests.

pub mod condition;
pub mod contract;
#[expect(unreachable_pub, reason = "KubeSchema expands to a copy of the type inside a function")]
pub mod egress;
pub mod generate;
pub mod identity;
#[expect(unreachable_pub, reason = "as above")]
#[allow(clippy::duplicated_attributes, reason = "each printcolumn has its own name and type_")]
pub mod mesh;
pub mod names;
#[expect(unreachable_pub, reason = "as above")]
#[allow(clippy::duplicated_attributes, reason = "as above")]
pub mod node;
mod pattern;
#[expect(unreachable_pub, reason = "as above")]
#[allow(clippy::duplicated_attributes, reason = "as above")]
pub mod policy;
#[expect(unreachable_pub, reason = "as above")]
#[allow(clippy::duplicated_attributes, reason = "as above")]
pub mod route;
#[expect(unreachable_pub, reason = "as above")]
pub mod rule;

pub use mesh::{ServiceMesh, ServiceMeshSpec, ServiceMeshStatus};
pub use node::{MeshNode, MeshNodeSpec, MeshNodeStatus};
pub use policy::{MeshPolicy, MeshPolicySpec, MeshPolicyStatus};
pub use route::{MeshRoute, MeshRouteSpec, MeshRouteStatus};
