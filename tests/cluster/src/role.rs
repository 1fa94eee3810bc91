//! Owns the list of programs that a cluster consists of, and starting and ending one of them by its role.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::layout::NodeLayout;
use crate::process::{Launch, Process};
use crate::state::{State, Store};
use crate::{control_plane, node};

/// How long a program may take to end before it is killed. The API server waits for its watches to close.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often a kubelet that ends while its node comes up is started again.
const KUBELET_RESTARTS: u32 = 3;

/// A program's part in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// The store behind the API server.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controller manager.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// A node's container runtime.
    Containerd(NodeLayout),
    /// A node's agent.
    Kubelet(NodeLayout),
    /// A node's Service rules.
    KubeProxy(NodeLayout),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd => f.write_str("etcd"),
            Self::ApiServer => f.write_str("kube-apiserver"),
            Self::ControllerManager => f.write_str("kube-controller-manager"),
            Self::Scheduler => f.write_str("kube-scheduler"),
            Self::Containerd(node) => write!(f, "{}.containerd", node.name),
            Self::Kubelet(node) => write!(f, "{}.kubelet", node.name),
            Self::KubeProxy(node) => write!(f, "{}.kube-proxy", node.name),
        }
    }
}

impl Role {
    /// The node's programs, in the order in which they start.
    pub(crate) fn of_node(node: &NodeLayout) -> [Self; 3] {
        [Self::Containerd(node.clone()), Self::Kubelet(node.clone()), Self::KubeProxy(node.clone())]
    }

    fn node(&self) -> Option<&NodeLayout> {
        match self {
            Self::Containerd(node) | Self::Kubelet(node) | Self::KubeProxy(node) => Some(node),
            Self::Etcd | Self::ApiServer | Self::ControllerManager | Self::Scheduler => None,
        }
    }

    fn launch(&self, state: &State) -> Launch {
        let layout = &state.layout;
        let kubernetes = |name: &str| state.kubernetes.join(name);
        let (program, arguments) = match self {
            Self::Etcd => (PathBuf::from("etcd"), control_plane::etcd(layout)),
            Self::ApiServer => (kubernetes("kube-apiserver"), control_plane::api_server(layout, state.audit)),
            Self::ControllerManager => {
                (kubernetes("kube-controller-manager"), control_plane::controller_manager(layout))
            }
            Self::Scheduler => (kubernetes("kube-scheduler"), control_plane::scheduler(layout)),
            Self::Containerd(node) => (PathBuf::from("containerd"), node::containerd(node)),
            Self::Kubelet(node) => (kubernetes("kubelet"), node::kubelet(layout, node)),
            Self::KubeProxy(node) => (kubernetes("kube-proxy"), node::kube_proxy(layout, node)),
        };
        Launch {
            program,
            arguments,
            netns: self.node().map(NodeLayout::netns_path),
            log: layout.log(&self.to_string()),
            dir: layout.dir(),
        }
    }

    /// The process that has this role, if it runs.
    pub(crate) fn running(&self, store: &Store) -> Option<Process> {
        let recorded = store.state().processes.get(&self.to_string()).copied();
        recorded.filter(|process| process.alive())
    }

    /// Starts it unless it runs.
    pub(crate) fn start(&self, store: &Store) -> Result<Process> {
        if let Some(process) = self.running(store) {
            return Ok(process);
        }
        let launch = self.launch(&store.state());
        let process = launch.start().with_context(|| format!("start {self}"))?;
        store.change(|state| {
            state.processes.insert(self.to_string(), process);
        })?;
        Ok(process)
    }

    /// Ends it, by force if it takes too long; one that does not run is fine.
    pub(crate) async fn stop(&self, store: &Store) -> Result<()> {
        if let Some(process) = self.running(store) {
            // A stopped process would see the request to end only after it is continued.
            process.signal(rustix::process::Signal::CONT)?;
            process.end(PATIENCE).await.with_context(|| format!("stop {self}"))?;
        }
        store.change(|state| {
            state.processes.remove(&self.to_string());
        })
    }

    /// An error with the end of the log when the process is gone.
    pub(crate) fn check(&self, store: &Store) -> Result<()> {
        let log = store.state().layout.log(&self.to_string());
        self.running(store).map(drop).with_context(|| format!("{self} ended; {}", crate::process::tail(&log)))
    }
}

/// A node's programs while the node comes up. A kubelet that ends is started again, as an init system would: all kubelets of
/// the machine clear and listen in the one folder for device plugins, which is not configurable, and one that meets another
/// there ends. Whatever else ends, and a kubelet that goes on ending, is an error.
pub(crate) struct Supervised {
    roles: [Role; 3],
    restarts_left: u32,
}

impl Supervised {
    pub(crate) fn new(node: &NodeLayout) -> Self {
        Self { roles: Role::of_node(node), restarts_left: KUBELET_RESTARTS }
    }

    /// An error with the end of the log when a program is gone for good.
    pub(crate) fn check(&mut self, store: &Store) -> Result<()> {
        for role in &self.roles {
            let may_start = matches!(role, Role::Kubelet(_)) && self.restarts_left > 0;
            if may_start && role.running(store).is_none() {
                self.restarts_left -= 1;
                role.start(store)?;
            }
            role.check(store)?;
        }
        Ok(())
    }
}
