//! The DaemonSet of the proxies.
//!
//! - Host network and no declared ports: with host network every declared port becomes a hostPort, and then the second
//!   pod of a node, which `maxSurge: 1` needs for an upgrade without a gap, cannot be scheduled.
//! - User 0, and of the capabilities NET_ADMIN alone, by which the proxy sees and refuses connections around the mesh (its
//!   module `guard`). The user is 0 since the folder of the local copy is a hostPath, which the kubelet makes for root alone,
//!   and old and new proxy share their ports during an upgrade, which the kernel allows to one user only.
//! - Probes are `exec`: on the host network a port is ambiguous while two proxies live on one node.
//! - The copy's path ends with the node's name, so that nodes that share a file system (test clusters) do not share it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use vicino_crds::identity::AUDIENCE;
use vicino_crds::names;

use super::{Rendered, trust};
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind, Settings, World};

/// Seconds that the kubelet gives a proxy above the time that it drains.
const GRACE_SECONDS: i32 = 5;
/// On the pod template: a changed bootstrap rolls the proxies.
const ANNOTATION_BOOTSTRAP: &str = "vicino.dev/bootstrap";
const LABEL_NAME: &str = "app.kubernetes.io/name";
const PROXY: &str = "vicino-proxy";
const STATE_DIR: &str = "/var/lib/vicino";

/// Where the token for the authority, and its roots, are mounted.
const AUTHORITY_DIR: &str = "/var/run/vicino/authority";
/// Seconds that the token is good; the kubelet renews it long before.
const TOKEN_SECONDS: i32 = 3600;

pub(super) fn render(mesh: &AcceptedMesh, world: &World, bootstrap: &Rendered) -> Rendered {
    let name = names::mesh_object(&mesh.name);
    let digest = bootstrap.annotations.get(names::ANNOTATION_DIGEST);
    let mut labels = super::labels(&mesh.name);
    labels.insert(LABEL_NAME.to_owned(), PROXY.to_owned());
    let fields = json!({ "spec": {
        "selector": { "matchLabels": { LABEL_NAME: PROXY, names::LABEL_MESH: mesh.name } },
        "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        "template": {
            "metadata": { "labels": labels, "annotations": { ANNOTATION_BOOTSTRAP: digest } },
            "spec": with_authority(pod(mesh, &world.settings, &name), mesh, trust::address(world, mesh)),
        },
    }});
    let key = Key::new(names::PROXY_NAMESPACE, &name);
    Rendered::new(mesh, Kind::DaemonSet, key, Body::Fields(fields)).stamped()
}

fn pod(mesh: &AcceptedMesh, settings: &Settings, name: &str) -> Value {
    let proxy = &mesh.spec.proxy;
    let mut node_selector = proxy.node_selector.clone();
    node_selector.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    json!({
        "serviceAccountName": name,
        "hostNetwork": true,
        // Names lead out of the mesh to where they lead for pods.
        "dnsPolicy": "ClusterFirstWithHostNet",
        "enableServiceLinks": false,
        "priorityClassName": proxy.priority_class_name,
        "terminationGracePeriodSeconds": proxy.drain_seconds + GRACE_SECONDS,
        "nodeSelector": node_selector,
        "tolerations": proxy.tolerations.as_ref().map_or_else(|| json!([{ "operator": "Exists" }]), |t| json!(t)),
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container(mesh, settings)],
        "volumes": [
            { "name": "bootstrap", "configMap": { "name": name } },
            { "name": "run", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "state", "hostPath": { "path": format!("{STATE_DIR}/{}", mesh.name), "type": "DirectoryOrCreate" } },
        ],
    })
}

/// Where there is an authority, the proxy is told where it is, and given what to show to it and what to know it by.
fn with_authority(mut pod: Value, mesh: &AcceptedMesh, authority: Option<SocketAddr>) -> Value {
    let Some(authority) = authority else { return pod };
    let volume = json!({ "name": "authority", "projected": { "sources": [
        { "serviceAccountToken": { "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
        { "configMap": { "name": names::trust_config_map(&mesh.name), "optional": true } },
    ]}});
    let mount = json!({ "name": "authority", "mountPath": AUTHORITY_DIR, "readOnly": true });
    let container = "/containers/0";
    let variables = [
        json!({ "name": trust::ADDRESS_VARIABLE, "value": authority.to_string() }),
        json!({ "name": "VICINO_AUTHORITY_TOKEN", "value": format!("{AUTHORITY_DIR}/token") }),
        json!({ "name": "VICINO_AUTHORITY_ROOTS", "value": format!("{AUTHORITY_DIR}/{}", names::TRUST_KEY) }),
    ];
    let more = [
        ("/volumes".to_owned(), vec![volume]),
        (format!("{container}/volumeMounts"), vec![mount]),
        (format!("{container}/env"), variables.into()),
    ];
    for (path, items) in more {
        if let Some(list) = pod.pointer_mut(&path).and_then(Value::as_array_mut) {
            list.extend(items);
        }
    }
    pod
}

fn container(mesh: &AcceptedMesh, settings: &Settings) -> Value {
    let proxy = &mesh.spec.proxy;
    let default = || json!({ "requests": { "cpu": "100m", "memory": "64Mi" } });
    json!({
        "name": "proxy",
        "image": proxy.image.as_ref().unwrap_or(&settings.proxy_image),
        "imagePullPolicy": proxy.image_pull_policy.as_str(),
        "command": ["/vicino-proxy"],
        "env": [
            from_field("VICINO_NODE", "spec.nodeName"),
            from_field("VICINO_POD_NAME", "metadata.name"),
            from_field("VICINO_NAMESPACE", "metadata.namespace"),
            from_field("NODE_IP", "status.hostIP"),
            { "name": "VICINO_MESH", "value": mesh.name },
            { "name": "VICINO_MESH_UID", "value": mesh.uid },
            { "name": "VICINO_BOOTSTRAP", "value": format!("/etc/vicino/{}", names::BOOTSTRAP_KEY) },
            { "name": "VICINO_RUN_DIR", "value": "/run/vicino" },
            { "name": "VICINO_STATE_DIR", "value": format!("{STATE_DIR}/$(VICINO_NODE)") },
        ],
        "startupProbe": probe("live", &[("periodSeconds", 1), ("timeoutSeconds", 3), ("failureThreshold", 60)]),
        "readinessProbe": probe("ready", &[("periodSeconds", 2), ("timeoutSeconds", 3), ("failureThreshold", 3)]),
        "livenessProbe": probe("live", &[("periodSeconds", 10), ("timeoutSeconds", 5), ("failureThreshold", 6)]),
        "resources": proxy.resources.as_ref().map_or_else(default, |resources| json!(resources)),
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
        },
        "volumeMounts": [
            { "name": "bootstrap", "mountPath": "/etc/vicino", "readOnly": true },
            { "name": "run", "mountPath": "/run/vicino" },
            { "name": "state", "mountPath": STATE_DIR },
        ],
    })
}

fn from_field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn probe(question: &str, numbers: &[(&str, i32)]) -> Value {
    let mut probe = json!({ "exec": { "command": ["/vicino-proxy", "probe", question] } });
    for (name, number) in numbers {
        probe[name] = json!(number);
    }
    probe
}
