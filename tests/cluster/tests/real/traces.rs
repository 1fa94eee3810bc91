//! Looks for anything on the machine that belongs to a cluster, without asking the harness's own records or code paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use vicino_cluster::layout::{Layout, dir_of};

/// What there is of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    pub(crate) processes: Vec<String>,
    pub(crate) mounts: Vec<String>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) links: Vec<String>,
    pub(crate) routes: Vec<String>,
    pub(crate) cgroups: Vec<String>,
    /// In the state folder and everywhere else where Kubernetes' programs leave files.
    pub(crate) files: Vec<String>,
    pub(crate) sockets: Vec<String>,
}

/// The addresses and link names of each cluster, remembered from when it was last seen up: without them nobody could
/// tell whose a link or route is.
static LAYOUTS: LazyLock<Mutex<BTreeMap<String, Layout>>> = LazyLock::new(Mutex::default);

/// The sockets of containerd's shims that each cluster was ever seen to have: their names do not say whose they are.
static SOCKETS: LazyLock<Mutex<BTreeMap<String, BTreeSet<String>>>> = LazyLock::new(Mutex::default);

/// Looks for what belongs to the cluster `name`.
pub(crate) fn traces(name: &str) -> Traces {
    let dir = dir_of(name);
    let mut layouts = LAYOUTS.lock().unwrap();
    if let Ok(text) = fs::read(dir.join("state.json")) {
        let state: serde_json::Value = serde_json::from_slice(&text).unwrap();
        layouts.insert(name.to_owned(), serde_json::from_value(state["layout"].clone()).unwrap());
    }
    let layout = layouts.get(name);
    let has_dir = |line: &str| line.contains(&format!("{}/", dir.display()));
    let node = format!("{name}-node");
    let of_layout = |line: &str, marks: fn(&Layout) -> Vec<String>| {
        layout.is_some_and(|layout| marks(layout).iter().any(|mark| line.contains(mark)))
    };
    Traces {
        processes: lines("ps", &["-eww", "-o", "pid,args"], |line| {
            has_dir(line) && !line.contains("kubectl") && !line.contains(" ps ")
        }),
        mounts: lines("cat", &["/proc/self/mountinfo"], |line| has_dir(line) || line.contains(&node)),
        namespaces: lines("ls", &["/run/netns"], |line| line.starts_with(&node)),
        links: lines("ip", &["-oneline", "link"], |line| {
            of_layout(line, |layout| layout.link_prefixes().map(|link| format!(" {link}")).to_vec())
        }),
        routes: lines("ip", &["-4", "route", "show", "table", "all"], |line| {
            of_layout(line, |layout| {
                let bases = [layout.node_range(), layout.pod_range(), layout.service_range()];
                bases.map(|range| range.to_string().split_once(".0").unwrap().0.to_owned() + ".").to_vec()
            })
        }),
        cgroups: lines("find", &["/sys/fs/cgroup", "-type", "d", "-name", "vicino-*"], |line| {
            line.contains(&format!("/vicino-{node}"))
        }),
        files: files(&dir, layout),
        sockets: sockets(name, &dir),
    }
}

fn files(dir: &Path, layout: Option<&Layout>) -> Vec<String> {
    let mut found: Vec<String> = dir.exists().then(|| dir.display().to_string()).into_iter().collect();
    let links = lines("find", &["/var/log/containers", "-type", "l", "-printf", "%p -> %l\n"], |_| true);
    found.extend(links.into_iter().filter(|line| line.contains(&format!("{}/", dir.display()))));
    let results = lines("find", &["/var/lib/cni", "-type", "f"], |_| true);
    found.extend(
        results.into_iter().filter(|line| {
            layout.is_some_and(|layout| line.contains(&format!("/{}-", layout.cni_network())))
        }),
    );
    found
}

fn sockets(name: &str, dir: &Path) -> Vec<String> {
    let mut all = SOCKETS.lock().unwrap();
    let seen = all.entry(name.to_owned()).or_default();
    for file in
        lines("find", &[&dir.display().to_string(), "-name", "address", "-path", "*/k8s.io/*"], |_| true)
    {
        // A pod may go between being found and being read.
        let address = fs::read_to_string(file).unwrap_or_default();
        seen.extend(address.trim().strip_prefix("unix://").map(str::to_owned));
    }
    seen.iter().filter(|socket| Path::new(socket).exists()).cloned().collect()
}

/// The lines of a program's output that are wanted.
fn lines(program: &str, arguments: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| wanted(line)).map(str::to_owned).collect()
}

impl Traces {
    fn kinds(&self) -> [(&'static str, &Vec<String>); 8] {
        let Self { processes, mounts, namespaces, links, routes, cgroups, files, sockets } = self;
        [
            ("processes", processes),
            ("mounts", mounts),
            ("namespaces", namespaces),
            ("links", links),
            ("routes", routes),
            ("cgroups", cgroups),
            ("files", files),
            ("sockets", sockets),
        ]
    }

    /// Each kind of trace is seen: the proof that `none` could fail.
    pub(crate) fn some_of_each(&self) {
        for (kind, found) in self.kinds() {
            assert!(!found.is_empty(), "no {kind} seen of a cluster that runs");
        }
    }

    /// Nothing is left.
    pub(crate) fn none(&self) {
        let left: Vec<_> = self.kinds().into_iter().filter(|(_, found)| !found.is_empty()).collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}
