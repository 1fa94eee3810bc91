//! Owns building container images with buildah, the clusters' own and the product's, and finding their archives by name.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::prepare::{COREDNS_VERSION, GRPC_VERSION, Tools, crate_dir};
use crate::process;
use crate::progress::Progress;

/// What holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";
/// A shell with busybox's tools.
pub const BUSYBOX_IMAGE: &str = "localhost/busybox:1";
/// Cluster DNS.
pub const COREDNS_IMAGE: &str = "localhost/coredns:1";
/// The server, and the client, of gRPC's interoperability tests.
pub const GRPC_IMAGE: &str = "localhost/grpc:1";

/// The base images' targets in `images/Dockerfile` and their names.
const BASE: [(&str, &str); 4] =
    [("pause", PAUSE_IMAGE), ("busybox", BUSYBOX_IMAGE), ("coredns", COREDNS_IMAGE), ("grpc", GRPC_IMAGE)];

/// The product images' targets in `config/image/Dockerfile`, and the packages and programs that they take.
const PRODUCT: [(&str, &str, &[&str]); 3] = [
    ("operator", "vicino-operator", &["vicino-operator", "vicino"]),
    ("proxy", "vicino-proxy", &["vicino-proxy"]),
    ("sample", "vicino-sample", &["vicino-sample"]),
];

const BUILDAH_BOUND: Duration = Duration::from_mins(5);
const CARGO_BOUND: Duration = Duration::from_hours(1);

/// Which cargo profile the product's programs are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Optimised: what is shipped and measured.
    Release,
    /// Quick to build.
    Dev,
}

/// Changes with anything that is in the base images.
pub(crate) fn base_fingerprint() -> String {
    let mut hasher = DefaultHasher::new();
    include_str!("../images/Dockerfile").hash(&mut hasher);
    COREDNS_VERSION.hash(&mut hasher);
    GRPC_VERSION.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Builds the base images' archives into `folder`; `programs` go into them.
pub(crate) async fn build_base(programs: &[PathBuf], folder: &Path) -> Result<()> {
    let context = tempfile::tempdir_in(folder).context("make the build context")?;
    let tools = context.path().join("busybox");
    fs::create_dir(&tools).context("make the build context")?;
    let search = process::path();
    let busybox =
        search.split(':').map(|folder| Path::new(folder).join("busybox")).find(|file| file.is_file());
    let busybox = busybox.context("busybox is not installed")?;
    fs::copy(&busybox, tools.join("busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    let names = process::run(Command::new(&busybox).arg("--list"), Duration::from_secs(10)).await?;
    for name in names.lines().filter(|name| *name != "busybox") {
        symlink("busybox", tools.join(name)).with_context(|| format!("link {name}"))?;
    }
    for program in programs {
        let name = program.file_name().with_context(|| format!("{} is no file", program.display()))?;
        fs::copy(program, context.path().join(name))
            .with_context(|| format!("copy {}", program.display()))?;
    }
    let recipe = crate_dir().join("images/Dockerfile");
    let buildah = Buildah::new(&recipe, context.path())?;
    for (target, image) in BASE {
        buildah.archive(target, image, &folder.join(format!("{target}.tar"))).await?;
    }
    Ok(())
}

/// The workspace's folder.
fn workspace() -> Result<&'static Path> {
    crate_dir().ancestors().nth(2).context("the crate is in tests/cluster of the workspace")
}

/// Where the product images' programs and archives are built: apart from other builds, since the flags differ.
fn product_dir() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(target.map_or_else(|| workspace().map(|root| root.join("target")), Ok)?.join("images"))
}

/// The program of this name that was built last for the product's images.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for target in fs::read_dir(product_dir()?).context("look for the product's programs")? {
        for profile in ["release", "debug"] {
            let file = target.as_ref().map(|target| target.path().join(profile).join(name));
            let file = file.map_err(|error| anyhow::anyhow!("look for {name}: {error}"))?;
            if let Ok(changed) = fs::metadata(&file).and_then(|data| data.modified()) {
                found.push((changed, file));
            }
        }
    }
    let newest = found.into_iter().max().map(|(_, file)| file);
    newest.with_context(|| format!("{name} was not built: `vicino-cluster images` builds it"))
}

/// Builds the product's programs, statically linked, and their images; the archives' paths, in the order of the targets.
/// `targets` restricts it to some of `operator`, `proxy` and `sample`; empty is all.
pub async fn build_product(
    profile: Profile,
    targets: &[String],
    progress: &Progress,
) -> Result<Vec<PathBuf>> {
    let known: Vec<&str> = PRODUCT.iter().map(|(target, ..)| *target).collect();
    if let Some(odd) = targets.iter().find(|target| !known.contains(&target.as_str())) {
        bail!("there is no image {odd}: choose of {}", known.join(", "));
    }
    let wanted = |target: &str| targets.is_empty() || targets.iter().any(|wanted| wanted == target);
    let chosen: Vec<_> = PRODUCT.into_iter().filter(|(target, ..)| wanted(target)).collect();
    let dir = product_dir()?;
    let packages: Vec<&str> = chosen.iter().map(|(_, package, _)| *package).collect();
    let what = format!("building {} ({profile:?})", packages.join(", "));
    let programs = progress.during(&what, cargo(profile, &packages, &dir)).await?;

    let context = tempfile::tempdir_in(&dir).context("make the build context")?;
    let recipe = workspace()?.join("config/image/Dockerfile");
    let buildah = Buildah::new(&recipe, context.path())?;
    let archives = dir.join("archives");
    fs::create_dir_all(&archives).with_context(|| format!("make {}", archives.display()))?;
    let mut paths = Vec::new();
    for (target, package, files) in chosen {
        for file in files {
            let program = programs.join(file);
            let copy = context.path().join(file);
            fs::copy(&program, copy).with_context(|| format!("copy {}", program.display()))?;
        }
        let archive = archives.join(format!("{package}.tar"));
        let image = format!("localhost/{package}:dev");
        // An archive is kept while nothing that went into it changed, so that clusters need not load it again.
        let (note, made_from) = (archive.with_extension("made-from"), made_from(&programs, files, &recipe));
        if !(archive.is_file() && fs::read_to_string(&note).is_ok_and(|noted| noted == made_from)) {
            buildah.archive(target, &image, &archive).await?;
            fs::write(&note, made_from).with_context(|| format!("write {}", note.display()))?;
            progress.say(format!("built {image}: {}", archive.display()));
        }
        paths.push(archive);
    }
    Ok(paths)
}

/// The programs and the recipe, each with the time of its last change.
fn made_from(programs: &Path, files: &[&str], recipe: &Path) -> String {
    let paths = files.iter().map(|file| programs.join(file)).chain([recipe.to_owned()]);
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    paths.map(|path| format!("{} {:?}", path.display(), changed(&path))).collect::<Vec<_>>().join("\n")
}

/// Builds `packages` with everything linked in; the folder of the programs.
async fn cargo(profile: Profile, packages: &[&str], dir: &Path) -> Result<PathBuf> {
    let version = process::run(Command::new("rustc").arg("-vV"), Duration::from_mins(1)).await?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    let mut command = Command::new("cargo");
    // The target is named although it is the machine's own: otherwise the flag would hit proc macros as well.
    command.current_dir(workspace()?).args(["build", "--locked", "--quiet", "--bins", "--target", host]);
    command.arg("--target-dir").arg(dir);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    match profile {
        Profile::Release => command.arg("--release"),
        // Half the size, so quicker to link and to load into nodes.
        Profile::Dev => command.env("CARGO_PROFILE_DEV_DEBUG", "none"),
    };
    for package in packages {
        command.args(["--package", package]);
    }
    process::run(&mut command, CARGO_BOUND).await.context("build the product's programs")?;
    Ok(dir.join(host).join(if profile == Profile::Release { "release" } else { "debug" }))
}

/// The archive that `what` means: a file, or the name of a product or base image, with or without host and tag.
pub fn find(what: &str, tools: &Tools) -> Result<PathBuf> {
    let file = PathBuf::from(what);
    if file.is_file() {
        return Ok(file);
    }
    let name = what.rsplit('/').next().unwrap_or(what);
    let name = name.split(':').next().unwrap_or(name);
    let places = [product_dir()?.join("archives"), tools.images.clone()];
    let found = places.iter().map(|place| place.join(format!("{name}.tar"))).find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "{what} is neither an archive nor an image that was built: `vicino-cluster images` builds them"
        )
    })
}

/// The base images' archives.
pub(crate) fn base(tools: &Tools) -> Vec<PathBuf> {
    BASE.iter().map(|(target, _)| tools.images.join(format!("{target}.tar"))).collect()
}

/// buildah on one recipe and build context, with a store of its own, which ends with this value.
struct Buildah<'a> {
    recipe: &'a Path,
    context: &'a Path,
    store: tempfile::TempDir,
}

impl<'a> Buildah<'a> {
    fn new(recipe: &'a Path, context: &'a Path) -> Result<Self> {
        Ok(Self { recipe, context, store: tempfile::tempdir().context("make a store for buildah")? })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        let store = self.store.path();
        command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
        command.args(["--storage-driver", "vfs"]).env("PATH", process::path());
        command
    }

    /// Builds one target of the recipe and writes it as a docker archive that calls itself `image`.
    async fn archive(&self, target: &str, image: &str, archive: &Path) -> Result<()> {
        let mut build = self.command();
        build.args(["build", "--quiet", "--layers=false", "--target", target, "--tag", image]);
        let ignore = self.recipe.with_file_name(".containerignore");
        if ignore.is_file() {
            build.arg("--ignorefile").arg(ignore);
        }
        build.arg("--file").arg(self.recipe).arg(self.context);
        process::run(&mut build, BUILDAH_BOUND).await.with_context(|| format!("build {image}"))?;
        let unfinished = archive.with_extension("tar.unfinished");
        let _ = fs::remove_file(&unfinished);
        let mut push = self.command();
        let place = format!("docker-archive:{}:{image}", unfinished.display());
        push.args(["push", "--quiet", image, &place]);
        process::run(&mut push, BUILDAH_BOUND).await.with_context(|| format!("export {image}"))?;
        ensure!(unfinished.is_file(), "buildah wrote no {}", unfinished.display());
        fs::rename(&unfinished, archive).with_context(|| format!("write {}", archive.display()))
    }
}
