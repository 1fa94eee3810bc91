//! What a witness knows, kept on local disk for the next process of the same boot and network; another has other links, so nothing of it holds there.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bindings::{Bond, Face, Moment, Span};

/// Changes when an older proxy could not read what a newer one wrote.
const FORMAT: &str = "vicino-links 1";
/// A longer file is not read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const NETWORK: &str = "/proc/self/ns/net";

/// What is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    format: String,
    /// Which boot of the machine it is of.
    boot: String,
    /// Which network namespace's links these are: its inode. Nodes that share a machine may share its files, too.
    #[serde(default)]
    network: u64,
    /// Links that were made later are not in it.
    pub(super) saved: Moment,
    /// Every link, by number.
    pub(super) links: HashMap<u32, (Face, Span)>,
    /// Who was behind which.
    pub(super) bonds: Vec<Bond>,
}

/// The file in the state directory.
#[derive(Clone, Debug)]
pub struct Keeper {
    path: PathBuf,
    beside: PathBuf,
}

impl Keeper {
    /// In `directory`, which is made when it is not there. `writer` tells proxies of one node apart, as the store does.
    pub fn new(directory: &Path, writer: &str) -> Self {
        Self { path: directory.join("links"), beside: directory.join(format!("links.{writer}.new")) }
    }

    /// What was kept in this boot; None: nothing that is of use.
    pub(super) fn load(&self) -> io::Result<Option<Record>> {
        let length = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if length > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, self.path.display().to_string()));
        }
        let record: Record = serde_json::from_slice(&fs::read(&self.path)?)?;
        let is_of_here = |record: &Record| {
            let same_boot = boot().is_ok_and(|boot| boot == record.boot);
            record.format == FORMAT && same_boot && network().is_ok_and(|network| network == record.network)
        };
        Ok(Some(record).filter(is_of_here))
    }

    /// Replaces what was kept.
    pub(super) fn save(
        &self,
        saved: Moment,
        links: HashMap<u32, (Face, Span)>,
        bonds: Vec<Bond>,
    ) -> io::Result<()> {
        let (format, boot, network) = (FORMAT.to_owned(), boot()?, network()?);
        let record = Record { format, boot, network, saved, links, bonds };
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&self.beside, serde_json::to_vec(&record)?)?;
        fs::rename(&self.beside, &self.path)
    }
}

fn boot() -> io::Result<String> {
    fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned())
}

fn network() -> io::Result<u64> {
    fs::metadata(NETWORK).map(|namespace| namespace.ino())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_in_the_same_boot_and_network_and_not_in_another() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(&directory.path().join("below"), "a");
        assert_eq!(keeper.load().unwrap(), None);
        let face = Face { name: "veth1".into(), mac: [1, 2, 3, 4, 5, 6].into() };
        let links = HashMap::from([(7, (face, Span::default()))]);
        let bond =
            Bond { address: "10.1.0.5".parse().unwrap(), uid: "u".into(), link: Some(7), since: Some(9) };
        let saved = Moment { wall_ms: 5, boot_ms: 3 };
        keeper.save(saved, links.clone(), vec![bond.clone()]).unwrap();
        let record = Keeper::new(&directory.path().join("below"), "b").load().unwrap().unwrap();
        assert_eq!((record.saved, &record.links, &record.bonds), (saved, &links, &vec![bond]));
        for (field, wrong) in
            [("boot", json!("another")), ("network", json!(1)), ("format", json!("vicino-links 2"))]
        {
            let mut value = serde_json::to_value(&record).unwrap();
            value[field] = wrong;
            fs::write(&keeper.path, value.to_string()).unwrap();
            assert_eq!(keeper.load().unwrap(), None, "{field}");
        }
        fs::write(&keeper.path, "{").unwrap();
        assert!(keeper.load().is_err());
    }
}
