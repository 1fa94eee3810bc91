//! `vicino identity`: the authority of each mesh, its roots, and the certificates that each node says that it has.

use futures::future::try_join3;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use vicino_crds::condition::kind;
use vicino_crds::node::HeldCertificate;
use vicino_crds::{MeshNode, ServiceMesh, names};

use super::arguments::{Global, IdentityOptions};
use super::cluster::{Cluster, Only};
use super::output::{self, Format};
use super::routes::CONFIG_MAPS;
use super::version::MESH_NODES;
use super::{Answer, Error, age, table};
use crate::authority::ca::{self, Described};

/// Where the API serves ServiceMeshes.
const MESHES: (&str, &str, &str, &str) = (names::GROUP, names::VERSION, "ServiceMesh", "servicemeshes");
/// A chain that is longer is shown as far as this.
const CHAIN_MAX: usize = 8;

/// One mesh; what `-o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    mesh: String,
    /// Of the condition `IdentityReady`.
    reason: String,
    message: String,
    /// The one that certificates are issued by, then those that signed it.
    chain: Vec<Certificate>,
    roots: Vec<Certificate>,
}

/// A certificate of an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    fingerprint: String,
    name: String,
    key_id: String,
    expires: String,
    #[serde(skip)]
    issuer: Option<String>,
    #[serde(skip)]
    ends: Timestamp,
}

/// One node; what `-o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    mesh: String,
    certificates: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    roots: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roots_problem: Option<String>,
    issuers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_skew_seconds: Option<i32>,
    identities: Vec<Held>,
    #[serde(skip)]
    ends: Option<Timestamp>,
}

/// One certificate of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    name: String,
    expires: String,
    /// Who signed it, and who signed that one, up to the root: names, or the key where nobody knows a name.
    chain: Vec<String>,
    #[serde(skip)]
    ends: Timestamp,
}

/// What the answer is made of.
#[derive(Clone, Debug, Default)]
struct Facts {
    meshes: Vec<ServiceMesh>,
    nodes: Vec<MeshNode>,
    config_maps: Vec<ConfigMap>,
}

/// What is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Identities {
    authorities: Vec<Authority>,
    nodes: Vec<Row>,
}

/// Runs `vicino identity`.
pub async fn run(global: &Global, options: &IdentityOptions) -> Result<Answer, Error> {
    let cluster = Cluster::connect(global).await?;
    let label = format!("{}={}", names::LABEL_CONFIG, names::CONFIG_TRUST);
    let trust = Only { namespace: Some(names::PROXY_NAMESPACE), labels: Some(&label) };
    let (meshes, nodes, config_maps) = try_join3(
        cluster.list_as(MESHES, Only::default()),
        cluster.list_as(MESH_NODES, Only::default()),
        cluster.list_as(CONFIG_MAPS, trust),
    )
    .await?;
    let mut all = identities(&Facts { meshes, nodes, config_maps });
    let mut answer = Answer::default();
    if let Some(name) = &options.node {
        all.nodes.retain(|row| row.node == *name);
        if all.nodes.is_empty() {
            answer.notes.push(format!("there is no MeshNode {name:?}"));
            answer.found = true;
        }
        let meshes: Vec<_> = all.nodes.iter().map(|row| row.mesh.clone()).collect();
        all.authorities.retain(|authority| meshes.contains(&authority.mesh));
    }
    answer.text = show(&all, global.output, options.node.is_some(), super::render::now());
    Ok(answer)
}

fn identities(facts: &Facts) -> Identities {
    let mut authorities: Vec<_> = facts.meshes.iter().map(|mesh| authority(facts, mesh)).collect();
    authorities.sort_by(|a, b| a.mesh.cmp(&b.mesh));
    let mut nodes: Vec<_> = facts.nodes.iter().map(|node| row(node, &authorities)).collect();
    nodes.sort_by(|a, b| (&a.mesh, &a.node).cmp(&(&b.mesh, &b.node)));
    Identities { authorities, nodes }
}

fn authority(facts: &Facts, mesh: &ServiceMesh) -> Authority {
    let name = mesh.name_any();
    let conditions = mesh.status.iter().flat_map(|status| &status.conditions);
    let said = conditions.into_iter().find(|condition| condition.type_ == kind::IDENTITY_READY);
    let trust = names::trust_config_map(&name);
    let trust = facts.config_maps.iter().find(|config| config.name_any() == trust);
    let text = |key: &str| trust.and_then(|trust| trust.data.as_ref()?.get(key)).map(String::as_str);
    let roots = certificates(text(names::TRUST_KEY).unwrap_or_default());
    let above = certificates(text(names::TRUST_ISSUER_KEY).unwrap_or_default());
    // The order of the text is that of signing, which the key names tell as well.
    let first = text(names::TRUST_ISSUER_KEY)
        .and_then(|text| text.split_inclusive("-----END CERTIFICATE-----").next());
    let first = first.map(certificates).unwrap_or_default().into_iter().next();
    let chain = first.map(|first| links(&first.key_id, &above)).unwrap_or_default();
    Authority {
        reason: said.map(|said| said.reason.clone()).unwrap_or_default(),
        message: said.map(|said| said.message.clone()).unwrap_or_default(),
        chain: chain.into_iter().cloned().collect(),
        roots,
        mesh: name,
    }
}

fn certificates(text: &str) -> Vec<Certificate> {
    let each = ca::union(&[text]).into_iter().map(
        |Described { fingerprint, name, key_id, issuer, not_after, pem: _ }| {
            let ends = Timestamp::try_from(not_after).unwrap_or_default();
            Certificate { fingerprint, name, key_id, expires: whole(ends), issuer, ends }
        },
    );
    each.collect()
}

/// From who signs to the root, as far as it is known.
fn links<'a>(key_id: &str, all: &'a [Certificate]) -> Vec<&'a Certificate> {
    let mut links: Vec<&Certificate> = Vec::new();
    let mut next = Some(key_id);
    while let Some(found) = next.and_then(|key_id| all.iter().find(|one| one.key_id == key_id)) {
        if links.len() >= CHAIN_MAX || links.iter().any(|link| link.key_id == found.key_id) {
            break;
        }
        links.push(found);
        next = found.issuer.as_deref();
    }
    links
}

fn row(node: &MeshNode, authorities: &[Authority]) -> Row {
    let held = node.status.as_ref().and_then(|status| status.certificates.clone()).unwrap_or_default();
    let of_mesh = authorities.iter().find(|authority| authority.mesh == node.spec.mesh);
    let known: Vec<_> = of_mesh
        .into_iter()
        .flat_map(|authority| authority.chain.iter().chain(&authority.roots))
        .cloned()
        .collect();
    let one = |HeldCertificate { name, expires, issuer }: HeldCertificate| {
        let chain: Vec<_> = links(&issuer, &known).into_iter().map(|link| link.name.clone()).collect();
        let chain =
            if chain.is_empty() && !issuer.is_empty() { vec![format!("key {issuer}")] } else { chain };
        Held { name, expires: whole(expires.0), chain, ends: expires.0 }
    };
    Row {
        node: node.name_any(),
        mesh: node.spec.mesh.clone(),
        certificates: held.count,
        expires: held.expires.as_ref().map(|expires| whole(expires.0)),
        ends: held.expires.map(|expires| expires.0),
        roots: held.roots,
        roots_problem: held.roots_problem,
        issuers: held.issuers,
        clock_skew_seconds: held.clock_skew_seconds,
        identities: held.identities.into_iter().map(one).collect(),
    }
}

fn whole(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn show(all: &Identities, format: Format, with_each: bool, now: Timestamp) -> String {
    match format {
        Format::Json => output::json(all),
        Format::Yaml => output::yaml(all),
        Format::Name => {
            output::lines(all.nodes.iter().map(|row| format!("meshnode.{}/{}", names::GROUP, row.node)))
        }
        Format::Table | Format::Wide => {
            let wide = format == Format::Wide;
            let mut parts: Vec<_> = all.authorities.iter().map(|one| about(one, now)).collect();
            if !all.nodes.is_empty() {
                parts.push(nodes(&all.nodes, wide, now));
            }
            if wide || with_each {
                parts.extend(
                    all.nodes.iter().filter(|row| !row.identities.is_empty()).map(|row| each(row, now)),
                );
            }
            parts.join("\n")
        }
    }
}

/// When something ends, in the units of ages.
fn left(ends: Timestamp, now: Timestamp) -> String {
    if ends <= now { "ended".to_owned() } else { format!("in {}", age::age(Some(now), ends)) }
}

fn about(authority: &Authority, now: Timestamp) -> String {
    let Authority { mesh, reason, message, chain, roots } = authority;
    let head = if reason.is_empty() {
        format!("authority of {mesh}: the operator has not looked at it\n")
    } else {
        format!("authority of {mesh}: {reason}: {message}\n")
    };
    let row = |role: &str, one: &Certificate| {
        vec![
            role.to_owned(),
            one.name.clone(),
            one.fingerprint.clone(),
            one.key_id.clone(),
            left(one.ends, now),
        ]
    };
    let is_root = |one: &&Certificate| roots.iter().any(|root| root.fingerprint == one.fingerprint);
    let chain_rows = chain.iter().filter(|one| !is_root(one)).enumerate();
    let mut rows: Vec<_> =
        chain_rows.map(|(i, one)| row(if i == 0 { "issuer" } else { "above" }, one)).collect();
    // Where a root signs certificates itself it is said so.
    let signs = chain.first().filter(is_root).map(|one| one.fingerprint.as_str());
    let role =
        |one: &Certificate| if signs == Some(one.fingerprint.as_str()) { "issuer, root" } else { "root" };
    rows.extend(roots.iter().map(|one| row(role(one), one)));
    if rows.is_empty() {
        head
    } else {
        head + &table::table(&["ROLE", "NAME", "FINGERPRINT", "KEY", "ENDS"], &rows)
    }
}

fn nodes(rows: &[Row], wide: bool, now: Timestamp) -> String {
    let mut header = vec!["NODE", "MESH", "CERTIFICATES", "FIRST ENDS", "ROOTS"];
    if wide {
        header.extend(["ISSUERS", "CLOCK"]);
    }
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            row.node.clone(),
            row.mesh.clone(),
            row.certificates.to_string(),
            row.ends.map(|ends| left(ends, now)).unwrap_or_default(),
            row.roots.join(",") + if row.roots_problem.is_some() { " (newer ones refused)" } else { "" },
        ];
        if wide {
            let skew = row.clock_skew_seconds.map(|skew| format!("{:+}s", -i64::from(skew)));
            cells.extend([row.issuers.join(","), skew.unwrap_or_default()]);
        }
        cells
    });
    table::table(&header, &cells.collect::<Vec<_>>())
}

fn each(row: &Row, now: Timestamp) -> String {
    let cells = row
        .identities
        .iter()
        .map(|held| vec![held.name.clone(), left(held.ends, now), held.chain.join(" < ")]);
    let list = table::table(&["NAME", "ENDS", "SIGNED BY"], &cells.collect::<Vec<_>>());
    let more = usize::try_from(row.certificates).unwrap_or(0).saturating_sub(row.identities.len());
    let more = if more > 0 { format!("and {more} more, which end later\n") } else { String::new() };
    format!("certificates of {}:\n{list}{more}", row.node)
}

#[cfg(test)]
mod tests;
