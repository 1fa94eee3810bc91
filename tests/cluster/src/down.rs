//! Owns removing a cluster with all that belonged to it, from whatever state a crash or a fault left it in.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};

use crate::layout::{STATE_ROOT, dir_of};
use crate::process::{Process, kill_all, marked};
use crate::state::{self, State};
use crate::{cgroup, network, node, tuning};

/// An `up` that is under way is waited for.
const CLAIM_BOUND: Duration = Duration::from_mins(3);

/// The CNI library's cache of results.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// The kubelet's links to containers' logs.
const CONTAINER_LOGS: &str = "/var/log/containers";
/// Where kubelets meet device plugins; not configurable.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// Where proxies keep their copies of the configuration: a hostPath, and nodes share the machine's files.
const PROXY_STATE: &str = "/var/lib/vicino";

pub(crate) async fn down(name: &str) -> Result<bool> {
    let dir = dir_of(name);
    if !dir.exists() {
        return Ok(false);
    }
    let _claim = state::lock(&dir, CLAIM_BOUND).await?;
    let state = State::load(name)?;
    kill_all(&format!("the processes of cluster {name} to end"), || remaining(&dir, state.as_ref())).await?;
    let nodes = entries(&dir).map(|entry| entry.path());
    let sockets: Vec<PathBuf> = nodes.flat_map(|node| node::shim_sockets(&node)).collect();
    let pods = sandboxes(&dir);
    unmount_below(&dir)?;
    if let Some(state) = &state {
        network::remove(&state.layout).await?;
        for node in state.layout.node_list() {
            cgroup::remove(&node.cgroup).await?;
        }
    }
    sockets.iter().try_for_each(|socket| remove_file(socket))?;
    remove_files(Path::new(CNI_RESULTS), |file| {
        // `<network>-<sandbox>-<interface>`; the loopback network has the same name in every cluster.
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.split('-').any(|part| pods.contains(part)))
    })?;
    remove_files(Path::new(CONTAINER_LOGS), |link| fs::read_link(link).is_ok_and(|to| to.starts_with(&dir)))?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    if state::names()?.is_empty() {
        machine_wide(state.as_ref())?;
    }
    Ok(true)
}

/// What only the last cluster may undo.
fn machine_wide(state: Option<&State>) -> Result<()> {
    if let Some(state) = state {
        tuning::restore(&state.settings);
    }
    let plugins = Path::new(DEVICE_PLUGINS);
    for name in ["kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"] {
        remove_file(&plugins.join(name))?;
    }
    match fs::remove_dir_all(PROXY_STATE) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context(format!("remove {PROXY_STATE}"));
        }
        _ => {}
    }
    // Only folders that are empty go: anything in them is somebody else's.
    let folders = [plugins, Path::new("/var/lib/kubelet"), Path::new(CNI_RESULTS), Path::new("/var/lib/cni")];
    for folder in folders.into_iter().chain([Path::new(CONTAINER_LOGS), Path::new(STATE_ROOT)]) {
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Every process of the cluster that is alive: those recorded, those that carry its marker, those in its pods' cgroups.
fn remaining(dir: &Path, state: Option<&State>) -> Vec<Process> {
    let mut found: BTreeSet<Process> = marked(dir).into_iter().collect();
    if let Some(state) = state {
        found.extend(state.processes.values().copied().filter(|process| process.alive()));
        found.extend(state.layout.node_list().iter().flat_map(|node| cgroup::processes(&node.cgroup)));
    }
    found.into_iter().collect()
}

/// Mount points at `dir` or below, the deepest last.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the list of mounts")?;
    let points = text.lines().filter_map(|line| line.split_whitespace().nth(4));
    let mut points: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(dir)).collect();
    points.sort();
    Ok(points)
}

fn unmount_below(dir: &Path) -> Result<()> {
    for point in mounts_below(dir)?.iter().rev() {
        match unmount(point, UnmountFlags::DETACH) {
            // Propagation may have taken it along with another.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmount {}", point.display())),
        }
    }
    // Removing files through a mount that is still there would remove what is not ours.
    let left = mounts_below(dir)?;
    ensure!(left.is_empty(), "still mounted: {left:?}");
    Ok(())
}

/// The ids of the pods' sandboxes that containerd knew, with or without a process.
fn sandboxes(dir: &Path) -> BTreeSet<String> {
    let of_node = |node: fs::DirEntry| {
        let folder = node.path().join("containerd/io.containerd.grpc.v1.cri/sandboxes");
        entries(&folder).collect::<Vec<_>>()
    };
    entries(dir).flat_map(of_node).filter_map(|id| id.file_name().into_string().ok()).collect()
}

/// What is in a folder; nothing when there is no such folder.
fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

fn remove_files(folder: &Path, ours: impl Fn(&Path) -> bool) -> Result<()> {
    let mut files = entries(folder).map(|entry| entry.path()).filter(|file| ours(file));
    files.try_for_each(|file| remove_file(&file))
}

pub(crate) fn remove_file(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}
