//! Owns the record of what a cluster made (`state.json`), who may change it, and which index belongs to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::layout::{CLUSTERS_MAX, Layout, STATE_ROOT, check_name, dir_of};
use crate::process::{self, Process};
use crate::{tuning, wait};

/// Everything that has to be known to use, break, mend and remove a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Names, addresses, ports.
    pub(crate) layout: Layout,
    /// The folder of the Kubernetes binaries that it runs.
    pub(crate) kubernetes: PathBuf,
    /// Whether the API server writes an audit log.
    pub(crate) audit: bool,
    /// Whether `up` came to its end.
    pub(crate) complete: bool,
    /// What runs, by role (`etcd`, `node1.kubelet`, …). What a fault has stopped is not in it.
    pub(crate) processes: BTreeMap<String, Process>,
    /// The machine's kernel settings as they were before the first cluster's kubelets changed them.
    pub(crate) settings: BTreeMap<String, String>,
}

/// The state of one cluster, in memory and on disk alike.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
}

/// The right to change a cluster; given back on drop.
#[derive(Debug)]
pub(crate) struct Claim {
    _folder: File,
}

impl State {
    fn file(name: &str) -> PathBuf {
        dir_of(name).join("state.json")
    }

    /// The state of the cluster `name`; none when there is no such cluster or it never got as far as making anything.
    pub(crate) fn load(name: &str) -> Result<Option<Self>> {
        check_name(name)?;
        let file = Self::file(name);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let state = serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?;
        Ok(Some(state))
    }

    /// Replaces the file whole, so that a crash leaves the old or the new one.
    fn save(&self) -> Result<()> {
        let file = Self::file(&self.layout.name);
        let next = file.with_extension("json.next");
        let text = serde_json::to_vec_pretty(self).context("encode the state")?;
        fs::write(&next, text).with_context(|| format!("write {}", next.display()))?;
        fs::rename(&next, &file).with_context(|| format!("write {}", file.display()))
    }
}

impl Store {
    /// Opens the state of a cluster that is there.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let state = State::load(name)?;
        let state = state.with_context(|| {
            format!("there is no cluster {name}: `vicino-cluster up --name {name}` starts one")
        })?;
        Ok(Self { state: Mutex::new(state) })
    }

    /// Takes a free index for a new cluster and writes its first state.
    pub(crate) async fn create(
        name: &str,
        nodes: u8,
        audit: bool,
        kubernetes: &Path,
    ) -> Result<(Self, Claim)> {
        check_name(name)?;
        let dir = dir_of(name);
        fs::create_dir_all(STATE_ROOT).with_context(|| format!("make {STATE_ROOT}"))?;
        let all = lock(Path::new(STATE_ROOT), Duration::from_secs(30)).await?;
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let claim = lock(&dir, Duration::from_mins(1)).await?;
        let others: Vec<State> =
            names()?.iter().filter_map(|name| State::load(name).ok().flatten()).collect();
        let layout = Layout::new(name, free_index(&others).await?, nodes)?;
        let settings = others.first().map_or_else(tuning::read, |other| other.settings.clone());
        let state = State {
            layout,
            kubernetes: kubernetes.to_owned(),
            audit,
            complete: false,
            processes: BTreeMap::new(),
            settings,
        };
        state.save()?;
        drop(all);
        Ok((Self { state: Mutex::new(state) }, claim))
    }

    /// The state as it is now.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A copy of the layout.
    pub(crate) fn layout(&self) -> Layout {
        self.state().layout.clone()
    }

    /// Changes the state, in memory and on disk.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state();
        change(&mut state);
        state.save()
    }

    /// Reads the file again: another process may have changed it.
    pub(crate) fn reload(&self) -> Result<()> {
        let name = self.state().layout.name.clone();
        let fresh = State::load(&name)?.with_context(|| format!("cluster {name} is gone"))?;
        *self.state() = fresh;
        Ok(())
    }
}

/// The names that have a state folder.
pub fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(STATE_ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {STATE_ROOT}")),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| check_name(name).is_ok()).collect();
    names.sort();
    Ok(names)
}

/// Waits for the right to change the cluster in `dir`; errors when somebody else keeps it for longer than `bound`.
pub(crate) async fn lock(dir: &Path, bound: Duration) -> Result<Claim> {
    let shown = dir.display();
    let what = format!("another vicino-cluster to finish with {shown}");
    let folder = wait::until_some(&what, bound, async || {
        let folder = File::open(dir).with_context(|| format!("open {shown}"))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {shown}")),
        }
        // Whoever held it may have removed the folder, and somebody else made a new one.
        let held = folder.metadata().with_context(|| format!("look at {shown}"))?.ino();
        let there = fs::metadata(dir).with_context(|| format!("look at {shown}"))?.ino();
        Ok((held == there).then_some(folder))
    });
    Ok(Claim { _folder: folder.await? })
}

/// The lowest index that no cluster has, and whose addresses and ports nobody else on the machine uses.
async fn free_index(others: &[State]) -> Result<u8> {
    let taken: BTreeSet<u8> = others.iter().map(|state| state.layout.index).collect();
    for index in (0..CLUSTERS_MAX).filter(|index| !taken.contains(index)) {
        let layout = Layout::new("probe", index, 1)?;
        let mut command = Command::new("ip");
        command.args(["-4", "route", "show", "root", &layout.all().to_string()]).env("PATH", process::path());
        let routes = process::run(&mut command, Duration::from_secs(10)).await?;
        let ports_free = layout.ports().iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        if routes.trim().is_empty() && ports_free {
            return Ok(index);
        }
    }
    bail!("no free address range for another cluster: {CLUSTERS_MAX} fit, {} are taken", taken.len())
}
