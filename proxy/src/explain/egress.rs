//! What becomes of a call to a host that is no Service of the mesh: the engine's own judge of what leaves it, in words.

use serde::{Deserialize, Serialize};
use vicino_engine::egress::{self, Host};
use vicino_engine::policy::Identity;
use vicino_engine::reply::Reason;
use vicino_engine::route::{PORT_DEFAULT, is_of_cluster_alone};
use vicino_engine::snapshot::Snapshot;
use vicino_wire::head::Authority;

use super::policy::Caller;

/// Why a call leaves the mesh, or does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// `name:port` or `address:port`.
    pub host: String,
    /// Fields of the ServiceMesh that let it out, or may, once it is known where the name leads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// In words.
    pub text: String,
}

/// What spec.egress says of an authority that `reason` says is no Service, and what the caller is answered if it is refused.
pub(super) fn judged(
    snapshot: &Snapshot,
    (authority, reason): (&str, Reason),
    caller: &Caller,
) -> Option<(Egress, Option<Reason>)> {
    if !matches!(reason, Reason::NotInMesh | Reason::NoSuchService) {
        return None;
    }
    let said = Authority::parse(authority)?;
    let egress = &snapshot.egress;
    // More likely a Service that is not there.
    if egress.is_closed() && !said.host.contains(['.', ':']) {
        return None;
    }
    let port = said.port.unwrap_or(PORT_DEFAULT);
    let identity = caller.identity.as_ref().map(|[trust_domain, namespace, service_account]| Identity {
        trust_domain,
        namespace,
        service_account,
    });
    let asked =
        Asked { snapshot, caller: egress::Caller { identity, source: caller.address, port }, who: caller };
    let told = match Host::of(said.host) {
        _ if egress.is_closed() => no(reason, "spec.egress of the ServiceMesh lets nothing out"),
        Some(Host::Address(address)) => asked.address(address, reason),
        Some(Host::Name(name)) => asked.name(&name, reason),
        None => no(
            reason,
            "neither a DNS name nor an address as it is written as a rule: a name that ends in a number is an address in disguise",
        ),
    };
    let (by, text, refused) = told;
    let host = if said.host.contains(':') {
        format!("[{}]:{port}", said.host)
    } else {
        format!("{}:{port}", said.host)
    };
    Some((Egress { host, by, text }, refused))
}

type Told = (Vec<String>, String, Option<Reason>);

fn no(reason: Reason, text: &str) -> Told {
    (Vec::new(), text.to_owned(), Some(reason))
}

struct Asked<'a> {
    snapshot: &'a Snapshot,
    caller: egress::Caller<'a>,
    who: &'a Caller,
}

impl Asked<'_> {
    fn address(&self, address: std::net::IpAddr, reason: Reason) -> Told {
        let egress = &self.snapshot.egress;
        if let Some(never) = egress::never(self.snapshot, &[], address) {
            let text =
                format!("never called, whatever spec.egress says: the address is that of {}", never.text());
            return no(Reason::NeverCalled, &text);
        }
        match egress.by_address(&self.caller, address) {
            Some(entry) => {
                let by = field(entry);
                let text = format!("let out by its address: {by}");
                (vec![by], text, None)
            }
            None if egress.is_of_pods(address) => no(
                reason,
                "the address is a pod's: only ipBlocks of spec.egress let such out, no name and no mode",
            ),
            None => no(reason, &self.nothing("address")),
        }
    }

    fn name(&self, name: &str, reason: Reason) -> Told {
        const LATER: &str = "the name is resolved when it is called, and a call to an address that is never called (a node's, the API server's, loopback, link-local, the mesh's own) is refused then";
        let egress = &self.snapshot.egress;
        if !egress.is_open && is_of_cluster_alone(self.snapshot, name) {
            return no(
                reason,
                "a name of the cluster: only spec.egress.mode: Allow lets calls out to Services that are not in the mesh",
            );
        }
        if let Some(entry) = egress.by_name(&self.caller, name) {
            let by = field(entry);
            let text = format!("let out by its name: {by}; {LATER}");
            return (vec![by], text, None);
        }
        let may = |allowed: &egress::Allowed| {
            let only = egress::Egress { allow: vec![allowed.clone()], ..(**egress).clone() };
            only.may_go_by_address(&self.caller)
        };
        let entries = egress.allow.iter().enumerate().filter(|(_, allowed)| may(allowed));
        let by: Vec<_> = entries.map(|(i, _)| field(egress::By::Entry(i))).collect();
        if by.is_empty() {
            return no(reason, &self.nothing("name"));
        }
        let text = format!(
            "let out if it leads to an address in a block of {}: {LATER}, and one to an address in none of these blocks",
            by.join(" or ")
        );
        (by, text, None)
    }

    fn nothing(&self, what: &str) -> String {
        let port = self.caller.port;
        format!("no entry of spec.egress.allow lets {} out to this {what} at port {port}", self.who)
    }
}

/// The field that lets a call out.
fn field(by: egress::By) -> String {
    match by {
        egress::By::Mode => "spec.egress.mode: Allow".to_owned(),
        egress::By::Entry(i) => format!("spec.egress.allow[{i}]"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vicino_engine::egress::{Allowed, HostTest};
    use vicino_engine::policy::Source;
    use vicino_engine::snapshot::ServiceName;

    use super::*;

    fn snapshot(is_open: bool) -> Snapshot {
        let shop = Source { namespaces: vec!["shop".into()], ..Source::default() };
        let block = |text: &str| (text.parse().unwrap(), Vec::new());
        let allow = vec![
            Allowed {
                hosts: vec![HostTest::Exact("api.example.com".into())],
                ports: vec![443],
                ..Allowed::default()
            },
            Allowed {
                hosts: vec![HostTest::Below(".example.org".into())],
                from: vec![shop],
                ..Allowed::default()
            },
            Allowed { ip_blocks: vec![block("203.0.113.0/24")], ports: vec![80], ..Allowed::default() },
        ];
        let egress = egress::Egress {
            is_open,
            allow,
            trust_domain: "cluster.local".into(),
            never: vec!["192.0.2.1".parse().unwrap()],
            pod_blocks: vec!["10.1.0.0/16".parse().unwrap()],
        };
        Snapshot {
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            cluster_ips: [("10.96.0.7".parse().unwrap(), ServiceName::default())].into(),
            egress: Arc::new(egress),
            ..Snapshot::default()
        }
    }

    fn said(snapshot: &Snapshot, authority: &str, namespace: &str) -> String {
        let identity = Some(["cluster.local", namespace, "web"].map(str::to_owned));
        let caller = Caller { identity, address: None };
        let (egress, refused) = judged(snapshot, (authority, Reason::NotInMesh), &caller).unwrap();
        let refused = refused.map_or("-", Reason::word);
        format!("{} {refused} {:?} {}", egress.host, egress.by, egress.text.split(':').next().unwrap())
    }

    #[test]
    fn the_entry_that_lets_a_call_out_is_named_or_why_none_does() {
        let snapshot = snapshot(false);
        for (authority, namespace, expected) in [
            (
                "api.example.com:443",
                "demo",
                r#"api.example.com:443 - ["spec.egress.allow[0]"] let out by its name"#,
            ),
            ("a.example.org", "shop", r#"a.example.org:80 - ["spec.egress.allow[1]"] let out by its name"#),
            (
                "a.example.org",
                "demo",
                r#"a.example.org:80 - ["spec.egress.allow[2]"] let out if it leads to an address in a block of spec.egress.allow[2]"#,
            ),
            (
                "a.example.org:81",
                "demo",
                r"a.example.org:81 not-in-mesh [] no entry of spec.egress.allow lets spiffe",
            ),
            ("203.0.113.9", "demo", r#"203.0.113.9:80 - ["spec.egress.allow[2]"] let out by its address"#),
            (
                "198.51.100.1",
                "demo",
                "198.51.100.1:80 not-in-mesh [] no entry of spec.egress.allow lets spiffe",
            ),
            ("10.1.2.3", "demo", "10.1.2.3:80 not-in-mesh [] the address is a pod's"),
            ("192.0.2.1", "demo", "192.0.2.1:80 never-called [] never called, whatever spec.egress says"),
            ("[::1]", "demo", "[::1]:80 never-called [] never called, whatever spec.egress says"),
            ("10.96.0.7", "demo", "10.96.0.7:80 never-called [] never called, whatever spec.egress says"),
            (
                "0x7f.1",
                "demo",
                "0x7f.1:80 not-in-mesh [] neither a DNS name nor an address as it is written as a rule",
            ),
            (
                "web.other.svc.cluster.local",
                "demo",
                "web.other.svc.cluster.local:80 not-in-mesh [] a name of the cluster",
            ),
            ("nobody", "demo", "nobody:80 not-in-mesh [] a name of the cluster"),
        ] {
            assert_eq!(said(&snapshot, authority, namespace), expected);
        }
    }

    #[test]
    fn with_mode_allow_all_but_what_is_never_called_is_let_out() {
        let snapshot = snapshot(true);
        for (authority, expected) in [
            ("nobody", r#"nobody:80 - ["spec.egress.mode: Allow"] let out by its name"#),
            ("198.51.100.1", r#"198.51.100.1:80 - ["spec.egress.mode: Allow"] let out by its address"#),
            ("169.254.169.254", "169.254.169.254:80 never-called [] never called, whatever spec.egress says"),
            ("10.1.2.3", "10.1.2.3:80 not-in-mesh [] the address is a pod's"),
        ] {
            assert_eq!(said(&snapshot, authority, "demo"), expected);
        }
    }

    #[test]
    fn a_mesh_that_lets_nothing_out_says_so_of_hosts_that_may_be_meant_to_be_outside() {
        let (closed, caller) = (Snapshot::default(), Caller::default());
        assert_eq!(judged(&closed, ("nobody", Reason::NoSuchService), &caller), None);
        let (egress, refused) = judged(&closed, ("example.com", Reason::NoSuchService), &caller).unwrap();
        assert_eq!(egress.text, "spec.egress of the ServiceMesh lets nothing out");
        assert_eq!(refused, Some(Reason::NoSuchService));
        assert_eq!(judged(&closed, ("web", Reason::NoSuchPort), &caller), None);
    }
}
