//! Whatever bytes a caller sends, applications behind the mesh see the same requests, whichever library reads them (Go's net/http, Node's http, hyper), and no request
//! that the mesh has not passed on: so that nothing can be smuggled past it.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use vicino_wire::head::Headers;
use vicino_wire::http1::{Body, BodyDecoder, Slots, parse_response};

use crate::client::get;
use crate::configuration::Configuration;
use crate::process::{Proxy, eventually};

/// Fields that say how a message is framed, or of which connection it is; each library treats them in its own way.
const FRAMING: [&str; 5] = ["connection", "content-length", "te", "trailer", "transfer-encoding"];
/// What stands for an application's name.
const ANY: &str = "app-0";
/// Longer than anything here takes; only a fault waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an application saw of a request; bytes in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    method: String,
    target: String,
    host: String,
    fields: Vec<(String, String)>,
    body: String,
}

/// One answer that a caller got.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// The application's.
    Seen(Seen),
    /// The mesh's own.
    Mesh(u16, String),
    /// An application's library has refused what it got.
    Refused(u16),
}

/// An application, ended with the test.
struct Application {
    name: &'static str,
    address: SocketAddr,
    child: Option<Child>,
}

impl Drop for Application {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Application {
    /// A program that prints its port.
    fn of_program(name: &'static str, mut program: Command) -> Self {
        let needs = format!("{program:?} runs: Go and Node are installed");
        let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect(&needs);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = format!("127.0.0.1:{}", line.trim()).parse().expect(&needs);
        Self { name, address, child: Some(child) }
    }

    fn go() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = folder.join("parsers-go");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standalone/parsers/server.go");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(source).current_dir(folder);
        assert!(build.status().expect("Go is installed").success());
        Self::of_program("app-1", Command::new(program))
    }

    fn node() -> Self {
        let mut program = Command::new("node");
        program.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standalone/parsers/server.mjs"));
        Self::of_program("app-2", program)
    }

    fn hyper() -> Self {
        let (ready, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                let (connections, count) = (TaskTracker::new(), Arc::new(AtomicU64::new(0)));
                while let Ok((stream, _)) = listener.accept().await {
                    let count = Arc::clone(&count);
                    let service = service_fn(move |request| tell(request, Arc::clone(&count)));
                    let mut connection = http1::Builder::new();
                    connection.half_close(true);
                    let connection = connection.serve_connection(TokioIo::new(stream), service);
                    // How it ends is what the test looks at.
                    connections.spawn(async { drop(connection.await) });
                }
            });
        });
        Self { name: "app-3", address: address.recv().unwrap(), child: None }
    }

    /// How many requests it has seen, whether they were passed on by the mesh or not.
    fn count(&self) -> usize {
        get(self.address, "app", "/count-of-requests").unwrap().body.trim().parse().unwrap()
    }
}

/// hyper's side of the other two programs.
async fn tell(request: Request<Incoming>, count: Arc<AtomicU64>) -> Result<Response<String>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if head.uri == "/count-of-requests" {
        return Ok(Response::new(count.load(Ordering::Relaxed).to_string()));
    }
    count.fetch_add(1, Ordering::Relaxed);
    let host = head.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let fields = head.headers.iter().filter(|(name, _)| *name != HOST);
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        host: host.unwrap_or_default(),
        fields: fields.map(|(name, value)| (name.to_string(), hex(value.as_bytes()))).collect(),
        body: hex(&body),
    };
    let answer = Response::builder().header("x-seen", "1").body(serde_json::to_string(&seen).unwrap());
    Ok::<_, Infallible>(answer.unwrap()).map_err(|never| match never {})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What a caller gets that says these bytes, and nothing after them, to an application, which they call [`ANY`].
fn ask(l1: SocketAddr, application: &str, bytes: &[u8]) -> Vec<Answer> {
    let mut stream = TcpStream::connect(l1).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = bytes.to_vec();
    assert_eq!(application.len(), ANY.len(), "so that no length changes");
    while let Some(at) = bytes.windows(ANY.len()).position(|part| part == ANY.as_bytes()) {
        bytes[at..at + ANY.len()].copy_from_slice(application.as_bytes());
    }
    // A refusal may come, and the connection end, before all is written.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    let mut answers = answers(&got);
    for answer in &mut answers {
        if let Answer::Seen(seen) = answer {
            seen.host = seen.host.replace(application, ANY);
            seen.target = seen.target.replace(application, ANY);
            for bytes in seen.fields.iter_mut().map(|(_, value)| value).chain([&mut seen.body]) {
                *bytes = bytes.replace(&hex(application.as_bytes()), &hex(ANY.as_bytes()));
            }
        }
    }
    answers
}

/// The answers in what a caller got; one that is cut off is none.
fn answers(mut got: &[u8]) -> Vec<Answer> {
    let mut all = Vec::new();
    let mut slots = Slots::default();
    // Whether an answer is one to HEAD is told by that no body follows it.
    while let Ok(Some(response)) = parse_response(got, &mut slots, "GET") {
        let head = response.head;
        got = &got[response.len..];
        if head.is_interim() {
            continue;
        }
        let (mut decoder, mut body) = (BodyDecoder::new(response.framing), Vec::new());
        while !decoder.is_ended() {
            match decoder.decode(got) {
                Ok((Body::Data(part), used)) => {
                    body.extend_from_slice(part);
                    got = &got[used..];
                }
                Ok((Body::More, _)) | Err(_) => break,
                Ok((_, used)) => got = &got[used..],
            }
        }
        all.extend(answer(head.status, head.headers, &body));
    }
    all
}

fn answer(status: u16, headers: Headers<'_>, body: &[u8]) -> Option<Answer> {
    let reason = headers.get("vicino-error").map(|word| String::from_utf8_lossy(word).into_owned());
    match (reason, headers.get("x-seen")) {
        (Some(reason), _) => Some(Answer::Mesh(status, reason)),
        (None, None) => Some(Answer::Refused(status)),
        (None, Some(_)) => {
            let mut seen: Seen = serde_json::from_slice(body).ok()?;
            seen.fields.retain(|(name, _)| !FRAMING.contains(&&**name));
            seen.fields.sort_by(|a, b| a.0.cmp(&b.0));
            Some(Answer::Seen(seen))
        }
    }
}

/// Heads and bodies that are right, nearly right and wrong, one or two after the other.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = |all: Vec<&'static str>| prop::sample::select(all).prop_map(|text| text.as_bytes().to_vec());
    let first = text(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b=c HTTP/1.1\r\n",
        "PUT /%2e%2e/a//b;c HTTP/1.1\r\n",
        "POST http://app-0/x HTTP/1.1\r\n",
        "POST / HTTP/1.0\r\n",
        "DELETE /\"<>|^`{} HTTP/1.1\r\n",
        "GET /a b HTTP/1.1\r\n",
        "get / HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "\r\nPOST / HTTP/1.1\r\n",
    ]);
    let field = text(vec![
        "Accept: */*\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 05\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 3\r\n",
        "Content-Length : 5\r\n",
        "Content-Length:\t5 \r\n",
        "Content_Length: 9\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked \r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "X-A: one\r\n two\r\n",
        "X-A: b\r\nx-a: c\r\n",
        "X-A: \u{e4}\u{f6}\r\n",
        "X-A:\r\n",
        "X-A: a\rX-B: b\r\n",
        "X-A: a\nX-B: b\r\n",
        "X A: b\r\n",
        "Host: other\r\n",
        "Connection: close, x-a\r\n",
        "Connection: keep-alive\r\n",
        "Expect: 100-continue\r\n",
        "Cookie: a=b\r\nCookie: c=d\r\n",
        "Trailer: x-sum\r\n",
        "Upgrade: h2c\r\n",
    ]);
    let body = text(vec![
        "",
        "hello",
        "abc",
        "5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n0\r\n\r\n",
        "5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app-0\r\n\r\n",
        "GET /smuggled HTTP/1.1\r\nHost: app-0\r\n\r\n",
    ]);
    let host = prop_oneof![9 => Just(&b"Host: app-0\r\n"[..]), 1 => Just(&b""[..])];
    let request =
        (first, host, prop::collection::vec(field, 0..4), body).prop_map(|(first, host, fields, body)| {
            [&first[..], host, &fields.concat(), b"\r\n", &body].concat()
        });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..2);
    (prop::collection::vec(request, 1..3), changes).prop_map(|(requests, changes)| {
        let mut bytes = requests.concat();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

#[test]
fn applications_see_the_same_whatever_reads_for_them() {
    let applications = [Application::go(), Application::node(), Application::hyper()];
    let [a, b] = ["a", "b"].map(Configuration::new);
    for configuration in [&a, &b] {
        configuration.nodes(&["a", "b"]);
        for application in &applications {
            configuration.route(application.name, 1);
            configuration.endpoints(application.name, &[("b", application.address)]);
        }
    }
    let [l1, l2] = [&a, &b].map(|configuration| Proxy::start(configuration, &[]));
    l1.is_ready();
    l2.is_ready();
    eventually("all are reached", || {
        applications.iter().all(|application| {
            let host = format!("{}.default", application.name);
            get(l1.l1(), &host, "/count-of-requests").is_ok_and(|answer| answer.status == 200)
        })
    });
    let passed = std::cell::RefCell::new([0; 3]);
    let refused = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 1000, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&bytes(), |bytes| {
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        let before = applications.each_ref().map(Application::count);
        let all = applications.each_ref().map(|application| ask(l1.l1(), application.name, &bytes));
        for (i, answers) in all.iter().enumerate() {
            let seen = answers.iter().filter(|answer| matches!(answer, Answer::Seen(_))).count();
            passed.borrow_mut()[i] += seen;
            let saw = applications[i].count() - before[i];
            refused.set(refused.get() + usize::from(seen == 0));
            let name = applications[i].name;
            prop_assert_eq!(
                saw,
                seen,
                "{} saw what no caller was answered for: {:?} {:?}",
                name,
                shown(),
                answers
            );
        }
        // What a library does not take it may refuse; then it has seen nothing else.
        let is_refused = |answer: &Answer| matches!(answer, Answer::Refused(_));
        let common = all.iter().map(|answers| answers.iter().position(is_refused).unwrap_or(usize::MAX));
        let common = common.min().unwrap_or(usize::MAX);
        let [go, node, hyper] = all.each_ref().map(|answers| &answers[..common.min(answers.len())]);
        prop_assert_eq!(go, node, "Go and Node: {:?}", shown());
        prop_assert_eq!(go, hyper, "Go and hyper: {:?}", shown());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let passed = passed.into_inner();
    assert!(passed.iter().all(|count| *count > 100), "passed on: {passed:?}, refused: {refused:?}");
}
