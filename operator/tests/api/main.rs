//! The operator's binary against a real API server, which need not have nodes or controllers; nothing here is simulated but the proxies.
//!
//! `VICINO_TEST_KUBECONFIG` names the kubeconfig of a cluster on which no other operator leads. `cargo run -p
//! vicino-cluster -- up` boots one and prints it; kube-apiserver and etcd alone do as well. Tests run one after another,
//! since there is one Lease. `scale` is ignored by default: `cargo test --release -p vicino-operator --test api -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod authority;
mod cluster;
mod crash;
mod fault;
mod gap;
mod lease;
mod life;
mod operator;
mod policies;
mod programmed;
mod refuse;
mod rotation;
mod routes;
mod scale;
mod slow;
mod stale;
