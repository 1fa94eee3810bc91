//! Certificates: each node's proxy has those of the service accounts that live with it, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use vicino_crds::names::PORT_L2;
use vicino_e2e::fixture::output_dir;
use vicino_e2e::workload::{App, EFFECT_MAX, Space};
use vicino_e2e::{Fixture, mesh, scenario};

/// How long whoever shows a certificate is heard or turned away.
const HEARD_SECONDS_MAX: u32 = 30;

/// How many certificates each node's proxy says that it has.
async fn counts(fixture: &Fixture) -> Result<BTreeMap<String, u64>> {
    let text = fixture.kubectl.run(["get", "meshnodes", "-o", "json"]).await?;
    let list: serde_json::Value = serde_json::from_str(&text)?;
    let nodes = list["items"].as_array().context("a list")?;
    let count = |node: &serde_json::Value| {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (name, node["status"]["certificates"]["count"].as_u64().unwrap_or(0))
    };
    Ok(nodes.iter().map(count).collect())
}

/// How many there should be: one for each service account that has pods there, and the node's own.
async fn wanted(fixture: &Fixture) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for node in fixture.nodes() {
        let pods = mesh::node(fixture, &node).await?.spec.pods;
        let accounts: BTreeSet<_> =
            pods.into_iter().map(|pod| (pod.namespace, pod.service_account)).collect();
        all.insert(node, accounts.len() as u64 + 1);
    }
    Ok(all)
}

#[test]
fn proxies_have_the_certificates_of_their_neighbours() {
    const TELLER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: teller}
---
apiVersion: v1
kind: Pod
metadata: {name: teller}
spec:
  serviceAccountName: teller
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers: [{name: sample, image: 'localhost/vicino-sample:dev', imagePullPolicy: Never, args: [--role=quotes]}]
";
    scenario("identity", async |fixture| {
        let nodes = fixture.nodes();
        let space = Space::new(fixture, "identity", &[App::new("front", 1).on(&nodes[0])]).await?;
        space.alone().await?;
        let mut before = BTreeMap::new();
        fixture
            .until("each node has its own certificate and those of its pods", EFFECT_MAX, async || {
                before = counts(fixture).await?;
                Ok(before.values().all(|count| *count >= 2) && before == wanted(fixture).await?)
            })
            .await?;
        space.apply(&TELLER.replace("NODE", &nodes[1])).await?;
        let mut with = before.clone();
        *with.get_mut(&nodes[1]).context("its node")? += 1;
        fixture
            .until("the teller's node has one more", EFFECT_MAX, async || Ok(counts(fixture).await? == with))
            .await?;
        space.kubectl(&["delete", "pod", "teller"]).await?;
        fixture
            .until("it is forgotten with the pod", EFFECT_MAX, async || Ok(counts(fixture).await? == before))
            .await?;
        let secrets = fixture.kubectl.run(["get", "secrets", "-A", "-o", "name"]).await?;
        ensure!(secrets.contains("secret/vicino-authority"), "{secrets}");
        let text = fixture.kubectl.run(["get", "meshnode", &nodes[0], "-o", "json"]).await?;
        let node: serde_json::Value = serde_json::from_str(&text)?;
        let expires = node["status"]["certificates"]["expires"].as_str().unwrap_or_default();
        ensure!(expires.ends_with('Z'), "{expires}");
        let figure =
            async |name: &str| mesh::metric(fixture, &nodes[0], &format!("vicino_proxy_{name}")).await;
        let (certificates, skew) =
            (figure("certificates").await?, figure("authority_clock_skew_seconds").await?);
        let ends = figure("certificate_expiration_timestamp_seconds").await?;
        let told: Timestamp =
            expires.parse().with_context(|| format!("status.certificates.expires {expires}"))?;
        // One clock, read twice.
        ensure!(certificates >= 2.0 && skew.abs() <= 1.0, "{certificates} certificates, {skew} s");
        ensure!((ends - told.as_duration().as_secs_f64()).abs() < 1.0, "{ends} is not {expires}");
        space.leave().await
    });
}

/// Somebody with root on a node, openssl, and the means to make certificates.
struct Attacker<'a> {
    fixture: &'a Fixture,
    folder: PathBuf,
    /// Where it is, and the L2 that it speaks to.
    node: String,
    target: String,
}

impl Attacker<'_> {
    /// What the other side says to whoever shows this and then speaks the hop's protocol, until it says something or ends.
    async fn hears(&self, what: &str, shown: &[&str]) -> Result<String> {
        let (file, target, shown) = (self.folder.join(what), &self.target, shown.join(" "));
        let (file, hello) = (file.display(), self.folder.join("hello"));
        let openssl =
            format!("openssl s_client -connect {target} -alpn vicino-hop/1 -quiet -no_ign_eof {shown}");
        let wait = format!("while [ ! -s {file}.said ] && [ ! -e {file}.end ]; do sleep 0.1; done");
        let script = format!(
            "rm -f {file}.end; : >{file}.said; {{ cat {}; {wait}; }} | {{ timeout {HEARD_SECONDS_MAX} {openssl} >{file}.said 2>{file}.log; : >{file}.end; }}",
            hello.display()
        );
        self.fixture.cluster.in_node(&self.node, "sh", ["-c", &script]).await?;
        let said = std::fs::read(self.folder.join(format!("{what}.said")))?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// A certificate by this issuer, and its key, as openssl's flags.
    fn certificate(
        &self,
        what: &str,
        issuer: &Issuer<'_, KeyPair>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<String> {
        let (certificate, key_file) =
            (self.folder.join(format!("{what}.crt")), self.folder.join(format!("{what}.key")));
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        std::fs::write(&certificate, params.signed_by(&key, issuer)?.pem())?;
        std::fs::write(&key_file, key.serialize_pem())?;
        Ok(format!("-cert {} -key {}", certificate.display(), key_file.display()))
    }
}

/// Says whose it is.
fn of(uri: &str) -> impl FnOnce(&mut CertificateParams) {
    let name = uri.try_into().map(SanType::URI);
    move |params| params.subject_alt_names = name.into_iter().collect()
}

/// The mesh's own authority, as whoever may read its Secret has it.
async fn authority(fixture: &Fixture) -> Result<Issuer<'static, KeyPair>> {
    let api: Api<Secret> = Api::namespaced(fixture.client.clone(), "vicino-system");
    let data = api.get("vicino-authority").await?.data.context("data")?;
    let text = |key: &str| {
        let bytes = data.get(key).with_context(|| format!("no {key}"))?;
        anyhow::Ok(String::from_utf8(bytes.0.clone())?)
    };
    Ok(Issuer::from_ca_cert_pem(&text("tls.crt")?, KeyPair::from_pem(&text("tls.key")?)?)?)
}

#[test]
fn a_hop_is_for_who_proves_who_it_is_and_for_nobody_else() {
    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    scenario("hop-clients", async |fixture| {
        let [here, there, third] = &fixture.nodes()[..] else { anyhow::bail!("three nodes") };
        let addresses = mesh::node(fixture, there).await?.spec.addresses;
        let folder = output_dir().join("hop-clients");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("hello"), mesh::hello()?)?;
        let target = format!("{}:{PORT_L2}", addresses.first().context("an address")?);
        let attacker = Attacker { fixture, folder, node: here.clone(), target };
        let mesh = authority(fixture).await?;
        let (foreign_key, mut foreign) = (KeyPair::generate()?, CertificateParams::default());
        foreign.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let foreign = Issuer::new(foreign, foreign_key);
        let good = attacker.certificate("good", &mesh, of(WEB))?;
        let own = attacker.certificate("own", &mesh, of(&format!("spiffe://cluster.local/node/{here}")))?;
        let heard = "VICINO";
        for (what, shown) in [("a workload", &good), ("the node itself", &own)] {
            let said = attacker.hears("good", &[shown]).await?;
            ensure!(said.contains(heard), "{what} is not heard: {said:?}");
        }
        let ended = attacker.certificate("ended", &mesh, |params| {
            of(WEB)(params);
            params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        })?;
        let early = attacker.certificate("early", &mesh, |params| {
            of(WEB)(params);
            params.not_before = rcgen::date_time_ymd(2999, 1, 1);
            params.not_after = rcgen::date_time_ymd(3000, 1, 1);
        })?;
        let by_another = attacker.certificate("by-another", &foreign, of(WEB))?;
        let elsewhere = attacker.certificate("elsewhere", &mesh, of("spiffe://else.where/ns/shop/sa/web"))?;
        let nobody = attacker.certificate("nobody", &mesh, of("https://cluster.local/ns/shop/sa/web"))?;
        let unnamed = attacker.certificate("unnamed", &mesh, |_| {})?;
        let server = attacker.certificate("server", &mesh, |params| {
            of(WEB)(params);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })?;
        let other_node =
            attacker.certificate("other-node", &mesh, of(&format!("spiffe://cluster.local/node/{third}")))?;
        // What it is told, and what L2 counts it as: silence alone could have any cause.
        for (what, shown, alert, counted) in [
            ("without", vec![], "certificate required", "unknown"),
            ("ended", vec![&*ended], "certificate expired", "unknown"),
            ("not-yet", vec![&*early], "certificate expired", "unknown"),
            ("by-another-authority", vec![&*by_another], "unknown ca", "unknown"),
            ("of-another-trust-domain", vec![&*elsewhere], "", "unknown"),
            ("no-identity", vec![&*nobody], "", "unknown"),
            ("no-name", vec![&*unnamed], "", "unknown"),
            ("for-servers-only", vec![&*server], "unsupported certificate", "unknown"),
            ("of-another-node", vec![&*other_node], "", "another-node"),
            ("tls-1.2", vec![&*good, "-tls1_2"], "protocol version", "unknown"),
            ("ccm", vec![&*good, "-ciphersuites TLS_AES_128_CCM_SHA256"], "handshake failure", "unknown"),
            ("ccm-8", vec![&*good, "-ciphersuites TLS_AES_128_CCM_8_SHA256"], "handshake failure", "unknown"),
            ("another-protocol", vec![&*good, "-alpn h2"], "no application protocol", "unknown"),
        ] {
            let counter = format!("vicino_proxy_hops_refused_total{{reason=\"{counted}\"}}");
            let before = mesh::metric(fixture, there, &counter).await?;
            let said = attacker.hears(what, &shown).await?;
            ensure!(said.is_empty(), "{what}: L2 says {said:?}");
            fixture
                .until(&format!("{what} to be counted as {counter}"), EFFECT_MAX, async || {
                    Ok(mesh::metric(fixture, there, &counter).await? > before)
                })
                .await?;
            let told = std::fs::read_to_string(attacker.folder.join(format!("{what}.log")))?;
            ensure!(alert.is_empty() || told.contains(&format!("alert {alert}")), "{what}: {told}");
        }
        Ok(())
    });
}
