//! A cluster of this machine with the product's images of the current sources on its nodes; no mesh yet.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use vicino_cluster::images::{self, Profile};
use vicino_cluster::prepare;
use vicino_cluster::progress::Progress;
use vicino_cluster::{Cluster, Options};

/// The product's images.
const IMAGES: [&str; 3] = ["vicino-operator", "vicino-proxy", "vicino-sample"];

/// Where a cluster notes which images are on its nodes.
const STAMP: &str = "product-images";

/// Has what takes minutes say how far it is, on standard error.
pub fn show_progress() {
    let format = tracing_subscriber::fmt().without_time().with_target(false).with_level(false);
    // What the API client has to say about an API server that a test has stopped is no news.
    let format = format.with_env_filter(EnvFilter::new("vicino_cluster=info"));
    // Set already is as good.
    let _ = format.with_writer(std::io::stderr).try_init();
}

/// Finds the cluster `name` or boots it, loads the images, and has pods of the mesh that run an older build replaced.
/// With `build` the images are built first, else they must have been. With `audit` its API server writes down who has asked for what.
pub async fn cluster(name: &str, (nodes, audit): (u8, bool), build: Option<Profile>) -> Result<Cluster> {
    let progress = Progress::new();
    let tools = prepare::prepare(&progress).await.context("prepare this machine")?;
    if let Some(profile) = build {
        images::build_product(profile, &[], &progress).await.context("build the images")?;
    }
    let archives: Vec<PathBuf> =
        IMAGES.iter().map(|image| images::find(image, &tools)).collect::<Result<_>>()?;
    let bare = Options { name: name.to_owned(), nodes, images: Vec::new(), audit };
    let cluster = Cluster::up(bare).await?;
    let note = cluster.log_dir().join(STAMP);
    let (before, now) = (fs::read_to_string(&note).ok(), stamp(&archives));
    if before.as_ref() != Some(&now) {
        for archive in &archives {
            cluster.load_image(archive).await?;
        }
        progress.say("loaded the images");
        if before.is_some() {
            replace_pods(&cluster).await?;
        }
        fs::write(note, now).context("note which images are loaded")?;
    }
    Ok(cluster)
}

/// Changes when an archive does.
fn stamp(archives: &[PathBuf]) -> String {
    let mut hasher = DefaultHasher::new();
    for archive in archives {
        let changed = fs::metadata(archive).and_then(|data| data.modified()).ok();
        let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        (archive as &Path, changed).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// A tag that moved changes no pod that runs.
async fn replace_pods(cluster: &Cluster) -> Result<()> {
    for namespace in ["vicino-system", "vicino-proxy", "demo"] {
        cluster.kubectl(["delete", "pods", "--all", "-n", namespace, "--ignore-not-found"]).await?;
    }
    Ok(())
}
