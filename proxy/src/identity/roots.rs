//! The roots by which a proxy knows certificates of others: the text of a file, followed while the kubelet swaps it; builds no TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use vicino_crds::identity::{fingerprint, key_id};
use vicino_crds::names;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::directory::read_file;
use crate::config::inotify::Watched;
use crate::log::chain;

/// Longest text, in bytes: more roots than a mesh has.
const BYTES_MAX: usize = 64 * 1024;
/// Between two attempts to watch a directory that is not there.
const RETRY: Duration = Duration::from_secs(1);

/// The roots in force, in PEM: of every text the last that could be used. None: there has been none.
pub type Roots = watch::Receiver<Option<Arc<str>>>;

/// The authority that issues now, see [`vicino_crds::identity::key_id`]; None: nobody says.
pub type Issuer = watch::Receiver<Option<Box<str>>>;

/// What is wrong with the text that there is now, where the roots in force are of an earlier one; None: nothing.
pub type Problem = watch::Receiver<Option<Arc<str>>>;

/// Who is told of what the files say.
#[derive(Debug)]
pub struct Told {
    /// Of the roots in force.
    pub roots: watch::Sender<Option<Arc<str>>>,
    /// Of what is wrong with newer ones.
    pub problem: watch::Sender<Option<Arc<str>>>,
    /// Of the authority that issues now.
    pub issuer: watch::Sender<Option<Box<str>>>,
}

/// Follows the file, and that of the issuer beside it, until nobody listens.
pub async fn follow(path: PathBuf, Told { roots, problem, issuer }: Told) {
    let issuer_path = path.with_file_name(names::TRUST_ISSUER_KEY);
    let directory = path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    while !roots.is_closed() {
        match Watched::new(&directory, false) {
            Ok(mut watched) => loop {
                complain(&problem, read(&path).map(|text| take(&roots, text)).err());
                // Where it is missing certificates are renewed in their own time.
                let now = read(&issuer_path).ok().and_then(|text| first_key_id(&text));
                issuer.send_if_modified(|before| {
                    now.is_some() && std::mem::replace(before, now.clone()) != now
                });
                tokio::select! {
                    _ = watched.touched() => {}
                    () = roots.closed() => return,
                }
            },
            Err(error) => complain(&problem, Some(format!("can't watch {}: {error}", directory.display()))),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn take(told: &watch::Sender<Option<Arc<str>>>, text: String) {
    told.send_if_modified(|before| {
        let is_news = before.as_deref() != Some(&*text);
        if is_news {
            tracing::info!(
                roots = fingerprints(&text).join(","),
                "certificates of others are known by these roots"
            );
            *before = Some(text.into());
        }
        is_news
    });
}

/// Says a thing once, however often the file is looked at.
fn complain(told: &watch::Sender<Option<Arc<str>>>, problem: Option<String>) {
    told.send_if_modified(|before| {
        let is_news = before.as_deref() != problem.as_deref();
        if let Some(problem) = problem.as_deref().filter(|_| is_news) {
            tracing::warn!(problem, "no new roots; those that were good last stay in force");
        }
        *before = problem.map(Into::into);
        is_news
    });
}

/// A text of roots, or what is wrong with it.
fn read(path: &Path) -> Result<String, String> {
    let bytes = read_file(path, BYTES_MAX).map_err(|error| chain(&error))?;
    let wrong = |what: &str| Err(format!("{}: {what}", path.display()));
    if bytes.len() > BYTES_MAX {
        return wrong(&format!("has more than {BYTES_MAX} bytes"));
    }
    let Ok(text) = String::from_utf8(bytes) else { return wrong("is no text: it must be PEM") };
    let Some(all) = certificates(&text) else { return wrong("is no PEM of certificates") };
    if all.is_empty() {
        return wrong("has no certificate: it must have one or more, in PEM");
    }
    let mut store = RootCertStore::empty();
    for (i, one) in all.into_iter().enumerate() {
        if let Err(error) = store.add(one) {
            return wrong(&format!("certificate {} of it cannot be a root: {}", i + 1, chain(&error)));
        }
    }
    Ok(text)
}

/// What certificates say of who has signed them, when the first of these has.
fn first_key_id(text: &str) -> Option<Box<str>> {
    let first = certificates(text)?.into_iter().next()?;
    let (_, first) = X509Certificate::from_der(&first).ok()?;
    first.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(key_id(identifier.0).into()),
        _ => None,
    })
}

/// The fingerprints of the certificates in a text, sorted, each once.
pub fn fingerprints(text: &str) -> Vec<String> {
    let mut all: Vec<_> = certificates(text).unwrap_or_default().iter().map(|one| fingerprint(one)).collect();
    all.sort();
    all.dedup();
    all
}

/// None when one cannot be read.
fn certificates(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn root() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    /// As the kubelet changes what is in a volume: all of it at once.
    fn swap(directory: &Path, generation: u32, text: &str, issuer: &str) {
        let data = format!("..{generation}");
        std::fs::create_dir(directory.join(&data)).unwrap();
        std::fs::write(directory.join(&data).join("roots.pem"), text).unwrap();
        std::fs::write(directory.join(&data).join("issuer.pem"), issuer).unwrap();
        symlink(&data, directory.join("..data_tmp")).unwrap();
        std::fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        if generation == 1 {
            for file in ["roots.pem", "issuer.pem"] {
                symlink(Path::new("..data").join(file), directory.join(file)).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_swapped_file_is_taken_and_a_broken_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (root(), root());
        let (roots_told, mut roots) = watch::channel(None);
        let (problem_told, mut problem) = watch::channel::<Option<Arc<str>>>(None);
        let (issuer_told, issuer) = watch::channel(None);
        let told = Told { roots: roots_told, problem: problem_told, issuer: issuer_told };
        // There may be none at first.
        let tasks = tokio_util::task::TaskTracker::new();
        let following = tasks.spawn(follow(directory.path().join("roots.pem"), told));
        swap(directory.path(), 1, &old, "");
        roots.wait_for(|roots| roots.as_deref() == Some(&*old)).await.unwrap();
        problem.wait_for(Option::is_none).await.unwrap();
        swap(directory.path(), 2, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &old);
        let said = |what: &'static str| {
            move |said: &Option<Arc<str>>| said.as_ref().is_some_and(|s| s.ends_with(what))
        };
        problem.wait_for(said("roots.pem: is no PEM of certificates")).await.unwrap();
        let no_certificate = format!("{new}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        swap(directory.path(), 3, &no_certificate, "");
        problem
            .wait_for(said("certificate 2 of it cannot be a root: invalid peer certificate: BadEncoding"))
            .await
            .unwrap();
        swap(directory.path(), 4, "", "");
        problem.wait_for(said("has no certificate: it must have one or more, in PEM")).await.unwrap();
        let both = old.clone() + &new;
        swap(directory.path(), 5, &both, &new);
        roots.changed().await.unwrap();
        assert_eq!(roots.borrow().as_deref(), Some(&*both), "what cannot be used was never told");
        problem.wait_for(Option::is_none).await.unwrap();
        let mut issuer = issuer;
        issuer.wait_for(|issuer| *issuer == first_key_id(&new)).await.unwrap();
        assert!(first_key_id(&new).is_some() && first_key_id(&new) != first_key_id(&old));
        assert_eq!(fingerprints(&both).len(), 2);
        assert_eq!(fingerprints(&(both + &old)).len(), 2);
        drop(roots);
        following.await.unwrap();
    }
}
