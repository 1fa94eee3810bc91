//! What is issued is what was asked for and no more; what is wrong with an authority is told.

use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn authority() -> (Texts, Authority) {
    let texts = Authority::make(now()).unwrap();
    let authority = Authority::read(&texts, now()).unwrap();
    (texts, authority)
}

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn web() -> Identity {
    Identity::workload("cluster.local", "shop", "web").unwrap()
}

#[test]
fn a_certificate_has_the_one_identity_the_key_and_the_time_that_were_granted() {
    let (_, authority) = authority();
    let key = KeyPair::generate().unwrap();
    // Whatever else it asks for.
    let csr = request(&key, |params| {
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names =
            vec![SanType::URI("spiffe://cluster.local/ns/bank/sa/admin".try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let issued = authority.issue(&csr, &web(), (DAY, now())).unwrap();
    assert_eq!(issued.expires, now() + DAY);
    let (chain, roots) =
        (pem::parse_many(&issued.chain).unwrap(), pem::parse_many(authority.roots()).unwrap());
    assert_eq!((chain.len(), roots.len()), (1, 1), "the root is not sent along");
    let (_, leaf) = X509Certificate::from_der(chain[0].contents()).unwrap();
    let (_, root) = X509Certificate::from_der(roots[0].contents()).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
    assert_eq!(leaf.subject().to_string(), "");
    assert!(!leaf.is_ca());
    assert_eq!(time(leaf.validity().not_before.timestamp()), now(), "not before the root's own time");
    assert_eq!(time(leaf.validity().not_after.timestamp()), now() + DAY);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "since there is no subject (RFC 5280 §4.2.1.6)");
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let uses = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(uses.server_auth && uses.client_auth && !uses.any);
    let has_issuer = |extension: &x509_parser::extensions::X509Extension<'_>| {
        matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_))
    };
    assert!(leaf.extensions().iter().any(has_issuer));
    let says = |extension: &x509_parser::extensions::X509Extension<'_>| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(said) => said.key_identifier.as_ref().map(|id| key_id(id.0)),
        _ => None,
    };
    assert_eq!(leaf.extensions().iter().find_map(says).as_deref(), Some(authority.key_id()));
    assert_eq!(authority.root(), fingerprint(roots[0].contents()));
    let again = authority.issue(&csr, &web(), (DAY, now())).unwrap();
    assert_ne!(again.chain, issued.chain, "serial numbers are by chance");
}

#[test]
fn what_is_no_request_of_that_key_is_refused() {
    let (_, authority) = authority();
    let key = KeyPair::generate().unwrap();
    let good = request(&key, |_| {});
    let issue = |csr: &str| authority.issue(csr, &web(), (DAY, now())).map(drop);
    assert_eq!(issue(&good), Ok(()));
    let mut signed_by_another = pem::parse(&good).unwrap().contents().to_vec();
    let last = signed_by_another.len() - 5;
    signed_by_another[last] ^= 1;
    let certificate = authority.roots().to_owned();
    for bad in [
        String::new(),
        "hello".to_owned(),
        good[..good.len() / 2].to_owned(),
        pem::encode(&Pem::new("CERTIFICATE REQUEST", signed_by_another)),
        certificate,
        "x".repeat(CSR_BYTES_MAX + 1),
    ] {
        assert_eq!(issue(&bad), Err(IssueError::BadRequest), "{bad}");
    }
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(issue(&request(&other, |_| {})), Err(IssueError::BadKey));
}

#[test]
fn nothing_outlives_the_authority() {
    let (_, authority) = authority();
    let csr = request(&KeyPair::generate().unwrap(), |_| {});
    let end = now() + ROOT_LIFETIME;
    assert_eq!(authority.not_after(), end);
    let issue = |at: SystemTime| authority.issue(&csr, &web(), (DAY, at));
    assert_eq!(issue(end - DAY / 2).unwrap().expires, end);
    assert_eq!(issue(end).unwrap_err(), IssueError::Expired);
    assert_eq!(issue(now() - DAY).unwrap_err(), IssueError::Expired);
}

/// An authority that is signed by another one.
fn intermediate(root: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Texts {
    let key = KeyPair::generate().unwrap();
    let mut params = params(now(), now() + DAY).unwrap();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    let certificates = params.signed_by(&key, &root.issuer).unwrap().pem();
    Texts { certificates, key: Key(key.serialize_pem()), roots: root.roots.clone() }
}

#[test]
fn an_intermediate_sends_its_own_certificate_along() {
    let (root_texts, root) = authority();
    let texts = intermediate(&root, |_| {});
    let between = Authority::read(&texts, now()).unwrap();
    assert_eq!(between.roots(), root.roots());
    assert_eq!(between.not_after(), now() + DAY);
    let csr = request(&KeyPair::generate().unwrap(), |_| {});
    let issued = between.issue(&csr, &web(), (DAY * 7, now())).unwrap();
    assert_eq!(issued.expires, now() + DAY, "not longer than what it is signed with");
    let chain = pem::parse_many(&issued.chain).unwrap();
    assert_eq!(chain.len(), 2);
    let (_, leaf) = X509Certificate::from_der(chain[0].contents()).unwrap();
    let (_, above) = X509Certificate::from_der(chain[1].contents()).unwrap();
    leaf.verify_signature(Some(above.public_key())).unwrap();
    // As cert-manager writes it when the root is not in ca.crt but at the end of the chain.
    let whole = Texts { certificates: texts.certificates.clone() + &root_texts.certificates, ..texts };
    assert!(Authority::read(&whole, now()).is_ok());
}

#[test]
fn what_is_wrong_with_an_authority_is_told() {
    let (good, root) = authority();
    let (other, _) = authority();
    let with = |change: fn(&mut Texts, Texts)| {
        let mut texts = good.clone();
        change(&mut texts, other.clone());
        Authority::read(&texts, now()).unwrap_err().to_string()
    };
    for (said, part) in [
        (with(|t, _| t.certificates.clear()), "tls.crt: has no certificate"),
        (with(|t, _| t.certificates = "hello".to_owned()), "tls.crt: has no certificate"),
        (with(|t, _| t.certificates = t.key.0.clone()), "tls.crt: has a \"PRIVATE KEY\""),
        (
            with(|t, _| t.certificates = t.certificates.replacen("MII", "MIA", 1)),
            "tls.crt: certificate 1 cannot be read",
        ),
        (with(|t, _| t.key.0.clear()), "tls.key: is no private key in PKCS #8"),
        (with(|t, o| t.key = o.key), "tls.key: is not the key of the first certificate"),
        (with(|t, o| t.roots = o.roots), "ca.crt: has no root"),
        (
            with(|t, o| t.certificates += &o.certificates),
            "tls.crt: certificate 1 is not signed by the one behind it",
        ),
    ] {
        assert!(said.starts_with(part), "{said}");
    }
    let at = |texts: &Texts, now| Authority::read(texts, now).unwrap_err().to_string();
    assert!(
        at(&good, now() + ROOT_LIFETIME).contains("has ended at"),
        "{}",
        at(&good, now() + ROOT_LIFETIME)
    );
    assert!(at(&good, now() - DAY).contains("is good only from"));
    let leaf = intermediate(&root, |params| params.is_ca = IsCa::NoCa);
    assert!(at(&leaf, now()).contains("may not sign others"), "{}", at(&leaf, now()));
    let no_use = intermediate(&root, |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(at(&no_use, now()).contains("may not sign others"));
}
