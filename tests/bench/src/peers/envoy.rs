//! Envoy as L1 or L2, with HTTP/2 between the two; static configuration, router defaults, no access log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Leg, PeerError, Role, write};
use crate::certificates::{self, Certificates};
use crate::process::CommandLine;

pub(super) fn proxy(program: &Path, leg: &Leg<'_>, folder: &Path) -> Result<CommandLine, PeerError> {
    let path = folder.join(format!("envoy-{}.json", leg.label()));
    write(&path, &configuration(leg).to_string())?;
    let path = path.to_string_lossy();
    let options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c", &path];
    Ok(CommandLine::new(program, options))
}

fn configuration(leg: &Leg<'_>) -> Value {
    json!({
        "node": { "id": leg.label(), "cluster": "bench" },
        "static_resources": { "listeners": [listener(leg)], "clusters": [cluster(leg)] },
    })
}

fn listener(leg: &Leg<'_>) -> Value {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let mut chain = json!({
        "filters": [{
            "name": "http",
            "typed_config": {
                "@type": manager,
                "stat_prefix": "in",
                // Finds out by itself whether HTTP/1.1 or HTTP/2 arrives.
                "codec_type": "AUTO",
                "http_filters": [{ "name": "router", "typed_config": { "@type": router } }],
                "route_config": { "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "next" } }],
                }] },
            },
        }],
    });
    if let (Role::L2, Some(certificates)) = (leg.role, leg.certificates) {
        let mut context = tls("Downstream", leg.role, certificates);
        context["typed_config"]["require_client_certificate"] = json!(true);
        chain["transport_socket"] = context;
    }
    json!({ "name": "in", "address": address(leg.listen), "filter_chains": [chain] })
}

/// TLS of one end, which takes the node at the other end and no other.
fn tls(side: &str, own: Role, certificates: &Certificates) -> Value {
    let (node, other) = match own {
        Role::L1 => (own.node(), Role::L2.node()),
        Role::L2 => (own.node(), Role::L1.node()),
    };
    let file = |path: PathBuf| json!({ "filename": path.to_string_lossy() });
    let kind = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    let name = json!({ "san_type": "URI", "matcher": { "exact": certificates::uri(other) } });
    json!({ "name": "tls", "typed_config": {
        "@type": kind,
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": ["h2"],
            "tls_certificates": [{
                "certificate_chain": file(certificates.chain(node)),
                "private_key": file(certificates.key(node)),
            }],
            "validation_context": {
                "trusted_ca": file(certificates.roots()),
                "match_typed_subject_alt_names": [name],
            },
        },
    } })
}

fn cluster(leg: &Leg<'_>) -> Value {
    let mut cluster = json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": { "thresholds": [
            { "max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192 },
        ] },
        "load_assignment": { "cluster_name": "next", "endpoints": [
            { "lb_endpoints": [{ "endpoint": { "address": address(leg.next) } }] },
        ] },
    });
    if leg.role == Role::L1 {
        let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let options = json!({
            "@type": format!("type.googleapis.com/{name}"),
            "explicit_http_config": { "http2_protocol_options": {} },
        });
        cluster["typed_extension_protocol_options"] = json!({ name: options });
        if let Some(certificates) = leg.certificates {
            cluster["transport_socket"] = tls("Upstream", leg.role, certificates);
            cluster["transport_socket"]["typed_config"]["sni"] = json!(Role::L2.node());
        }
    }
    cluster
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}
