//! Writes the CRD manifests into the folder that the first argument names.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "config/crd".to_owned()));
    std::fs::create_dir_all(&folder)?;
    for (file, text) in vicino_crds::generate::manifests() {
        std::fs::write(folder.join(file), text)?;
    }
    Ok(())
}
