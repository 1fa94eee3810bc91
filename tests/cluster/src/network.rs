//! Owns the bridge, the cables, the nodes' network namespaces and the routes; nothing that it makes reaches beyond the
//! machine: nodes have no default route and ClusterIPs are a blackhole outside them.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::layout::{Layout, NodeLayout};
use crate::process;

const BOUND: Duration = Duration::from_secs(30);

/// Makes the cluster's network.
pub(crate) async fn make(layout: &Layout) -> Result<()> {
    batch(None, &machine_side(layout)).await.context("make the nodes' bridge and cables")?;
    let nodes = layout.node_list();
    let sides = nodes.iter().map(|node| async {
        batch(Some(node), &node_side(layout, node, &nodes)).await?;
        let mut command = enter(&node.netns_path(), "sh");
        command.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        process::run(&mut command, BOUND).await.map(drop)
    });
    futures::future::try_join_all(sides).await.context("make the nodes' network")?;
    Ok(())
}

/// `ip` commands for the machine's own namespace.
fn machine_side(layout: &Layout) -> String {
    let bridge = layout.bridge();
    let (gateway, outside) = (layout.gateway(), layout.outside());
    let prefix = layout.node_range().prefix;
    let mut text = format!(
        "link add {bridge} type bridge forward_delay 0
address add {gateway}/{prefix} dev {bridge}
address add {outside}/32 dev {bridge}
link set {bridge} up
route add blackhole {services}
",
        services = layout.service_range(),
    );
    for NodeLayout { netns, veth, pods, ip, .. } in layout.node_list() {
        let _ = write!(
            text,
            "netns add {netns}
link add {veth} type veth peer name eth0 netns {netns}
link set {veth} master {bridge} up
route add {pods} via {ip}
",
        );
    }
    text
}

/// `ip` commands for the namespace of `node`.
fn node_side(layout: &Layout, node: &NodeLayout, nodes: &[NodeLayout]) -> String {
    // Callers on the node itself need some route to a ClusterIP, or the kernel refuses before kube-proxy's rules see
    // the packet. A bridge without ports takes it: not every kernel has dummy devices.
    let mut text = format!(
        "link set lo up
address add {ip}/{prefix} dev eth0
link set eth0 up
link add services type bridge
link set services up
route add {services} dev services
route add unreachable default
",
        ip = node.ip,
        prefix = layout.node_range().prefix,
        services = layout.service_range(),
    );
    for other in nodes.iter().filter(|other| other.name != node.name) {
        let _ = writeln!(text, "route add {} via {}", other.pods, other.ip);
    }
    text
}

/// Unplugs or plugs in the node's cable, at the machine's end.
pub(crate) async fn plug(node: &NodeLayout, plugged: bool) -> Result<()> {
    let mut command = ip();
    command.args(["link", "set", &node.veth, if plugged { "up" } else { "down" }]);
    process::run(&mut command, BOUND).await.map(drop)
}

/// Removes what `make` made, however far that came.
pub(crate) async fn remove(layout: &Layout) -> Result<()> {
    for node in layout.node_list() {
        // The machine's end of the cable and the routes over it go with the namespace, unless a process keeps that.
        if node.netns_path().exists() {
            let mut command = ip();
            command.args(["netns", "delete", &node.netns]);
            process::run(&mut command, BOUND).await?;
        }
        remove_link(&node.veth).await?;
    }
    remove_link(&layout.bridge()).await?;
    let services = layout.service_range().to_string();
    let mut command = ip();
    command.args(["-4", "route", "show", "type", "blackhole", &services]);
    if !process::run(&mut command, BOUND).await?.trim().is_empty() {
        let mut command = ip();
        command.args(["route", "delete", "blackhole", &services]);
        process::run(&mut command, BOUND).await?;
    }
    Ok(())
}

async fn remove_link(name: &str) -> Result<()> {
    let there = || Path::new("/sys/class/net").join(name).exists();
    if !there() {
        return Ok(());
    }
    let mut command = ip();
    command.args(["link", "delete", name]);
    let removed = process::run(&mut command, BOUND).await;
    // A namespace that was just deleted takes its cables along a moment later: gone is gone.
    if there() { removed.map(drop) } else { Ok(()) }
}

fn ip() -> Command {
    let mut command = Command::new("ip");
    command.env("PATH", process::path());
    command
}

async fn batch(node: Option<&NodeLayout>, text: &str) -> Result<()> {
    let mut command = ip();
    if let Some(node) = node {
        command.args(["-n", &node.netns]);
    }
    command.args(["-batch", "-"]);
    process::run_with_input(&mut command, text, BOUND).await.map(drop)
}

/// A command that runs `program` in a network namespace. Not `ip netns exec`, which remounts `/sys` and so hides the
/// cgroup hierarchies.
pub(crate) fn enter(netns: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).arg(program).env("PATH", process::path());
    command
}

/// Runs a future on a thread of its own whose sockets belong to a network namespace (none is the caller's own).
/// The thread ends with the future; dropping the answer does not stop it, so `work` has to have an end.
pub(crate) async fn inside<T, F>(netns: Option<&Path>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> T + Send + 'static,
{
    let netns = netns.map(Path::to_owned);
    let (answer, answered) = oneshot::channel();
    let body = move || {
        let enter = || -> Result<T> {
            if let Some(netns) = &netns {
                use std::os::fd::AsFd;
                let file = std::fs::File::open(netns).with_context(|| format!("open {}", netns.display()))?;
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
                    .with_context(|| format!("enter {}", netns.display()))?;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            Ok(runtime.context("start the thread's runtime")?.block_on(work()))
        };
        // Nobody to tell means that the caller has given up.
        let _ = answer.send(enter());
    };
    let name = "vicino-netns".to_owned();
    std::thread::Builder::new().name(name).spawn(body).context("start a thread")?;
    answered.await.context("the thread in the network namespace panicked")?
}
