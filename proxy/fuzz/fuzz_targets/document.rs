//! Any bytes as a compiled route: what is read is the same when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_crds::contract::{CompiledRoute, read, write};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(route) = read::<CompiledRoute>(bytes) {
        let again = read::<CompiledRoute>(write(&route.document).as_bytes());
        assert_eq!(again.expect("it was good").document, route.document);
    }
});
