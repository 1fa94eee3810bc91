//! A real Kubernetes on one machine: library for tests, and the command `vicino-cluster` for people. It must not know the
//! product: no crate of the workspace is a dependency.
//!
//! Reading order: [`layout`] (all names and addresses of a cluster), `state` (what it made, on disk), [`prepare`] (what
//! the machine needs), `up` and `down`, [`fault`] (breaking and mending), [`load`] (traffic).
//! Underneath: `role` (the programs), `control_plane` and `node` (how they are configured), `pki`, `network`, `cgroup`,
//! `tuning` (what they stand on), `process` and `wait` (the operating system).
//!
//! Each node is a network namespace with containerd, a kubelet and kube-proxy of its own; the control plane runs outside
//! them. All nodes share the machine's file system: a `hostPath` is the same folder on every node.

pub use crate::cluster::{Cluster, Node, Options};
pub use crate::fault::Fault;
pub use crate::state::names;

pub mod fault;
pub mod health;
pub mod images;
pub mod layout;
pub mod load;
pub mod prepare;
pub mod progress;

pub mod wait;

mod cgroup;
mod cluster;
mod control_plane;
mod down;
mod network;
mod node;
mod pki;
mod process;
mod role;
mod state;
mod tuning;
mod up;
