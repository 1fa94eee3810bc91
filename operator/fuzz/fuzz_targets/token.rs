//! Any bytes as the field that shows a token, and as what the API server says of one: who asks is a proxy of a named mesh with a pod and a node, or nobody.
#![no_main]

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use libfuzzer_sys::fuzz_target;
use vicino_operator::authority::{endpoint, judge};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        if let Some(token) = endpoint::token(&headers) {
            assert!(!token.is_empty() && token.trim() == token && bytes.starts_with(b"Bearer "));
        }
    }
    let Ok(review) = serde_json::from_slice::<TokenReviewStatus>(bytes) else { return };
    if let Ok(caller) = judge::caller(&review) {
        assert_eq!(review.authenticated, Some(true));
        let user = review.user.and_then(|user| user.username).unwrap_or_default();
        assert_eq!(user, format!("system:serviceaccount:vicino-proxy:vicino-{}", caller.mesh));
        assert!(
            [&caller.mesh, &caller.pod, &caller.pod_uid, &caller.node].iter().all(|part| !part.is_empty())
        );
    }
});
