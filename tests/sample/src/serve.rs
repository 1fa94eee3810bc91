//! The listener and an orderly end: readiness fails, calls are still taken for a while, open ones finish; no answers.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Application;
use crate::options::{Options, Role};

/// After an accept that failed (too many open files), the next one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` resolves, then leaves as Kubernetes expects it: for the delay of the options it goes on taking
/// calls, since callers hear only by and by that it goes; then it stops listening and lets open calls finish.
pub async fn run(listener: TcpListener, role: Role, options: Options, stop: impl Future<Output = ()>) {
    let delay = Duration::from_secs(options.shutdown_delay_seconds);
    let finish = Duration::from_secs(options.finish_seconds);
    let application = Application::new(role, options);
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let leave = async {
        stop.await;
        application.leave();
        tokio::time::sleep(delay).await;
    };
    tokio::select! {
        () = accept(&listener, &application, &connections, &closing) => {}
        () = leave => {}
    }
    drop(listener);
    closing.cancel();
    connections.close();
    // Whatever is open after this ends with the process.
    let _ = tokio::time::timeout(finish, connections.wait()).await;
}

async fn accept(
    listener: &TcpListener,
    application: &Arc<Application>,
    connections: &TaskTracker,
    closing: &CancellationToken,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(application), closing.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, application: Arc<Application>, closing: CancellationToken) {
    // A socket that refuses it is closed already; the connection then ends by itself.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let application = Arc::clone(&application);
        async move { Ok::<_, Infallible>(application.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // A caller that went away is its own business.
    let _ = connection.await;
}
