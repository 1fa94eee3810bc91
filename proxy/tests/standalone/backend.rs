//! A pod: answers each request with its name and the path, and holds `/hold` back until it is let go.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a held call is held at most, so that a failed test ends.
const HOLD_MAX: Duration = Duration::from_secs(30);

pub(crate) struct Backend {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: u32,
    open: bool,
}

impl Backend {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        let of_threads = gate.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let gate = of_threads.clone();
                std::thread::spawn(move || serve(&stream, name, &gate));
            }
        });
        Self { address, gate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn holds_one(&self) -> bool {
        self.gate.state.lock().unwrap().held > 0
    }

    pub(crate) fn let_go(&self) {
        self.gate.state.lock().unwrap().open = true;
        self.gate.changed.notify_all();
    }
}

/// What `/big` answers: more than any buffer on the way holds, and no two parts alike.
pub(crate) fn big_body() -> Vec<u8> {
    const NUMBERS: u32 = 4 * 1024 * 1024;
    (0..NUMBERS).flat_map(u32::to_be_bytes).collect()
}

fn serve(stream: &TcpStream, name: &str, gate: &Gate) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        }
        if path == "/hold" {
            let mut state = gate.state.lock().unwrap();
            state.held += 1;
            let held = gate.changed.wait_timeout_while(state, HOLD_MAX, |state| !state.open);
            held.unwrap().0.held -= 1;
        }
        let body = match &*path {
            "/big" => big_body(),
            _ => format!("{name} says {path}").into_bytes(),
        };
        let length = body.len();
        write!(&*stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").ok()?;
        (&*stream).write_all(&body).ok()?;
    }
}
