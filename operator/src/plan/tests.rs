//! Properties of the pure pipeline as a whole.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use vicino_crds::names;

use crate::apply::Change;
use crate::fixture::{SHOP, converge, load, manifests, planned, world};
use crate::world::{Body, Key, Kind, World};

/// Services, MeshRoutes, pods and nodes with few names, so that they meet.
fn objects() -> impl Strategy<Value = Vec<Value>> {
    let name = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let namespace = || prop::sample::select(vec!["shop", "bank", "plain"]);
    let service = (name(), namespace(), 0..4u8, any::<bool>()).prop_map(|(name, namespace, ports, skip)| {
        let ports: Vec<_> = (0..ports).map(|i| json!({"name": format!("p{i}"), "port": 80 + u16::from(i)})).collect();
        let kind = if ports.is_empty() { "ExternalName" } else { "ClusterIP" };
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "annotations": {"vicino.dev/skip": skip.to_string()}},
            "spec": {"type": kind, "ports": ports}})
    });
    let route = (name(), namespace(), name(), 80..84u16).prop_map(|(name, namespace, backend, port)| {
        json!({"apiVersion": "vicino.dev/v1alpha1", "kind": "MeshRoute",
            "metadata": {"name": name, "namespace": namespace, "generation": 3},
            "spec": {"backends": [{"name": backend, "port": port}]}})
    });
    let pod = (name(), namespace(), prop::sample::select(vec!["node1", "node2", "node3"])).prop_map(
        |(name, namespace, node)| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}.{name}")},
                "spec": {"nodeName": node, "serviceAccountName": "default", "containers": []},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.1.2.3"}]}})
        },
    );
    let node = prop::sample::select(vec!["node1", "node3"]).prop_map(|name| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}})
    });
    let mesh = prop::sample::select(vec!["default", "second"]).prop_map(|mesh| {
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "bank", "labels": {names::LABEL_MESH: mesh}}})
    });
    let any = prop_oneof![4 => service, 2 => route, 3 => pod, 1 => node, 1 => mesh];
    // One object for each name: the later of two would win, and which is later must not matter here.
    prop::collection::vec(any, 0..30).prop_map(|all| {
        let mut seen = BTreeSet::new();
        let identity = |o: &Value| {
            (o["kind"].to_string(), o["metadata"]["namespace"].to_string(), o["metadata"]["name"].to_string())
        };
        all.into_iter().filter(|object| seen.insert(identity(object))).collect()
    })
}

fn built(objects: &[Value]) -> World {
    let mut world = World::default();
    for object in objects {
        world.load(object.clone()).unwrap();
    }
    world
}

fn with_shop(objects: Vec<Value>) -> Vec<Value> {
    let mut all = manifests(SHOP);
    let taken: BTreeSet<_> =
        objects.iter().map(|o| (o["kind"].to_string(), o["metadata"]["name"].to_string())).collect();
    all.retain(|o| !taken.contains(&(o["kind"].to_string(), o["metadata"]["name"].to_string())));
    all.extend(objects);
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_does_not_matter(
        (there, shuffled) in objects().prop_map(with_shop).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
    ) {
        let (one, other) = (planned(&built(&there)), planned(&built(&shuffled)));
        prop_assert_eq!(&one.objects, &other.objects);
        prop_assert_eq!(&one.changes, &other.changes);
        prop_assert_eq!(&one.statuses.routes, &other.statuses.routes);
    }

    #[test]
    fn what_was_written_is_not_written_again(objects in objects()) {
        let mut world = built(&with_shop(objects));
        let plan = converge(&mut world);
        prop_assert_eq!(&plan.changes, &Vec::new());
        for (key, status) in &plan.statuses.routes {
            prop_assert_eq!(status, &world.routes.get(key).unwrap().value.status);
        }
    }

    #[test]
    fn every_service_that_is_carried_has_one_route_and_at_most_one_key(objects in objects()) {
        let mut world = built(&with_shop(objects));
        let plan = converge(&mut world);
        prop_assert!(plan.faults.is_empty());
        for (key, row) in world.services.iter() {
            let namespace = world.namespaces.get(&Key::cluster(&key.namespace));
            let meshed = namespace.and_then(|n| n.value.mesh.as_deref()) == Some("default")
                && !row.value.skip
                && row.value.external_name.is_none();
            let routes = plan.objects.keys().filter(|id| id.kind == Kind::MeshRoute && id.key == *key).count();
            prop_assert_eq!(routes, usize::from(meshed));
            let data_key = names::data_key(&key.name);
            let keys = plan.objects.values().filter(|object| {
                object.labels.get(names::LABEL_ROUTES_NAMESPACE) == Some(&key.namespace)
                    && matches!(&object.body, Body::Data(data) if data.contains_key(&data_key))
            });
            prop_assert!(keys.count() <= usize::from(meshed));
        }
    }

    #[test]
    fn leaving_the_mesh_takes_what_is_ours_and_leaves_what_is_not(objects in objects()) {
        let mut world = built(&with_shop(objects));
        converge(&mut world);
        let users: BTreeSet<Key> = world.routes.iter().filter(|(_, r)| r.value.others).map(|(k, _)| k.clone()).collect();
        load(&mut world, "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: bank}
");
        converge(&mut world);
        let left: BTreeSet<Key> = world.routes.iter().map(|(k, _)| k.clone()).collect();
        prop_assert_eq!(left, users);
    }
}

#[test]
fn a_rejected_mesh_and_one_that_is_being_deleted_are_left_as_they_are() {
    for spec in [
        "{name: default, generation: 2}\nspec: {unknown: 1}",
        "{name: default, deletionTimestamp: '2026-01-01T00:00:00Z'}",
    ] {
        let mut world = world(SHOP);
        converge(&mut world);
        load(&mut world, &format!("apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {spec}\n"));
        let plan = planned(&world);
        assert_eq!((plan.objects.len(), plan.changes.len()), (0, 0), "{spec}");
    }
}

#[test]
fn a_field_that_is_no_longer_rendered_is_noticed() {
    let mut world = world(&SHOP.replace(
        "metadata: {name: default, generation: 1}",
        "metadata: {name: default}\nspec: {proxy: {nodeSelector: {topology.kubernetes.io/zone: a}}}",
    ));
    converge(&mut world);
    load(&mut world, "apiVersion: vicino.dev/v1alpha1\nkind: ServiceMesh\nmetadata: {name: default}\n");
    let plan = planned(&world);
    assert!(plan.changes.iter().any(|change| change.id().kind == Kind::DaemonSet));
}

#[test]
fn what_a_node_that_left_had_is_deleted() {
    let mut world = world(SHOP);
    converge(&mut world);
    world.nodes.bury(&Key::cluster("node2"), "Node:node2");
    let plan = planned(&world);
    let deleted: Vec<_> = plan
        .changes
        .iter()
        .filter(|c| matches!(c, Change::Delete { .. }))
        .map(|c| c.id().to_string())
        .collect();
    assert_eq!(deleted, ["MeshNode node2"]);
}

#[test]
fn a_mesh_whose_objects_are_named_as_anothers_is_not_written() {
    let mut world = world(SHOP);
    load(
        &mut world,
        "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {name: default-nodes}
spec: {proxy: {nodeSelector: {only: this}}}
",
    );
    let plan = planned(&world);
    assert_eq!(plan.faults.keys().collect::<Vec<_>>(), ["default", "default-nodes"]);
    assert!(plan.changes.is_empty());
}

#[test]
fn what_a_finalizer_keeps_is_neither_deleted_again_nor_made_again_before_it_is_gone() {
    let mut world = world(SHOP);
    converge(&mut world);
    let keys = [
        (Kind::ConfigMap, Key::new(names::PROXY_NAMESPACE, "vicino-default-routes-shop")),
        (Kind::MeshNode, Key::cluster("node1")),
    ];
    for (kind, key) in keys {
        let plan = planned(&world);
        let id = crate::world::ObjectId::new(kind, key.clone());
        let mut manifest = plan.objects[&id].manifest();
        let (version, uid) = world.identity(&id).unwrap();
        manifest["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        manifest["metadata"]["uid"] = json!(uid);
        manifest["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        world.take_written(kind, serde_json::from_value(manifest).unwrap());
        assert!(planned(&world).changes.is_empty(), "{id} is wanted");
    }
    let mesh = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    load(&mut world, mesh);
    let deleted: BTreeSet<_> = planned(&world).pending();
    assert!(
        !deleted.iter().any(|id| id.kind == Kind::ConfigMap && id.key.name.ends_with("-routes-shop")),
        "{deleted:?}"
    );
}
