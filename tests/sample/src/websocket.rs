//! A WebSocket (RFC 6455) that says every message back; what the protocol is is the library's.

use futures::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::TaskTracker;

use crate::body::{self, AnyBody};

/// The answer that switches; from then on the messages come back. An error says what the request lacks.
pub(crate) fn echo(
    mut request: Request<Incoming>,
    sockets: &TaskTracker,
) -> Result<Response<AnyBody>, &'static str> {
    let is_websocket = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = request.headers().get(SEC_WEBSOCKET_KEY).filter(|_| is_websocket);
    let key = key.ok_or("this is a WebSocket: say Upgrade: websocket, with Sec-WebSocket-Key\n")?;
    let accept = derive_accept_key(key.as_bytes());
    let accept = HeaderValue::from_str(&accept).map_err(|_| "no key\n")?;
    let upgrade = hyper::upgrade::on(&mut request);
    sockets.spawn(async move {
        // A caller that goes before it has begun is its own business.
        if let Ok(upgraded) = upgrade.await {
            talk(upgraded).await;
        }
    });
    let mut response = Response::new(body::text(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

async fn talk(upgraded: Upgraded) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    // To the end of the stream: the library answers the caller's close while it goes on reading.
    while let Some(Ok(message)) = socket.next().await {
        let is_said = message.is_text() || message.is_binary();
        if is_said && socket.send(message).await.is_err() {
            return;
        }
    }
}
