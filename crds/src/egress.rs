//! What pods of a mesh may call outside of it: a part of the kind `ServiceMesh`, carried by the contract as it is; schema and checks only.
//!
//! Hosts follow the Gateway API: a name, or `*.` and a name, which stands for every name below that one. An address is allowed by
//! a block that has it, whatever name led to it. Addresses that are never called are the proxies' affair, not written here.

use std::sync::LazyLock;

use kube::KubeSchema;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{self, IpBlock, PolicySource, flaw};
use crate::rule::Flaw;

/// Longest DNS name, in bytes, without a final dot (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// What pods may call outside the mesh, through it. Never called, whatever is written here: loopback, link-local and cloud metadata addresses, nodes, the API server, the caller's node's own pods and the mesh's Services by another way than their Service; other pods only where ipBlocks has their address.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressSpec {
    /// `Deny`: only what `allow` has. `Allow`: everything; `allow` is of use only for pods that are called by their address.
    #[serde(default)]
    pub mode: EgressMode,
    /// What may be called; their order does not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<EgressRule>,
}

impl EgressSpec {
    /// Whether nothing may be called, as when nothing is written.
    pub fn is_closed(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a call to a host that is no Service of the mesh.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EgressMode {
    /// It is refused unless something allows it.
    #[default]
    Deny,
    /// It goes on.
    Allow,
}

/// Hosts and addresses that may be called: those of one list or the other, at one of the ports, by one of the callers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.hosts) || has(self.ipBlocks)")
        .message("an entry of allow says hosts or ipBlocks: mode Allow is what allows everything")
)]
pub struct EgressRule {
    /// Names, in lower case: `api.example.com`, or `*.example.com` for every name below `example.com`. What a TLS client says in its handshake (SNI), if it says a name, has to be allowed as well as the name that it asked the proxy for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 3, max = HOST_BYTES_MAX),
            regex(pattern = crate::pattern::HOST_OUTSIDE)
        )
    )]
    pub hosts: Vec<String>,
    /// Addresses, called by themselves or by a name that leads to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    pub ip_blocks: Vec<IpBlock>,
    /// Ports. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65_535)))]
    pub ports: Vec<i32>,
    /// Who may call: at least one of these. Empty: anybody. Service accounts say their namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub from: Vec<PolicySource>,
}

static HOST: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(crate::pattern::HOST_OUTSIDE).expect("the pattern is tested"));

/// The first flaw that the schema does not find.
pub fn check(allow: &[EgressRule]) -> Result<(), Flaw> {
    for (i, rule) in allow.iter().enumerate() {
        check_rule(&format!("allow[{i}]"), rule)?;
    }
    Ok(())
}

fn check_rule(at: &str, rule: &EgressRule) -> Result<(), Flaw> {
    let EgressRule { hosts, ip_blocks, ports, from } = rule;
    if hosts.is_empty() && ip_blocks.is_empty() {
        let problem = "says neither hosts nor ipBlocks: mode Allow is what allows everything";
        return Err(flaw(at, problem));
    }
    for (i, host) in hosts.iter().enumerate() {
        let field = || format!("{at}.hosts[{i}]");
        if host.parse::<std::net::IpAddr>().is_ok() {
            return Err(flaw(field(), "is an address: write it in ipBlocks"));
        }
        if host.len() > HOST_BYTES_MAX || !HOST.is_match(host) {
            let problem = format!(
                "{host:?} is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com"
            );
            return Err(flaw(field(), problem));
        }
    }
    for (i, block) in ip_blocks.iter().enumerate() {
        policy::check_block(&format!("{at}.ipBlocks[{i}]"), block)?;
    }
    policy::check_ports(&format!("{at}.ports"), ports)?;
    for (i, source) in from.iter().enumerate() {
        policy::check_source(&format!("{at}.from[{i}]"), source)?;
        for (name, list) in [
            ("serviceAccounts", &source.service_accounts),
            ("notServiceAccounts", &source.not_service_accounts),
        ] {
            if let Some(j) = list.iter().position(|account| account.namespace.is_none()) {
                let problem = "must be said: a ServiceMesh has no namespace of its own";
                return Err(flaw(format!("{at}.from[{i}].{name}[{j}].namespace"), problem));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_schema_cannot_say_is_said_with_what_would_be_right() {
        for (rule, expected) in [
            (
                "ports: [443]",
                "allow[0]: says neither hosts nor ipBlocks: mode Allow is what allows everything",
            ),
            (
                "hosts: [Api.example.com]",
                "allow[0].hosts[0]: \"Api.example.com\" is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com",
            ),
            (
                "hosts: ['a.*.com']",
                "allow[0].hosts[0]: \"a.*.com\" is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com",
            ),
            (
                "hosts: ['*.com']",
                "allow[0].hosts[0]: \"*.com\" is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com",
            ),
            (
                "hosts: ['*.1.2.3.4']",
                "allow[0].hosts[0]: \"*.1.2.3.4\" is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com",
            ),
            ("hosts: [10.0.0.1]", "allow[0].hosts[0]: is an address: write it in ipBlocks"),
            (
                "hosts: [a.b.0x1f]",
                "allow[0].hosts[0]: \"a.b.0x1f\" is no DNS name in lower case with a dot in it, such as api.example.com or *.example.com",
            ),
            (
                "ipBlocks: [{cidr: 10.1.2.3/16}]",
                "allow[0].ipBlocks[0].cidr: \"10.1.2.3/16\" begins within a block: write 10.1.0.0/16, or /32 for that one address",
            ),
            ("{hosts: [a.b], ports: [0]}", "allow[0].ports[0]: must be 1 to 65535"),
            (
                "{hosts: [a.b], from: [{serviceAccounts: [{name: x}]}]}",
                "allow[0].from[0].serviceAccounts[0].namespace: must be said: a ServiceMesh has no namespace of its own",
            ),
            ("{hosts: ['*.example.com', _x.a-b.org], ports: [443], from: [{namespaces: [shop]}]}", ""),
        ] {
            let rule = if rule.starts_with('{') { rule.to_owned() } else { format!("{{{rule}}}") };
            let egress: EgressSpec = serde_saphyr::from_str(&format!("allow: [{rule}]")).unwrap();
            let found = check(&egress.allow)
                .err()
                .map_or_else(String::new, |f| format!("{}: {}", f.field, f.problem));
            assert_eq!(found, expected, "{rule}");
        }
    }
}
