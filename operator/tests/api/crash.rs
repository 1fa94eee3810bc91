//! An operator that is killed after any of its writes: the next one completes what it finds, as if nothing had happened.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::cluster::{Cluster, SOON, until};
use crate::fault::{Fault, FaultProxy, Record};
use crate::operator::Operator;

/// Of the mesh and its two routes. The mesh's is written again when the DaemonSet's changes, which is not up to the operator.
const STATUSES: usize = 3;

/// What is left when the dust has settled: every object without what differs from one run to the next.
#[derive(Debug, PartialEq)]
struct Outcome {
    objects: BTreeMap<String, Value>,
    /// How often each object was written, by all operators together; a status is no object.
    writes: BTreeMap<String, usize>,
}

impl Outcome {
    async fn of(cluster: &Cluster, proxy: &FaultProxy) -> Self {
        let mesh = cluster.get("ServiceMesh", "", &cluster.name).await.unwrap();
        let same = Same { name: cluster.name.clone(), uid: mesh.metadata.uid.unwrap() };
        let objects = cluster.generated_objects().await.into_iter();
        let mut writes = BTreeMap::new();
        for Record { asked, .. } in
            proxy.log().into_iter().filter(|record| record.asked.changes_object() && record.succeeded())
        {
            let name = format!("{:?} {} {}", asked.verb, asked.resource, same.text(&asked.name));
            *writes.entry(name).or_default() += 1;
        }
        Self { objects: objects.map(|(id, object)| (same.text(&id), same.essence(object))).collect(), writes }
    }
}

/// What makes the objects of all runs the same.
struct Same {
    /// Name of the mesh and its namespace, and part of other names.
    name: String,
    /// UID of the mesh.
    uid: String,
}

impl Same {
    fn text(&self, text: &str) -> String {
        text.replace(&self.name, "shop").replace(&self.uid, "UID")
    }

    /// What an object says, besides its identity, times, who manages what, digests of names, and a status that others write.
    fn essence(&self, object: DynamicObject) -> Value {
        let mut value = serde_json::to_value(object).unwrap();
        let keep = ["name", "namespace", "labels", "annotations", "ownerReferences", "generation"];
        value["metadata"].as_object_mut().unwrap().retain(|field, _| keep.contains(&field.as_str()));
        for digests in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
            if let Some(annotations) = value.pointer_mut(digests).and_then(Value::as_object_mut) {
                for digest in annotations.values_mut() {
                    *digest = Value::Null;
                }
            }
        }
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let conditions = conditions.unwrap_or_default().into_iter().map(|mut condition| {
            condition["lastTransitionTime"] = Value::Null;
            condition
        });
        value["status"] = match value["kind"].as_str() {
            Some("MeshRoute") => json!(conditions.collect::<Vec<_>>()),
            _ => Value::Null,
        };
        serde_json::from_str(&self.text(&value.to_string())).unwrap()
    }
}

fn written(proxy: &FaultProxy) -> usize {
    proxy.count(|record| record.asked.changes() && record.succeeded())
}

/// A first convergence that nobody disturbs.
async fn undisturbed() -> Outcome {
    let cluster = Cluster::new("calm").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let _operator = Operator::launch(proxy.kubeconfig());
    until("an undisturbed operator converges", SOON, async || cluster.converged().await).await;
    Outcome::of(&cluster, &proxy).await
}

/// One whose operator is killed when the API server has carried out its first `writes`, and nothing after them. Does it
/// hear of the last one?
async fn killed(writes: usize, hears: bool) -> Outcome {
    let cluster = Cluster::new(&format!("killed-{writes}-{hears}")).await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let mut left = writes;
    proxy.script(move |asked| {
        if !asked.changes() {
            return Fault::None;
        }
        if left == 0 {
            return Fault::hang();
        }
        left -= 1;
        if left == 0 && !hears { Fault::Lose } else { Fault::None }
    });
    let operator = Operator::launch(proxy.kubeconfig());
    until(&format!("{writes} writes are answered"), SOON, async || written(&proxy) == writes).await;
    drop(operator);
    proxy.pass();
    let _next = Operator::launch(proxy.kubeconfig());
    until(&format!("the operator after one of {writes} writes converges"), SOON, async || {
        cluster.converged().await
    })
    .await;
    Outcome::of(&cluster, &proxy).await
}

#[tokio::test]
async fn an_operator_killed_after_any_write_leaves_what_the_next_one_completes() {
    let calm = undisturbed().await;
    assert_eq!(calm.objects.len(), 13, "{:?}", calm.objects.keys());
    assert_eq!(calm.writes.len(), 13, "{:?}", calm.writes);
    assert!(calm.writes.values().all(|times| *times == 1), "{:?}", calm.writes);
    let writes = calm.writes.len() + STATUSES;
    for (last, hears) in (1..=writes).flat_map(|last| [(last, true), (last, false)]) {
        assert_eq!(killed(last, hears).await, calm, "killed at write {last}, of which it heard: {hears}");
    }
}
