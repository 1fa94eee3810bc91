use std::path::PathBuf;

use expect_test::expect;

use super::super::output::Format;
use super::*;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

async fn rendered(paths: &[PathBuf], output: Format) -> Answer {
    let global = Global { output, ..Global::default() };
    let files =
        FileOptions { filename: paths.to_vec(), proxy_image: Some("registry.example/proxy:1".to_owned()) };
    run(&global, &RenderOptions { files }).await.unwrap()
}

#[tokio::test]
async fn the_demo_renders_without_a_cluster() {
    let paths = [repository("config/demo"), repository("config/samples/servicemesh.yaml")];
    let answer = rendered(&paths, Format::Name).await;
    assert!(!answer.found, "{:?}", answer.notes);
    assert_eq!(answer.notes, ["not of interest to the mesh: 4 Deployment"]);
    expect![[r"
        meshroute.vicino.dev/authors -n demo
        meshroute.vicino.dev/quotes -n demo
        meshroute.vicino.dev/ratings -n demo
        meshroute.vicino.dev/web -n demo
        serviceaccount/vicino-default -n vicino-proxy
        clusterrole.rbac.authorization.k8s.io/vicino-default
        clusterrolebinding.rbac.authorization.k8s.io/vicino-default
        role.rbac.authorization.k8s.io/vicino-default -n vicino-proxy
        rolebinding.rbac.authorization.k8s.io/vicino-default -n vicino-proxy
        configmap/vicino-default -n vicino-proxy
        configmap/vicino-default-routes-demo -n vicino-proxy
        daemonset.apps/vicino-default -n vicino-proxy
    "]]
    .assert_eq(&answer.text);
}

#[tokio::test]
async fn every_rendered_object_is_a_document_that_parses_and_the_user_s_route_is_not_among_them() {
    let paths = [repository("config/demo"), repository("config/samples")];
    let yaml = rendered(&paths, Format::Yaml).await.text;
    let json: Value = serde_json::from_str(&rendered(&paths, Format::Json).await.text).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
    assert_eq!(&documents, json["items"].as_array().unwrap());
    let is =
        |object: &&Value, name: &str| object["kind"] == "MeshRoute" && object["metadata"]["name"] == name;
    assert!(documents.iter().any(|object| is(&object, "web")));
    assert!(!documents.iter().any(|object| is(&object, "quotes")), "config/samples has a MeshRoute quotes");
    let routes = documents.iter().find(|o| o["metadata"]["name"] == "vicino-default-routes-demo").unwrap();
    let quotes = routes["data"]["quotes.yaml"].as_str().unwrap();
    assert!(
        quotes.contains("generation: 1\n") && quotes.contains("requestTimeoutMilliseconds: 2000\n"),
        "{quotes}"
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_field_and_what_would_be_right() {
    let folder = std::env::temp_dir().join(format!("vicino-render-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let wrong = "apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {name: web, namespace: demo}\nspec: {backends: [{name: wbe}]}\n---\n\
                 apiVersion: vicino.dev/v1alpha1\nkind: MeshRoute\nmetadata: {name: quotes, namespace: demo}\nspec: {rules: [{retry: {attempts: -1}}]}\n---\n\
                 {apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {vicino.dev/mesh: nope}}}\n";
    std::fs::write(folder.join("wrong.yaml"), wrong).unwrap();
    let paths = [repository("config/demo"), repository("config/samples/servicemesh.yaml"), folder.clone()];
    let answer = rendered(&paths, Format::Name).await;
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(answer.found);
    expect![[r#"
        not of interest to the mesh: 4 Deployment
        Namespace other: metadata.labels[vicino.dev/mesh]: there is no ServiceMesh "nope": create it, or label the namespace with one of "default"
        MeshRoute demo/quotes: spec.rules[0].retry.attempts: must be 1 to 5
        MeshRoute demo/web: spec.backends[0].name: there is no Service "wbe" in the namespace "demo"; its Services: "authors", "quotes", "ratings", "web""#]]
    .assert_eq(&answer.notes.join("\n"));
}
