//! Owns how etcd, the API server, the controller manager and the scheduler are configured; starts nothing.

use std::fs;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::pki::FRONT_PROXY;

/// How long a node may be silent before it counts as gone, in seconds. The default is 50; a test has no minute, and a busy
/// machine may stand still for some seconds.
pub(crate) const NODE_GRACE_SECONDS: u64 = 20;

const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: Request
  verbs: [create, update, patch, delete, deletecollection]
  resources:
  - group: vicino.dev
  - group: \"\"
    resources: [configmaps]
- level: Metadata
";

/// Writes the configuration files that the control plane reads.
pub(crate) fn write(layout: &Layout) -> Result<()> {
    let file = layout.dir().join("audit-policy.yaml");
    fs::write(&file, AUDIT_POLICY).with_context(|| format!("write {}", file.display()))
}

/// etcd's arguments: on loopback only, and without waiting for the disk, since its data ends with the cluster.
pub(crate) fn etcd(layout: &Layout) -> Vec<String> {
    let [clients, peers, ..] = layout.ports();
    let clients = format!("http://127.0.0.1:{clients}");
    let peers = format!("http://127.0.0.1:{peers}");
    vec![
        format!("--data-dir={}/etcd", layout.dir().display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        "--unsafe-no-fsync".to_owned(),
        "--quota-backend-bytes=4294967296".to_owned(),
    ]
}

/// The API server's arguments.
pub(crate) fn api_server(layout: &Layout, audit: bool) -> Vec<String> {
    let pki = layout.pki();
    let pki = pki.display();
    let gateway = layout.gateway();
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", layout.ports()[0]),
        format!("--bind-address={gateway}"),
        format!("--advertise-address={gateway}"),
        "--secure-port=6443".to_owned(),
        format!("--service-cluster-ip-range={}", layout.service_range()),
        format!("--tls-cert-file={pki}/apiserver.crt"),
        format!("--tls-private-key-file={pki}/apiserver.key"),
        format!("--client-ca-file={pki}/ca.crt"),
        format!("--kubelet-certificate-authority={pki}/ca.crt"),
        format!("--kubelet-client-certificate={pki}/kubelet-client.crt"),
        format!("--kubelet-client-key={pki}/kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-key-file={pki}/tokens.pub"),
        format!("--service-account-signing-key-file={pki}/tokens.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        // No kube-proxy runs where the API server does: it reaches webhooks and extension API servers at pod addresses.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--requestheader-client-ca-file={pki}/ca.crt"),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={pki}/front-proxy.crt"),
        format!("--proxy-client-key-file={pki}/front-proxy.key"),
    ];
    if audit {
        arguments.push(format!("--audit-policy-file={}/audit-policy.yaml", layout.dir().display()));
        arguments.push(format!("--audit-log-path={}", layout.log("audit").display()));
        // In one file, however long: MiB.
        arguments.push("--audit-log-maxsize=4096".to_owned());
    }
    arguments
}

/// The controller manager's arguments. It is quick to notice a silent node, and fast enough for thousands of Services.
pub(crate) fn controller_manager(layout: &Layout) -> Vec<String> {
    let pki = layout.pki();
    let pki = pki.display();
    vec![
        format!("--kubeconfig={}", layout.kubeconfig("controller-manager").display()),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", layout.ports()[2]),
        format!("--service-account-private-key-file={pki}/tokens.key"),
        format!("--root-ca-file={pki}/ca.crt"),
        format!("--cluster-signing-cert-file={pki}/ca.crt"),
        format!("--cluster-signing-key-file={pki}/ca.key"),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={}", layout.pod_range()),
        format!("--service-cluster-ip-range={}", layout.service_range()),
        "--leader-elect=false".to_owned(),
        format!("--node-monitor-grace-period={NODE_GRACE_SECONDS}s"),
        "--node-monitor-period=1s".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}

/// The scheduler's arguments.
pub(crate) fn scheduler(layout: &Layout) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", layout.kubeconfig("scheduler").display()),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", layout.ports()[3]),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}
