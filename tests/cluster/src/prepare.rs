//! Owns what a machine needs before a cluster can run on it: Debian packages, Kubernetes and CoreDNS binaries, base images.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::progress::Progress;
use crate::{images, process, state};

/// The Kubernetes that clusters run: the newest minor whose kubelet starts on cgroup version 1 without being told to.
pub const KUBERNETES_VERSION: &str = "v1.34.4";

/// The cluster DNS that clusters run.
pub const COREDNS_VERSION: &str = "v1.14.7";

/// The gRPC of the applications in tests: Go's, with the client and the server that gRPC's own implementations are tested with.
pub(crate) const GRPC_VERSION: &str = "v1.76.0";

/// The programs that are built from `kubernetes/go.mod`.
const KUBERNETES_PROGRAMS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"];

/// Debian packages, each with a file that shows that it is there.
const PACKAGES: [(&str, &str); 16] = [
    ("buildah", "buildah"),
    ("busybox-static", "busybox"),
    ("containerd", "containerd"),
    ("containernetworking-plugins", "/usr/lib/cni/ptp"),
    ("curl", "curl"),
    ("dropbear-bin", "dbclient"),
    ("etcd-server", "etcd"),
    ("iproute2", "ip"),
    ("nftables", "nft"),
    ("nghttp2-client", "h2load"),
    ("nodejs", "node"),
    ("openssl", "openssl"),
    ("redis-server", "redis-server"),
    ("runc", "runc"),
    ("socat", "socat"),
    ("util-linux", "nsenter"),
];

/// Two cores need about 11 minutes for Kubernetes.
const BUILD_BOUND: Duration = Duration::from_hours(1);

/// Where the prepared things are.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The folder of the Kubernetes programs.
    pub kubernetes: PathBuf,
    /// The folder of the base images' archives.
    pub images: PathBuf,
    /// The folder of gRPC's `client` and `server`, which the image [`crate::images::GRPC_IMAGE`] has, too.
    pub grpc: PathBuf,
}

/// The cache folder: `VICINO_CACHE`, else `~/.cache/vicino`.
pub fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("VICINO_CACHE") {
        return Ok(PathBuf::from(folder));
    }
    let home = std::env::var_os("HOME").context("neither VICINO_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/vicino"))
}

/// The folder of this crate, which holds the Go modules and the image recipes.
pub(crate) fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Installs and builds what is missing; a machine where nothing is missing is left alone.
pub async fn prepare(progress: &Progress) -> Result<Tools> {
    packages(progress).await.context("install Debian packages")?;
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    if let Some(tools) = there(&cache) {
        return Ok(tools);
    }
    progress.say(format!("preparing in {} (once; waits for another run that does)", cache.display()));
    let _claim = state::lock(&cache, BUILD_BOUND).await?;
    let kubernetes = if let Some(folder) = kubernetes_dir(&cache) {
        folder
    } else {
        let what = format!("building Kubernetes {KUBERNETES_VERSION} (about 11 minutes on two cores)");
        progress.during(&what, kubernetes(&cache)).await.context("build Kubernetes")?
    };
    let coredns = cache.join(format!("coredns-{COREDNS_VERSION}"));
    if !coredns.is_dir() {
        let what = format!("building CoreDNS {COREDNS_VERSION} (about 4 minutes on two cores)");
        let built = build(&coredns, "coredns", &["github.com/coredns/coredns"], "-s -w");
        progress.during(&what, built).await.context("build CoreDNS")?;
    }
    let grpc = grpc_dir(&cache);
    if !grpc.is_dir() {
        let what = format!("building gRPC {GRPC_VERSION} (about a minute on two cores)");
        let programs = ["client", "server"].map(|name| format!("google.golang.org/grpc/interop/{name}"));
        let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
        progress.during(&what, build(&grpc, "grpc", &programs, "-s -w")).await.context("build gRPC")?;
    }
    let images = base_images(&cache);
    if !images.is_dir() {
        let programs = [coredns.join("coredns"), grpc.join("client"), grpc.join("server")];
        let built = into_place(&images, async |folder| images::build_base(&programs, folder).await);
        progress.during("building the base images", built).await.context("build the base images")?;
    }
    Ok(Tools { kubernetes, images, grpc })
}

/// What there is, when all is there.
fn there(cache: &Path) -> Option<Tools> {
    let (images, grpc) = (base_images(cache), grpc_dir(cache));
    let is_there = images.is_dir() && grpc.is_dir();
    Some(Tools { kubernetes: kubernetes_dir(cache).filter(|_| is_there)?, images, grpc })
}

fn grpc_dir(cache: &Path) -> PathBuf {
    cache.join(format!("grpc-{GRPC_VERSION}"))
}

/// gRPC's `client`, as `prepare` built it.
pub fn grpc_client() -> Result<PathBuf> {
    Ok(grpc_dir(&cache()?).join("client"))
}

/// The base images' folder; its name changes with what is in them.
fn base_images(cache: &Path) -> PathBuf {
    cache.join(format!("images-{}", images::base_fingerprint()))
}

/// A folder that has the Kubernetes programs: `KUBEBUILDER_ASSETS` when it has all of this minor version, else the cache's.
fn kubernetes_dir(cache: &Path) -> Option<PathBuf> {
    let complete = |folder: &PathBuf| KUBERNETES_PROGRAMS.iter().all(|name| folder.join(name).is_file());
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).filter(complete);
    given.filter(|folder| same_minor(folder)).or_else(|| Some(kubernetes_cache(cache)).filter(complete))
}

fn kubernetes_cache(cache: &Path) -> PathBuf {
    cache.join(format!("k8s-{KUBERNETES_VERSION}"))
}

fn same_minor(folder: &Path) -> bool {
    let minor = KUBERNETES_VERSION.rsplit_once('.').map_or(KUBERNETES_VERSION, |(minor, _)| minor);
    let answer = std::process::Command::new(folder.join("kubelet")).arg("--version").output();
    let text = answer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.trim().strip_prefix("Kubernetes ").is_some_and(|version| version.starts_with(&format!("{minor}.")))
}

async fn packages(progress: &Progress) -> Result<()> {
    let search = process::path();
    let installed = |probe: &str| search.split(':').any(|folder| Path::new(folder).join(probe).exists());
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, probe)| !installed(probe)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !installed("apt-get") {
        bail!("this machine has no apt-get; please install what the Debian packages {list} hold");
    }
    ensure!(rustix::process::geteuid().is_root(), "installing {list} needs root");
    progress.say(format!("installing {list}"));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-y"]).args(arguments);
        command.env("PATH", &search).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let install = [&["install", "--no-install-recommends"], missing.as_slice()].concat();
    let bound = Duration::from_mins(15);
    if process::run(&mut apt(&install), bound).await.is_err() {
        // The package list may be old or was never fetched.
        process::run(&mut apt(&["update"]), bound).await?;
        process::run(&mut apt(&install), bound).await?;
    }
    progress.say("installed");
    Ok(())
}

async fn kubernetes(cache: &Path) -> Result<PathBuf> {
    let minor = KUBERNETES_VERSION.trim_start_matches('v').split('.').nth(1).unwrap_or_default();
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    );
    let sources = KUBERNETES_PROGRAMS.map(|name| format!("k8s.io/kubernetes/cmd/{name}"));
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let folder = kubernetes_cache(cache);
    build(&folder, "kubernetes", &sources, &flags).await?;
    Ok(folder)
}

/// Builds Go programs of this crate's module `module` into `folder`, which appears when it is complete.
async fn build(folder: &Path, module: &str, programs: &[&str], flags: &str) -> Result<()> {
    into_place(folder, async |unfinished| {
        let mut command = Command::new("go");
        command.current_dir(crate_dir().join(module)).env("CGO_ENABLED", "0");
        command.args(["build", "-trimpath", "-ldflags", flags, "-o"]).arg(unfinished).args(programs);
        let built = process::run(&mut command, BUILD_BOUND).await;
        built.map(drop).context("is Go installed? see https://go.dev/doc/install")
    })
    .await
}

/// Lets `fill` fill a temporary folder beside `folder`, then gives it its name: half a folder is never seen.
async fn into_place<F>(folder: &Path, fill: F) -> Result<()>
where
    F: AsyncFnOnce(&Path) -> Result<()>,
{
    let parent = folder.parent().context("a folder of the cache has a parent")?;
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(parent);
    let unfinished = unfinished.with_context(|| format!("make a folder in {}", parent.display()))?;
    fill(unfinished.path()).await?;
    let complete = unfinished.keep();
    // tempfile makes folders for their owner only; what is in the cache is for every user of the machine.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&complete, open).with_context(|| format!("open {}", complete.display()))?;
    fs::rename(&complete, folder).with_context(|| format!("write {}", folder.display()))
}
