//! Owns the nodes' cgroups: one for each node in every hierarchy of the machine, version 1 or 2.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;
use crate::wait;

/// The mount points of all cgroup hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroup = |line: &str| {
        let (place, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split_whitespace().next()?;
        let mount = place.split_whitespace().nth(4)?;
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(mount))
    };
    mounts.lines().filter_map(cgroup).collect()
}

/// Makes the cgroup `name` at the root of every hierarchy, ready for a kubelet to put pods below it.
pub(crate) fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(name);
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("make {}", dir.display())),
        }
        // Version 1: a cpuset takes no process before it has processors and memory of its own.
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(setting)) {
                let file = dir.join(setting);
                fs::write(&file, value.trim()).with_context(|| format!("write {}", file.display()))?;
            }
        }
        // Version 2: a child has only the controllers that its parent hands down.
        let controllers = fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            // One that cannot be handed down is one that the kubelet reports as missing.
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

/// Every process in the cgroup `name` or below it, in any hierarchy.
pub(crate) fn processes(name: &str) -> Vec<Process> {
    let pids: BTreeSet<i32> = tree(name)
        .iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect();
    pids.into_iter().filter_map(Process::of).collect()
}

/// Removes the cgroup `name` and all below it from every hierarchy; its processes must be gone.
pub(crate) async fn remove(name: &str) -> Result<()> {
    let what = format!("the cgroups of {name} to be empty");
    // The kernel keeps a cgroup busy for a moment after its last process has ended.
    wait::until(&what, Duration::from_secs(10), async || {
        Ok(tree(name).iter().rev().all(|dir| fs::remove_dir(dir).is_ok()))
    })
    .await
}

/// The folders of the cgroup `name` that exist.
pub(crate) fn folders(name: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = hierarchies().iter().map(|hierarchy| hierarchy.join(name)).collect();
    folders.retain(|dir| dir.is_dir());
    folders
}

/// The folders of the cgroup `name` and all below it, parents first.
fn tree(name: &str) -> Vec<PathBuf> {
    let mut found = folders(name);
    let mut next = 0;
    while let Some(dir) = found.get(next) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
        found.extend(below);
        next += 1;
    }
    found
}
