//! nginx as L1 or L2, and as the backend that all peers deliver to.

use std::net::SocketAddr;
use std::path::Path;

use super::{BACKEND_PORT, BODY_BYTES, Leg, PeerError, write};
use crate::net::CALLEE_POD;
use crate::process::CommandLine;

pub(super) fn proxy(program: &Path, leg: &Leg, folder: &Path) -> Result<CommandLine, PeerError> {
    let server = format!(
        "upstream next {{ server {}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {};
        location / {{
            proxy_pass http://next;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
        }}
    }}",
        leg.next, leg.listen
    );
    start(program, &format!("nginx-{}", leg.label()), &server, folder)
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
