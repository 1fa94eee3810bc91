//! The roles that are shipped: nothing that operator and proxies asked for was refused, and, when all scenarios have run, everything that is granted was used.
//!
//! By the API server's audit log of the cluster, so this file comes last in the alphabet.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vicino_crds::names;
use vicino_e2e::fixture::MESH;
use vicino_e2e::workload::{EFFECT_MAX, list};
use vicino_e2e::{Fixture, mesh, scenario};

/// Name of what is left behind.
const STRAY: &str = "vicino-default-stray";

/// A role: kind, namespace (of a Role), name.
type Role = (&'static str, &'static str, &'static str);

/// Who asks, and the roles that say what for.
const SUBJECTS: [(&str, &[Role]); 2] = [
    (
        "system:serviceaccount:vicino-proxy:vicino-default",
        &[("clusterrole", "", "vicino-default"), ("role", "vicino-proxy", "vicino-default")],
    ),
    (
        "system:serviceaccount:vicino-system:vicino-operator",
        &[
            ("clusterrole", "", "vicino:operator"),
            ("role", "vicino-proxy", "vicino:operator"),
            ("role", "vicino-system", "vicino-operator"),
        ],
    ),
];

/// A verb on a resource of a group, in a namespace or (when that is empty) anywhere.
type Right = (String, String, String, String);

/// What one subject was allowed, and what it was refused.
#[derive(Default)]
struct Asked {
    allowed: BTreeSet<Right>,
    refused: BTreeSet<Right>,
}

fn asked(log: impl BufRead, subject: &str) -> Result<Asked> {
    let mut asked = Asked::default();
    for line in log.lines() {
        let line = line?;
        // The log is large, and little of it is theirs.
        if !line.contains(subject) {
            continue;
        }
        // The last line may be half-written.
        let Ok(entry) = serde_json::from_str::<Value>(&line) else { continue };
        // Other scenarios try with kubectl what a stolen token is good for.
        let is_kubectl = entry["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl/"));
        if entry["user"]["username"] != *subject || entry["objectRef"].is_null() || is_kubectl {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = &entry["objectRef"];
        let resource = match of["subresource"].as_str() {
            Some(sub) => format!("{}/{sub}", text(&of["resource"])),
            None => text(&of["resource"]),
        };
        let right = (text(&of["apiGroup"]), resource, text(&entry["verb"]), text(&of["namespace"]));
        match entry["annotations"]["authorization.k8s.io/decision"].as_str() {
            Some("allow") => {
                // Whoever applies what is not there yet needs both.
                if entry["verb"] == "patch" && entry["responseStatus"]["code"] == 201 {
                    asked.allowed.insert((
                        right.0.clone(),
                        right.1.clone(),
                        "create".into(),
                        right.3.clone(),
                    ));
                }
                asked.allowed.insert(right);
            }
            Some("forbid") => {
                asked.refused.insert(right);
            }
            _ => {}
        }
    }
    Ok(asked)
}

async fn granted(fixture: &Fixture, (kind, namespace, name): Role) -> Result<Vec<Right>> {
    let role = fixture.kubectl.run(["get", kind, name, "-n", namespace, "-o", "json"]).await?;
    let role: Value = serde_json::from_str(&role)?;
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().context("rules")? {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let verbs = texts(&rule["verbs"]).into_iter();
                rights
                    .extend(verbs.map(|verb| (group.clone(), resource.clone(), verb, namespace.to_owned())));
            }
        }
    }
    Ok(rights)
}

/// What an earlier release may have made under other names, and what is left of a node that is gone.
async fn leave_behind(fixture: &Fixture) -> Result<()> {
    let uid = mesh::mesh(fixture, MESH).await?.metadata.uid.context("uid")?;
    let here = json!({ "name": STRAY, "namespace": "vicino-proxy" });
    let everywhere = json!({ "name": STRAY });
    let role = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": STRAY });
    let labels = json!({ "stray": "stray" });
    let template = json!({
        "metadata": { "labels": labels },
        "spec": { "nodeSelector": { "no": "node" }, "containers": [{ "name": "none", "image": "none" }] },
    });
    let rbac = "rbac.authorization.k8s.io/v1";
    let objects = [
        ("v1", "ConfigMap", &here, json!({ "data": {} })),
        ("v1", "ServiceAccount", &here, json!({})),
        (rbac, "Role", &here, json!({ "rules": [] })),
        (rbac, "RoleBinding", &here, json!({ "roleRef": role("Role") })),
        (rbac, "ClusterRole", &everywhere, json!({ "rules": [] })),
        (rbac, "ClusterRoleBinding", &everywhere, json!({ "roleRef": role("ClusterRole") })),
        (
            "apps/v1",
            "DaemonSet",
            &here,
            json!({ "spec": { "selector": { "matchLabels": labels }, "template": template } }),
        ),
        ("vicino.dev/v1alpha1", "MeshNode", &everywhere, json!({ "spec": { "mesh": MESH } })),
    ];
    let mut manifests = Vec::new();
    for (version, kind, metadata, mut object) in objects {
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        object["metadata"] = metadata.clone();
        object["metadata"]["labels"] =
            json!({ names::LABEL_MANAGED_BY: names::MANAGED_BY, names::LABEL_MESH: MESH });
        object["metadata"]["ownerReferences"] =
            json!([{ "apiVersion": "vicino.dev/v1alpha1", "kind": "ServiceMesh", "name": MESH, "uid": uid }]);
        manifests.push(object);
    }
    fixture.kubectl.apply(&list(&manifests)).await?;
    fixture
        .until("what is not rendered any more is deleted", EFFECT_MAX, async || {
            let kinds = "configmaps,serviceaccounts,roles,rolebindings,daemonsets";
            let here = ["get", kinds, "-n", "vicino-proxy", "-o", "name"];
            let everywhere = ["get", "clusterroles,clusterrolebindings,meshnodes", "-o", "name"];
            let left = fixture.kubectl.run(here).await? + &fixture.kubectl.run(everywhere).await?;
            Ok(!left.contains(STRAY))
        })
        .await
}

#[test]
fn what_is_granted_is_used_and_nothing_else_is_asked_for() {
    scenario("usage", async |fixture| {
        leave_behind(fixture).await?;
        let is_whole = std::env::var_os("VICINO_E2E_WHOLE").is_some();
        // The proxies' first: what they are granted the operator has to hold, used or not.
        let (mut unused, mut used) = (Vec::new(), BTreeSet::new());
        for (subject, roles) in SUBJECTS {
            let log = std::fs::File::open(fixture.cluster.audit_log()).context("open the audit log")?;
            let Asked { allowed, refused } = asked(BufReader::new(log), subject)?;
            ensure!(!allowed.is_empty(), "{subject} has asked for nothing");
            let covers = |granted: &Right, asked: &Right| {
                (&asked.0, &asked.1, &asked.2) == (&granted.0, &granted.1, &granted.2)
                    && (granted.3.is_empty() || asked.3 == granted.3)
            };
            let mut all = Vec::new();
            for role in roles {
                all.extend(granted(fixture, *role).await?);
            }
            // What is granted is refused while its role is gone: proxies of a mesh that was deleted still say that they drain.
            let beyond: Vec<_> =
                refused.iter().filter(|right| !all.iter().any(|granted| covers(granted, right))).collect();
            ensure!(beyond.is_empty(), "{subject} asked for what it may not have: {beyond:#?}");
            used.extend(allowed);
            let never = all.iter().filter(|granted| !used.iter().any(|asked| covers(granted, asked)));
            unused.extend(never.map(|right| format!("{subject}: {right:?}")));
        }
        // One scenario alone uses some of it.
        ensure!(!is_whole || unused.is_empty(), "granted and never used: {unused:#?}");
        Ok(())
    });
}
