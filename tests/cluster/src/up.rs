//! Owns bringing a cluster up: the order of the steps and when each counts as done.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::{try_join, try_join_all};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::net::TcpStream;

use crate::cluster::{Cluster, Options};
use crate::images::COREDNS_IMAGE;
use crate::layout::{Layout, NodeLayout, dir_of};
use crate::process::tail;
use crate::progress::Progress;
use crate::role::{Role, Supervised};
use crate::state::{State, Store};
use crate::{cgroup, control_plane, down, health, images, network, node, pki, prepare, wait};

const COREDNS: &str = include_str!("../addons/coredns.yaml");

/// Bounds for a machine with two busy cores; an idle one needs a fraction.
const API_BOUND: Duration = Duration::from_secs(90);
const NODES_BOUND: Duration = Duration::from_mins(2);

pub(crate) async fn up(options: &Options) -> Result<Cluster> {
    let progress = Progress::new();
    ensure!(rustix::process::geteuid().is_root(), "a cluster needs root: namespaces, mounts and cgroups");
    let tools = prepare::prepare(&progress).await?;
    let archives: Vec<PathBuf> =
        options.images.iter().map(|image| images::find(image, &tools)).collect::<Result<_>>()?;
    if dir_of(&options.name).exists() {
        if let Some(cluster) = running(options, &progress).await? {
            try_join_all(archives.iter().map(|archive| cluster.load_image(archive))).await?;
            return Ok(cluster);
        }
        down::down(&options.name).await?;
    }
    let (store, claim) =
        Store::create(&options.name, options.nodes, options.audit, &tools.kubernetes).await?;
    let cluster = Cluster { store };
    let archives = [images::base(&tools), archives].concat();
    let made = make(&cluster, &archives, &progress).await;
    drop(claim);
    made.with_context(|| {
        format!(
            "cluster {name} did not come up; its logs are in {logs}, and `vicino-cluster down --name {name}` removes it",
            name = options.name,
            logs = cluster.log_dir().display()
        )
    })?;
    Ok(cluster)
}

/// The cluster of that name if it can stay.
async fn running(options: &Options, progress: &Progress) -> Result<Option<Cluster>> {
    let name = &options.name;
    let Some(state) = State::load(name)? else { return Ok(None) };
    let cluster = Cluster::attach(name)?;
    let health = health::of(&cluster).await;
    if let Some(trouble) = health.trouble() {
        progress.say(format!("cluster {name} is there but {trouble}: starting it anew"));
        return Ok(None);
    }
    let nodes = state.layout.nodes;
    if nodes != options.nodes || (options.audit && !state.audit) {
        bail!(
            "cluster {name} runs with {nodes} nodes{}: `vicino-cluster down --name {name}` first, or ask for the same",
            if state.audit { "" } else { " and no audit log" }
        );
    }
    progress.say(format!("cluster {name} runs and is healthy: nothing to do"));
    Ok(Some(cluster))
}

async fn make(cluster: &Cluster, archives: &[PathBuf], progress: &Progress) -> Result<()> {
    let layout = cluster.layout();
    write_files(&layout)?;
    network::make(&layout).await?;
    progress.say(format!("network {}, certificates, configuration", layout.all()));
    let control = async {
        let client = control_plane(cluster).await?;
        progress.say(format!("API server at {}", layout.api_url()));
        Ok::<Client, anyhow::Error>(client)
    };
    let nodes = layout.node_list();
    let runtimes = async {
        try_join_all(nodes.iter().map(|node| runtime(&cluster.store, node, archives))).await?;
        progress.say(format!("containerd on {} nodes, with {} images each", nodes.len(), archives.len()));
        Ok(())
    };
    let (client, ()) = try_join(control, runtimes).await?;
    for node in &nodes {
        Role::Kubelet(node.clone()).start(&cluster.store)?;
        Role::KubeProxy(node.clone()).start(&cluster.store)?;
    }
    try_join(cluster.apply(&dns(&layout)), ready(cluster, &client, progress)).await?;
    cluster.store.change(|state| state.complete = true)?;
    progress.say(format!(
        "cluster {} is up; KUBECONFIG={}",
        layout.name,
        cluster.kubeconfig_path().display()
    ));
    Ok(())
}

fn write_files(layout: &Layout) -> Result<()> {
    let logs = layout.dir().join("log");
    fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    pki::write(layout)?;
    control_plane::write(layout)?;
    for node in layout.node_list() {
        node::write(layout, &node)?;
        cgroup::make(&node.cgroup)?;
    }
    Ok(())
}

/// etcd, API server, the Node objects, then the controllers.
async fn control_plane(cluster: &Cluster) -> Result<Client> {
    let store = &cluster.store;
    Role::Etcd.start(store)?;
    Role::ApiServer.start(store)?;
    let client = cluster.client().await?;
    wait::until("the API server to be ready", API_BOUND, async || {
        Role::Etcd.check(store)?;
        Role::ApiServer.check(store)?;
        Ok(health::api_ready(&client).await)
    })
    .await
    .with_context(|| tail(&cluster.layout().log("kube-apiserver")))?;
    // We make the Node objects, so that a node's pod range is known before its kubelet starts.
    let api: Api<Node> = Api::all(client.clone());
    for node in cluster.layout().node_list() {
        let object = node_object(&node)?;
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("create the Node {}", node.name))?;
    }
    Role::ControllerManager.start(store)?;
    Role::Scheduler.start(store)?;
    Ok(client)
}

fn node_object(node: &NodeLayout) -> Result<Node> {
    let object = serde_json::json!({
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "topology.kubernetes.io/region": "here",
                "topology.kubernetes.io/zone": node.zone,
            },
        },
        "spec": {"podCIDR": node.pods.to_string(), "podCIDRs": [node.pods.to_string()]},
    });
    serde_json::from_value(object).context("write a Node object")
}

async fn runtime(store: &Store, node: &NodeLayout, archives: &[PathBuf]) -> Result<()> {
    let role = Role::Containerd(node.clone());
    role.start(store)?;
    node::containerd_answers(node, || role.check(store)).await?;
    for archive in archives {
        node::import(node, archive).await?;
    }
    Ok(())
}

fn dns(layout: &Layout) -> String {
    let replicas = layout.nodes.min(2).to_string();
    COREDNS
        .replace("COREDNS_REPLICAS", &replicas)
        .replace("COREDNS_IMAGE", COREDNS_IMAGE)
        .replace("COREDNS_IP", &layout.dns_ip().to_string())
}

/// Waits for the nodes, then for cluster DNS, then until every node reaches cluster DNS at its ClusterIP.
async fn ready(cluster: &Cluster, client: &Client, progress: &Progress) -> Result<()> {
    let layout = cluster.layout();
    for node in layout.node_list() {
        let what = format!("{} to be Ready", node.name);
        let mut programs = Supervised::new(&node);
        let ready = wait::until(&what, NODES_BOUND, async || {
            programs.check(&cluster.store)?;
            Ok(health::node_ready(client, &node.name).await.is_some_and(|state| state.ready))
        });
        ready.await.with_context(|| tail(&layout.log(&node.role("kubelet"))))?;
    }
    progress.say(format!("{} nodes are Ready", layout.nodes));
    wait::until("CoreDNS to be ready", NODES_BOUND, async || {
        Role::ControllerManager.check(&cluster.store)?;
        Role::Scheduler.check(&cluster.store)?;
        Ok(health::deployment_ready(client, "kube-system", "coredns").await)
    })
    .await
    .with_context(|| {
        let logs = ["kube-controller-manager", "kube-scheduler", "node1.kubelet"];
        logs.map(|role| tail(&layout.log(role))).join("\n")
    })?;
    let nodes = layout.node_list();
    try_join_all(nodes.iter().map(|node| reaches_dns(node, layout.dns_ip(), &layout))).await?;
    progress.say("cluster DNS is ready and reached from every node");
    Ok(())
}

async fn reaches_dns(node: &NodeLayout, dns: Ipv4Addr, layout: &Layout) -> Result<()> {
    let address = SocketAddr::from((dns, 53));
    let what = format!("{} to reach cluster DNS at {address}", node.name);
    let netns = node.netns_path();
    let reached = network::inside(Some(&netns), async move || {
        wait::until(&what, NODES_BOUND, async || {
            let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
            Ok(matches!(connected, Ok(Ok(_))))
        })
        .await
    });
    reached.await?.with_context(|| tail(&layout.log(&node.role("kube-proxy"))))
}
