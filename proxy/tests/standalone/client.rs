//! A caller that writes HTTP by hand: one request at a time, every wait bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::eventually;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    headers: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    let mut client = Client::connect(address)?;
    client.send(host, path);
    client.receive()
}

/// POST without a body.
pub(crate) fn post(address: SocketAddr, host: &str, path: &str) -> io::Result<Answer> {
    post_with(address, (host, path), "")
}

/// POST with a body.
pub(crate) fn post_with(address: SocketAddr, (host, path): (&str, &str), body: &str) -> io::Result<Answer> {
    let mut client = Client::connect(address)?;
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n{body}");
    client.stream.get_mut().write_all(head.as_bytes())?;
    client.receive()
}

/// Asks for a tunnel.
pub(crate) fn tunnel(address: SocketAddr, authority: &str) -> io::Result<Answer> {
    let mut client = Client::connect(address)?;
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    client.stream.get_mut().write_all(head.as_bytes())?;
    client.head()
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// A failure shows when the answer is read.
    pub(crate) fn send(&mut self, host: &str, path: &str) {
        let _shows = write!(self.stream.get_mut(), "GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    }

    pub(crate) fn receive(&mut self) -> io::Result<Answer> {
        let answer = self.head()?;
        let body = String::from_utf8_lossy(&self.body(&answer)?).into_owned();
        Ok(Answer { body, ..answer })
    }

    /// An answer without its body, which stays where it is.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let bad = |what: &str| io::Error::other(what.to_owned());
        let head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad(&head))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Answer { status, body: String::new(), headers })
    }

    pub(crate) fn body(&mut self, head: &Answer) -> io::Result<Vec<u8>> {
        let length = head.header("content-length").and_then(|n| n.parse().ok());
        let mut body = vec![0; length.ok_or_else(|| io::Error::other("no content-length"))?];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// Calls one after another, some on a connection of their own, some on one that is kept while the proxy keeps it.
pub(crate) struct Steady {
    made: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Steady {
    pub(crate) fn start(address: SocketAddr, host: &'static str) -> Self {
        let (made, stop, failed) =
            (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (counts, stops, fails) = (made.clone(), stop.clone(), failed.clone());
        let thread = std::thread::spawn(move || {
            let mut kept: Option<Client> = None;
            while !stops.load(Ordering::Relaxed) {
                let number = counts.load(Ordering::Relaxed);
                let client = if number % 2 == 0 { None } else { kept.take() };
                let outcome = client.map_or_else(|| Client::connect(address), Ok).and_then(|mut client| {
                    client.send(host, "/steady");
                    client.receive().map(|answer| (client, answer))
                });
                match outcome {
                    Ok((client, answer)) if answer.status == 200 => {
                        kept = (answer.header("connection") != Some("close")).then_some(client);
                    }
                    Ok((_, answer)) => fails.lock().unwrap().push(format!("{number}: {answer:?}")),
                    Err(e) => fails.lock().unwrap().push(format!("{number}: {e}")),
                }
                counts.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { made, stop, failed, thread }
    }

    /// Waits until this many more were made.
    pub(crate) fn makes(&self, more: u64) {
        let from = self.made.load(Ordering::Relaxed);
        eventually("calls go on", || self.made.load(Ordering::Relaxed) >= from + more);
    }

    /// Those that failed.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut self.failed.lock().unwrap())
    }
}
