//! Any bytes as the first of a TLS client: reading ends, and what was said of a part stays true of the whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_wire::client_hello::{ClientHello, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    for end in 0..bytes.len().min(256) {
        match read(&bytes[..end]) {
            ClientHello::More => {}
            ClientHello::Malformed if whole == ClientHello::Malformed => {}
            said => assert_eq!(said, whole, "of the first {end} bytes"),
        }
    }
    if let ClientHello::Named(Some(name)) = whole {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(*name, *name.to_ascii_lowercase());
    }
});
