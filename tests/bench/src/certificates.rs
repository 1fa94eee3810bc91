//! Certificates of a run's two nodes, of one authority that is made with them: ECDSA P-256, the same for every peer.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use crate::peers::Role;

/// Trust domain of the nodes' identities.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A key or a certificate was not made.
    #[error("cannot make the certificate of {0}")]
    Make(&'static str, #[source] rcgen::Error),
    /// A file was not written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
}

/// Where the certificates and keys lie, as PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    folder: PathBuf,
}

/// The SPIFFE ID of a node.
pub fn uri(node: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/node/{node}")
}

impl Certificates {
    /// Those that lie in a folder.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Makes the authority, whose key is not kept, and certificates of both nodes.
    pub fn make(folder: &Path) -> Result<Self, CertificateError> {
        let made = Self::at(folder);
        std::fs::create_dir_all(folder).map_err(|e| CertificateError::Write(folder.to_owned(), e))?;
        let failed = |e| CertificateError::Make("the authority", e);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params("vicino-bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).map_err(failed)?;
        write(&made.roots(), &root.pem())?;
        let issuer = Issuer::new(params, key);
        for role in [Role::L1, Role::L2] {
            made.issue(role.node(), &issuer)?;
        }
        Ok(made)
    }

    fn issue(&self, node: &'static str, issuer: &Issuer<'_, KeyPair>) -> Result<(), CertificateError> {
        let failed = |e| CertificateError::Make(node, e);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(node);
        let names = [
            SanType::URI(uri(node).try_into().map_err(failed)?),
            SanType::DnsName(node.try_into().map_err(failed)?),
        ];
        params.subject_alt_names = names.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let chain = params.signed_by(&key, issuer).map_err(failed)?.pem();
        write(&self.chain(node), &chain)?;
        write(&self.key(node), &key.serialize_pem())?;
        write(&self.both(node), &(chain + &key.serialize_pem()))
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The certificate of the authority.
    pub fn roots(&self) -> PathBuf {
        self.folder.join("roots.pem")
    }

    /// The certificate of a node.
    pub fn chain(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.crt"))
    }

    /// Its key, PKCS #8.
    pub fn key(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.key"))
    }

    /// Both in one file, as HAProxy wants them.
    pub fn both(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.pem"))
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Not for others to read: all but the root is, or has, a key or lies beside one.
fn write(path: &Path, text: &str) -> Result<(), CertificateError> {
    let mut options = std::fs::OpenOptions::new();
    let written = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| CertificateError::Write(path.to_owned(), e))
}
