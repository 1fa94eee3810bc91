//! Gets into the network namespace of a pod of a cluster on this machine; what is done there is the caller's.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;
use tokio::sync::oneshot;

/// The first process of a running container, by the container's id (`containerd://…` or bare): all nodes are on this machine.
/// Others, a probe's for example, come and go.
pub fn process_of(container: &str) -> Result<i32> {
    let id = container.trim_start_matches("containerd://");
    let processes = fs::read_dir("/proc").context("list processes")?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = numbers.find(|number| {
        let read = |what| fs::read_to_string(format!("/proc/{number}/{what}")).unwrap_or_default();
        read("cgroup").contains(id) && is_first(&read("status"))
    });
    found.with_context(|| format!("no process in container {id}"))
}

/// Whether a process is number 1 in its own process namespace.
fn is_first(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some("1"))
}

/// The network namespace of a running container.
pub fn of_container(container: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/ns/net", process_of(container)?)))
}

/// A command that runs `program` in a network namespace.
pub fn command(netns: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).arg(program).kill_on_drop(true);
    command
}

/// Runs a future on a thread of its own whose sockets belong to a network namespace. The thread ends with the future;
/// dropping the answer does not stop it, so `work` has to have an end.
pub async fn inside<T, F>(netns: &Path, work: F) -> Result<T>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> T + Send + 'static,
{
    start(netns, work)?.await.context("the thread in the network namespace panicked")?
}

/// As [`inside`], for work that ends by itself and whose answer nobody waits for here.
pub fn detached<F>(netns: &Path, work: F) -> Result<()>
where
    F: AsyncFnOnce() + Send + 'static,
{
    start(netns, work).map(drop)
}

fn start<T, F>(netns: &Path, work: F) -> Result<oneshot::Receiver<Result<T>>>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> T + Send + 'static,
{
    let file = fs::File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    let (answer, answered) = oneshot::channel();
    let body = move || {
        let enter = || -> Result<T> {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(file.as_fd(), kind).context("enter the network namespace")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            Ok(runtime.context("start the thread's runtime")?.block_on(work()))
        };
        // Nobody to tell means that the test has given up.
        let _ = answer.send(enter());
    };
    std::thread::Builder::new().name("e2e-netns".to_owned()).spawn(body).context("start a thread")?;
    Ok(answered)
}
