//! Two ends, and what each takes of the other; certificates are made for each test.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{AlertDescription, CertificateError};

use super::*;

const DOMAIN: &str = "cluster.local";

/// An authority of a mesh.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn trust(&self) -> Trust {
        Trust::new(&self.pem, DOMAIN).unwrap()
    }

    fn credentials(&self, uri: &str) -> Credentials {
        self.credentials_with(&[uri], |_| {}).unwrap()
    }

    fn credentials_with(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Credentials, SecureError> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Credentials::new(&chain, &key.serialize_pem())
    }
}

type Change = dyn Fn(&mut CertificateParams);

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const PAY: &str = "spiffe://cluster.local/ns/shop/sa/pay";
const NODE: &str = "spiffe://cluster.local/node/node-1";

static ROOT: LazyLock<Root> = LazyLock::new(|| Root::new("root"));

/// What both ends have come to when neither has anything more to say.
struct Ends {
    dialled: Secure,
    accepted: Secure,
    /// What each has got, the dialler first.
    got: [Vec<u8>; 2],
    /// Why each has given up.
    failed: [Option<rustls::Error>; 2],
}

impl Ends {
    fn of(dialled: Secure, accepted: Secure) -> Self {
        let mut ends = Self { dialled, accepted, got: Default::default(), failed: Default::default() };
        ends.run(usize::MAX);
        ends
    }

    /// In pieces of at most so many bytes.
    fn run(&mut self, piece: usize) {
        loop {
            let mut is_quiet = true;
            for to_dialler in [false, true] {
                let (from, to) = if to_dialler {
                    (&mut self.accepted, &mut self.dialled)
                } else {
                    (&mut self.dialled, &mut self.accepted)
                };
                let mut wire = Vec::new();
                while from.has_output() {
                    from.write_to(&mut wire).unwrap();
                }
                is_quiet &= wire.is_empty();
                let at = usize::from(!to_dialler);
                for part in wire.chunks(piece.min(wire.len()).max(1)) {
                    if self.failed[at].is_none() {
                        self.failed[at] = to.receive(part, &mut self.got[at]).err();
                    }
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn is_open(&self) -> bool {
        self.dialled.is_open() && self.accepted.is_open() && self.failed == [None, None]
    }
}

fn tickets() -> Arc<dyn ProducesTickets> {
    ring::Ticketer::new().unwrap()
}

/// A hop of `web` to `node-1`, with these credentials.
fn meet(dialler: &Credentials, acceptor: &Credentials, trust: [&Trust; 2]) -> Ends {
    let dialled = Dialer::new(dialler, trust[0]).unwrap().dial("node-1").unwrap();
    Ends::of(dialled, Acceptor::new(acceptor, trust[1], tickets()).unwrap().accept().unwrap())
}

/// Both ends of a hop whose handshake is through, the dialler's first.
pub(crate) fn two_ends() -> [Secure; 2] {
    let trust = ROOT.trust();
    let ends = meet(&ROOT.credentials(WEB), &ROOT.credentials(NODE), [&trust, &trust]);
    [ends.dialled, ends.accepted]
}

#[test]
fn each_end_knows_the_other_and_bytes_pass_both_ways() {
    let trust = ROOT.trust();
    let mut ends = meet(&ROOT.credentials(WEB), &ROOT.credentials(NODE), [&trust, &trust]);
    assert!(ends.is_open(), "{:?}", ends.failed);
    assert_eq!(ends.dialled.peer(&trust).unwrap().identity.to_string(), NODE);
    assert_eq!(ends.accepted.peer(&trust).unwrap().identity.to_string(), WEB);
    assert_eq!(ends.dialled.0.alpn_protocol(), Some(ALPN));
    for piece in [1, 100, usize::MAX] {
        assert_eq!((ends.dialled.send(b"request"), ends.accepted.send(b"answer")), (7, 6));
        ends.run(piece);
    }
    assert_eq!(ends.got, [b"answer".repeat(3), b"request".repeat(3)]);
}

#[test]
fn more_than_there_is_room_for_is_not_taken() {
    let trust = ROOT.trust();
    let mut ends = meet(&ROOT.credentials(WEB), &ROOT.credentials(NODE), [&trust, &trust]);
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    let mut at = 0;
    while at < bytes.len() {
        let taken = ends.dialled.send(&bytes[at..]);
        assert!((1..=OUTPUT_BYTES_MAX).contains(&taken));
        at += taken;
        ends.run(usize::MAX);
    }
    assert!(ends.got[1] == bytes);
}

#[test]
fn a_second_hop_to_the_same_node_resumes_and_knows_the_caller_still() {
    let trust = ROOT.trust();
    let dialer = Dialer::new(&ROOT.credentials(WEB), &trust).unwrap();
    let acceptor = Acceptor::new(&ROOT.credentials(NODE), &trust, tickets()).unwrap();
    let meet = || Ends::of(dialer.dial("node-1").unwrap(), acceptor.accept().unwrap());
    let kinds = [meet(), meet()].map(|ends| {
        assert!(ends.is_open(), "{:?}", ends.failed);
        assert_eq!(ends.accepted.peer(&trust).unwrap().identity.to_string(), WEB);
        assert_eq!(ends.dialled.peer(&trust).unwrap().identity.to_string(), NODE);
        ends.dialled.0.handshake_kind().unwrap()
    });
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
    let other = Ends::of(dialer.dial("node-2").unwrap(), acceptor.accept().unwrap());
    assert!(other.failed[0].is_some(), "a session is of one node");
}

#[test]
fn a_node_that_is_not_the_one_that_was_meant_gets_nothing() {
    let (trust, web) = (ROOT.trust(), ROOT.credentials(WEB));
    let foreign = Root::new("foreign");
    let past = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let future = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    let client_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let plain = |_: &mut CertificateParams| {};
    let cases: [(&str, &Root, &[&str], &Change); 6] = [
        ("another node", &ROOT, &["spiffe://cluster.local/node/node-2"], &plain),
        ("a node of another trust domain", &ROOT, &["spiffe://other/node/node-1"], &plain),
        ("a foreign root", &foreign, &[NODE], &plain),
        ("one that has ended", &ROOT, &[NODE], &past),
        ("one that is not good yet", &ROOT, &[NODE], &future),
        ("one for clients", &ROOT, &[NODE], &client_only),
    ];
    for (what, root, uris, change) in cases {
        let node = root.credentials_with(uris, change).unwrap();
        let mut ends = meet(&web, &node, [&trust, &trust]);
        let error = ends.failed[0].take();
        assert!(matches!(error, Some(rustls::Error::InvalidCertificate(_))), "{what}: {error:?}");
        assert!(!ends.dialled.is_open(), "{what}");
        assert!(matches!(ends.failed[1], Some(rustls::Error::AlertReceived(_))), "it is told: {what}");
    }
}

#[test]
fn a_caller_without_a_good_certificate_is_nobody() {
    let (trust, node) = (ROOT.trust(), ROOT.credentials(NODE));
    let foreign = Root::new("foreign");
    let past = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let refused = [
        (foreign.credentials(WEB), CertificateError::UnknownIssuer),
        (ROOT.credentials_with(&[WEB], past).unwrap(), CertificateError::Expired),
    ];
    for (caller, why) in refused {
        let ends = meet(&caller, &node, [&trust, &trust]);
        let is_it = match (&ends.failed[1], &why) {
            (
                Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })),
                CertificateError::Expired,
            ) => true,
            (Some(rustls::Error::InvalidCertificate(error)), why) => error == why,
            _ => false,
        };
        assert!(is_it, "{:?} and not {why:?}", ends.failed[1]);
        assert_eq!(ends.accepted.peer(&trust), None);
    }
    // Signed, and yet of another trust domain.
    let ends = meet(&ROOT.credentials("spiffe://other/ns/shop/sa/web"), &node, [&trust, &trust]);
    assert_eq!(ends.accepted.peer(&trust), None);

    let (provider, _) = provider();
    let anonymous = |versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[u8]| {
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(trust.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let verifier = NodeVerifier::new(trust.roots.clone(), trust.domain.clone(), super::provider().1);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        let name = ServerName::try_from("node-1").unwrap();
        let dialled = Secure::new(ClientConnection::new(Arc::new(config), name).unwrap().into());
        Ends::of(dialled, Acceptor::new(&node, &trust, tickets()).unwrap().accept().unwrap())
    };
    let tls13 = &rustls::version::TLS13;
    let ends = anonymous(&[tls13], ALPN);
    assert_eq!(ends.failed[1], Some(rustls::Error::NoCertificatesPresented));
    let ends = anonymous(&[tls13], b"h2");
    assert_eq!(ends.failed[0], Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
}

#[test]
fn a_certificate_is_of_one_identity_or_of_none() {
    let of = |uris: &[&str], change: &Change| {
        ROOT.credentials_with(uris, change).map(|credentials| credentials.svid().identity.to_string())
    };
    let plain = |_: &mut CertificateParams| {};
    assert_eq!(of(&[WEB], &plain).unwrap(), WEB);
    let names = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::DnsName("web.shop".try_into().unwrap()));
    };
    assert_eq!(of(&[WEB], &names).unwrap(), WEB, "other names beside it say nothing");
    let authority = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (uris, change, why) in [
        (&[][..], &plain as &Change, SvidError::Names),
        (&[WEB, NODE], &plain, SvidError::Names),
        (&["https://cluster.local/"], &plain, SvidError::Identity(IdentityError::Scheme)),
        (&[WEB], &authority, SvidError::Authority),
    ] {
        let error = of(uris, change).unwrap_err();
        assert!(matches!(&error, SecureError::Svid(found) if *found == why), "{error:?} and not {why:?}");
    }
    let workload = ROOT.credentials(WEB);
    assert!(matches!(Acceptor::new(&workload, &ROOT.trust(), tickets()), Err(SecureError::NotANode(_))));
    assert!(matches!(Trust::new("hello", DOMAIN), Err(SecureError::Pem("roots"))));
    assert!(matches!(Credentials::new("", ""), Err(SecureError::Pem("the chain"))));
    let svid = workload.svid();
    let then = UNIX_EPOCH + Duration::from_hours(500_000);
    assert!(svid.not_before < then && svid.not_after > then);
}

#[test]
fn hops_are_dialled_as_the_caller_and_what_stays_the_same_keeps_its_number_and_its_sessions() {
    let node = Identity::node(DOMAIN, "node-1").unwrap();
    let web: Identity = WEB.parse().unwrap();
    let held = |uri: &str| Arc::new(ROOT.credentials(uri));
    let (of_node, of_web, of_web_later) = (held(NODE), held(WEB), held(WEB));
    let make = |certificates: &[(&Identity, &Arc<Credentials>)], before: Option<&Hops>| {
        let all = certificates.iter().map(|(whose, what)| ((*whose).clone(), (*what).clone())).collect();
        Hops::new(&all, &node, (ROOT.trust(), Manner::default()), before).unwrap()
    };
    assert!(make(&[(&web, &of_web)], None).is_none(), "without the node's own there are none");
    let first = make(&[(&node, &of_node), (&web, &of_web)], None).unwrap();
    let account = Account { namespace: "shop".into(), name: "web".into() };
    let dial = |hops: &Hops, caller: Option<&Account>| {
        let to = SecureDial { node: "node-1".into(), caller: caller.cloned() };
        let ends = Ends::of(hops.dial(&to).unwrap(), hops.accept().unwrap());
        assert!(ends.is_open(), "{:?}", ends.failed);
        (hops.party(&ends.accepted).unwrap().0, ends.dialled.0.handshake_kind().unwrap())
    };
    assert_eq!(dial(&first, Some(&account)), (Party::Workload(account.clone()), rustls::HandshakeKind::Full));
    assert_eq!(dial(&first, None), (Party::Node("node-1".into()), rustls::HandshakeKind::Full));
    assert_eq!(
        dial(&first, Some(&account)),
        (Party::Workload(account.clone()), rustls::HandshakeKind::Resumed)
    );
    let stranger = Account { namespace: "shop".into(), name: "pay".into() };
    let to = SecureDial { node: "node-1".into(), caller: Some(stranger) };
    assert!(matches!(first.dial(&to), Err(SecureError::NoCredentials(_))));
    let renewed = make(&[(&node, &of_node), (&web, &of_web_later)], Some(&first)).unwrap();
    assert_eq!(renewed.numbers().node, first.numbers().node);
    assert_ne!(renewed.numbers().accounts[&account], first.numbers().accounts[&account]);
    assert_eq!(dial(&renewed, Some(&account)).1, rustls::HandshakeKind::Full);
    assert_eq!(dial(&renewed, None).1, rustls::HandshakeKind::Resumed, "the node's certificate is the same");
    let left = make(&[(&node, &of_node)], Some(&renewed)).unwrap();
    assert!(left.numbers().accounts.is_empty());
}

/// A hop that was made under other roots, or with a certificate that was gone for a while, is not to be taken for a new one.
#[test]
fn credentials_that_are_not_the_same_never_have_the_same_number() {
    let node = Identity::node(DOMAIN, "node-1").unwrap();
    let (web, pay): (Identity, Identity) = (WEB.parse().unwrap(), PAY.parse().unwrap());
    let held = |uri: &str| Arc::new(ROOT.credentials(uri));
    let (of_node, of_web, of_pay) = (held(NODE), held(WEB), held(PAY));
    let make = |certificates: &[(&Identity, &Arc<Credentials>)], trust: Trust, before: Option<&Hops>| {
        let all = certificates.iter().map(|(whose, what)| ((*whose).clone(), (*what).clone())).collect();
        Hops::new(&all, &node, (trust, Manner::default()), before).unwrap().unwrap()
    };
    let numbers = |hops: &Hops| {
        let numbers = hops.numbers();
        numbers.accounts.into_values().chain([numbers.node]).collect::<Vec<_>>()
    };
    let all = [(&node, &of_node), (&web, &of_web), (&pay, &of_pay)];
    let first = make(&all, ROOT.trust(), None);
    let both = format!("{}{}", ROOT.pem, Root::new("other").pem);
    let more = make(&all, Trust::new(&both, DOMAIN).unwrap(), Some(&first));
    let fewer = make(&all[..2], ROOT.trust(), Some(&more));
    let without = make(&all[..1], ROOT.trust(), Some(&fewer));
    let again = make(&[(&node, &of_node), (&web, &held(WEB))], ROOT.trust(), Some(&without));
    assert_eq!(again.numbers().node, without.numbers().node);
    let again: Vec<_> = again.numbers().accounts.into_values().collect();
    let all = [numbers(&first), numbers(&more), numbers(&fewer), again].concat();
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), 9, "{all:?}");
}

#[test]
fn hops_that_stand_are_distrusted_when_a_root_goes_and_not_when_one_comes() {
    let node = Identity::node(DOMAIN, "node-1").unwrap();
    let of_node = Arc::new(ROOT.credentials(NODE));
    let make = |roots: &str, domain: &str| {
        let (all, trust) = ([(node.clone(), of_node.clone())].into(), Trust::new(roots, domain).unwrap());
        Hops::new(&all, &node, (trust, Manner::default()), None).unwrap().unwrap()
    };
    let other = Root::new("root").pem;
    let [old, both, new] =
        [ROOT.pem.clone(), format!("{}{other}", ROOT.pem), other].map(|roots| make(&roots, DOMAIN));
    assert!(!both.distrusts(&old) && !old.distrusts(&old));
    assert!(new.distrusts(&both) && new.distrusts(&old));
    assert!(make(&ROOT.pem, "another.domain").distrusts(&old));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_that_are_no_tls_end_it_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 1..300), after in 0..2000_usize) {
        let trust = ROOT.trust();
        let acceptor = Acceptor::new(&ROOT.credentials(NODE), &trust, tickets()).unwrap();
        let mut dialled = Dialer::new(&ROOT.credentials(WEB), &trust).unwrap().dial("node-1").unwrap();
        let mut hello = Vec::new();
        while dialled.has_output() {
            dialled.write_to(&mut hello).unwrap();
        }
        hello.truncate(after);
        hello.extend(bytes);
        let (mut accepted, mut out) = (acceptor.accept().unwrap(), Vec::new());
        // Whatever it says of them.
        let _ = accepted.receive(&hello, &mut out);
        prop_assert!(out.is_empty() && !accepted.is_open() && accepted.peer(&trust).is_none());
    }
}
