//! Owns how a node's containerd, kubelet and kube-proxy are configured, and its image store; starts no program of a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::process::Command;

use crate::images::PAUSE_IMAGE;
use crate::layout::{Layout, MARKER, NodeLayout};
use crate::{process, wait};

/// Makes the node's folders and writes its configuration files.
pub(crate) fn write(layout: &Layout, node: &NodeLayout) -> Result<()> {
    let dir = &node.dir;
    let files = [
        ("cni/10-pods.conflist", cni(layout, node)),
        ("containerd.toml", containerd_config(node)),
        ("kubelet.yaml", kubelet_config(layout, node)),
        // What pods that do not use cluster DNS get; the machine's own file would let names leak out of the cluster.
        ("resolv.conf", "options ndots:1\n".to_owned()),
    ];
    for folder in ["cni", "pod-logs"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    for (name, text) in files {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Each pod is routed over a cable of its own (plugin ptp), so that calls between pods of one node pass the node's
/// packet filter like all others, with or without br_netfilter.
fn cni(layout: &Layout, node: &NodeLayout) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": layout.cni_network(),
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": node.dir.join("addresses"),
                "ranges": [[{"subnet": node.pods.to_string()}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
    .to_string()
}

fn containerd_config(node: &NodeLayout) -> String {
    let dir = node.dir.display();
    let socket = node.containerd_socket();
    let socket = socket.display();
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE nobody may lower the score, and pod sandboxes die of trying.
    // runc's Root and netns_mounts_under_state_dir: what they hold is then below the state folder, so ours to remove.
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/run"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{dir}/runc"
"#
    )
}

fn kubelet_config(layout: &Layout, node: &NodeLayout) -> String {
    let pki = layout.pki();
    let pki = pki.display();
    let dir = node.dir.display();
    // JSON is YAML. Image collection is off: nothing could bring a removed image back.
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{pki}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{pki}/{}.crt", node.name),
        "tlsPrivateKeyFile": format!("{pki}/{}.key", node.name),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.cgroup),
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "localStorageCapacityIsolation": false,
        "containerRuntimeEndpoint": format!("unix://{}", node.containerd_socket().display()),
        "clusterDNS": [layout.dns_ip()],
        "clusterDomain": "cluster.local",
        "resolvConf": format!("{dir}/resolv.conf"),
        "podLogsDir": format!("{dir}/pod-logs"),
        "maxPods": 240,
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
    });
    format!("{config:#}\n")
}

/// containerd's arguments.
pub(crate) fn containerd(node: &NodeLayout) -> Vec<String> {
    vec!["--config".to_owned(), node.dir.join("containerd.toml").display().to_string()]
}

/// The kubelet's arguments.
pub(crate) fn kubelet(layout: &Layout, node: &NodeLayout) -> Vec<String> {
    let dir = node.dir.display();
    vec![
        format!("--config={dir}/kubelet.yaml"),
        format!("--kubeconfig={}", layout.kubeconfig(&node.name).display()),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={}", node.ip),
        format!("--root-dir={dir}/kubelet"),
        format!("--cert-dir={dir}/kubelet-pki"),
    ]
}

/// kube-proxy's arguments; it leaves the machine's connection tracking limits alone.
pub(crate) fn kube_proxy(layout: &Layout, node: &NodeLayout) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", layout.kubeconfig("kube-proxy").display()),
        format!("--hostname-override={}", node.name),
        "--proxy-mode=nftables".to_owned(),
        format!("--cluster-cidr={}", layout.pod_range()),
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
    ]
}

/// `ctr` for the node's Kubernetes containers, with the marker of the cluster, so that one whose starter was killed is found.
pub(crate) fn ctr(node: &NodeLayout) -> Command {
    let mut command = Command::new("ctr");
    if let Some(cluster) = node.dir.parent() {
        command.env(MARKER, cluster);
    }
    command.arg("--address").arg(node.containerd_socket()).args(["--namespace", "k8s.io"]);
    command.env("PATH", process::path());
    command
}

/// Waits until the node's containerd answers; `check` says when to give up early.
pub(crate) async fn containerd_answers(node: &NodeLayout, check: impl Fn() -> Result<()>) -> Result<()> {
    let what = format!("containerd of {} to answer", node.name);
    wait::until(&what, Duration::from_secs(30), async || {
        check()?;
        let mut command = ctr(node);
        command.arg("version");
        let output = process::output(&mut command, Duration::from_secs(10)).await?;
        Ok(output.status.success())
    })
    .await
}

/// Imports an image archive (docker or OCI layout) into the node's image store.
pub(crate) async fn import(node: &NodeLayout, archive: &Path) -> Result<()> {
    let mut command = ctr(node);
    command.args(["images", "import"]).arg(archive);
    let imported = process::run(&mut command, Duration::from_mins(2)).await;
    imported.map(drop).with_context(|| format!("import {} into {}", archive.display(), node.name))
}

/// The sockets of the containerd shims of the node in `dir`, alive or dead. They lie outside the state folder, each
/// named in its pod's folder, and nobody removes those of shims that were killed.
pub(crate) fn shim_sockets(dir: &Path) -> Vec<PathBuf> {
    let tasks = fs::read_dir(dir.join("run/io.containerd.runtime.v2.task/k8s.io"));
    let address = |task: fs::DirEntry| {
        let address = fs::read_to_string(task.path().join("address")).ok()?;
        Some(PathBuf::from(address.trim().strip_prefix("unix://")?))
    };
    tasks.into_iter().flatten().flatten().filter_map(address).collect()
}
