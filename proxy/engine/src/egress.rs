//! What pods may call outside the mesh: a pure function of the mesh's list, the snapshot and the address that is dialled; it calls nothing.
//!
//! A host is allowed by its name, or by an address that it has. Whatever the list says, some addresses are never called ([`Never`]): to
//! call them through the node's proxy would be to borrow the place of the proxy, which no pod has. Names are no way around
//! that, since what is judged is the address that is dialled; nor are other spellings, since a name that a resolver could take for an
//! address is no name here ([`Host::of`]), and addresses that have an IPv4 address in them are judged by that as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::{Identity, Source, is_in};
use crate::route::NAME_BYTES_MAX;
use crate::snapshot::Snapshot;

/// What a mesh lets its pods call outside of it. By default nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Egress {
    /// Everything is allowed.
    pub is_open: bool,
    /// What is allowed.
    pub allow: Vec<Allowed>,
    /// Of the mesh's identities.
    pub trust_domain: Arc<str>,
    /// Addresses of nodes that are not in the mesh, and of the API server.
    pub never: Vec<IpAddr>,
    /// Blocks that pods have their addresses from: allowed by a block of addresses alone.
    pub pod_blocks: Vec<IpNet>,
}

/// Hosts and addresses, those of one list or the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed {
    /// Names.
    pub hosts: Vec<HostTest>,
    /// Within one of these, and none of the blocks that are left out of it.
    pub ip_blocks: Vec<(IpNet, Vec<IpNet>)>,
    /// All when there is none.
    pub ports: Vec<u16>,
    /// At least one of these; anybody when there is none.
    pub from: Vec<Source>,
}

/// A pattern of names, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostTest {
    /// This name.
    Exact(Box<str>),
    /// Every name that ends with this text, which begins with a dot.
    Below(Box<str>),
}

/// Who calls, and at which port of the host.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Its identity; None when nothing is proven.
    pub identity: Option<Identity<'a>>,
    /// Its address.
    pub source: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// What a call names that is no Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case and without a final dot.
    Name(Box<str>),
}

impl Host {
    /// None for what is neither, and for a name that ends in a number, which resolvers take for an address in another spelling (`127.1`,
    /// `0x7f.1`, `2130706433`; URL Standard, "ends in a number").
    pub fn of(host: &str) -> Option<Host> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Host::Address(address.to_canonical()));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
            || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let is_name = name.len() < NAME_BYTES_MAX && name.split('.').all(is_label) && !is_number;
        is_name.then(|| Host::Name(name.to_ascii_lowercase().into()))
    }
}

impl HostTest {
    fn is_met(&self, host: &str) -> bool {
        match self {
            HostTest::Exact(name) => **name == *host,
            HostTest::Below(end) => host.len() > end.len() && host.ends_with(&**end),
        }
    }
}

impl Egress {
    /// Whether nothing is allowed, so that nobody need ask further.
    pub fn is_closed(&self) -> bool {
        !self.is_open && self.allow.is_empty()
    }

    /// What allows a name, which is in lower case.
    pub fn by_name(&self, caller: &Caller<'_>, host: &str) -> Option<By> {
        if self.is_open {
            return Some(By::Mode);
        }
        self.position(caller, |allowed| allowed.hosts.iter().any(|test| test.is_met(host))).map(By::Entry)
    }

    /// Whether there are entries that could allow a name by one of its addresses.
    pub fn may_go_by_address(&self, caller: &Caller<'_>) -> bool {
        self.position(caller, |allowed| !allowed.ip_blocks.is_empty()).is_some()
    }

    /// What allows an address, never mind which name has led to it.
    pub fn by_address(&self, caller: &Caller<'_>, address: IpAddr) -> Option<By> {
        let is_within = |allowed: &Allowed| allowed.ip_blocks.iter().any(|block| is_in(block, address));
        let entry = self.position(caller, is_within);
        let is_open = self.is_open && !self.is_of_pods(address);
        entry.map(By::Entry).or(is_open.then_some(By::Mode))
    }

    /// Whether it is from a block of pods: no name and no mode allows to call pods around the mesh, only who writes the block.
    pub fn is_of_pods(&self, address: IpAddr) -> bool {
        self.pod_blocks.iter().any(|block| block.contains(&address))
    }

    fn position(&self, caller: &Caller<'_>, is_met: impl Fn(&Allowed) -> bool) -> Option<usize> {
        let is_of = |source: &Source| source.admits(caller.identity, caller.source, &self.trust_domain);
        self.allow.iter().position(|allowed| {
            (allowed.ports.is_empty() || allowed.ports.contains(&caller.port))
                && is_met(allowed)
                && (allowed.from.is_empty() || allowed.from.iter().any(is_of))
        })
    }
}

/// What allows a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Everything is allowed.
    Mode,
    /// The entry of this index.
    Entry(usize),
}

/// Why an address is never called for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {
    /// It has a meaning of its own on every host, or none: loopback, link-local, multicast, unspecified, reserved.
    Special,
    /// The metadata of a cloud's machine, which are the node's and not the pod's.
    Metadata,
    /// A node, or the API server.
    Node,
    /// A pod of this node, which is called as a Service.
    Pod,
    /// A Service of the mesh, which is called by its name or address itself.
    Service,
}

impl Never {
    /// In words, after "the address is that of".
    pub fn text(self) -> &'static str {
        match self {
            Never::Special => "loopback, link-local, multicast or no host at all",
            Never::Metadata => "a cloud's metadata service",
            Never::Node => "a node or the API server",
            Never::Pod => "a pod of the mesh",
            Never::Service => "a Service of the mesh",
        }
    }
}

/// Metadata services that are not at a link-local address: of Azure, Alibaba, Oracle; and by IPv6 of Amazon and Google.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Why an address is never called; None: the list decides. `own` are further addresses of this process.
pub fn never(snapshot: &Snapshot, own: &[IpAddr], address: IpAddr) -> Option<Never> {
    let address = address.to_canonical();
    let judge = |address: IpAddr| {
        let Snapshot { node_addresses, foreign_addresses, neighbours, cluster_ips, egress, .. } = snapshot;
        match () {
            () if METADATA.contains(&address) => Some(Never::Metadata),
            () if is_special(address) => Some(Never::Special),
            () if node_addresses.contains(&address) || own.contains(&address) => Some(Never::Node),
            () if foreign_addresses.contains_key(&address) || egress.never.contains(&address) => {
                Some(Never::Node)
            }
            () if neighbours.contains_key(&address) => Some(Never::Pod),
            () if cluster_ips.contains_key(&address) => Some(Never::Service),
            () => None,
        }
    };
    judge(address).or_else(|| embedded(address).and_then(judge))
}

/// What a host is not to be called at, by the registries of special addresses (RFC 6890) as far as they lead to no other host.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            // 192.0.0.0/24 is for protocols; 240.0.0.0/4 has broadcast in it.
            a == 0
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || a >= 240
                || (a, b, c) == (192, 0, 0)
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                // Site-local of old; Teredo; NAT64 for local use, whose prefix says nothing of where it leads.
                || a & 0xffc0 == 0xfec0
                || (a, b) == (0x2001, 0)
                || (a, b, c) == (0x64, 0xff9b, 1)
        }
    }
}

/// The IPv4 address that an IPv6 address leads to by NAT64 (RFC 6052) or 6to4 (RFC 3056), or is another spelling of (RFC 4291 §2.5.5.1).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let v4 = |high: u16, low: u16| Some(IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            v4(high, low)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Neighbour, ServiceName};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn some_addresses_are_never_called() {
        let pod = Neighbour {
            uid: "u".into(),
            namespace: "demo".into(),
            name: "a".into(),
            service_account: "a".into(),
        };
        let snapshot = Snapshot {
            node_addresses: vec![ip("10.0.0.1"), ip("fd00::1")],
            foreign_addresses: [(ip("10.0.0.2"), "b".into())].into(),
            neighbours: [(ip("10.1.0.5"), Arc::new(pod))].into(),
            cluster_ips: [(ip("10.96.0.7"), ServiceName::default())].into(),
            egress: Arc::new(Egress { never: vec![ip("10.0.0.3")], ..Egress::default() }),
            ..Snapshot::default()
        };
        for (address, expected) in [
            ("127.0.0.1", Some(Never::Special)),
            ("127.255.255.254", Some(Never::Special)),
            ("0.0.0.0", Some(Never::Special)),
            ("0.1.2.3", Some(Never::Special)),
            ("169.254.169.254", Some(Never::Special)),
            ("169.254.0.1", Some(Never::Special)),
            ("224.0.0.1", Some(Never::Special)),
            ("255.255.255.255", Some(Never::Special)),
            ("192.0.0.192", Some(Never::Metadata)),
            ("168.63.129.16", Some(Never::Metadata)),
            ("100.100.100.200", Some(Never::Metadata)),
            ("fd00:ec2::254", Some(Never::Metadata)),
            ("::", Some(Never::Special)),
            ("::1", Some(Never::Special)),
            ("fe80::1", Some(Never::Special)),
            ("ff02::1", Some(Never::Special)),
            ("::ffff:127.0.0.1", Some(Never::Special)),
            ("::ffff:169.254.169.254", Some(Never::Special)),
            ("::169.254.169.254", Some(Never::Special)),
            ("64:ff9b::a9fe:a9fe", Some(Never::Special)),
            ("64:ff9b::a00:1", Some(Never::Node)),
            ("64:ff9b:1::1", Some(Never::Special)),
            ("2002:a9fe:a9fe::1", Some(Never::Special)),
            ("2001::1", Some(Never::Special)),
            ("10.0.0.1", Some(Never::Node)),
            ("::ffff:10.0.0.1", Some(Never::Node)),
            ("fd00::1", Some(Never::Node)),
            ("10.0.0.2", Some(Never::Node)),
            ("10.0.0.3", Some(Never::Node)),
            ("192.0.2.9", Some(Never::Node)),
            ("10.1.0.5", Some(Never::Pod)),
            ("10.96.0.7", Some(Never::Service)),
            ("10.0.0.4", None),
            ("198.51.100.7", None),
            ("2001:db8::1", None),
            ("64:ff9b::c633:6407", None),
        ] {
            assert_eq!(never(&snapshot, &[ip("192.0.2.9")], ip(address)), expected, "{address}");
        }
    }

    #[test]
    fn a_host_is_an_address_or_a_name_that_is_never_taken_for_one() {
        let name = |text: &str| Some(Host::Name(text.into()));
        for (text, expected) in [
            ("API.Example.com.", name("api.example.com")),
            ("api", name("api")),
            ("_a.b-c.org", name("_a.b-c.org")),
            ("1.2.3.4.nip.example", name("1.2.3.4.nip.example")),
            ("10.0.0.1", Some(Host::Address(ip("10.0.0.1")))),
            ("::ffff:10.0.0.1", Some(Host::Address(ip("10.0.0.1")))),
            ("127.1", None),
            ("2852039166", None),
            ("0251.0376.0251.0376", None),
            ("0xa9fea9fe", None),
            ("0xa9.0xfe.0xa9.0xfe", None),
            ("169.254.169.0xFE", None),
            ("a..b", None),
            (".a", None),
            ("", None),
            ("a_b.-c", None),
            ("a%2eb", None),
            ("fe80::1%eth0", None),
        ] {
            assert_eq!(Host::of(text), expected, "{text}");
        }
    }

    #[test]
    fn names_blocks_ports_and_callers() {
        let block = |text: &str| text.parse::<IpNet>().unwrap();
        let shop = Source { namespaces: vec!["shop".into()], ..Source::default() };
        let egress = Egress {
            allow: vec![
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
                Allowed {
                    ip_blocks: vec![(block("203.0.113.0/24"), vec![block("203.0.113.8/29")])],
                    ..Allowed::default()
                },
                Allowed {
                    ip_blocks: vec![(block("10.1.7.0/24"), vec![])],
                    ports: vec![9],
                    ..Allowed::default()
                },
            ],
            trust_domain: "cluster.local".into(),
            pod_blocks: vec![block("10.1.0.0/16")],
            ..Egress::default()
        };
        let identity =
            |namespace| Identity { trust_domain: "cluster.local", namespace, service_account: "x" };
        let caller = |namespace, port| Caller { identity: Some(identity(namespace)), source: None, port };
        let open = Egress { is_open: true, ..egress.clone() };
        for (namespace, host, port, expected) in [
            ("demo", "api.example.com", 443, Some(By::Entry(0))),
            ("demo", "api.example.com", 80, None),
            ("demo", "x.api.example.com", 443, None),
            ("shop", "a.example.org", 80, Some(By::Entry(1))),
            ("shop", "a.b.example.org", 80, Some(By::Entry(1))),
            ("shop", "example.org", 80, None),
            ("shop", "aexample.org", 80, None),
            ("demo", "a.example.org", 80, None),
        ] {
            assert_eq!(egress.by_name(&caller(namespace, port), host), expected, "{namespace} {host}:{port}");
            assert_eq!(open.by_name(&caller(namespace, port), host), Some(By::Mode));
        }
        let nobody = Caller { identity: None, source: None, port: 80 };
        assert_eq!(egress.by_name(&nobody, "a.example.org"), None, "whoever is not known is of no namespace");
        for (address, port, expected, if_open) in [
            ("203.0.113.7", 80, Some(By::Entry(2)), Some(By::Entry(2))),
            ("203.0.113.9", 80, None, Some(By::Mode)),
            ("198.51.100.1", 80, None, Some(By::Mode)),
            ("10.1.7.1", 80, None, None),
            ("10.1.7.1", 9, Some(By::Entry(3)), Some(By::Entry(3))),
        ] {
            let caller = Caller { port, ..nobody };
            assert_eq!(egress.by_address(&caller, ip(address)), expected, "{address}:{port}");
            assert_eq!(open.by_address(&caller, ip(address)), if_open, "{address}:{port}");
        }
        assert!(egress.may_go_by_address(&nobody) && !Egress::default().may_go_by_address(&nobody));
        assert!(Egress::default().is_closed() && !egress.is_closed() && !open.is_closed());
    }
}
