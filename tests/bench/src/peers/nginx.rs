//! nginx as L1 or L2, and as the backend that all peers deliver to.

use std::net::SocketAddr;
use std::path::Path;

use super::{BACKEND_PORT, BODY_BYTES, Leg, PeerError, Role, SUITES, write};
use crate::net::CALLEE_POD;
use crate::process::CommandLine;

pub(super) fn proxy(program: &Path, leg: &Leg<'_>, folder: &Path) -> Result<CommandLine, PeerError> {
    let (listener, upstream) = match leg.role {
        Role::L1 => (String::new(), between(leg)),
        Role::L2 => (between(leg), String::new()),
    };
    let (ssl, scheme) =
        (if listener.is_empty() { "" } else { " ssl" }, if upstream.is_empty() { "http" } else { "https" });
    let server = format!(
        "upstream next {{ server {}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {}{ssl};
{listener}        location / {{
{upstream}            proxy_pass {scheme}://next;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
        }}
    }}",
        leg.next, leg.listen
    );
    start(program, &format!("nginx-{}", leg.label()), &server, folder)
}

/// What the listener of L2 and the upstream of L1 say of TLS between them; nothing in the clear.
fn between(leg: &Leg<'_>) -> String {
    let Some(certificates) = leg.certificates else { return String::new() };
    let node = leg.role.node();
    let (chain, key, roots) = (certificates.chain(node), certificates.key(node), certificates.roots());
    let (chain, key, roots) = (chain.display(), key.display(), roots.display());
    match leg.role {
        Role::L1 => format!(
            "proxy_ssl_certificate {chain}; proxy_ssl_certificate_key {key};
            proxy_ssl_trusted_certificate {roots}; proxy_ssl_verify on;
            proxy_ssl_name {}; proxy_ssl_server_name on;
            proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {SUITES};\n",
            Role::L2.node()
        ),
        Role::L2 => format!(
            "ssl_certificate {chain}; ssl_certificate_key {key};
        ssl_client_certificate {roots}; ssl_verify_client on;
        ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {SUITES};\n"
        ),
    }
}

/// The backend: answers every request with 200 and 1 KiB.
pub fn backend(program: &Path, folder: &Path) -> Result<CommandLine, PeerError> {
    let listen = SocketAddr::from((CALLEE_POD, BACKEND_PORT));
    let body = "x".repeat(BODY_BYTES);
    let server = format!("server {{ listen {listen}; location / {{ return 200 \"{body}\"; }} }}");
    start(program, "backend", &server, folder)
}

/// One process without master; all files inside the scratch folder.
fn start(program: &Path, label: &str, server: &str, folder: &Path) -> Result<CommandLine, PeerError> {
    let folder = folder.join(label);
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = kinds.map(|kind| format!("    {kind}_temp_path {}/{kind};\n", folder.display())).concat();
    let text = format!(
        "daemon off;
master_process off;
pid {folder}/pid;
error_log stderr error;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
{temporary}    {server}
}}
",
        folder = folder.display(),
    );
    let path = folder.join("nginx.conf");
    write(&path, &text)?;
    Ok(CommandLine::new(program, ["-p", &folder.to_string_lossy(), "-c", &path.to_string_lossy()]))
}
