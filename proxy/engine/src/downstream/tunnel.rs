//! CONNECT to a mesh Service: what is spoken inside the port says, or is found out from the first bytes; HTTP is then served as ever, all else is passed through; who speaks first decides.

use std::rc::Rc;
use std::time::Duration;

use vicino_wire::client_hello::{self, ClientHello};
use vicino_wire::head::{Framing, RequestHead, is_token};
use vicino_wire::hop::{DEADLINE_MS_NONE, Kind, RequestFrame, encode_request};
use vicino_wire::http1::Request;
use vicino_wire::http2::PREFACE;

use super::{Asker, ClientState};
use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::exchange::{ExchangeId, Origin};
use crate::hash::FastMap;
use crate::plan::Plan;
use crate::reply::Reason;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\nvia: 1.1 vicino\r\n\r\n";
/// Longest method that is looked for.
const METHOD_BYTES_MAX: usize = 20;

/// What the first bytes of a tunnel look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http,
    Other,
    /// More bytes are needed.
    Unclear,
}

/// HTTP/1 begins with a method in capitals, a blank, and `/`, `*` or `http://`; HTTP/2 with its preface.
fn detect(buf: &[u8]) -> Spoken {
    if buf.len() >= PREFACE.len() && buf.starts_with(PREFACE) {
        return Spoken::Http;
    }
    if !buf.is_empty() && PREFACE.starts_with(buf) {
        return Spoken::Unclear;
    }
    // An empty line before a request is tolerated (RFC 9112 §2.2).
    let buf = match buf {
        b"\r" => return Spoken::Unclear,
        buf => buf.strip_prefix(b"\r\n").unwrap_or(buf),
    };
    let method = buf.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if method > METHOD_BYTES_MAX || &buf[..method] == b"PRI" {
        return Spoken::Other;
    }
    match (buf.get(method), buf.get(method + 1)) {
        (None, _) | (Some(b' '), None) if method > 0 || buf.is_empty() => Spoken::Unclear,
        (Some(b' '), _) if method == 0 => Spoken::Other,
        (Some(b' '), Some(b'/' | b'*')) => Spoken::Http,
        (Some(b' '), Some(_)) => {
            let target = &buf[method + 1..];
            let known = &b"http://"[..target.len().min(7)];
            match target[..known.len()].eq_ignore_ascii_case(known) {
                true if known.len() == 7 => Spoken::Http,
                true => Spoken::Unclear,
                false => Spoken::Other,
            }
        }
        _ => Spoken::Other,
    }
}

/// Whether what is not read as HTTP here could be a request to whoever listens: servers may be laxer about lines and blanks before it, blanks in it,
/// and the method (RFC 9112 §2.2, §3). `Http` is what is not to be passed on.
fn first_line(buf: &[u8]) -> Spoken {
    // The last four are blanks to Python.
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t' | 0x0b..=b'\r' | 0x1c..=0x1f);
    let before = buf.iter().take_while(|b| is_blank(b) || **b == b'\n').count();
    let mut lines = buf[before..].split(|b| *b == b'\n');
    let (line, is_whole) = (lines.next().unwrap_or_default(), lines.next().is_some());
    let mut words = line.split(is_blank);
    let method = words.next().unwrap_or_default();
    if !method.is_empty() && !is_token(method) {
        return Spoken::Other;
    }
    let begins = |word: &[u8], with: &[u8]| word.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(with));
    if words.any(|word| begins(word, b"http/") || begins(word, b"http:")) {
        return Spoken::Http;
    }
    // As in what Git says first, which no end of a line follows.
    let is_binary = line.contains(&0) && !method.iter().all(|b| b.is_ascii_alphabetic() || *b == b'-');
    if is_whole || is_binary { Spoken::Other } else { Spoken::Unclear }
}

/// Ports of Services behind which servers have spoken first, as those of MySQL, SMTP and SSH do, so that tunnels to them need not wait for a caller to begin.
#[derive(Debug, Default)]
pub(crate) struct ServersFirst(FastMap<u64, Time>);

impl ServersFirst {
    /// Most that are remembered; beyond, all are forgotten.
    const MAX: usize = 1024;
    /// How long it is remembered that a server was first; each one that is adds to it.
    const REMEMBERED: Duration = Duration::from_mins(10);

    fn knows(&self, plan: &Plan, now: Time) -> bool {
        plan.choices.first().is_some_and(|choice| self.0.get(&choice.key).is_some_and(|until| *until > now))
    }

    fn learn(&mut self, plan: &Plan, now: Time) {
        if self.0.len() >= Self::MAX {
            self.0.clear();
        }
        self.0.extend(plan.choices.first().map(|choice| (choice.key, now + Self::REMEMBERED)));
    }
}

impl Core {
    /// Answers CONNECT.
    pub(super) fn connect(&mut self, id: ConnId, request: &Request<'_>, planned: Result<Rc<Plan>, Reason>) {
        let plan = match planned {
            Ok(plan) => plan,
            Err(reason) => return self.answer(Asker::of_client(id, true), reason),
        };
        let Some(client) = self.net.client(id) else { return };
        client.tunnel = Some(request.head.authority.into());
        client.is_unread = plan.outside.is_some();
        client.state = ClientState::Detect;
        self.net.set_due(id, self.now + self.config.detect_race);
        if let Some(out) = self.net.out(id) {
            out.extend_from_slice(ESTABLISHED);
        }
        // Nothing to find out: whoever speaks first is heard at once. To a host outside it has to be known what is asked for.
        let is_inside = plan.outside.is_none();
        if is_inside && (plan.is_opaque || self.servers_first.knows(&plan, self.now)) {
            self.open_tunnel(id, false);
        }
    }

    /// The caller has not said enough to tell what it speaks: the application may speak first, and after a while it has to do for the caller.
    pub(super) fn detect_due(&mut self, id: ConnId) {
        let Some(conn) = self.net.get_mut(id) else { return };
        let is_silent = conn.input.is_empty();
        let Some(client) = conn.client() else { return };
        if std::mem::replace(&mut client.has_raced, true) {
            return self.be_opaque(id);
        }
        if is_silent {
            self.open_tunnel(id, true);
        }
        if let Some(client) = self.net.client(id) {
            client.state = ClientState::Detect;
            let left = self.config.detect_timeout.saturating_sub(self.config.detect_race);
            self.net.set_due(id, self.now + left);
        }
    }

    /// What it speaks is nothing that is understood here.
    pub(super) fn be_opaque(&mut self, id: ConnId) {
        let Some(client) = self.net.client(id) else { return };
        if client.exchange.is_none() {
            return self.open_tunnel(id, false);
        }
        client.state = ClientState::Opaque;
        self.net.set_due(id, Time::NEVER);
        self.net.resume(id);
    }

    /// The application behind a tunnel is the first to speak.
    pub(crate) fn server_has_spoken(&mut self, id: ExchangeId, first: &[u8]) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if let Some(client) = exchange.origin.caller() {
            self.be_opaque(client);
        }
        let Some(exchange) = self.exchanges.get(id) else { return };
        // A server of HTTP may say that it has waited long enough.
        if !first.starts_with(b"HTTP/") {
            self.servers_first.learn(&exchange.plan, self.now);
        }
    }

    pub(super) fn detect(&mut self, id: ConnId, buf: &[u8]) -> usize {
        match detect(buf) {
            Spoken::Unclear => {}
            Spoken::Other => self.be_opaque(id),
            Spoken::Http => {
                let raced = self.net.client(id).and_then(|client| client.exchange);
                if let Some(exchange) = raced {
                    self.abandon(exchange);
                }
                if let Some(client) = self.net.client(id) {
                    client.state = ClientState::Head;
                    client.is_head_begun = true;
                    self.net.set_due(id, self.now + self.config.head_timeout);
                }
            }
        }
        0
    }

    /// Begins to pass bytes through.
    fn open_tunnel(&mut self, id: ConnId, is_silent: bool) {
        let planned = self.plan(id, "");
        let Some(conn) = self.net.get_mut(id) else { return };
        let peer = conn.peer.ip().to_canonical();
        let Some(client) = conn.client() else { return };
        client.state = ClientState::Opaque;
        self.net.set_due(id, Time::NEVER);
        let Ok(plan) = planned else { return self.net.close_flushed(id) };
        let head = RequestHead::opaque();
        let key = plan.key(&head, Some(peer));
        let Some(choice) = plan.draw(key, &mut self.random) else { return self.net.close_flushed(id) };
        let frame = RequestFrame {
            to: plan.choices[choice].destination(),
            kind: Kind::Opaque,
            deadline_ms: DEADLINE_MS_NONE,
            hops: 1,
            is_last_resort: false,
            caller: Some(peer),
            head,
            framing: Framing::UntilClose,
        };
        let mut kept = self.net.buffers.take();
        if encode_request(&mut kept, 1, &frame, &[]).is_err() {
            return self.net.close_flushed(id);
        }
        let mut exchange = self.exchange(Origin::Client(id), &plan, kept, &frame);
        exchange.affinity = key;
        exchange.is_silent = is_silent;
        self.start(exchange, Time::NEVER, None);
        self.net.resume(id);
    }

    /// Whether the bytes of a caller may go on: in a tunnel out of the mesh, TLS has to name a server that the caller may call, and HTTP is not passed
    /// on unread. None: more of them are needed to tell.
    fn may_pass(&mut self, id: ConnId, buf: &[u8]) -> Option<bool> {
        let named = match client_hello::read(buf) {
            ClientHello::More => return None,
            ClientHello::Named(None) => return Some(true),
            ClientHello::Other if !self.is_bound_to_name(id) => return Some(true),
            ClientHello::Other => match first_line(buf) {
                Spoken::Unclear => return None,
                Spoken::Other => return Some(true),
                Spoken::Http => Err("a request that cannot be read"),
            },
            ClientHello::Malformed => Err("a ClientHello that cannot be read"),
            ClientHello::Named(Some(name)) => Ok(name),
        };
        let plan = self.plan(id, "").ok()?;
        let Some(outside) = &plan.outside else { return Some(true) };
        if named.as_ref().is_ok_and(|name| self.may_name(id, outside, name)) {
            return Some(true);
        }
        self.tally.reply(Reason::NotInMesh);
        self.tell_egress(id, outside, Reason::NotInMesh, Some(named.as_deref().unwrap_or_else(|what| what)));
        Some(false)
    }

    /// Whether a tunnel is to a name, and other names may not be called through it.
    fn is_bound_to_name(&mut self, id: ConnId) -> bool {
        let is_open = self.snapshot.egress.is_open;
        let plan = self.plan(id, "").ok().filter(|_| !is_open);
        plan.and_then(|plan| plan.outside.as_ref().map(|outside| outside.is_named())).unwrap_or(false)
    }

    fn refuse_tunnel(&mut self, id: ConnId) {
        if let Some(exchange) = self.net.client(id).and_then(|client| client.exchange) {
            self.abandon(exchange);
        }
        self.client_cut(id);
    }

    /// The first bytes of a tunnel out of the mesh did not come to an end in time.
    pub(super) fn opaque_due(&mut self, id: ConnId) {
        if self.net.client(id).is_some_and(|client| client.is_unread) {
            self.refuse_tunnel(id);
        }
    }

    pub(super) fn client_opaque(&mut self, id: ConnId, buf: &[u8]) -> usize {
        if self.net.client(id).is_some_and(|client| client.is_unread) {
            match self.may_pass(id, buf) {
                None => {
                    if self.net.table.due(id) == Time::NEVER {
                        self.net.set_due(id, self.now + self.config.head_timeout);
                    }
                    return 0;
                }
                Some(false) => {
                    self.refuse_tunnel(id);
                    return buf.len();
                }
                Some(true) => {
                    self.net.set_due(id, Time::NEVER);
                    if let Some(client) = self.net.client(id) {
                        client.is_unread = false;
                    }
                }
            }
        }
        let Some(exchange) = self.net.client(id).and_then(|client| client.exchange) else { return buf.len() };
        let count = self.request_allowance(exchange).min(buf.len());
        if count == 0 {
            self.net.pause(id);
            return 0;
        }
        self.request_data(exchange, &buf[..count], false);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_is_spoken() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Spoken::Http),
            (b"M-SEARCH * HTTP/1.1", Spoken::Http),
            (b"GET http://web/ HTTP/1.1", Spoken::Http),
            (b"GET /", Spoken::Http),
            (b"GE", Spoken::Unclear),
            (b"GET ", Spoken::Unclear),
            (b"GET htt", Spoken::Unclear),
            (b"PRI * HTTP/2.0\r\n", Spoken::Unclear),
            (PREFACE, Spoken::Http),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Spoken::Other),
            (b"EHLO mail.example", Spoken::Other),
            (b"PING\r\n", Spoken::Other),
            (b"\x16\x03\x01\x02\x00", Spoken::Other),
            (b" GET / HTTP/1.1", Spoken::Other),
            (b"\r\nGET / HTTP/1.1\r\n", Spoken::Http),
            (b"\r\n", Spoken::Unclear),
            (b"\r", Spoken::Unclear),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Spoken::Other),
            (b"*1\r\n$4\r\nPING\r\n", Spoken::Other),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Spoken::Other),
        ] {
            assert_eq!(detect(bytes), spoken, "{}", bytes.escape_ascii());
        }
    }
}
