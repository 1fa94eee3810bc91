//! HAProxy as L1 or L2, over HTTP/1.1 or HTTP/2 between the two.

use std::path::Path;

use super::{Leg, PeerError, Role, SUITES, Wire, write};
use crate::process::CommandLine;

pub(super) fn proxy(
    program: &Path,
    leg: &Leg<'_>,
    wire: Wire,
    folder: &Path,
) -> Result<CommandLine, PeerError> {
    let path = folder.join(format!("haproxy-{}.cfg", leg.label()));
    write(&path, &configuration(leg, wire))?;
    Ok(CommandLine::new(program, ["-db", "-q", "-f", &path.to_string_lossy()]))
}

fn configuration(leg: &Leg<'_>, wire: Wire) -> String {
    let between = |role| if leg.role == role { between(leg, wire) } else { String::new() };
    format!(
        "global
    nbthread 1
    maxconn 9000
defaults
    mode http
    timeout connect 2s
    timeout client 120s
    timeout server 120s
frontend in
    bind {}{}
    default_backend out
backend out
    http-reuse always
    server next {}{}
",
        leg.listen,
        between(Role::L2),
        leg.next,
        between(Role::L1),
    )
}

/// What `bind` of L2 and `server` of L1 say of the connections between them.
fn between(leg: &Leg<'_>, wire: Wire) -> String {
    let is_http2 = wire == Wire::Http2;
    let Some(certificates) = leg.certificates else {
        return if is_http2 { " proto h2".to_owned() } else { String::new() };
    };
    let (own, roots) = (certificates.both(leg.role.node()), certificates.roots());
    let (own, roots) = (own.display(), roots.display());
    let alpn = if is_http2 { "h2" } else { "http/1.1" };
    let peer = match leg.role {
        Role::L1 => format!(" sni str({0}) verifyhost {0}", Role::L2.node()),
        Role::L2 => String::new(),
    };
    format!(
        " ssl crt {own} ca-file {roots} verify required{peer} ssl-min-ver TLSv1.3 ciphersuites {SUITES} alpn {alpn}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_spoken_between_the_proxies_only() {
        let l1 = configuration(&Leg::l1(None), Wire::Http2);
        assert!(
            l1.contains("bind 10.99.0.1:4140\n") && l1.contains("server next 10.99.0.2:4141 proto h2\n"),
            "{l1}"
        );
        let l2 = configuration(&Leg::l2(None), Wire::Http2);
        assert!(
            l2.contains("bind 10.99.0.2:4141 proto h2\n") && l2.contains("server next 10.99.2.1:8080\n"),
            "{l2}"
        );
        assert!(!configuration(&Leg::l1(None), Wire::Http1).contains("h2"));
    }
}
