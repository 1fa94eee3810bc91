//! An HTTP/2 peer for callers and pods of the simulation: it keeps to the rules, unless a test writes frames of its own.

use std::collections::{BTreeMap, BTreeSet};

use vicino_wire::head::{Framing, Header, Headers, RequestHead, ResponseHead, Version};
use vicino_wire::http2::{
    Decoder, Encoder, Frame, PREFACE, Setting, Slots, WINDOW_DEFAULT, decode, encode_pong, encode_preface,
    encode_settings, encode_settings_ack, encode_window, read_request, read_response, read_trailers,
};

pub(crate) type Fields = Vec<(String, String)>;

/// What a peer saw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    Request { stream: u32, method: String, path: String, fields: Fields, framing: Framing },
    Response { stream: u32, status: u16, fields: Fields, framing: Framing },
    Data { stream: u32, bytes: Vec<u8>, is_end: bool },
    Trailers { stream: u32, fields: Fields },
    Reset { stream: u32, code: u32 },
    GoAway { last_stream: u32, code: u32 },
    Pong,
}

#[derive(Debug, Default)]
struct Pending {
    data: Vec<u8>,
    trailers: Option<Fields>,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Mux {
    is_client: bool,
    has_begun: bool,
    encoder: Encoder,
    decoder: Decoder,
    block: Option<(u32, bool, Vec<u8>)>,
    /// Streams of which the final head has come.
    heads: BTreeSet<u32>,
    head_requests: Vec<u32>,
    credit: i64,
    initial: i64,
    credits: BTreeMap<u32, i64>,
    /// What the peer may send still, and on each stream; and the largest window that it was told streams begin with.
    allowed: i64,
    allowed_on: BTreeMap<u32, i64>,
    allowed_at_first: i64,
    pending: BTreeMap<u32, Pending>,
    input: Vec<u8>,
    pub(crate) out: Vec<u8>,
    pub(crate) said: Vec<Said>,
    /// Streams on which the peer has said all.
    pub(crate) over: BTreeSet<u32>,
    /// Gives no credit for these streams.
    pub(crate) stalled: Vec<u32>,
}

pub(crate) fn pairs(headers: Headers<'_>) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    headers.iter().map(|h| (text(h.name), text(h.value))).collect()
}

fn list(fields: &[(String, String)]) -> Vec<Header<'_>> {
    fields.iter().map(|(n, v)| Header { name: n.as_bytes(), value: v.as_bytes() }).collect()
}

pub(crate) fn fields(of: &[(&str, &str)]) -> Fields {
    of.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

impl Mux {
    pub(crate) fn new(is_client: bool) -> Mux {
        let mut out = Vec::new();
        if is_client {
            encode_preface(&mut out);
        }
        encode_settings(&mut out, &[Setting::MaxConcurrentStreams(1000)], WINDOW_DEFAULT);
        Mux {
            is_client,
            has_begun: is_client,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            block: None,
            heads: BTreeSet::new(),
            head_requests: Vec::new(),
            credit: i64::from(WINDOW_DEFAULT),
            initial: i64::from(WINDOW_DEFAULT),
            credits: BTreeMap::new(),
            allowed: i64::from(WINDOW_DEFAULT),
            allowed_on: BTreeMap::new(),
            allowed_at_first: i64::from(WINDOW_DEFAULT),
            pending: BTreeMap::new(),
            input: Vec::new(),
            out,
            said: Vec::new(),
            over: BTreeSet::new(),
            stalled: Vec::new(),
        }
    }

    /// Asks; a body follows by [`Mux::body`] when `framing` says so.
    pub(crate) fn request(
        &mut self,
        stream: u32,
        (method, authority, path): (&str, &str, &str),
        framing: Framing,
        fields: &Fields,
    ) {
        if method == "HEAD" {
            self.head_requests.push(stream);
        }
        let list = list(fields);
        let head = RequestHead {
            method,
            authority,
            path,
            version: Version::Http2,
            accepts_trailers: true,
            headers: list[..].into(),
        };
        self.encoder.request(&mut self.out, stream, (&head, framing), &[]);
    }

    pub(crate) fn response(&mut self, stream: u32, status: u16, framing: Framing, fields: &Fields) {
        let list = list(fields);
        let head = ResponseHead {
            status,
            reason: b"",
            version: Version::Http2,
            declared_length: None,
            headers: list[..].into(),
        };
        self.encoder.response(&mut self.out, stream, (&head, framing), &[]);
    }

    /// Sends a body as far as there is credit, the rest later.
    pub(crate) fn body(&mut self, stream: u32, data: &[u8], trailers: Option<Fields>) {
        let pending = self.pending.entry(stream).or_default();
        pending.data.extend_from_slice(data);
        pending.trailers = trailers;
        self.flush();
    }

    /// Sends a part of a body that does not end yet, whatever credit there is.
    pub(crate) fn part(&mut self, stream: u32, data: &[u8]) {
        self.encoder.data(&mut self.out, stream, data, false);
    }

    /// Tells the peer which window streams begin with from now on.
    pub(crate) fn window(&mut self, initial: u32) {
        let grows = (i64::from(initial) - self.allowed_at_first).max(0);
        self.allowed_at_first += grows;
        self.allowed_on.values_mut().for_each(|allowed| *allowed += grows);
        encode_settings(&mut self.out, &[Setting::InitialWindowSize(initial)], WINDOW_DEFAULT);
    }

    /// Gives credit for a stream.
    pub(crate) fn grant(&mut self, stream: u32, credit: u32) {
        *self.allowed_on.entry(stream).or_insert(self.allowed_at_first) += i64::from(credit);
        encode_window(&mut self.out, stream, credit);
    }

    /// Takes note of what counts against the windows, and gives as much anew.
    fn count(&mut self, stream: u32, flow: u32, is_stalled: bool) {
        let on = self.allowed_on.entry(stream).or_insert(self.allowed_at_first);
        *on -= i64::from(flow);
        self.allowed -= i64::from(flow);
        assert!(*on >= 0 && self.allowed >= 0, "a proxy keeps to windows: stream {stream}");
        if flow > 0 {
            self.allowed += i64::from(flow);
            encode_window(&mut self.out, 0, flow);
            if !is_stalled {
                self.grant(stream, flow);
            }
        }
    }

    fn flush(&mut self) {
        for (stream, pending) in &mut self.pending {
            let credit = self.credits.entry(*stream).or_insert(self.initial);
            let count = usize::try_from(self.credit.min(*credit)).unwrap_or(0).min(pending.data.len());
            let is_all = count == pending.data.len();
            let is_end = is_all && pending.trailers.is_none();
            if count > 0 || is_end {
                self.encoder.data(&mut self.out, *stream, &pending.data[..count], is_end);
            }
            let spent = i64::try_from(count).expect("a credit");
            self.credit -= spent;
            *credit -= spent;
            pending.data.drain(..count);
            if let Some(trailers) = pending.trailers.take_if(|_| is_all) {
                self.encoder.trailers(&mut self.out, *stream, list(&trailers)[..].into());
            }
            if is_all {
                pending.data = Vec::new();
            }
        }
        self.pending.retain(|_, pending| !pending.data.is_empty() || pending.trailers.is_some());
    }

    /// Takes in what came.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut self.input);
        let mut at = 0;
        if !self.has_begun && input.len() >= PREFACE.len() {
            assert!(input.starts_with(PREFACE), "a proxy begins with the preface");
            self.has_begun = true;
            at = PREFACE.len();
        }
        while self.has_begun
            && let Some((frame, used)) = decode(&input[at..]).expect("a proxy sends valid frames")
        {
            self.frame(frame.expect("a proxy breaks no stream"));
            at += used;
        }
        input.drain(..at);
        self.input = input;
        self.flush();
    }

    fn frame(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Headers { stream, end, is_whole: true, block } => self.block(stream, end, block),
            Frame::Headers { stream, end, block, .. } => self.block = Some((stream, end, block.to_vec())),
            Frame::Continuation { is_whole, block, .. } => {
                let mut whole = self.block.take().expect("a block has begun");
                whole.2.extend_from_slice(block);
                if is_whole { self.block(whole.0, whole.1, &whole.2) } else { self.block = Some(whole) }
            }
            Frame::Data { stream, end, bytes, flow } => {
                match self.said.last_mut() {
                    Some(Said::Data { stream: on, bytes: all, is_end }) if *on == stream => {
                        all.extend_from_slice(bytes);
                        *is_end = end;
                    }
                    _ => self.said.push(Said::Data { stream, bytes: bytes.to_vec(), is_end: end }),
                }
                if end {
                    self.over.insert(stream);
                }
                let is_stalled = end || self.stalled.contains(&stream);
                self.count(stream, flow as u32, is_stalled);
            }
            Frame::Reset { stream, code } => {
                self.pending.remove(&stream);
                self.said.push(Said::Reset { stream, code });
            }
            Frame::Settings(settings) => {
                for setting in settings.iter() {
                    if let Setting::InitialWindowSize(window) = setting.expect("a good setting") {
                        let change = i64::from(window) - self.initial;
                        self.initial += change;
                        self.credits.values_mut().for_each(|credit| *credit += change);
                    }
                }
                encode_settings_ack(&mut self.out);
            }
            Frame::Ping(data) => encode_pong(&mut self.out, data),
            Frame::GoAway { last_stream, code } => self.said.push(Said::GoAway { last_stream, code }),
            Frame::Window { stream: 0, credit } => self.credit += i64::from(credit),
            Frame::Window { stream, credit } => {
                *self.credits.entry(stream).or_insert(self.initial) += i64::from(credit);
            }
            Frame::Pong => self.said.push(Said::Pong),
            Frame::SettingsAck | Frame::Skipped => {}
        }
    }

    fn block(&mut self, stream: u32, is_end: bool, block: &[u8]) {
        if is_end {
            self.over.insert(stream);
        }
        let mut slots = Slots::default();
        // Proxies put nothing into the table, so that a block reads the same twice. Nothing of it is left out here.
        let mut fields = Fields::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let each = |name: &[u8], value: &[u8]| fields.push((text(name), text(value)));
        self.decoder.decode(block, each).expect("a good block");
        fields.retain(|(name, _)| !name.starts_with(':'));
        let decoder = &mut self.decoder;
        let said = if self.heads.contains(&stream) {
            assert!(is_end, "trailers end a stream");
            read_trailers(decoder, block, &mut slots).expect("good trailers");
            Said::Trailers { stream, fields }
        } else if self.is_client {
            let method = if self.head_requests.contains(&stream) { "HEAD" } else { "GET" };
            let response =
                read_response(decoder, block, is_end, method, &mut slots).expect("a good response");
            if !response.head.is_interim() {
                self.heads.insert(stream);
            }
            let (status, framing) = (response.head.status, response.framing);
            Said::Response { stream, status, fields, framing }
        } else {
            let request = read_request(decoder, block, is_end, &mut slots).expect("a good request");
            self.heads.insert(stream);
            let (method, path) = (request.head.method.to_owned(), request.head.path.to_owned());
            Said::Request { stream, method, path, fields, framing: request.framing }
        };
        self.said.push(said);
    }
}
