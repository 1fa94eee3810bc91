//! How the kubelet asks this very process: a unix socket in a directory of the pod's own; see the crate's page for why.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::lifecycle::Life;
use crate::options::Question;

/// For question and answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Before another attempt after accepting failed.
const PAUSE: Duration = Duration::from_millis(100);

fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("probe.sock")
}

/// Asks the process that answers in `run_dir`; `Ok(Err(reason))` when it says no.
pub fn ask(run_dir: &Path, question: Question) -> io::Result<Result<(), String>> {
    let mut stream = StdUnixStream::connect(socket(run_dir))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(match question {
        Question::Ready => b"r",
        Question::Live => b"l",
    })?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(match answer.as_str() {
        "ok" => Ok(()),
        "" => Err("it ended, or took too long, while it was asked".to_owned()),
        _ => Err(answer),
    })
}

/// Takes the place of whoever answered in `run_dir` before: the pod's former container.
pub fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    let path = socket(run_dir);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => UnixListener::bind(path),
    }
}

/// Answers until it is dropped, one question at a time: each takes at most [`PATIENCE`].
pub async fn answer(listener: UnixListener, life: Life) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(Err(e)) = timeout(PATIENCE, reply(stream, &life)).await {
                    tracing::debug!(error = %e, "probe went away");
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "probe not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn reply(mut stream: UnixStream, life: &Life) -> io::Result<()> {
    let answer = match stream.read_u8().await? {
        b'r' => life.ready(),
        _ => life.live().await,
    };
    let text = answer.err().unwrap_or_else(|| "ok".to_owned());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
