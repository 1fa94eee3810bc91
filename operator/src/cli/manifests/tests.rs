use expect_test::expect;

use super::super::output;
use super::*;

fn objects(text: &str) -> Vec<Manifest> {
    parse("test.yaml", text).unwrap()
}

#[test]
fn documents_lists_and_json_are_taken_apart() {
    let yaml = "---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
                ---\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n---\n{apiVersion: v1, kind: Service, metadata: {name: b}}\n";
    let names = |text: &str| -> Vec<String> {
        objects(text).iter().map(|m| m.object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(yaml), ["a", "b"]);
    assert_eq!(names(r#"{"kind":"ServiceList","items":[{"metadata":{"name":"c"}}]}"#), ["c"]);
}

#[test]
fn a_wrong_file_is_named_with_the_place_in_it() {
    let error = parse("config/web.yaml", "apiVersion: v1\nkind: [Service\n").unwrap_err().to_string();
    assert!(
        error.starts_with("config/web.yaml is not valid: ") && error.contains("line 2 column 7"),
        "{error}"
    );
    let error = parse("config/web.json", "{\"kind\": }").unwrap_err().to_string();
    assert!(error.starts_with("config/web.json is not valid: ") && error.contains("line 1"), "{error}");
}

#[test]
fn files_of_folders_come_by_name_and_a_folder_without_any_is_said() {
    let folder = std::env::temp_dir().join(format!("vicino-manifests-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("b")).unwrap();
    let object = |name: &str| format!("{{\"kind\": \"X\", \"metadata\": {{\"name\": \"{name}\"}}}}");
    for (file, name) in [("c.yml", "3"), ("a.yaml", "1"), ("b/x.json", "2"), ("README.md", "4")] {
        std::fs::write(folder.join(file), object(name)).unwrap();
    }
    let found = read(std::slice::from_ref(&folder)).unwrap();
    let names: Vec<_> = found.iter().map(|m| m.object["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["1", "2", "3"]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(read(&[folder]), Err(ManifestError::Read { .. })));
}

#[test]
fn what_lies_beside_manifests_for_others_is_no_object() {
    let folder = std::env::temp_dir().join(format!("vicino-beside-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = [
        ("kustomization.yaml", "resources: [web.yaml]\n"),
        ("test.yaml", "apiVersion: vicino.dev/v1alpha1\nkind: PolicyTest\ncases: []\n"),
        ("web.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n"),
    ];
    for (file, text) in files {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let found = read(std::slice::from_ref(&folder)).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let (world, ignored) = world(Settings::default(), overlay(Vec::new(), found)).unwrap();
    assert_eq!((world.services.len(), ignored), (1, BTreeMap::new()));
}

#[test]
fn applying_a_file_replaces_the_spec_of_our_kinds_and_merges_into_others() {
    let live = objects(
        "apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {name: web, namespace: demo, uid: u, generation: 3, labels: {a: b}}\n\
         spec: {requeues: 2}\nstatus: {mesh: default}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: demo}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n",
    );
    let mut files = objects(
        "apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {name: web}\nspec: {backends: [{name: web-2}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 81}]}\n---\n\
         apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {name: new}\n",
    );
    place(&mut files, "demo");
    let merged: Vec<Value> = overlay(live, files).into_iter().map(|m| m.object).collect();
    expect![[r#"
        - apiVersion: vicino.dev/v1alpha1
          kind: MeshRoute
          metadata:
            generation: 4
            labels:
              a: b
            managedFields:
            - fieldsV1:
                "f:spec": {}
              manager: vicino-diff
              operation: Apply
            name: web
            namespace: demo
            uid: u
          spec:
            backends:
            - name: web-2
          status:
            mesh: default
        - apiVersion: v1
          kind: Service
          metadata:
            name: web
            namespace: demo
          spec:
            clusterIP: "10.0.0.1"
            ports:
            - port: 81
        - apiVersion: vicino.dev/v1alpha1
          kind: ServiceMesh
          metadata:
            generation: 1
            name: new
    "#]]
    .assert_eq(&output::yaml(&merged));
}

#[test]
fn applying_the_same_spec_makes_no_new_generation() {
    let text = "apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {name: a, generation: 7}\nspec: {proxy: {workers: 2}}\n";
    let merged = overlay(objects(text), objects(&text.replace(", generation: 7", "")));
    assert_eq!(merged[0].object["metadata"]["generation"], 7);
}

#[test]
fn what_the_schema_adds_to_a_file_makes_no_new_generation() {
    let route = |spec: &str| {
        format!(
            "apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {{name: a, namespace: n, generation: 7}}\nspec: {spec}\n"
        )
    };
    for (live, file, generation) in [
        ("{backends: [{name: a, weight: 1}]}", "{backends: [{name: a}]}", 7),
        ("{backends: [{name: a, weight: 2}]}", "{backends: [{name: a}]}", 8),
        ("{}", "{backends: []}", 7),
        ("{}", "{unknown: 1}", 8),
    ] {
        let file = route(file).replace(", generation: 7", "");
        let merged = overlay(objects(&route(live)), objects(&file));
        assert_eq!(merged[0].object["metadata"]["generation"], generation, "{live} {file}");
    }
}

#[test]
fn what_the_pipeline_does_not_look_at_is_counted() {
    let text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n";
    let (world, ignored) = world(Settings::default(), objects(text)).unwrap();
    assert_eq!((world.namespaces.len(), ignored), (1, [("Deployment".to_owned(), 1)].into()));
    let error = super::world(Settings::default(), objects("{kind: Service}\n")).unwrap_err();
    assert_eq!(error.to_string(), "test.yaml");
}
