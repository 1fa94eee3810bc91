//! Owns the handle to a running cluster: what tests and the command do with one that is up.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tokio::process::Command;

use crate::fault::{self, Fault};
use crate::layout::{Layout, NodeLayout, check_name};
use crate::load::{self, Load, Report};
use crate::state::Store;
use crate::{down, network, node, process, up};

/// How long a single command may take.
const COMMAND_BOUND: Duration = Duration::from_mins(5);

/// What cluster to bring up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its name, unique on the machine: 1 to 24 of a-z, 0-9 and -.
    pub name: String,
    /// How many nodes, 1 to 99.
    pub nodes: u8,
    /// Images to have on every node from the start: archives, or names that `vicino-cluster images` has built.
    pub images: Vec<String>,
    /// Whether the API server logs every request, with bodies for `vicino.dev` and ConfigMaps, to [`Cluster::audit_log`].
    pub audit: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "vicino".to_owned(), nodes: 3, images: Vec::new(), audit: false }
    }
}

/// A node as tests see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The Kubernetes node name.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its zone: the label `topology.kubernetes.io/zone`.
    pub zone: String,
    /// Its network namespace, for `nsenter --net=`.
    pub netns: PathBuf,
}

/// A cluster that is up. Dropping the handle leaves the cluster running; [`Cluster::down`] ends it.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) store: Store,
}

impl Cluster {
    /// Brings a cluster up and waits until every node and cluster DNS are ready. One that runs, is healthy and has as
    /// many nodes is taken as it is (with `options.images` loaded); an unhealthy one is replaced.
    pub async fn up(options: Options) -> Result<Self> {
        up::up(&options).await
    }

    /// The cluster that runs under `name`.
    pub fn attach(name: &str) -> Result<Self> {
        Ok(Self { store: Store::open(name)? })
    }

    /// Ends the cluster `name` and removes all that belonged to it, also what a crash left; none of that name is fine.
    /// Answers whether there was anything.
    pub async fn remove(name: &str) -> Result<bool> {
        check_name(name)?;
        down::down(name).await
    }

    /// Ends this cluster and removes all that belonged to it.
    pub async fn down(self) -> Result<()> {
        let name = self.layout().name;
        down::down(&name).await.map(drop)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.store.layout()
    }

    /// The cluster's name.
    pub fn name(&self) -> String {
        self.layout().name
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.layout().kubeconfig("admin")
    }

    /// The folder of the cluster's logs: `kube-apiserver.log`, `node1.kubelet.log`, …
    pub fn log_dir(&self) -> PathBuf {
        self.layout().dir().join("log")
    }

    /// The API server's audit log, one JSON object a line; written when the cluster was brought up with `audit`.
    pub fn audit_log(&self) -> PathBuf {
        self.layout().log("audit")
    }

    /// A client with the administrator's rights.
    pub async fn client(&self) -> Result<Client> {
        let file = self.kubeconfig_path();
        let read = Kubeconfig::read_from(&file).with_context(|| format!("read {}", file.display()))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let config = config.with_context(|| format!("use {}", file.display()))?;
        Client::try_from(config).context("make a client")
    }

    /// The kubectl that belongs to the cluster.
    pub fn kubectl_path(&self) -> PathBuf {
        self.store.state().kubernetes.join("kubectl")
    }

    /// kubectl with the administrator's kubeconfig, to be added to.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.kubectl_path());
        command.arg("--kubeconfig").arg(self.kubeconfig_path()).kill_on_drop(true);
        command
    }

    /// Runs kubectl to its end, whatever it answers.
    pub async fn kubectl<A: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        process::output(self.kubectl_command().args(arguments), COMMAND_BOUND).await
    }

    /// Applies manifests from memory, server-side.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        let mut command = self.kubectl_command();
        command.args(["apply", "--server-side", "--filename", "-"]);
        process::run_with_input(&mut command, manifests, COMMAND_BOUND).await.map(drop)
    }

    /// The nodes in order.
    pub fn nodes(&self) -> Vec<Node> {
        let node = |node: NodeLayout| Node {
            netns: node.netns_path(),
            name: node.name,
            ip: node.ip,
            zone: node.zone,
        };
        self.layout().node_list().into_iter().map(node).collect()
    }

    /// An address that is outside of the cluster, which its nodes and pods reach: the machine's own, for servers of tests.
    pub fn outside(&self) -> Ipv4Addr {
        self.layout().outside()
    }

    /// A command that runs `program` in the network namespace of a node, to be added to.
    pub fn node_command(&self, node: &str, program: &str) -> Result<Command> {
        let node = self.layout().node(node)?;
        let mut command = network::enter(&node.netns_path(), program);
        command.kill_on_drop(true);
        Ok(command)
    }

    /// Runs a command in the network namespace of a node to its end, whatever it answers.
    pub async fn in_node<A: AsRef<std::ffi::OsStr>>(
        &self,
        node: &str,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output> {
        process::output(self.node_command(node, program)?.args(arguments), COMMAND_BOUND).await
    }

    /// Runs a future on a thread of its own whose sockets belong to the network namespace of a node.
    pub async fn inside_node<T, F>(&self, node: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce() -> T + Send + 'static,
    {
        network::inside(Some(&self.layout().node(node)?.netns_path()), work).await
    }

    /// Puts an image archive (docker or OCI) into every node's store. A tag that is there is moved; pods that run keep
    /// what they have.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        ensure!(archive.is_file(), "{} is no file", archive.display());
        let nodes = self.layout().node_list();
        try_join_all(nodes.iter().map(|into| node::import(into, archive))).await.map(drop)
    }

    /// Breaks or mends something, and waits until the effect is there.
    pub async fn fault(&self, fault: Fault) -> Result<()> {
        fault::apply(&self.store, &fault).await.with_context(|| format!("fault: {fault}"))
    }

    /// Sends requests at a fixed rate from inside a node.
    pub async fn load(&self, node: &str, load: Load) -> Result<Report> {
        self.inside_node(node, async move || load::run(&load).await).await?
    }
}
