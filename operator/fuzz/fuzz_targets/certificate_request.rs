//! Any bytes as a request for a certificate, as text and as what PEM has in it: what is issued has the identity, the kind of key and the time that were granted, whatever was asked for.
#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use pem::Pem;
use vicino_crds::identity::Identity;
use vicino_operator::authority::ca::Authority;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(86_400);
/// The SubjectPublicKeyInfo of every key of P-256 begins so (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn now() -> SystemTime {
    UNIX_EPOCH + DAY * 20_000
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let texts = Authority::make(now()).expect("a root");
        Authority::read(&texts, now()).expect("it is good")
    })
}

fuzz_target!(|bytes: &[u8]| {
    let web = Identity::workload("cluster.local", "shop", "web").expect("names");
    let wrapped = pem::encode(&Pem::new("CERTIFICATE REQUEST", bytes));
    for csr in [std::str::from_utf8(bytes).ok(), Some(&*wrapped)].into_iter().flatten() {
        let Ok(issued) = authority().issue(csr, &web, (DAY, now())) else { continue };
        assert_eq!(issued.expires, now() + DAY);
        let chain = pem::parse(&issued.chain).expect("one certificate");
        let (_, leaf) = X509Certificate::from_der(chain.contents()).expect("a certificate");
        assert!(!leaf.is_ca() && leaf.public_key().raw.starts_with(&P256));
        assert_eq!(leaf.subject().to_string(), "");
        let names = leaf.subject_alternative_name().expect("names").expect("names");
        assert_eq!(names.value.general_names, [GeneralName::URI(&web.to_string())]);
    }
});
