//! `/explain` as a person meets it; what is in its answers is tested where they are made.

use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Admin;
use crate::config::freshness::Freshness;
use crate::config::gather::Edition;
use crate::explain::{Explanation, tests::shop};
use crate::identity::Watch;
use crate::lifecycle::{Life, Phase};
use crate::metrics::Figures;
use crate::secure::Certificates;
use crate::web::{Answer, Site};

/// The site of a proxy that serves by the snapshot of a small shop.
fn site(phase: Phase) -> Arc<Admin> {
    let (snapshot, _) = shop();
    let edition = Edition { snapshot: Arc::new(snapshot), ..Edition::default() };
    let life = Life::default();
    life.enter(phase);
    let figures = Figures {
        life,
        editions: watch::channel(Arc::new(edition)).1,
        freshness: Freshness::new(Instant::now()),
        identity: Watch {
            roots_problem: watch::channel(Some("roots.pem: is no text".into())).1,
            skew: watch::channel(Some(-3)).1,
            ..Watch::of(Certificates::default(), None)
        },
        guard: watch::channel(Arc::default()).1,
        sight: watch::channel(Arc::default()).1,
    };
    Arc::new(Admin { figures, level: None })
}

async fn asked(phase: Phase, body: &str) -> Answer {
    let body = Bytes::from(body.to_owned());
    site(phase).answer(Method::POST, "/explain".to_owned(), body).await
}

#[tokio::test]
async fn a_call_is_explained_by_what_is_served() {
    for (body, expected) in [
        (r#"{"host": "web", "from": "shop/job-x"}"#, "web:80"),
        (r#"{"host": "nobody", "from": "shop/job-x"}"#, "404 no-such-service"),
        (
            r#"{"host": "api.example.com:443", "method": "CONNECT", "path": "", "from": "shop"}"#,
            "403 not-in-mesh",
        ),
    ] {
        let answer = asked(Phase::Serving, body).await;
        assert_eq!((answer.status, answer.content), (StatusCode::OK, "application/json"), "{answer:?}");
        let explanation: Explanation = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(explanation.outcome(), expected);
        assert_eq!(explanation.node.unwrap().name, "node1");
    }
}

#[tokio::test]
async fn what_is_wrong_with_roots_and_clock_is_a_figure() {
    let answer = site(Phase::Serving).answer(Method::GET, "/metrics".to_owned(), Bytes::new()).await;
    assert!(answer.body.contains("\nvicino_proxy_authority_clock_skew_seconds -3\n"), "{}", answer.body);
    assert!(answer.body.contains("\nvicino_proxy_roots_refused 1\n"), "{}", answer.body);
}

#[tokio::test]
async fn what_is_no_call_is_answered_with_what_would_be_right() {
    for (body, part) in [
        ("", r#"the body is no call: EOF while parsing a value at line 1 column 0; write {"method": "GET""#),
        (r#"{"host": "web"}"#, "missing field `from`"),
        (r#"{"host": "web", "from": "shop", "header": []}"#, "unknown field `header`"),
        (r#"{"host": "", "from": "shop"}"#, "host: name a Service"),
        (r#"{"host": "web", "from": "/x"}"#, "from: say a namespace"),
        (r#"{"host": "web", "from": "shop", "path": ""}"#, "path: begin it with a /"),
        (r#"{"host": "web", "from": "shop", "headers": ["x"]}"#, "headers: write each as name: value"),
        (r#"{"host": "web", "from": "shop", "path": "/a b"}"#, "a proxy refuses such a request with 400"),
        (r#"{"host": "web", "from": "shop", "method": "CONNECT", "path": ""}"#, "ask for http://"),
    ] {
        let answer = asked(Phase::Serving, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(answer.body.contains(part), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_serves_nothing_says_so() {
    let starting = Phase::Starting("waiting for endpoints".to_owned());
    let answer = asked(starting, r#"{"host": "web", "from": "shop"}"#).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.body, "no calls are served: starting: waiting for endpoints\n");
}
