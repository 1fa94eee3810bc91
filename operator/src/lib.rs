//! The Vicino operator: `watch → snapshot (World) → validate → render → check → apply → status`, one module a step.
//!
//! | step | module | may touch the cluster |
//! |---|---|---|
//! | watch | [`watch`] | reads: one watch for each kind, trimmed on arrival |
//! | snapshot | [`world`] | no: plain ordered tables, owned by one task |
//! | validate | [`validate`] | no: what is accepted, and what is wrong with the rest |
//! | render | [`render`] | no: infallible, deterministic |
//! | check | [`check`] | no: a linter; what it finds is not written |
//! | apply | [`apply`] | writes what differs, and nothing in a steady cluster |
//! | status | [`status`] (derives), [`report`] (writes) | writes statuses that changed |
//!
//! [`plan()`] is all the pure steps in one call; the command line uses it on files and on live clusters. [`reconcile`] is the
//! loop around it, [`run`](mod@run) the process around that: [`lease`], [`serve`], [`event`], [`metric`].

pub mod watch;
pub mod world;

pub mod validate;

pub mod render;

pub mod check;

pub mod apply;

pub mod report;
pub mod status;

mod plan;
pub mod reconcile;
pub mod run;

pub mod authority;
pub mod event;
pub mod lease;
pub mod metric;
pub mod serve;

pub mod cli;

pub use plan::{Plan, plan};
pub use world::World;

#[cfg(test)]
mod fixture;
