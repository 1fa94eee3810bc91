//! What kubectl shows, and what is refused, as people and tools see it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vicino_e2e::Fixture;
use vicino_e2e::mesh::{self, mesh_says, route_says};
use vicino_e2e::scenario;
use vicino_e2e::workload::{self, App, Space, list, service};

#[test]
fn kubectl_shows_what_is_going_on() {
    scenario("columns", async |fixture| {
        let space = Space::new(fixture, "columns", &[App::new("quotes", 4)]).await?;
        let until = Duration::from_secs(30);
        fixture
            .until("4/4 endpoints and 3/3 nodes", until, async || {
                let table = space.kubectl(&["get", "meshroutes"]).await?;
                Ok(row(&table, "quotes").starts_with(
                    &["quotes", "default", "HTTP", "quotes:80", "4/4", "3/3"].map(str::to_owned),
                ))
            })
            .await?;
        let table = space.kubectl(&["get", "meshroutes"]).await?;
        ensure!(head(&table) == "NAME MESH PROTOCOL BACKENDS ENDPOINTS PROGRAMMED AGE", "{table}");
        ensure!(row(&table, "quotes").len() == 7, "no empty cell: {table}");
        let wide = space.kubectl(&["get", "mroute", "-o", "wide"]).await?;
        ensure!(
            head(&wide) == "NAME MESH PROTOCOL BACKENDS ENDPOINTS PROGRAMMED ACCEPTED REASON AGE",
            "{wide}"
        );
        ensure!(row(&wide, "quotes")[6] == "True", "{wide}");
        let everywhere = fixture.kubectl.run(["get", "meshroutes", "-A"]).await?;
        ensure!(head(&everywhere).starts_with("NAMESPACE NAME MESH"), "{everywhere}");
        meshes_and_nodes(fixture).await?;
        let category = fixture.kubectl.run(["get", "vicino", "-A", "-o", "name"]).await?;
        for kind in
            ["servicemesh.vicino.dev/default", "meshroute.vicino.dev/quotes", "meshnode.vicino.dev/node1"]
        {
            ensure!(
                category.lines().any(|line| line == kind),
                "`kubectl get vicino` lacks {kind}: {category}"
            );
        }
        every_field_is_explained(fixture).await?;
        space.leave().await
    });
}

async fn meshes_and_nodes(fixture: &Fixture) -> Result<()> {
    let meshes = fixture.kubectl.run(["get", "mesh"]).await?;
    ensure!(head(&meshes) == "NAME READY PROXIES SERVICES PROGRAMMED AGE", "{meshes}");
    ensure!(row(&meshes, "default")[1..3] == ["True", "3/3"], "{meshes}");
    let nodes = fixture.kubectl.run(["get", "mnode"]).await?;
    ensure!(head(&nodes) == "NAME MESH PROXY VERSION ROUTES REJECTED AGE", "{nodes}");
    for node in fixture.nodes() {
        let row = row(&nodes, &node);
        ensure!(row.len() == 7 && row[1..3] == ["default", "Ready"] && row[5] == "0", "{nodes}");
    }
    Ok(())
}

/// No field of a spec without a sentence about it.
async fn every_field_is_explained(fixture: &Fixture) -> Result<()> {
    let kinds =
        ["servicemesh.spec", "servicemesh.spec.proxy", "servicemesh.spec.defaults", "servicemesh.status"];
    let more = [
        "meshroute.spec",
        "meshroute.spec.backends",
        "meshroute.spec.timeouts",
        "meshnode.spec",
        "meshnode.status",
    ];
    for kind in kinds.into_iter().chain(more) {
        let text = fixture.kubectl.run(["explain", kind, "--recursive=false"]).await?;
        let (_, fields) = text.split_once("FIELDS:").with_context(|| text.clone())?;
        // A field is indented by two spaces, what is said about it by four.
        let lines: Vec<&str> = fields.lines().collect();
        let fields =
            lines.iter().enumerate().filter(|(_, line)| line.starts_with("  ") && line.contains('\t'));
        for (place, field) in fields.filter(|(_, line)| !line.starts_with("   ")) {
            let about = lines[place + 1..].iter().find(|line| !line.trim().starts_with("enum:"));
            let described =
                about.is_some_and(|line| line.starts_with("    ") && !line.contains("<no description>"));
            ensure!(described, "{kind} has a field without a description: {field}");
        }
        ensure!(!text.contains("Auto-generated"), "{text}");
    }
    Ok(())
}

fn head(table: &str) -> String {
    let words: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

fn row(table: &str, name: &str) -> Vec<String> {
    let mut rows = table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.find(|row| row.first().is_some_and(|first| first == name)).unwrap_or_default()
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: vicino.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn the_schema_refuses_with_a_message_that_says_what_would_be_right() {
    scenario("schema", async |fixture| {
        let long = "a".repeat(41);
        for (manifest, parts) in [
            (object("ServiceMesh", &long, "{}"), &["at most 40 lower-case letters"][..]),
            (object("ServiceMesh", "a.b", "{}"), &["at most 40 lower-case letters"]),
            (object("ServiceMesh", "bad", "{proxy: {workers: 65}}"), &["spec.proxy.workers", "64"]),
            (object("ServiceMesh", "bad", "{proxy: {drainSeconds: 0}}"), &["spec.proxy.drainSeconds", "1"]),
            (
                object("ServiceMesh", "bad", "{proxy: {logLevel: Loud}}"),
                &["spec.proxy.logLevel", "\"Debug\""],
            ),
            (
                object("ServiceMesh", "bad", "{interception: {mode: Magic}}"),
                &["spec.interception.mode", "\"Explicit\""],
            ),
            (
                object("ServiceMesh", "bad", "{proxy: {nodeSelector: {kubernetes.io/os: windows}}}"),
                &["spec.proxy.nodeSelector", "kubernetes.io/os", "linux"],
            ),
            (object("ServiceMesh", "bad", "{proxyy: {}}"), &["proxyy"]),
            (
                object("MeshRoute", "bad", "{backends: [{name: a, weight: 0}]}"),
                &["at least one", "weight above 0"],
            ),
            (object("MeshRoute", "bad", "{backends: [{name: Web_1}]}"), &["spec.backends[0].name"]),
            (
                object("MeshRoute", "bad", "{backends: [{name: a, port: 70000}]}"),
                &["spec.backends[0].port", "65535"],
            ),
            (object("MeshRoute", "bad", "{requeues: 6}"), &["spec.requeues", "5"]),
            (
                object("MeshRoute", "bad", "{timeouts: {connectMilliseconds: 0}}"),
                &["connectMilliseconds", "1"],
            ),
            (object("MeshRoute", "bad", "{timeout: 5s}"), &["timeout"]),
        ] {
            let said = fixture.kubectl.apply_refused(&manifest).await?;
            for part in parts {
                ensure!(said.contains(part), "{manifest}should be refused with {part:?}, not: {said}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_only_the_cluster_can_tell_is_a_condition_and_the_rest_goes_on() {
    scenario("conditions", async |fixture| {
        let space =
            Space::new(fixture, "conditions", &[App::new("quotes", 2), App::new("authors", 2)]).await?;
        let namespace = space.name.clone();
        let route = |spec: &str| object("MeshRoute", "quotes", spec);
        for (spec, parts) in [
            ("{backends: [{name: authors}, {name: nowhere}]}", ["spec.backends[1].name", "nowhere"]),
            ("{backends: [{name: authors, port: 81}]}", ["spec.backends[0].port", "81"]),
        ] {
            space.apply(&route(spec)).await?;
            let said = route_says(fixture, (&namespace, "quotes"), ("Accepted", "False"), parts[0]).await?;
            ensure!(said.message.contains(parts[1]), "{said:?}");
            route_says(fixture, (&namespace, "quotes"), ("Ready", "False"), "").await?;
            others_go_on(&space).await?;
        }
        space.apply(&route("{backends: [{name: authors}]}")).await?;
        mesh::programmed(fixture, &namespace, "quotes").await?;
        for caller in &space.callers {
            let from_authors = |answer: &Result<hyper::Response<_>, _>| from(answer, "authors");
            caller.calls_until("http://quotes/", workload::EFFECT_MAX, from_authors).await?;
        }
        two_meshes_that_select_one_node(fixture, &space).await?;
        space.leave().await
    });
}

fn from(
    answer: &Result<hyper::Response<hyper::body::Bytes>, vicino_sample::client::CallError>,
    app: &str,
) -> bool {
    let pod = answer.as_ref().ok().and_then(|a| a.headers().get("x-pod")).and_then(|pod| pod.to_str().ok());
    pod.is_some_and(|pod| pod.starts_with(app))
}

/// While one route is wrong, calls to others are answered, and a new Service gets a route that is Programmed.
async fn others_go_on(space: &Space<'_>) -> Result<()> {
    let caller = &space.callers[0];
    let answer = caller.get("http://authors/").await?;
    ensure!(answer.status() == 200, "{answer:?}");
    space.kubectl(&["delete", "service", "fresh", "--ignore-not-found"]).await?;
    space.apply(&list(&[service("fresh")])).await?;
    mesh::programmed(space.fixture, &space.name, "fresh").await
}

/// A node belongs to one mesh: the younger one says so, the older one goes on.
async fn two_meshes_that_select_one_node(fixture: &Fixture, space: &Space<'_>) -> Result<()> {
    fixture.kubectl.apply(&object("ServiceMesh", "second", "{}")).await?;
    mesh_says(fixture, "second", "Ready", "False", "default").await?;
    mesh_says(fixture, "default", "Ready", "True", "").await?;
    let answer = space.callers[0].get("http://authors/").await?;
    ensure!(answer.status() == 200, "{answer:?}");
    fixture.kubectl.run(["delete", "servicemesh", "second", "--timeout=60s"]).await.map(drop)
}
