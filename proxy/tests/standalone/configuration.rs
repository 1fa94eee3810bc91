//! A configuration directory, written as the operator's documents and the API's manifests are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;
use vicino_crds::contract::{
    self, Bootstrap, CompiledBackend, CompiledConcurrency, CompiledNode, CompiledPort, CompiledRoute,
    CompiledRule, CompiledRulePort,
};
use vicino_crds::policy::PolicyAction;
use vicino_crds::route::PortProtocol;
use vicino_crds::rule::RouteRule;

/// Each world has addresses of its own below 127, so that tests may run at the same time.
static WORLDS: AtomicU8 = AtomicU8::new(1);

pub(crate) const L2_PORT: u16 = 14141;

thread_local! {
    static WORLD: u8 = WORLDS.fetch_add(1, Ordering::Relaxed);
}

/// The address of a node in this thread's world.
pub(crate) fn node_address(node: &str) -> String {
    let pid = std::process::id() % 200 + 20;
    let last = if node == "a" { 1 } else { 2 };
    WORLD.with(|world| format!("127.{pid}.{world}.{last}"))
}

pub(crate) struct Configuration {
    pub(crate) node: &'static str,
    directory: TempDir,
}

impl Configuration {
    pub(crate) fn new(node: &'static str) -> Self {
        let configuration = Self { node, directory: tempfile::tempdir().unwrap() };
        configuration.log_level("info");
        let address = node_address(node);
        configuration.write(
            "meshnode.yaml",
            &format!(
                "apiVersion: vicino.dev/v1alpha1\nkind: MeshNode\nmetadata: {{name: {node}}}\n\
                 spec: {{mesh: default, addresses: ['{address}'], pods: []}}\n"
            ),
        );
        configuration
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// Beside, then moved, as whoever writes such a directory should.
    fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = self.directory.path().join("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }

    pub(crate) fn log_level(&self, level: &str) {
        let bootstrap = Bootstrap {
            version: 1,
            mesh: "default".into(),
            cluster_domain: "cluster.local".into(),
            workers: 2,
            log_level: level.into(),
            drain_seconds: 20,
            identity: None,
            default_action: PolicyAction::Allow,
        };
        self.write("bootstrap.yaml", &contract::write(&bootstrap));
    }

    pub(crate) fn nodes(&self, nodes: &[&str]) {
        self.nodes_with(nodes, false);
    }

    /// With TLS or without.
    pub(crate) fn nodes_with(&self, nodes: &[&str], secure: bool) {
        for node in nodes {
            let document = CompiledNode {
                version: 1,
                name: (*node).into(),
                addresses: vec![node_address(node)],
                port: L2_PORT,
                zone: String::new(),
                ready: true,
                secure,
                pod_cidrs: vec!["10.244.0.0/16".into()],
            };
            self.write(&format!("nodes/{node}.yaml"), &contract::write(&document));
        }
    }

    pub(crate) fn route(&self, service: &str, generation: i64) {
        self.route_with(service, generation, &[]);
    }

    /// With a limit for each pod.
    pub(crate) fn route_limited(&self, service: &str, generation: i64, per_pod: u32) {
        let concurrency = CompiledConcurrency {
            per_pod,
            queue_length: 1000,
            queue_timeout_milliseconds: 20_000,
            queue_standing_timeout_milliseconds: 0,
            adaptive: None,
        };
        self.route(service, generation);
        self.edit_route(service, |document| document.concurrency = Some(concurrency));
    }

    /// As it is, but for something.
    pub(crate) fn edit_route(&self, service: &str, edit: impl FnOnce(&mut CompiledRoute)) {
        let path = self.path().join(format!("routes/default/{service}.yaml"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut document = contract::read::<CompiledRoute>(text.as_bytes()).unwrap().document;
        edit(&mut document);
        self.write(&format!("routes/default/{service}.yaml"), &contract::write(&document));
    }

    /// With rules, as a MeshRoute has them.
    pub(crate) fn route_with(&self, service: &str, generation: i64, rules: &[&str]) {
        let backend = CompiledBackend {
            service: service.into(),
            port: 80,
            port_name: String::new(),
            weight: 1,
            ..CompiledBackend::default()
        };
        let ports = || vec![CompiledRulePort { port: 80, backends: vec![backend.clone()], mirror: None }];
        let rules = rules.iter().map(|rule| {
            let rule: RouteRule = serde_saphyr::from_str(rule).unwrap();
            CompiledRule {
                ports: if rule.answers() { Vec::new() } else { ports() },
                rule,
                connect_timeout_milliseconds: 1000,
                request_timeout_milliseconds: 0,
                idle_timeout_milliseconds: 0,
                retry: None,
                hedge: None,
            }
        });
        let rules: Vec<_> = rules.collect();
        let document = CompiledRoute {
            version: CompiledRoute::version_of(&[], &rules),
            namespace: "default".into(),
            service: service.into(),
            generation,
            alias: None,
            cluster_ips: vec![],
            ports: vec![CompiledPort {
                port: 80,
                protocol: PortProtocol::Http,
                backends: vec![backend],
                overrides: Vec::new(),
            }],
            connect_timeout_milliseconds: 1000,
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
            rules,
            inbound: None,
        };
        self.write(&format!("routes/default/{service}.yaml"), &contract::write(&document));
    }

    /// What may be called outside the mesh: the document after its mesh.
    pub(crate) fn egress(&self, text: &str) {
        self.write("egress/egress.yaml", &format!("version: 4\nmesh: default\n{text}...\n"));
    }

    /// In place, as a writer that died half-way leaves it.
    pub(crate) fn half_route(&self, service: &str) {
        let path = self.path().join(format!("routes/default/{service}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    }

    pub(crate) fn no_route(&self, service: &str) {
        std::fs::remove_file(self.path().join(format!("routes/default/{service}.yaml"))).unwrap();
    }

    /// One slice for each pod, since a slice has one port.
    pub(crate) fn endpoints(&self, service: &str, pods: &[(&str, SocketAddr)]) {
        for node in ["a", "b"] {
            let file = format!("endpointslices/{service}-{node}.yaml");
            let endpoints = pods.iter().filter(|(n, _)| *n == node).map(|(_, address)| {
                let ip = address.ip();
                format!("- addresses: ['{ip}']\n  nodeName: {node}\n  targetRef: {{kind: Pod, uid: {service}-{node}}}\n")
            });
            let endpoints = endpoints.collect::<String>();
            let port = pods.iter().find(|(n, _)| *n == node).map_or(1, |(_, address)| address.port());
            let list = if endpoints.is_empty() {
                "endpoints: []".into()
            } else {
                format!("endpoints:\n{endpoints}")
            };
            self.write(
                &file,
                &format!(
                    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                     metadata:\n  name: {service}-{node}\n  namespace: default\n  labels: {{kubernetes.io/service-name: {service}}}\n\
                     ports: [{{name: '', port: {port}, protocol: TCP}}]\n{list}\n"
                ),
            );
        }
    }

    /// As when the volume is away.
    pub(crate) fn hide(&self) {
        std::fs::rename(self.path(), self.directory.path().join("hidden")).unwrap();
    }

    pub(crate) fn show(&self) {
        std::fs::rename(self.directory.path().join("hidden"), self.path()).unwrap();
    }
}
