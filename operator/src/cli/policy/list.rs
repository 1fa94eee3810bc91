//! `vicino policy list`: MeshPolicies with what they are about, what their rules do, how far they are in force, and what they were against.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use vicino_crds::condition::{is_true, kind};
use vicino_crds::mesh::Tally;
use vicino_crds::policy::{PolicyAction, PolicyDenials, PolicyMode, PolicyRule};
use vicino_crds::{MeshPolicy, names};

use super::super::arguments::{Global, PolicyListOptions};
use super::super::cluster::{Cluster, Only};
use super::super::{Answer, Error, age, listing, render, table};

/// Where the API serves MeshPolicies.
pub(crate) const MESH_POLICIES: (&str, &str, &str, &str) =
    (names::GROUP, names::VERSION, "MeshPolicy", "meshpolicies");

/// One policy; what `-o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    mesh: String,
    target: String,
    targets: i32,
    rules: String,
    mode: PolicyMode,
    programmed: Option<Tally>,
    pending_nodes: Vec<String>,
    denials: Option<PolicyDenials>,
    accepted: bool,
    reason: String,
    message: String,
    #[serde(skip)]
    age: String,
    #[serde(skip)]
    last: String,
}

impl listing::Row for Row {
    const KIND: &'static str = "MeshPolicy";
    const LIST: &'static str = "policies";

    fn name(&self) -> &str {
        &self.name
    }

    /// DENIED is what the policy refused, or in audit would have.
    fn table(rows: &[Self], wide: bool, all_namespaces: bool) -> String {
        let mut header = vec!["NAME", "TARGET", "RULES", "MODE", "PROGRAMMED", "DENIED", "LAST", "AGE"];
        if wide {
            header.extend(["MESH", "TARGETS", "ACCEPTED", "REASON", "PENDING"]);
        }
        if all_namespaces {
            header.insert(0, "NAMESPACE");
        }
        let cells = rows.iter().map(|row| {
            let denials = row.denials.as_ref();
            let denied = denials.map_or(0, |denials| match row.mode {
                PolicyMode::Enforce => denials.denied,
                PolicyMode::Audit => denials.audited,
            });
            let mut cells = vec![
                row.name.clone(),
                row.target.clone(),
                row.rules.clone(),
                format!("{:?}", row.mode),
                row.programmed.as_ref().map(|tally| tally.summary.clone()).unwrap_or_default(),
                denied.to_string(),
                row.last.clone(),
                row.age.clone(),
            ];
            if wide {
                cells.extend([
                    row.mesh.clone(),
                    row.targets.to_string(),
                    if row.accepted { "True" } else { "False" }.to_owned(),
                    row.reason.clone(),
                    row.pending_nodes.join(","),
                ]);
            }
            if all_namespaces {
                cells.insert(0, row.namespace.clone());
            }
            cells
        });
        table::table(&header, &cells.collect::<Vec<_>>())
    }
}

/// Runs `vicino policy list`.
pub async fn run(global: &Global, options: &PolicyListOptions) -> Result<Answer, Error> {
    let cluster = Cluster::connect(global).await?;
    let namespace = (!global.all_namespaces).then(|| cluster.namespace.clone());
    let here = Only { namespace: namespace.as_deref(), labels: None };
    let policies: Vec<MeshPolicy> = cluster.list_as(MESH_POLICIES, here).await?;
    let nothing = || match &namespace {
        Some(namespace) => format!("no policy in namespace {namespace} (-A lists all namespaces)"),
        None => {
            "no policy at all: calls get what spec.policy.defaultAction of their ServiceMesh says".to_owned()
        }
    };
    Ok(listing::answer(global, &options.names, rows(&policies, render::now()), nothing))
}

fn rows(policies: &[MeshPolicy], now: Timestamp) -> Vec<Row> {
    let mut rows: Vec<_> = policies.iter().map(|policy| row(policy, now)).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    rows
}

fn row(policy: &MeshPolicy, now: Timestamp) -> Row {
    let status = policy.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == kind::READY);
    let last = status.denials.as_ref().map(|denials| denials.last_seen.0);
    Row {
        namespace: policy.namespace().unwrap_or_default(),
        name: policy.name_any(),
        mesh: status.mesh.unwrap_or_default(),
        target: status.target.unwrap_or_default(),
        targets: status.targets,
        rules: summary(&policy.spec.rules),
        mode: policy.spec.mode,
        programmed: status.programmed,
        pending_nodes: status.pending_nodes,
        accepted: is_true(&status.conditions, kind::ACCEPTED),
        reason: ready.map(|condition| condition.reason.clone()).unwrap_or_default(),
        message: ready.map(|condition| condition.message.clone()).unwrap_or_default(),
        age: age::age(policy.metadata.creation_timestamp.as_ref().map(|time| time.0), now),
        last: last.map_or_else(String::new, |last| age::age(Some(last), now)),
        denials: status.denials,
    }
}

/// How many rules of each action.
fn summary(rules: &[PolicyRule]) -> String {
    let count = |action| rules.iter().filter(|rule| rule.action == action).count();
    let parts = [("Deny", count(PolicyAction::Deny)), ("Allow", count(PolicyAction::Allow))];
    let parts =
        parts.iter().filter(|(_, count)| *count > 0).map(|(action, count)| format!("{count} {action}"));
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::listing::show;
    use crate::cli::output::Format;

    fn policy(name: &str, spec: &Value, status: &Value) -> MeshPolicy {
        let object = json!({
            "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshPolicy",
            "metadata": { "name": name, "namespace": "demo", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": spec, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn all() -> Vec<Row> {
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        let policies = [
            policy(
                "quotes",
                &json!({ "rules": [{ "action": "Deny" }, { "action": "Allow" }, { "action": "Deny" }] }),
                &json!({
                    "mesh": "default", "target": "quotes:80", "targets": 1, "pendingNodes": ["node3"],
                    "programmed": { "ready": 2, "total": 3, "summary": "2/3" },
                    "denials": { "denied": 41, "audited": 7, "lastSeen": "2026-01-02T00:00:00Z" },
                    "conditions": [condition("Accepted", "True", "Accepted"), condition("Ready", "False", "Programming")],
                }),
            ),
            policy(
                "closed",
                &json!({ "mode": "Audit", "rules": [{ "action": "Deny" }] }),
                &json!({
                    "target": "*", "denials": { "denied": 41, "audited": 7, "lastSeen": "2026-01-02T23:50:00Z" },
                }),
            ),
            policy("new", &json!({ "rules": [{ "action": "Allow" }] }), &json!({})),
        ];
        rows(&policies, "2026-01-03T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn policies_are_listed_with_what_they_do() {
        expect![[r#"
            NAME     TARGET      RULES             MODE      PROGRAMMED   DENIED   LAST   AGE
            closed   *           1 Deny            Audit     -            7        10m    2d
            new      -           1 Allow           Enforce   -            0        -      2d
            quotes   quotes:80   2 Deny, 1 Allow   Enforce   2/3          41       24h    2d
        "#]]
        .assert_eq(&show(&all(), Format::Table, false));
        expect![[r#"
            NAMESPACE   NAME     TARGET      RULES             MODE      PROGRAMMED   DENIED   LAST   AGE   MESH      TARGETS   ACCEPTED   REASON        PENDING
            demo        closed   *           1 Deny            Audit     -            7        10m    2d    -         0         False      -             -
            demo        new      -           1 Allow           Enforce   -            0        -      2d    -         0         False      -             -
            demo        quotes   quotes:80   2 Deny, 1 Allow   Enforce   2/3          41       24h    2d    default   1         True       Programming   node3
        "#]].assert_eq(&show(&all(), Format::Wide, true));
        expect![[r#"
            meshpolicy.vicino.dev/closed
            meshpolicy.vicino.dev/new
            meshpolicy.vicino.dev/quotes
        "#]]
        .assert_eq(&show(&all(), Format::Name, false));
        let json: Value = serde_json::from_str(&show(&all(), Format::Json, false)).unwrap();
        assert_eq!(json["policies"][2]["denials"]["denied"], 41);
        assert_eq!(json["policies"][0]["mode"], "Audit");
    }
}
