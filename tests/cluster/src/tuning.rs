//! Owns the machine-wide kernel settings that kubelets change: read before the first cluster, put back after the last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What the kubelet's container manager sets (`setupKernelTunables` in `pkg/kubelet/cm/container_manager_linux.go`).
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

fn file(setting: &str) -> PathBuf {
    Path::new("/proc/sys").join(setting)
}

/// The settings as they are.
pub(crate) fn read() -> BTreeMap<String, String> {
    let read = |setting: &&str| {
        let value = fs::read_to_string(file(setting)).ok()?;
        Some(((*setting).to_owned(), value.trim().to_owned()))
    };
    SETTINGS.iter().filter_map(read).collect()
}

/// Writes back those that differ. A kernel that refuses one has refused the kubelet as well.
pub(crate) fn restore(settings: &BTreeMap<String, String>) {
    for (setting, before) in settings {
        if read().get(setting).is_some_and(|now| now != before) {
            let _ = fs::write(file(setting), before);
        }
    }
}
