//! Owns breaking parts of a running cluster and mending them; each act returns when its effect is there, or errors.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::layout::{NodeLayout, dir_of};
use crate::role::{Role, Supervised};
use crate::state::{self, Store};
use crate::{cgroup, down, health, network, node, process, wait};

const API_BOUND: Duration = Duration::from_mins(1);
const NODE_BOUND: Duration = Duration::from_mins(1);
const CLAIM_BOUND: Duration = Duration::from_mins(1);

/// What can be broken or mended. Every act on what is in the wanted state already is a no-op.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Fault {
    /// End a node's kubelet, containerd and kube-proxy and unplug it; its pods' processes go on, unreachable.
    StopNode {
        /// The node, e.g. node1.
        node: String,
    },
    /// Kill everything of a node, its pods too, and unplug it: the power fails.
    KillNode {
        /// The node, e.g. node1.
        node: String,
    },
    /// Plug a stopped or killed node in and start its programs; returns when it is Ready again.
    StartNode {
        /// The node, e.g. node1.
        node: String,
    },
    /// Unplug a node; all its programs and pods go on.
    CutNode {
        /// The node, e.g. node1.
        node: String,
    },
    /// Plug a node in again; returns when it is Ready again.
    JoinNode {
        /// The node, e.g. node1.
        node: String,
    },
    /// Stop the API server with SIGSTOP: connections stay and nothing answers.
    FreezeApi,
    /// Continue the API server; returns when it answers.
    ThawApi,
    /// End the API server: connections are refused.
    StopApi,
    /// Start the API server; returns when it is ready.
    StartApi,
    /// End and start the API server; returns when it is ready.
    RestartApi,
    /// End and start etcd; returns when the API server is ready again.
    RestartEtcd,
    /// End and start a node's kubelet; returns when the node has reported anew.
    RestartKubelet {
        /// The node, e.g. node1.
        node: String,
    },
    /// End and start a node's containerd, pods go on; returns when it answers and the node has reported anew.
    RestartContainerd {
        /// The node, e.g. node1.
        node: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopNode { node } => write!(f, "stop {node}"),
            Self::KillNode { node } => write!(f, "kill {node}"),
            Self::StartNode { node } => write!(f, "start {node}"),
            Self::CutNode { node } => write!(f, "cut {node} off"),
            Self::JoinNode { node } => write!(f, "join {node}"),
            Self::FreezeApi => f.write_str("freeze the API server"),
            Self::ThawApi => f.write_str("thaw the API server"),
            Self::StopApi => f.write_str("stop the API server"),
            Self::StartApi => f.write_str("start the API server"),
            Self::RestartApi => f.write_str("restart the API server"),
            Self::RestartEtcd => f.write_str("restart etcd"),
            Self::RestartKubelet { node } => write!(f, "restart the kubelet of {node}"),
            Self::RestartContainerd { node } => write!(f, "restart containerd of {node}"),
        }
    }
}

pub(crate) async fn apply(store: &Store, fault: &Fault) -> Result<()> {
    let layout = store.layout();
    let _claim = state::lock(&dir_of(&layout.name), CLAIM_BOUND).await?;
    // Another process may have broken or mended something since.
    store.reload()?;
    match fault {
        Fault::StopNode { node } => stop_node(store, &layout.node(node)?).await,
        Fault::KillNode { node } => kill_node(store, &layout.node(node)?).await,
        Fault::StartNode { node } => start_node(store, &layout.node(node)?).await,
        Fault::CutNode { node } => network::plug(&layout.node(node)?, false).await,
        Fault::JoinNode { node } => {
            let node = layout.node(node)?;
            let before = Reported::read(store, &node).await;
            network::plug(&node, true).await?;
            before.anew(store).await
        }
        Fault::FreezeApi => freeze_api(store).await,
        Fault::ThawApi => thaw_api(store).await,
        Fault::StopApi => Role::ApiServer.stop(store).await,
        Fault::StartApi => start_api(store).await,
        Fault::RestartApi => {
            Role::ApiServer.stop(store).await?;
            start_api(store).await
        }
        Fault::RestartEtcd => {
            Role::Etcd.stop(store).await?;
            Role::Etcd.start(store)?;
            api_answers(store).await
        }
        Fault::RestartKubelet { node } => restart_kubelet(store, &layout.node(node)?).await,
        Fault::RestartContainerd { node } => restart_containerd(store, &layout.node(node)?).await,
    }
}

async fn stop_node(store: &Store, node: &NodeLayout) -> Result<()> {
    // Unplugged first: a node that goes away does not say goodbye.
    network::plug(node, false).await?;
    for role in Role::of_node(node).iter().rev() {
        role.stop(store).await?;
    }
    Ok(())
}

async fn kill_node(store: &Store, node: &NodeLayout) -> Result<()> {
    network::plug(node, false).await?;
    let roles = Role::of_node(node);
    let alive = || {
        let mut alive: Vec<_> = roles.iter().filter_map(|role| role.running(store)).collect();
        alive.extend(shims(store, node));
        alive.extend(cgroup::processes(&node.cgroup));
        alive
    };
    let sockets = node::shim_sockets(&node.dir);
    process::kill_all(&format!("the processes of {} to end", node.name), alive).await?;
    // A containerd that starts again forgets shims that are dead, and their sockets with them.
    sockets.iter().try_for_each(|socket| down::remove_file(socket))?;
    store.change(|state| state.processes.retain(|name, _| roles.iter().all(|role| role.to_string() != *name)))
}

/// The node's containerd shims: they carry the cluster's marker and name the node's containerd.
fn shims(store: &Store, node: &NodeLayout) -> Vec<process::Process> {
    let socket = node.containerd_socket();
    let names_socket = |process: &process::Process| {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|word| std::str::from_utf8(word).is_ok_and(|word| Path::new(word) == socket))
    };
    process::marked(&store.layout().dir()).into_iter().filter(names_socket).collect()
}

async fn start_node(store: &Store, node: &NodeLayout) -> Result<()> {
    let before = Reported::read(store, node).await;
    network::plug(node, true).await?;
    let [containerd, kubelet, kube_proxy] = Role::of_node(node);
    containerd.start(store)?;
    node::containerd_answers(node, || containerd.check(store)).await?;
    kubelet.start(store)?;
    kube_proxy.start(store)?;
    before.anew(store).await
}

async fn freeze_api(store: &Store) -> Result<()> {
    let process = Role::ApiServer.running(store).context("the API server does not run")?;
    process.signal(Signal::STOP)?;
    wait::until("the API server to stop", API_BOUND, async || Ok(process.stopped())).await
}

async fn thaw_api(store: &Store) -> Result<()> {
    let process = Role::ApiServer.running(store).context("the API server does not run")?;
    process.signal(Signal::CONT)?;
    api_answers(store).await
}

async fn start_api(store: &Store) -> Result<()> {
    Role::ApiServer.start(store)?;
    api_answers(store).await
}

async fn api_answers(store: &Store) -> Result<()> {
    let client = client(store).await?;
    let answers = wait::until("the API server to be ready", API_BOUND, async || {
        Role::ApiServer.check(store)?;
        Role::Etcd.check(store)?;
        Ok(health::api_ready(&client).await)
    });
    answers.await.with_context(|| process::tail(&store.layout().log("kube-apiserver")))
}

async fn restart_kubelet(store: &Store, node: &NodeLayout) -> Result<()> {
    let before = Reported::read(store, node).await;
    let kubelet = Role::Kubelet(node.clone());
    kubelet.stop(store).await?;
    kubelet.start(store)?;
    before.anew(store).await
}

async fn restart_containerd(store: &Store, node: &NodeLayout) -> Result<()> {
    let before = Reported::read(store, node).await;
    let containerd = Role::Containerd(node.clone());
    containerd.stop(store).await?;
    containerd.start(store)?;
    node::containerd_answers(node, || containerd.check(store)).await?;
    before.anew(store).await
}

async fn client(store: &Store) -> Result<Client> {
    let name = store.layout().name;
    Cluster::attach(&name)?.client().await
}

/// When a node last reported before an act on it, so that what is seen afterwards is known to be news.
struct Reported<'a> {
    node: &'a NodeLayout,
    client: Option<Client>,
    renewed: Option<Timestamp>,
}

impl<'a> Reported<'a> {
    async fn read(store: &Store, node: &'a NodeLayout) -> Self {
        let client = client(store).await.ok();
        let state = match &client {
            Some(client) => health::node_ready(client, &node.name).await,
            None => None,
        };
        Self { node, client, renewed: state.and_then(|state| state.renewed) }
    }

    /// Waits until the node has reported anew and is Ready. While the API server is stopped or frozen by another fault
    /// nobody could know, so then the programs' running has to do.
    async fn anew(self, store: &Store) -> Result<()> {
        let api = Role::ApiServer.running(store).filter(|process| !process.stopped());
        let (Some(client), Some(_)) = (&self.client, api) else {
            return Role::of_node(self.node).iter().try_for_each(|role| role.check(store));
        };
        let name = &self.node.name;
        let what = format!("{name} to report and be Ready");
        let mut programs = Supervised::new(self.node);
        let ready = wait::until(&what, NODE_BOUND, async || {
            programs.check(store)?;
            let state = health::node_ready(client, name).await;
            Ok(state.is_some_and(|state| state.ready && state.renewed > self.renewed))
        });
        ready.await.with_context(|| process::tail(&store.layout().log(&self.node.role("kubelet"))))?;
        ensure!(Role::Kubelet(self.node.clone()).running(store).is_some(), "the kubelet ended");
        Ok(())
    }
}
