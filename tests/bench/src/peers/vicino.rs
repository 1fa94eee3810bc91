//! Our proxy as L1 or L2 outside Kubernetes: the files that the operator would generate, in a directory. Its hops with TLS are of nodes.

use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;
use serde::Serialize;
use vicino_crds::contract::{
    self, Bootstrap, CONTRACT_VERSION, CompiledBackend, CompiledNode, CompiledPort, CompiledRoute,
    VERSION_PLAIN,
};
use vicino_crds::node::{MeshNode, MeshNodeSpec, Neighbour};
use vicino_crds::policy::PolicyAction;
use vicino_crds::route::PortProtocol;

use super::{BACKEND_PORT, L1_PORT, L2_PORT, Leg, PeerError, Role, write};
use crate::certificates::TRUST_DOMAIN;
use crate::net::{CALLEE_NODE, CALLEE_POD, CALLER_NODE, CALLER_POD};
use crate::process::CommandLine;

const MESH: &str = "default";
const NAMESPACE: &str = "bench";
const SERVICE: &str = "web";

pub(super) fn proxy(program: &Path, leg: &Leg<'_>, folder: &Path) -> Result<CommandLine, PeerError> {
    let folder = folder.join(format!("vicino-{}", leg.label()));
    let config = folder.join("config");
    write(&config.join("bootstrap.yaml"), &contract::write(&bootstrap()))?;
    write(&config.join("routes").join(NAMESPACE).join("web.yaml"), &contract::write(&route()))?;
    for role in [Role::L1, Role::L2] {
        let document = contract::write(&node(role, leg.certificates.is_some()));
        write(&config.join("nodes").join(format!("{}.yaml", role.node())), &document)?;
    }
    write(&config.join("endpointslices").join("web-1.yaml"), &manifest(&endpoints()))?;
    write(&config.join("meshnode.yaml"), &manifest(&mesh_node(leg.role)))?;
    let mut arguments = vec![
        ("--node", leg.role.node().to_owned()),
        ("--config-dir", config.to_string_lossy().into_owned()),
        ("--state-dir", folder.join("state").to_string_lossy().into_owned()),
        ("--listen-ip", leg.node.to_string()),
        ("--workers", "1".to_owned()),
        ("--l1-port", L1_PORT.to_string()),
        ("--l2-port", L2_PORT.to_string()),
    ];
    if let Some(certificates) = leg.certificates {
        let node = leg.role.node();
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        arguments.extend([
            ("--hop-certificate", path(certificates.chain(node))),
            ("--hop-key", path(certificates.key(node))),
            ("--hop-roots", path(certificates.roots())),
        ]);
    }
    let strict = leg.certificates.map(|_| "--hop-strict".to_owned());
    let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    Ok(CommandLine::new(program, arguments.chain(strict)))
}

fn addresses(role: Role) -> (Ipv4Addr, Ipv4Addr) {
    match role {
        Role::L1 => (CALLER_NODE, CALLER_POD),
        Role::L2 => (CALLEE_NODE, CALLEE_POD),
    }
}

fn manifest(object: &impl Serialize) -> String {
    serde_saphyr::to_string(object).expect("Kubernetes objects are plain data")
}

fn bootstrap() -> Bootstrap {
    Bootstrap {
        version: VERSION_PLAIN,
        mesh: MESH.to_owned(),
        cluster_domain: TRUST_DOMAIN.to_owned(),
        workers: 1,
        log_level: "warn".to_owned(),
        drain_seconds: 1,
        identity: None,
        default_action: PolicyAction::Allow,
    }
}

fn route() -> CompiledRoute {
    let backend = CompiledBackend {
        service: SERVICE.to_owned(),
        port: 80,
        port_name: String::new(),
        weight: 1,
        ..CompiledBackend::default()
    };
    CompiledRoute {
        version: CONTRACT_VERSION,
        namespace: NAMESPACE.to_owned(),
        service: SERVICE.to_owned(),
        generation: 1,
        alias: None,
        cluster_ips: vec!["10.96.0.10".to_owned()],
        ports: vec![CompiledPort {
            port: 80,
            protocol: PortProtocol::Http1,
            backends: vec![backend],
            overrides: Vec::new(),
        }],
        connect_timeout_milliseconds: 2000,
        request_timeout_milliseconds: 0,
        idle_timeout_milliseconds: 0,
        requeues: 1,
        affinity: None,
        load_balancer: None,
        concurrency: None,
        rate_limit: None,
        circuit_breaker: None,
        retry: None,
        hedge: None,
        rules: Vec::new(),
        inbound: None,
    }
}

fn node(role: Role, secure: bool) -> CompiledNode {
    CompiledNode {
        version: VERSION_PLAIN,
        name: role.node().to_owned(),
        addresses: vec![addresses(role).0.to_string()],
        port: L2_PORT,
        zone: String::new(),
        ready: true,
        secure,
        pod_cidrs: Vec::new(),
    }
}

/// One ready pod on the callee's node.
fn endpoints() -> EndpointSlice {
    let pod = ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        name: Some(pod_name(Role::L2)),
        uid: Some(pod_uid(Role::L2)),
        ..ObjectReference::default()
    };
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some("web-1".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some([("kubernetes.io/service-name".to_owned(), SERVICE.to_owned())].into()),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![CALLEE_POD.to_string()],
            conditions: Some(conditions),
            node_name: Some(Role::L2.node().to_owned()),
            target_ref: Some(pod),
            ..Endpoint::default()
        }]),
        ports: Some(vec![EndpointPort {
            name: Some(String::new()),
            port: Some(i32::from(BACKEND_PORT)),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}

fn mesh_node(role: Role) -> MeshNode {
    let (node, pod) = addresses(role);
    let neighbour = Neighbour {
        uid: pod_uid(role),
        namespace: NAMESPACE.to_owned(),
        name: pod_name(role),
        service_account: "default".to_owned(),
        ips: vec![pod.to_string()],
        labels: std::collections::BTreeMap::new(),
        inbound: None,
        plain_ports: Vec::new(),
        plain_ports_problem: None,
        network_since: None,
    };
    MeshNode::new(
        role.node(),
        MeshNodeSpec {
            mesh: MESH.to_owned(),
            addresses: vec![node.to_string()],
            zone: String::new(),
            pods: vec![neighbour],
        },
    )
}

fn pod_name(role: Role) -> String {
    format!("{}-pod", role.node())
}

fn pod_uid(role: Role) -> String {
    let number = match role {
        Role::L1 => 1,
        Role::L2 => 2,
    };
    format!("00000000-0000-4000-8000-{number:012}")
}
