//! What kubectl shows, and what is refused, as people and tools see it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vicino_cluster::images;
use vicino_e2e::caller::Caller;
use vicino_e2e::kubectl::Kubectl;
use vicino_e2e::mesh::{self, mesh_says, route_says};
use vicino_e2e::workload::{App, EFFECT_MAX, EFFECT_SECONDS_MAX, Space, list, service};
use vicino_e2e::{Fixture, fixture, scenario};

#[test]
fn kubectl_shows_what_is_going_on() {
    scenario("columns", async |fixture| {
        let space = Space::new(fixture, "columns", &[App::new("quotes", 4)]).await?;
        fixture
            .until("4/4 endpoints and 3/3 nodes", EFFECT_MAX, async || {
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
            head(&wide) == "NAME MESH PROTOCOL BACKENDS ENDPOINTS PROGRAMMED ACCEPTED REASON PLAIN AGE",
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

const CANARY: &str = "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: quotes}
spec:
  concurrency: {perPod: 5}
  rules: [{name: canary, backends: [{name: quotes-v2}]}]
---
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {name: quotes-v2}
spec: {concurrency: {perPod: 5}}
";

#[test]
fn a_node_explains_a_call_by_what_it_serves() {
    scenario("explain", async |fixture| {
        let nodes = fixture.nodes();
        let (here, there) = (&nodes[0], &nodes[1]);
        let apps = [App::new("quotes", 1).on(there), App::new("quotes-v2", 1).on(here)];
        let space = Space::new(fixture, "explain", &apps).await?;
        let vicino = vicino(fixture.cluster.kubeconfig_path())?;
        let caller = space.caller(here);
        let from = format!("{}/{}", space.name, caller.pod);
        let asked = async |node: &str| -> Result<Value> {
            let call =
                ["explain", "--node", node, "--from", &from, "http://quotes/slow?ms=3000", "-o", "json"];
            serde_json::from_str(&vicino.run(call).await?).context("what `vicino explain` prints")
        };
        let before = asked(here).await?;
        ensure!(before["rule"].is_null() && before["backends"][0]["service"] == "quotes", "{before}");
        let told = before["node"]["caller"].as_str().unwrap_or_default();
        ensure!(told.contains(&format!("the pod {from} at {}", caller.ip)), "{before}");
        space.apply(CANARY).await?;
        for name in ["quotes", "quotes-v2"] {
            mesh::programmed(fixture, &space.name, name).await?;
        }
        let after = asked(here).await?;
        ensure!(
            after["rule"]["name"] == "canary" && after["backends"][0]["service"] == "quotes-v2",
            "{after}"
        );
        let in_flight = |explained: &Value| explained["node"]["backends"][0]["pods"][0]["inFlight"].as_u64();
        ensure!(in_flight(&after) == Some(0), "{after}");
        let elsewhere = asked(there).await?;
        ensure!(elsewhere["node"]["backends"][0]["pods"] == json!([]), "the pod is not there: {elsewhere}");
        let busy = fixture
            .until("a call in flight", EFFECT_MAX, async || Ok(in_flight(&asked(here).await?) == Some(1)));
        tokio::select! {
            seen = busy => seen?,
            failed = slow_calls(caller) => failed?,
        }
        fixture
            .until("no call in flight", EFFECT_MAX, async || Ok(in_flight(&asked(here).await?) == Some(0)))
            .await?;
        who_may_not_is_told_what_to_ask_for(&space, (&vicino, here)).await?;
        space.leave().await
    });
}

/// One after the other, without end.
async fn slow_calls(caller: &Caller) -> Result<()> {
    loop {
        let answer = caller.get("http://quotes/slow?ms=3000").await?;
        ensure!(answer.status() == 200, "{answer:?}");
    }
}

/// Without a right, with it, and of a node that is not there.
async fn who_may_not_is_told_what_to_ask_for(
    space: &Space<'_>,
    (vicino, node): (&Kubectl, &str),
) -> Result<()> {
    let fixture = space.fixture;
    let account = format!("{}:reader", space.name);
    space.kubectl(&["create", "serviceaccount", "reader"]).await?;
    let binding =
        ["create", "clusterrolebinding", &space.name, "--clusterrole=view", "--serviceaccount", &account];
    fixture.kubectl.run(binding).await?;
    let token = space.kubectl(&["create", "token", "reader"]).await?;
    let config = fixture.kubectl.run(["config", "view", "--raw", "--minify", "-o", "json"]).await?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let path = fixture::output_dir().join("reader.kubeconfig");
    std::fs::write(&path, config.to_string())?;
    let reader = self::vicino(path.clone())?;
    let call = ["explain", "--node", node, "http://quotes/"];
    // Until the API server knows of the first binding, it is other things that the reader may not.
    let told = fixture.until("the reader to be told what to ask for", EFFECT_MAX, async || {
        let refused = reader.output(call).await?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(2) && said.contains("vicino:ask-proxies"), "{said}");
        Ok(true)
    });
    told.await?;
    let role =
        ["-n", "vicino-proxy", "create", "rolebinding", &space.name, "--clusterrole=vicino:ask-proxies"];
    fixture.kubectl.run(role.into_iter().chain(["--serviceaccount", &account])).await?;
    fixture
        .until("the reader may ask", EFFECT_MAX, async || Ok(reader.output(call).await?.status.success()))
        .await?;
    let nowhere = vicino.output(["explain", "--node", "nowhere", "http://quotes/"]).await?;
    let said = String::from_utf8_lossy(&nowhere.stderr);
    ensure!(nowhere.status.code() == Some(2) && said.contains("there is no node \"nowhere\""), "{said}");
    fixture.kubectl.run(["delete", "clusterrolebinding", &space.name]).await?;
    fixture.kubectl.run(["-n", "vicino-proxy", "delete", "rolebinding", &space.name]).await?;
    std::fs::remove_file(path).context("remove the reader's kubeconfig")
}

/// The command line, of the same build as the images.
fn vicino(kubeconfig: PathBuf) -> Result<Kubectl> {
    Ok(Kubectl { program: images::program("vicino")?, kubeconfig: Some(kubeconfig) })
}

async fn meshes_and_nodes(fixture: &Fixture) -> Result<()> {
    let shown = fixture.until("a mesh and nodes that are well", EFFECT_MAX, async || {
        let meshes = fixture.kubectl.run(["get", "mesh"]).await?;
        ensure!(head(&meshes) == "NAME READY PROXIES SERVICES PROGRAMMED AGE", "{meshes}");
        let mesh = row(&meshes, "default");
        ensure!(mesh.get(1..3) == Some(&["True", "3/3"].map(str::to_owned)), "{meshes}");
        let nodes = fixture.kubectl.run(["get", "mnode"]).await?;
        ensure!(head(&nodes) == "NAME MESH PROXY VERSION ROUTES REJECTED AGE", "{nodes}");
        for node in fixture.nodes() {
            let row = row(&nodes, &node);
            ensure!(row.len() == 7 && row[1..3] == ["default", "Ready"] && row[5] == "0", "{nodes}");
        }
        Ok(true)
    });
    shown.await
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
            caller.calls_until("http://quotes/", EFFECT_MAX, from_authors).await?;
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
    fixture.kubectl.run(["delete", "servicemesh", "second", EFFECT_SECONDS_MAX]).await.map(drop)
}
