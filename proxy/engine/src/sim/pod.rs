//! Applications that answer as their callers' paths say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use vicino_wire::http1::{Body, BodyDecoder, Slots, parse_request, parse_response};

use super::mux::{Mux, Said, pairs};

use crate::deadline::Time;

/// So many calls on one connection a pod that is ill at first gets wrong.
pub(crate) const ILL_CALLS: usize = 8;

/// A request that a pod got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) pod: SocketAddr,
    /// As it stood on the wire.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: usize,
    pub(crate) is_complete: bool,
}

/// An application's end of a connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that an application does")]
pub(crate) struct PodConn {
    pub(crate) address: SocketAddr,
    pub(super) link: usize,
    input: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) is_closed: bool,
    pub(super) closes: bool,
    pub(super) resets: bool,
    /// Reads nothing.
    pub(crate) is_stalled: bool,
    /// Speaks no HTTP: sends back what it gets.
    is_echo: bool,
    /// Says only what the test has it say.
    pub(super) is_scripted: bool,
    decoder: Option<(BodyDecoder, usize)>,
    later: Option<(Time, Vec<u8>)>,
    /// It is spoken to in HTTP/2, and does so, too.
    pub(crate) mux: Option<Box<Mux>>,
    /// Requests on streams, by place in what was seen.
    streams: BTreeMap<u32, usize>,
    /// Answers that are to come on streams.
    answers: Vec<(Time, u32, Vec<u8>)>,
    pub(crate) served: usize,
}

impl PodConn {
    pub(super) fn new(link: usize, address: SocketAddr) -> Self {
        PodConn {
            address,
            link,
            input: Vec::new(),
            out: Vec::new(),
            is_closed: false,
            closes: false,
            resets: false,
            is_stalled: false,
            is_echo: address.ip().to_string().ends_with(".99"),
            is_scripted: false,
            decoder: None,
            later: None,
            mux: None,
            streams: BTreeMap::new(),
            answers: Vec::new(),
            served: 0,
        }
    }

    pub(super) fn next(&self) -> Option<Time> {
        let answers = self.answers.iter().map(|(at, ..)| *at);
        self.later.iter().map(|(at, _)| *at).chain(answers).min().filter(|_| !self.is_closed)
    }

    /// The pod speaks without being asked.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.later = Some((Time(0), bytes.to_vec()));
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_closed || self.closes
    }

    /// The pod dies: FIN now.
    pub(crate) fn close(&mut self) {
        self.closes = true;
    }

    pub(super) fn serve(&mut self, bytes: &[u8], is_end: bool, now: Time, seen: &mut Vec<Seen>) {
        if let Some((_, answer)) = self.later.take_if(|(at, _)| *at <= now) {
            self.out.extend(answer);
        }
        if self.is_scripted {
            return;
        }
        if self.is_echo {
            self.out.extend_from_slice(bytes);
            self.closes |= is_end;
            return;
        }
        self.input.extend_from_slice(bytes);
        if self.mux.is_none() && self.served == 0 && self.input.starts_with(b"PRI") {
            self.mux = Some(Box::new(Mux::new(false)));
        }
        if self.mux.is_some() {
            return self.serve_streams(is_end, now, seen);
        }
        while self.later.is_none() && !self.closes && self.take_one(now, seen) {}
        self.closes |= is_end && self.later.is_none();
    }

    /// Takes the next step; false when more bytes are needed.
    fn take_one(&mut self, now: Time, seen: &mut Vec<Seen>) -> bool {
        let input = std::mem::take(&mut self.input);
        let used = match self.decoder.take() {
            None => self.take_head(&input, now, seen),
            Some((mut decoder, index)) => {
                let (body, used) = decoder.decode(&input).expect("a proxy sends valid bodies");
                let call = &mut seen[index];
                match body {
                    Body::Data(data) => call.body.extend_from_slice(data),
                    Body::Trailers(trailers) => call.trailers += trailers.len(),
                    Body::More | Body::End => {}
                }
                let is_more = body == Body::More;
                if decoder.is_ended() {
                    call.is_complete = true;
                    let call = call.clone();
                    if !call.head.contains("/early") {
                        self.answer_now(&call, now);
                    }
                } else {
                    self.decoder = Some((decoder, index));
                }
                (!is_more || used > 0).then_some(used)
            }
        };
        self.input = input;
        self.input.drain(..used.unwrap_or(0));
        used.is_some()
    }

    fn take_head(&mut self, input: &[u8], now: Time, seen: &mut Vec<Seen>) -> Option<usize> {
        let mut slots = Slots::default();
        let request = parse_request(input, &mut slots).expect("a proxy sends valid requests")?;
        let head = String::from_utf8_lossy(&input[..request.len]).into_owned();
        let is_complete = request.framing.is_empty();
        let call = Seen { pod: self.address, head, body: Vec::new(), trailers: 0, is_complete };
        seen.push(call.clone());
        self.served += 1;
        if request.expect_continue && !call.head.contains("/refuse") {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if is_complete || call.head.contains("/early") {
            self.answer_now(&call, now);
        }
        if !is_complete {
            self.decoder = Some((BodyDecoder::new(request.framing), seen.len() - 1));
        }
        Some(request.len)
    }

    fn answer_now(&mut self, call: &Seen, now: Time) {
        match self.answer(call) {
            (None, answer) => self.out.extend(answer),
            (Some(wait), answer) => self.later = Some((now + wait, answer)),
        }
    }

    /// The same applications over HTTP/2.
    fn serve_streams(&mut self, is_end: bool, now: Time, seen: &mut Vec<Seen>) {
        let Some(mut mux) = self.mux.take() else { return };
        mux.take(&std::mem::take(&mut self.input));
        for said in std::mem::take(&mut mux.said) {
            let stream = match said {
                Said::Request { stream, method, path, fields, framing } => {
                    let mut head = format!("{method} {path} HTTP/2\r\n");
                    head.extend(fields.iter().flat_map(|(n, v)| [n, ": ", v, "\r\n"]));
                    let is_complete = framing.is_empty();
                    self.streams.insert(stream, seen.len());
                    seen.push(Seen { pod: self.address, head, body: Vec::new(), trailers: 0, is_complete });
                    self.served += 1;
                    if path == "/early" { Some(stream) } else { is_complete.then_some(stream) }
                }
                Said::Data { stream, bytes, is_end } => {
                    let call = &mut seen[self.streams[&stream]];
                    call.body.extend(bytes);
                    call.is_complete |= is_end;
                    is_end.then_some(stream)
                }
                Said::Trailers { stream, fields } => {
                    let call = &mut seen[self.streams[&stream]];
                    call.trailers += fields.len();
                    call.is_complete = true;
                    Some(stream)
                }
                Said::Reset { stream, .. } => {
                    self.answers.retain(|(_, on, _)| *on != stream);
                    None
                }
                Said::GoAway { .. } | Said::Pong | Said::Response { .. } => None,
            };
            if let Some(stream) = stream {
                let call = seen[self.streams[&stream]].clone();
                let (wait, answer) = self.answer(&call);
                self.answers.push((now + wait.unwrap_or_default(), stream, answer));
            }
        }
        let (due, later) = std::mem::take(&mut self.answers).into_iter().partition(|(at, ..)| *at <= now);
        self.answers = later;
        let due: Vec<_> = due;
        for (_, stream, answer) in due {
            say_on_stream(&mut mux, stream, &answer);
        }
        self.out.append(&mut mux.out);
        self.mux = Some(mux);
        self.closes |= is_end;
    }

    /// Pods that are ill, and pods that hang, whatever they are asked.
    fn out_of_order(&self) -> Option<Vec<u8>> {
        let ip = self.address.ip().to_string();
        let ill = &b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nill"[..];
        match () {
            () if ip.ends_with(".55") || ip.ends_with(".66") => Some(ill.to_vec()),
            () if ip.ends_with(".56") => Some(Vec::new()),
            // UNAVAILABLE.
            () if ip.ends_with(".57") => {
                Some(b"HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 0\r\n\r\n".to_vec())
            }
            // The same after a head that does not say it yet, and after a message.
            () if ip.ends_with(".63") || ip.ends_with(".64") => {
                let message = if ip.ends_with(".63") { "" } else { "3\r\nabc\r\n" };
                let head =
                    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
                Some(format!("{head}{message}0\r\ngrpc-status: 14\r\n\r\n").into_bytes())
            }
            // Ill at first, then well.
            () if ip.ends_with(".58") && self.served <= ILL_CALLS => Some(ill.to_vec()),
            () => None,
        }
    }

    /// What is asked for. A pod of that number does what others only hear of.
    fn path<'c>(&self, call: &'c Seen) -> &'c str {
        let path = call.head.split(' ').nth(1).unwrap_or("");
        let is_shadow = self.address.ip().to_string().ends_with(".62");
        path.strip_prefix("/shadow").filter(|_| is_shadow).unwrap_or(path)
    }

    /// What a call is answered with, as HTTP/1.1, and after how long.
    fn answer(&mut self, call: &Seen) -> (Option<Duration>, Vec<u8>) {
        let path = self.path(call);
        let number = |prefix: &str| path.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok());
        let plain = |body: &[u8]| {
            let mut out = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            if !call.head.starts_with("HEAD") {
                out.extend_from_slice(body);
            }
            out
        };
        if let Some(answer) = self.out_of_order() {
            return (None, answer);
        }
        let switched =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        let answer = match path {
            "/ws" if call.head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n") => {
                self.is_echo = true;
                switched.to_vec()
            }
            "/unasked" => switched.to_vec(),
            "/echo" => plain(&call.body),
            "/close" => {
                self.closes = true;
                b"HTTP/1.1 200 OK\r\n\r\nuntil close".to_vec()
            }
            "/old" => b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold".to_vec(),
            "/chunked" => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                    .to_vec()
            }
            "/trailers" => {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"
                    .to_vec()
            }
            "/hints" => {
                let mut out = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec();
                out.extend(plain(b"hinted"));
                out
            }
            "/none" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/not-modified" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".to_vec(),
            "/early" | "/refuse" => {
                b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch".to_vec()
            }
            "/die" => {
                self.resets = true;
                Vec::new()
            }
            "/cut" => {
                self.closes = true;
                b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec()
            }
            "/bad" => b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_vec(),
            "/hang" => Vec::new(),
            _ => match (number("/slow/"), number("/bytes/").or(number("/interims/"))) {
                (None, Some(n)) if path.starts_with("/interims/") => {
                    let mut out = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(n);
                    out.extend(plain(b"done"));
                    out
                }
                (Some(ms), _) => {
                    // A pod of that number takes its time.
                    let times = if self.address.ip().to_string().ends_with(".60") { 50 } else { 1 };
                    return (Some(Duration::from_millis(ms as u64 * times)), plain(b"slow"));
                }
                (_, Some(n)) => plain(&super::tests::pattern(n)),
                _ => plain(format!("hello from {}", self.address).as_bytes()),
            },
        };
        (None, answer)
    }
}

/// Says on a stream what an answer in HTTP/1.1 says.
fn say_on_stream(mux: &mut Mux, stream: u32, mut answer: &[u8]) {
    let mut slots = Slots::default();
    while let Ok(Some(response)) = parse_response(answer, &mut slots, "GET") {
        answer = &answer[response.len..];
        let head = response.head;
        let (framing, is_interim) = (response.framing, head.is_interim());
        mux.response(stream, head.status, framing, &pairs(head.headers));
        if is_interim {
            continue;
        }
        let mut decoder = BodyDecoder::new(framing);
        let (mut body, mut trailers) = (Vec::new(), None);
        while !decoder.is_ended() {
            match decoder.decode(answer) {
                Ok((Body::Data(data), used)) => {
                    body.extend_from_slice(data);
                    answer = &answer[used..];
                }
                Ok((Body::Trailers(fields), used)) => {
                    trailers = Some(pairs(fields));
                    answer = &answer[used..];
                }
                Ok((Body::More, 0)) | Err(_) => break,
                Ok((Body::More | Body::End, used)) => answer = &answer[used..],
            }
        }
        if !framing.is_empty() {
            mux.body(stream, &body, trailers);
        }
        return;
    }
}
