//! What the data path promises, on whole simulated clusters.

mod affinity;
mod algorithms;
mod breakers;
mod deadlines;
mod drain;
mod egress;
mod faults;
mod hedges;
mod hop;
mod http;
mod http2;
mod identity;
mod late;
mod manners;
mod mirrors;
mod nearness;
mod policies;
mod queues;
mod rates;
mod refusals;
mod retries;
mod rules;
mod seeds;
mod stalls;
mod storm;
mod strangers;
mod streaming;
mod tunnels;
mod upgrades;

use super::*;
use crate::snapshot::Times;

/// A second for a connection, and no limit otherwise.
const TIMES: Times = Times { connect_ns: 1_000_000_000, request_ns: 0, idle_ns: 0 };

/// Bytes that tell where in a body they belong.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n").into_bytes()
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut out =
        format!("POST {path} HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

/// A world in which callers are on node 0 and the pods of `web` on the nodes given.
fn web_on(nodes: &[usize], seed: u64) -> World {
    let mut world = World::new(nodes.iter().max().map_or(1, |n| n + 1).max(2), seed);
    for (i, node) in nodes.iter().enumerate() {
        world.pod("web", *node, i as u8 + 1);
    }
    world.publish();
    world
}

/// The answers that a caller got: status, fields in lower case, body.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Reads as many whole answers as there are, with rules of its own: it must not share faults with the code under test.
pub(super) fn answers(got: &[u8], is_closed: bool) -> Vec<Answer> {
    let mut all = Vec::new();
    let mut rest = got;
    while let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
        let status: u16 = head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = &rest[end + 4..];
        let mut answer = Answer { status, head, body: Vec::new() };
        let length = answer.field("content-length").and_then(|n| n.parse::<usize>().ok());
        let has_body = status >= 200 && status != 204 && status != 304;
        let used = if !has_body {
            0
        } else if answer.field("transfer-encoding") == Some("chunked") {
            let Some((data, used)) = unchunk(body) else { break };
            answer.body = data;
            used
        } else if let Some(length) = length {
            if body.len() < length {
                break;
            }
            answer.body = body[..length].to_vec();
            length
        } else if is_closed {
            answer.body = body.to_vec();
            body.len()
        } else {
            break;
        };
        all.push(answer);
        rest = &body[used..];
    }
    all
}

fn unchunk(body: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = body[at..].windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        if size == 0 {
            let trailers = &body[at..];
            let end = if trailers.starts_with(b"\r\n") {
                0
            } else {
                trailers.windows(4).position(|w| w == b"\r\n\r\n")? + 2
            };
            return Some((data, at + end + 2));
        }
        data.extend_from_slice(body.get(at..at + size)?);
        at += size + 2;
        body.get(..at)?;
    }
}

impl World {
    fn answers(&self, client: usize) -> Vec<Answer> {
        let client = &self.clients[client];
        answers(&client.got, client.is_closed)
    }

    /// Sends, and waits for one more final answer.
    fn ask(&mut self, client: usize, request: &[u8]) -> Answer {
        let is_final = |a: &Answer| a.status >= 200;
        let before = self.answers(client).into_iter().filter(is_final).count();
        self.send(client, request);
        self.until("an answer", |w| w.answers(client).into_iter().filter(is_final).count() > before);
        self.answers(client).into_iter().filter(is_final).nth(before).expect("it came")
    }
}
