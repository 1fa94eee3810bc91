use expect_test::expect;
use serde_json::{Value, json};

use super::*;
use crate::cli::listing::show;
use crate::cli::output::{self, Format};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn route(name: &str, programmed: &str) -> MeshRoute {
    let (ready, total) = programmed.split_once('/').unwrap();
    let tally = |summary: &str| json!({ "ready": 0, "total": 0, "summary": summary });
    object(json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshRoute",
        "metadata": { "name": name, "namespace": "demo", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": {},
        "status": {
            "mesh": "default", "protocol": "HTTP", "backends": format!("{name}:80"), "endpoints": tally("4/4"),
            "programmed": { "ready": ready.parse::<i32>().unwrap(), "total": total.parse::<i32>().unwrap(), "summary": programmed },
            "conditions": [
                { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" },
                { "type": "Ready", "status": "False", "reason": "Pending", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            ],
        },
    }))
}

fn node(name: &str, state: &str, digest: &str, rejected: &Value) -> MeshNode {
    let config = json!({ "name": "vicino-default-routes-demo", "digest": digest, "rejected": rejected });
    object(json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshNode", "metadata": { "name": name }, "spec": { "mesh": "default" },
        "status": { "proxy": { "pod": "p", "version": "1", "contract": 1, "state": state }, "configs": [config] },
    }))
}

fn facts() -> Facts {
    let config = json!({
        "metadata": {
            "name": "vicino-default-routes-demo", "annotations": { "vicino.dev/digest": "new" },
            "labels": { "vicino.dev/mesh": "default", "vicino.dev/config": "routes", "vicino.dev/routes-namespace": "demo" },
        },
        "data": { "web.yaml": "", "quotes.yaml": "" },
    });
    Facts {
        routes: vec![route("web", "1/3"), route("quotes", "2/3")],
        nodes: vec![
            node(
                "node3",
                "Ready",
                "new",
                &json!([{ "key": "web.yaml", "message": "ports[0].port: must be 1 to 65535" }]),
            ),
            node("node1", "Ready", "new", &json!([])),
            node("node2", "Ready", "old", &json!([])),
            node("node4", "Starting", "new", &json!([])),
        ],
        config_maps: vec![object(config)],
    }
}

fn shown(format: Format, all: bool) -> String {
    show(&rows(&facts(), "2026-01-01T00:02:00Z".parse().unwrap()), format, all)
}

#[test]
fn the_table_is_kubectls_and_wide_adds_the_nodes() {
    expect![[r"
        NAME     MESH      PROTOCOL   BACKENDS    ENDPOINTS   PROGRAMMED   AGE
        quotes   default   HTTP       quotes:80   4/4         2/3          2m
        web      default   HTTP       web:80      4/4         1/3          2m
    "]]
    .assert_eq(&shown(Format::Table, false));
    expect![[r"
        NAMESPACE   NAME     MESH      PROTOCOL   BACKENDS    ENDPOINTS   PROGRAMMED   AGE   ACCEPTED   REASON    NODES
        demo        quotes   default   HTTP       quotes:80   4/4         2/3          2m    True       Pending   node1,node3,node2(pending),node4(notReady)
        demo        web      default   HTTP       web:80      4/4         1/3          2m    True       Pending   node1,node2(pending),node3(rejected),node4(notReady)
    "]]
    .assert_eq(&shown(Format::Wide, true));
    assert_eq!(shown(Format::Name, false), "meshroute.vicino.dev/quotes\nmeshroute.vicino.dev/web\n");
}

#[test]
fn programs_see_why_a_node_does_not_serve_a_route() {
    let value: Value = serde_json::from_str(&shown(Format::Json, false)).unwrap();
    expect![[r#"
        {
          "accepted": true,
          "backends": "web:80",
          "endpoints": {
            "ready": 0,
            "summary": "4/4",
            "total": 0
          },
          "mesh": "default",
          "message": "m",
          "name": "web",
          "namespace": "demo",
          "nodes": [
            {
              "node": "node1",
              "state": "programmed"
            },
            {
              "node": "node2",
              "state": "pending"
            },
            {
              "message": "ports[0].port: must be 1 to 65535",
              "node": "node3",
              "state": "rejected"
            },
            {
              "node": "node4",
              "state": "notReady"
            }
          ],
          "programmed": {
            "ready": 1,
            "summary": "1/3",
            "total": 3
          },
          "protocol": "HTTP",
          "reason": "Pending"
        }
    "#]]
    .assert_eq(&output::json(&value["routes"][1]));
}

#[test]
fn many_nodes_are_counted_and_only_those_that_lag_are_named() {
    let mut facts = facts();
    facts.nodes.extend((10..40).map(|n| node(&format!("node{n}"), "Ready", "new", &json!([]))));
    let rows = rows(&facts, Timestamp::UNIX_EPOCH);
    assert_eq!(named(&rows[1].nodes), "31 of 34,node2(pending),node3(rejected),node4(notReady)");
}
