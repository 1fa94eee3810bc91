//! Owns the cluster's certificates, keys and kubeconfig files; they are made anew at each `up` and end with the cluster.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::layout::Layout;

/// The name that the API server's aggregation layer shows to extension API servers.
pub(crate) const FRONT_PROXY: &str = "front-proxy-client";

/// Writes authority, certificates, keys and kubeconfig files below the cluster's state folder.
pub(crate) fn write(layout: &Layout) -> Result<()> {
    let pki = layout.pki();
    fs::create_dir_all(&pki).with_context(|| format!("make {}", pki.display()))?;
    let authority = Authority::new(&pki)?;

    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let addresses = [Ipv4Addr::LOCALHOST, layout.gateway(), layout.kubernetes_ip()];
    authority.issue("apiserver", params("kube-apiserver", "kubernetes", &names, &addresses)?)?;
    authority.issue("front-proxy", params(FRONT_PROXY, "front-proxy", &[], &[])?)?;

    let users = [
        ("admin", "admin", "system:masters"),
        ("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        ("controller-manager", "system:kube-controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler", "system:kube-scheduler"),
        ("kube-proxy", "system:kube-proxy", "system:node-proxier"),
    ];
    for (file, user, group) in users {
        authority.issue(file, params(user, group, &[], &[])?)?;
        kubeconfig(layout, file)?;
    }
    for node in layout.node_list() {
        let user = format!("system:node:{}", node.name);
        authority.issue(&node.name, params(&user, "system:nodes", &[&node.name], &[node.ip])?)?;
        kubeconfig(layout, &node.name)?;
    }

    let tokens = KeyPair::generate().context("make the key that signs service account tokens")?;
    secret(&pki.join("tokens.key"), &tokens.serialize_pem())?;
    public(&pki.join("tokens.pub"), &tokens.public_key_pem())
}

struct Authority<'a> {
    issuer: Issuer<'static, KeyPair>,
    pki: &'a Path,
}

impl<'a> Authority<'a> {
    fn new(pki: &'a Path) -> Result<Self> {
        let key = KeyPair::generate().context("make the authority's key")?;
        let mut params = params("vicino-cluster", "vicino", &[], &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("sign the authority's certificate")?;
        public(&pki.join("ca.crt"), &certificate.pem())?;
        secret(&pki.join("ca.key"), &key.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params, key), pki })
    }

    /// Writes `<file>.crt` and `<file>.key`, good for both ends of a connection.
    fn issue(&self, file: &str, mut params: CertificateParams) -> Result<()> {
        let key = KeyPair::generate().with_context(|| format!("make the key {file}"))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.with_context(|| format!("sign the certificate {file}"))?;
        public(&self.pki.join(format!("{file}.crt")), &certificate.pem())?;
        secret(&self.pki.join(format!("{file}.key")), &key.serialize_pem())
    }
}

/// The parameters of the certificate of a user and the group that Kubernetes reads from it.
fn params(user: &str, group: &str, names: &[&str], ips: &[Ipv4Addr]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).context("certificate names")?;
    params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(IpAddr::V4(*ip))));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    // Fixed dates: the keys live as long as the cluster's state folder, and a test may turn the clock.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    Ok(params)
}

/// The kubeconfig of the user whose certificate is `<user>.crt`.
fn kubeconfig(layout: &Layout, user: &str) -> Result<()> {
    let name = format!("vicino-{}", layout.name);
    let pki = layout.pki();
    let pki = pki.display();
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority: {pki}/ca.crt
users:
- name: {user}
  user:
    client-certificate: {pki}/{user}.crt
    client-key: {pki}/{user}.key
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {user}
current-context: {name}
",
        server = layout.api_url(),
    );
    secret(&layout.kubeconfig(user), &text)
}

fn public(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn secret(path: &Path, text: &str) -> Result<()> {
    let file = fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}", path.display()))
}
