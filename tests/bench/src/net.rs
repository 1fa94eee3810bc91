//! Two network namespaces joined by a veth pair, the caller's node and the callee's; made here, and removed by a janitor
//! process that also acts when the bench is interrupted or killed. No figures.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// Address of the caller's node.
pub const CALLER_NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Address of the callee's node.
pub const CALLEE_NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Address of the pod that calls: what the load generators' connections to their own node come from.
pub const CALLER_POD: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
/// Address of the pod that is called.
pub const CALLEE_POD: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 1);

/// All names that a bench makes begin so, then comes the process id.
const PREFIX: &str = "vicino-bench-";

/// Why there are no nodes.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A program could not be started.
    #[error("cannot start {0}")]
    Start(String, #[source] std::io::Error),
    /// A program said no.
    #[error("{command} failed: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote to stderr.
        message: String,
    },
    /// The scratch folder cannot be made.
    #[error("cannot make a scratch folder in {0}")]
    Folder(PathBuf, #[source] std::io::Error),
}

/// The namespaces and the scratch folder of one run; gone when this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Nodes {
    /// Namespace of the caller's node.
    pub caller: String,
    /// Namespace of the callee's node.
    pub callee: String,
    /// Scratch folder.
    pub folder: PathBuf,
    janitor: Child,
}

impl Nodes {
    /// Removes what runs that are no longer alive left behind, then makes the nodes.
    pub fn make() -> Result<Self, NetError> {
        sweep_dead_runs();
        let base = format!("{PREFIX}{}", std::process::id());
        let folder = std::env::temp_dir().join(&base);
        std::fs::create_dir_all(&folder).map_err(|e| NetError::Folder(folder.clone(), e))?;
        let (caller, callee) = (format!("{base}-a"), format!("{base}-b"));
        let janitor = start_janitor(&[&caller, &callee], &folder)?;
        let nodes = Self { caller, callee, folder, janitor };
        nodes.wire()?;
        Ok(nodes)
    }

    fn wire(&self) -> Result<(), NetError> {
        let (a, b) = (self.caller.as_str(), self.callee.as_str());
        // Interface names are at most 15 bytes long; these live in their namespaces, the process id is for people.
        let (eth_a, eth_b) = (format!("vba{}", std::process::id()), format!("vbb{}", std::process::id()));
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["link", "add", &eth_a, "netns", a, "type", "veth", "peer", "name", &eth_b, "netns", b])?;
        let (caller, callee) = (CALLER_NODE.to_string(), CALLEE_NODE.to_string());
        let (caller_pod, callee_pod) = (CALLER_POD.to_string(), CALLEE_POD.to_string());
        let ends = [
            (a, &eth_a, &caller, &caller_pod, &callee, &callee_pod),
            (b, &eth_b, &callee, &callee_pod, &caller, &caller_pod),
        ];
        for (namespace, eth, node, pod, _, _) in ends {
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "addr", "add", &format!("{node}/30"), "dev", eth])?;
            ip(&["-n", namespace, "addr", "add", &format!("{pod}/32"), "dev", "lo"])?;
            ip(&["-n", namespace, "link", "set", eth, "up"])?;
        }
        for (namespace, _, _, _, other, other_pod) in ends {
            ip(&["-n", namespace, "route", "add", other_pod, "via", other])?;
        }
        // Calls to L1 come from the pod, as in a cluster, not from the node's own address.
        let to_l1 = ["route", "change", "local", &caller, "dev", "lo", "table", "local", "src", &caller_pod];
        ip(&[&["-n", a], to_l1.as_slice()].concat())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // The janitor waits for the end of its input. Its failure leaves namespaces, which the next run sweeps.
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// The program and arguments that put a command into a namespace; the process id stays that of the command.
pub fn inside(namespace: &str) -> [&str; 4] {
    ["ip", "netns", "exec", namespace]
}

/// What the janitor does at the end: kills what runs in the namespaces, removes them and the folder.
pub fn clean(namespaces: &[String], folder: &Path) {
    for namespace in namespaces {
        let empty = clock::wait_for(Duration::from_secs(5), || {
            let pids = pids_in(namespace);
            for pid in &pids {
                let _ = kill_process(*pid, Signal::KILL);
            }
            pids.is_empty().then_some(())
        });
        // A process that cannot be killed keeps its namespace alive anyway, so the outcome changes nothing here.
        let _ = empty;
        let _ = ip(&["netns", "del", namespace]);
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// A janitor of a process group of its own, so that Ctrl-C does not reach it.
fn start_janitor(namespaces: &[&str], folder: &Path) -> Result<Child, NetError> {
    use std::os::unix::process::CommandExt;
    let start = |e| NetError::Start("the janitor".to_owned(), e);
    let mut command = Command::new(std::env::current_exe().map_err(start)?);
    command.arg("janitor").arg("--folder").arg(folder);
    for namespace in namespaces {
        command.args(["--namespace", namespace]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().map_err(start)
}

fn sweep_dead_runs() {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    };
    let dead = |name: &String| owner(name).is_some_and(|pid| !is_bench(pid));
    for namespace in names(Path::new("/run/netns")).into_iter().filter(dead) {
        clean(&[namespace], Path::new(""));
    }
    let scratch = std::env::temp_dir();
    for folder in names(&scratch).into_iter().filter(dead) {
        let _ = std::fs::remove_dir_all(scratch.join(folder));
    }
}

/// The process id in a name of ours.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split_once('-').map_or(rest, |(pid, _)| pid).parse().ok()
}

fn is_bench(pid: u32) -> bool {
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    command.is_ok_and(|c| c.trim() == "vicino-bench")
}

fn pids_in(namespace: &str) -> Vec<Pid> {
    let out = Command::new("ip").args(["netns", "pids", namespace]).output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn ip(arguments: &[&str]) -> Result<(), NetError> {
    let out = Command::new("ip").args(arguments).output().map_err(|e| NetError::Start("ip".to_owned(), e))?;
    if out.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(NetError::Command { command: format!("ip {}", arguments.join(" ")), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_bench_have_an_owner() {
        assert_eq!(owner("vicino-bench-123-a"), Some(123));
        assert_eq!(owner("vicino-bench-123"), Some(123));
        assert_eq!(owner("vicino-bench-x-a"), None);
        assert_eq!(owner("vicino-cluster-123"), None);
    }
}
