//! Envoy as L1 or L2, with HTTP/2 between the two; static configuration, router defaults, no access log.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Leg, PeerError, Role, write};
use crate::process::CommandLine;

pub(super) fn proxy(program: &Path, leg: &Leg, folder: &Path) -> Result<CommandLine, PeerError> {
    let path = folder.join(format!("envoy-{}.json", leg.label()));
    write(&path, &configuration(leg).to_string())?;
    let path = path.to_string_lossy();
    let options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c", &path];
    Ok(CommandLine::new(program, options))
}

fn configuration(leg: &Leg) -> Value {
    json!({
        "node": { "id": leg.label(), "cluster": "bench" },
        "static_resources": { "listeners": [listener(leg)], "clusters": [cluster(leg)] },
    })
}

fn listener(leg: &Leg) -> Value {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({
        "name": "in",
        "address": address(leg.listen),
        "filter_chains": [{ "filters": [{
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
        }] }],
    })
}

fn cluster(leg: &Leg) -> Value {
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
    }
    cluster
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}
