//! HAProxy as L1 or L2, over HTTP/1.1 or HTTP/2 between the two.

use std::path::Path;

use super::{Leg, PeerError, Role, write};
use crate::process::CommandLine;

/// What runs between the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Http1,
    Http2,
}

pub(super) fn proxy(program: &Path, leg: &Leg, wire: Wire, folder: &Path) -> Result<CommandLine, PeerError> {
    let path = folder.join(format!("haproxy-{}.cfg", leg.label()));
    write(&path, &configuration(leg, wire))?;
    Ok(CommandLine::new(program, ["-db", "-q", "-f", &path.to_string_lossy()]))
}

fn configuration(leg: &Leg, wire: Wire) -> String {
    let h2 = |role| if wire == Wire::Http2 && leg.role == role { " proto h2" } else { "" };
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
        h2(Role::L2),
        leg.next,
        h2(Role::L1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_spoken_between_the_proxies_only() {
        let l1 = configuration(&Leg::l1(), Wire::Http2);
        assert!(
            l1.contains("bind 10.99.0.1:4140\n") && l1.contains("server next 10.99.0.2:4141 proto h2\n"),
            "{l1}"
        );
        let l2 = configuration(&Leg::l2(), Wire::Http2);
        assert!(
            l2.contains("bind 10.99.0.2:4141 proto h2\n") && l2.contains("server next 10.99.2.1:8080\n"),
            "{l2}"
        );
        assert!(!configuration(&Leg::l1(), Wire::Http1).contains("h2"));
    }
}
