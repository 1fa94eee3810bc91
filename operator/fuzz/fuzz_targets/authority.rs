//! Any bytes as the certificate of an authority, as text and as what PEM has in it: it is refused or it can sign, and what is shown of it is shown.
#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use pem::Pem;
use vicino_operator::authority::ca::{Authority, Texts, union};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(86_400) * 20_000
}

fn good() -> &'static Texts {
    static TEXTS: OnceLock<Texts> = OnceLock::new();
    TEXTS.get_or_init(|| Authority::make(now()).expect("a root"))
}

fuzz_target!(|bytes: &[u8]| {
    let wrapped = pem::encode(&Pem::new("CERTIFICATE", bytes));
    for text in [std::str::from_utf8(bytes).ok(), Some(&*wrapped)].into_iter().flatten() {
        for one in union(&[text, &good().roots]) {
            assert_eq!((one.fingerprint.len(), one.key_id.len() <= 16), (16, true));
        }
        let other = Texts { certificates: text.to_owned(), ..good().clone() };
        assert!(Authority::read(&other, now()).is_err(), "the key is of another certificate");
        let roots = Texts { roots: good().roots.clone() + text, ..good().clone() };
        if let Ok(authority) = Authority::read(&roots, now()) {
            let names = union(&[authority.roots()]);
            assert!(names.iter().any(|root| root.fingerprint == authority.root()));
        }
    }
});
