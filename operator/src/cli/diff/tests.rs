use std::path::PathBuf;

use expect_test::expect;

use super::super::output;
use super::super::render::now;
use super::*;
use crate::world::World;

/// The cluster that the operator leaves behind for the demo.
fn steady() -> Live {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files =
        manifests::read(&[root.join("config/demo"), root.join("config/samples/servicemesh.yaml")]).unwrap();
    let proxies = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "vicino-proxy" } });
    files.push(Manifest { source: String::new(), object: proxies });
    for manifest in &mut files {
        manifest.object["metadata"]["uid"] = json!("uid-of-a-live-object");
    }
    let mut live = Live { inputs: manifests::overlay(Vec::new(), files), written: Vec::new() };
    let (mut world, _): (World, _) = manifests::world(Settings::default(), live.inputs.clone()).unwrap();
    let plan = settle(&mut world, now()).plan;
    for (id, object) in &plan.objects {
        let mut manifest = object.manifest();
        manifest["metadata"]["uid"] = json!("uid-of-a-live-object");
        manifest["metadata"]["generation"] = json!(1);
        manifest["metadata"]["managedFields"] = json!([{ "manager": "vicino-operator", "operation": "Apply", "fieldsV1": { "f:metadata": { "f:labels": {} } } }]);
        if id.kind == Kind::MeshRoute {
            live.inputs.push(Manifest { source: "cluster".to_owned(), object: manifest });
        } else {
            live.written.push((id.kind, serde_json::from_value(manifest).unwrap()));
        }
    }
    live
}

fn change(text: &str) -> Vec<Manifest> {
    let object = serde_saphyr::from_str(text).unwrap();
    vec![Manifest { source: "change.yaml".to_owned(), object }]
}

#[test]
fn a_steady_cluster_has_no_difference() {
    let Compared { differences, notes, .. } = compare(Settings::default(), steady(), Vec::new()).unwrap();
    assert_eq!((show(&differences, Format::Table).as_str(), notes), ("", Vec::new()));
    assert_eq!(show(&differences, Format::Json), output::json(&json!({ "differences": [] })));
}

#[test]
fn a_route_to_be_applied_shows_what_proxies_would_be_told() {
    let files = change(
        "{apiVersion: vicino.dev/v1alpha1, kind: MeshRoute, metadata: {name: web, namespace: demo}, spec: {requeues: 3}}",
    );
    let Compared { differences, notes, .. } = compare(Settings::default(), steady(), files).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(
        show(&differences, Format::Name),
        "meshroute.vicino.dev/web -n demo\nconfigmap/vicino-default-routes-demo -n vicino-proxy\n"
    );
    let text = show(&differences[1..], Format::Table);
    let changed = output::lines(text.lines().filter(|line| line.starts_with(['+', '-'])).map(str::to_owned));
    expect![[r"
        --- live/ConfigMap/vicino-proxy/vicino-default-routes-demo
        +++ rendered/ConfigMap/vicino-proxy/vicino-default-routes-demo
        -    generation: 1
        +    generation: 2
        -    requeues: 1
        +    requeues: 3
        -    vicino.dev/digest: DIGEST
        +    vicino.dev/digest: DIGEST
    "]]
    .assert_eq(&without_digests(&changed));
}

#[test]
fn a_new_service_and_a_namespace_that_leaves() {
    let files = change(
        "{apiVersion: v1, kind: Service, metadata: {name: new, namespace: demo}, spec: {ports: [{port: 80}]}}",
    );
    let Compared { differences, .. } = compare(Settings::default(), steady(), files).unwrap();
    let actions = |differences: &[Difference]| -> Vec<String> {
        differences.iter().map(|d| format!("{} {}", d.action, d.id)).collect()
    };
    assert_eq!(
        actions(&differences),
        ["create MeshRoute demo/new", "change ConfigMap vicino-proxy/vicino-default-routes-demo"]
    );
    assert!(show(&differences, Format::Table).contains("+++ rendered/MeshRoute/demo/new\n"));

    let files =
        change("{apiVersion: v1, kind: Namespace, metadata: {name: demo, labels: {vicino.dev/mesh: null}}}");
    let Compared { differences, .. } = compare(Settings::default(), steady(), files).unwrap();
    let gone = ["authors", "quotes", "ratings", "web"].map(|route| format!("delete MeshRoute demo/{route}"));
    assert_eq!(actions(&differences)[..4], gone);
    assert_eq!(actions(&differences)[4..], ["delete ConfigMap vicino-proxy/vicino-default-routes-demo"]);
}

#[test]
fn what_would_not_be_accepted_is_said() {
    let files = change(
        "{apiVersion: vicino.dev/v1alpha1, kind: MeshRoute, metadata: {name: web, namespace: demo}, spec: {backends: [{name: wbe}]}}",
    );
    let Compared { notes, worse, .. } = compare(Settings::default(), steady(), files.clone()).unwrap();
    assert!(worse, "it is accepted now");
    let mut live = steady();
    live.inputs = manifests::overlay(live.inputs, files.clone());
    assert!(!compare(Settings::default(), live, files).unwrap().worse, "it is wrong already");
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("MeshRoute demo/web: spec.backends[0].name: there is no Service \"wbe\""),
        "{notes:?}"
    );
}

fn without_digests(text: &str) -> String {
    let replace = |line: &str| match line.split_once("vicino.dev/digest: ") {
        Some((head, _)) => format!("{head}vicino.dev/digest: DIGEST"),
        None => line.to_owned(),
    };
    output::lines(text.lines().map(replace))
}
