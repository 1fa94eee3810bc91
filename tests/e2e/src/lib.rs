//! What the demo and the end-to-end tests share: installing the mesh on a real cluster, and acting on it as users do.
//! It must not know how operator and proxy work inside: what it sees is what kubectl, an application and an API client see.
//!
//! Reading order: [`scenario`] runs one test body on the [`fixture`], which [`boot`]s a cluster, [`install`]s the mesh and, after a failure,
//! lets [`diagnose`] tell what it looked like. [`workload`] are applications, [`caller`] calls from one of their pods
//! (in its network namespace, see [`netns`]), a [`watcher`] does so all the time, [`mesh`] waits for what the kinds promise, [`figures`] prints measurements.
//! [`demo`] is `make demo`.

pub mod boot;
pub mod caller;
pub mod demo;
pub mod diagnose;
pub mod figures;
pub mod fixture;
pub mod install;
pub mod kubectl;
pub mod mesh;
pub mod netns;
pub mod scenario;
pub mod watcher;
pub mod workload;

pub use fixture::Fixture;
pub use scenario::scenario;
