//! Any bytes as the body of a request for certificates, and what it names as identities: what is read is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_crds::identity::{Identity, REQUESTS_MAX};
use vicino_operator::authority::endpoint::asked;
use vicino_operator::authority::judge;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = asked(bytes) else { return };
    assert!(request.requests.len() <= REQUESTS_MAX);
    let again = asked(&serde_json::to_vec(&request).expect("plain data")).expect("it was good");
    assert_eq!(again.requests.len(), request.requests.len());
    for one in &request.requests {
        if let Ok(identity) = judge::identity(&one.identity, "cluster.local") {
            assert_eq!(identity.trust_domain(), "cluster.local");
            assert_eq!(identity.to_string(), one.identity, "there is one spelling");
            assert_eq!(one.identity.parse::<Identity>(), Ok(identity));
        }
    }
});
