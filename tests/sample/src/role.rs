//! What `/` says in each role, and which services it calls for that; no HTTP of its own.

use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::options::{Options, Role};

/// Quote, who said it, and how many of five stars it got.
const QUOTES: [(&str, &str, f32); 4] = [
    ("Better a neighbour that is near than a brother far off.", "Proverbs 27:10", 4.5),
    ("Good fences make good neighbours.", "Robert Frost", 4.0),
    ("Simplicity is prerequisite for reliability.", "Edsger Dijkstra", 5.0),
    ("The cheapest call is the one next door.", "a proverb of this project", 3.5),
];

/// The answer of one service, with those that it needed for it.
#[derive(Serialize, Deserialize, Debug)]
pub struct Page {
    /// Its Service.
    pub service: String,
    /// The pod that answered.
    pub pod: String,
    /// The node of that pod.
    pub node: String,
    /// What it has to say.
    pub text: String,
    /// The calls that it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
}

/// One call that a service made.
#[derive(Serialize, Deserialize, Debug)]
pub struct Call {
    /// What was asked.
    pub url: String,
    /// Status of the answer; 0 when there was none.
    pub status: u16,
    /// The way that the mesh says the call took (its header `vicino-path`), when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why there is no page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The page that came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Box<Page>>,
}

impl Call {
    fn failed(&self) -> bool {
        self.page.is_none()
    }
}

/// The page of this service for quote `number` (any; they repeat), and its status: 502 when a call that it needs
/// failed. With `show_path` the mesh is asked for the way that each call took.
pub async fn page(
    role: Role,
    options: &Options,
    client: &Client,
    number: Option<usize>,
    show_path: bool,
) -> (StatusCode, Page) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = number.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed)) % QUOTES.len();
    let (quote, author, stars) = QUOTES[number];
    let ask = |service: &str| {
        call(client, format!("http://{service}/?number={number}{}", ask_path(show_path)), show_path)
    };
    let (text, calls) = match role {
        Role::Web => {
            let call = ask(Role::Quotes.service()).await;
            let text = call.page.as_ref().map_or("no quote today", |page| &page.text).to_owned();
            (text, vec![call])
        }
        Role::Quotes => {
            let (author, rating) = tokio::join!(ask(Role::Authors.service()), ask(Role::Ratings.service()));
            let said = |call: &Call| {
                call.page.as_ref().map_or_else(|| "unknown".to_owned(), |page| page.text.clone())
            };
            (format!("{quote} ({}; {} stars)", said(&author), said(&rating)), vec![author, rating])
        }
        Role::Authors => (author.to_owned(), Vec::new()),
        Role::Ratings => (stars.to_string(), Vec::new()),
    };
    let status = if calls.iter().any(Call::failed) { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
    let service = role.service().to_owned();
    (status, Page { service, pod: options.pod.clone(), node: options.node.clone(), text, calls })
}

fn ask_path(show: bool) -> &'static str {
    if show { "&path=true" } else { "" }
}

async fn call(client: &Client, url: String, show_path: bool) -> Call {
    let headers: &[(&str, &str)] = if show_path { &[("vicino-debug", "path")] } else { &[] };
    let mut call = Call { url, status: 0, path: None, error: None, page: None };
    match client.get(&call.url, headers).await {
        Err(error) => call.error = Some(error.to_string()),
        Ok(response) => {
            let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            call.status = response.status().as_u16();
            call.path = header("vicino-path");
            match serde_json::from_slice(response.body()) {
                Ok(page) if response.status().is_success() => call.page = Some(Box::new(page)),
                Ok(_) => call.error = Some(format!("answered {}", response.status())),
                Err(_) => {
                    call.error = header("vicino-error").or_else(|| Some("not a page".to_owned()));
                }
            }
        }
    }
    call
}
