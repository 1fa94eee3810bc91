//! Connections of the operator: each request is taken down, judged by the script, sent on, and its answer brought back.

use std::error::Error;
use std::net::TcpListener;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Asked, Fault, Record, Shared, Verb, stream};

pub(super) type Failure = Box<dyn Error + Send + Sync>;
type Answer = UnsyncBoxBody<Bytes, Failure>;

/// Headers of requests that are sent on. The body's length is the client's own affair.
const HEADERS: [HeaderName; 2] = [ACCEPT, CONTENT_TYPE];

/// Serves until `stop`; then every connection ends where it is.
pub(super) async fn serve(listener: TcpListener, upstream: Config, state: Shared, stop: CancellationToken) {
    let client = Client::try_from(upstream).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (client, state, stop) = (client.clone(), state.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(accepted.unwrap().0, client, state) => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, client: Client, state: Shared) {
    let service = service_fn(move |request| answer(request, client.clone(), state.clone()));
    // It fails when an answer is lost, which is what it is for, and when the operator is killed.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    client: Client,
    state: Shared,
) -> Result<Response<Answer>, Failure> {
    let asked = Asked::new(request.method(), request.uri());
    let (number, fault) = state.with(|state| {
        let fault = (state.script)(&asked);
        state.log.push(Record { asked: asked.clone(), at: Instant::now(), code: None });
        (state.log.len() - 1, fault)
    });
    let answered = |code: u16| state.with(|state| state.log[number].code = Some(code));
    match &fault {
        Fault::Refuse(code) => {
            answered(*code);
            return Ok(refusal(*code));
        }
        Fault::Answer(body) => {
            answered(200);
            return Ok(whole("application/json", body.clone()));
        }
        Fault::Hold(until) => until.cancelled().await,
        Fault::None | Fault::Lose | Fault::Delay(_) => {}
    }
    let response = forward(request, &client).await?;
    answered(response.status().as_u16());
    match fault {
        Fault::Lose => return Err("this answer is lost".into()),
        Fault::Delay(time) => sleep(time).await,
        _ => {}
    }
    pass_on(response, &asked, &state, number).await
}

async fn forward(request: Request<Incoming>, client: &Client) -> Result<Response<Body>, Failure> {
    let (head, body) = request.into_parts();
    let mut forwarded = Request::builder().method(head.method).uri(head.uri);
    for name in HEADERS {
        if let Some(value) = head.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let body = body.collect().await?.to_bytes();
    Ok(client.send(forwarded.body(Body::from(body))?).await?)
}

async fn pass_on(
    response: Response<Body>,
    asked: &Asked,
    state: &Shared,
    number: usize,
) -> Result<Response<Answer>, Failure> {
    let (head, body) = response.into_parts();
    let mut answer = Response::builder().status(head.status);
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = head.headers.get(&name) {
            answer = answer.header(name, value);
        }
    }
    let good = head.status.is_success();
    let body = match asked.verb {
        Verb::Watch if good => stream::watch(body, state.clone(), &asked.resource, number),
        verb => {
            let whole = body.collect().await?.to_bytes();
            if verb == Verb::List && good {
                state.with(|state| state.lists.insert(asked.resource.clone(), whole.clone()));
            }
            Full::new(whole).map_err(|never| match never {}).boxed_unsync()
        }
    };
    Ok(answer.body(body)?)
}

/// As the API server refuses: 429 is in plain text, everything else a Status.
fn refusal(code: u16) -> Response<Answer> {
    let mut response = if code == 429 {
        whole("text/plain", Bytes::from_static(b"Too many requests, please try again later."))
    } else {
        let reason = match code {
            409 => "Conflict",
            410 => "Expired",
            _ => "InternalError",
        };
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": format!("refused with {code} by the test"),
        });
        whole("application/json", Bytes::from(status.to_string()))
    };
    *response.status_mut() = code.try_into().unwrap();
    if code == 429 {
        response.headers_mut().insert(RETRY_AFTER, 1.into());
    }
    response
}

fn whole(content: &'static str, body: Bytes) -> Response<Answer> {
    let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
    Response::builder().header(CONTENT_TYPE, content).body(body).unwrap()
}
