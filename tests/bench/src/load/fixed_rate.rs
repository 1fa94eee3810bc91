//! The open loop: requests at a fixed rate, their latency counted from the moment they were due, so that a stall of the
//! proxy is seen by every request that it delays; one thread, and no decisions about what the figures mean.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::exchange::{Answers, request};
use super::{Load, LoadError};
use crate::clock;
use crate::options::Target;

/// What is open this long after the last request was due counts as an error.
const GRACE: Duration = Duration::from_secs(5);

/// When requests are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When the first is due.
    pub start: Instant,
    /// Requests a second.
    pub rate: u32,
    /// How many.
    pub count: u64,
}

impl Schedule {
    /// When request `number`, from 0, is due.
    pub fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }
}

/// Sends requests for `seconds` and waits for their answers.
pub fn run(target: &Target, connections: u32, rate: u32, seconds: u64) -> Result<Load, LoadError> {
    // Linux rounds the waits of a thread by 50 us unless told otherwise; that would be in every latency.
    std::fs::write("/proc/self/timerslack_ns", "1").map_err(|e| LoadError::Io("set the timer slack", e))?;
    let bytes = request(target);
    let mut generator = Generator::connect(target, connections)?;
    let schedule =
        Schedule { start: clock::now() + Duration::from_millis(5), rate, count: u64::from(rate) * seconds };
    let end = schedule.due(schedule.count);
    let mut sent = 0;
    while sent < schedule.count || generator.open() > 0 {
        let now = clock::now();
        let all_gone = generator.idle.is_empty() && generator.open() == 0;
        if all_gone || now >= end + GRACE {
            break;
        }
        while sent < schedule.count && schedule.due(sent) <= now && generator.send(&bytes, schedule.due(sent))
        {
            sent += 1;
        }
        let waits_for_due = sent < schedule.count && !generator.idle.is_empty();
        let until = if waits_for_due { schedule.due(sent) } else { now + Duration::from_millis(100) };
        generator.receive(until)?;
    }
    Ok(generator.figures(schedule.count - sent, clock::now() - schedule.start))
}

struct Connection {
    stream: TcpStream,
    answers: Answers,
    /// When its open request was due.
    due: Option<Instant>,
}

struct Generator {
    connections: Vec<Connection>,
    /// Numbers of those without an open request; first in, first out, so that all are used.
    idle: VecDeque<usize>,
    latency_us: Histogram<u64>,
    errors: u64,
}

impl Generator {
    fn connect(target: &Target, connections: u32) -> Result<Self, LoadError> {
        let connect = || -> std::io::Result<Connection> {
            let stream = TcpStream::connect(target.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(Connection { stream, answers: Answers::default(), due: None })
        };
        let connections: Vec<Connection> = (0..connections)
            .map(|_| connect())
            .collect::<Result<_, _>>()
            .map_err(|e| LoadError::Io("connect", e))?;
        let idle = (0..connections.len()).collect();
        let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are valid");
        Ok(Self { connections, idle, latency_us, errors: 0 })
    }

    fn open(&self) -> u64 {
        self.connections.iter().filter(|c| c.due.is_some()).count() as u64
    }

    /// Sends one request on an idle connection; false when there is none.
    fn send(&mut self, bytes: &[u8], due: Instant) -> bool {
        let Some(number) = self.idle.pop_front() else { return false };
        let connection = &mut self.connections[number];
        // A request is far smaller than the socket's buffer, which is empty while no request is open.
        match connection.stream.write(bytes) {
            Ok(n) if n == bytes.len() => connection.due = Some(due),
            // The connection is gone for good: it is not idle again.
            _ => self.errors += 1,
        }
        true
    }

    /// Waits for answers until `until` at most, and takes those that are there.
    fn receive(&mut self, until: Instant) -> Result<(), LoadError> {
        let wait = until.saturating_duration_since(clock::now());
        let timeout = Timespec::try_from(wait).expect("waits are far below an age");
        let open: Vec<usize> =
            (0..self.connections.len()).filter(|&n| self.connections[n].due.is_some()).collect();
        let mut polled: Vec<PollFd<'_>> =
            open.iter().map(|&n| PollFd::new(&self.connections[n].stream, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LoadError::Io("wait for answers", e.into())),
        }
        let ready: Vec<usize> =
            open.iter().zip(&polled).filter(|(_, fd)| !fd.revents().is_empty()).map(|(&n, _)| n).collect();
        for number in ready {
            self.read(number);
        }
        Ok(())
    }

    fn read(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let mut buffer = [0; 16 * 1024];
        let status = match connection.stream.read(&mut buffer) {
            Ok(0) => Ok(Some(0)),
            Ok(n) => connection.answers.take(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => Ok(Some(0)),
        };
        let Ok(status) = status else {
            connection.due = None;
            self.errors += 1;
            return;
        };
        let Some(status) = status else { return };
        let due = connection.due.take().expect("only connections with an open request are polled");
        if status == 200 {
            let latency = u64::try_from((clock::now() - due).as_micros()).unwrap_or(u64::MAX);
            self.latency_us.saturating_record(latency.max(1));
        } else {
            self.errors += 1;
        }
        if status != 0 {
            self.idle.push_back(number);
        }
    }

    fn figures(&self, unsent: u64, wall: Duration) -> Load {
        #[expect(clippy::cast_precision_loss, reason = "counts and microseconds stay far below 2^52")]
        let (answered, p50_us, p99_us) = (
            self.latency_us.len() as f64,
            self.latency_us.value_at_quantile(0.5) as f64,
            self.latency_us.value_at_quantile(0.99) as f64,
        );
        Load {
            requests: self.latency_us.len(),
            errors: self.errors + self.open(),
            unsent,
            per_second: answered / wall.as_secs_f64(),
            p50_us,
            p99_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers every request on every connection after `delay`, on a thread of its own.
    fn server(answer: &'static [u8], delay: Duration) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
                        std::thread::sleep(delay);
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Target { address, host: "bench".to_owned() }
    }

    #[test]
    fn requests_are_due_at_equal_distances_without_drift() {
        let schedule = Schedule { start: clock::now(), rate: 3, count: 10 };
        assert_eq!(schedule.due(0), schedule.start);
        assert_eq!(schedule.due(2) - schedule.start, Duration::from_nanos(666_666_666));
        assert_eq!(schedule.due(3_000_000) - schedule.start, Duration::from_secs(1_000_000));
    }

    #[test]
    fn a_slow_server_shows_in_the_latency_of_the_requests_that_had_to_wait() {
        // One connection that answers after 20 ms serves 50 a second; 100 a second are due, so the last one of a
        // second waits for nearly another second. A closed loop would report 20 ms for all of them.
        let target = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Duration::from_millis(20));
        let load = run(&target, 1, 100, 1).unwrap();
        assert_eq!((load.requests, load.errors), (100, 0));
        assert!(load.p50_us > 300_000.0, "{load:?}");
        assert!(load.p99_us > 800_000.0, "{load:?}");
    }

    #[test]
    fn other_answers_than_200_are_errors() {
        let target = server(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Duration::ZERO);
        let load = run(&target, 2, 50, 1).unwrap();
        assert_eq!((load.requests, load.errors), (0, 50));
    }

    #[test]
    fn a_server_that_hangs_up_costs_its_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target { address: listener.local_addr().unwrap(), host: "bench".to_owned() };
        std::thread::spawn(move || listener.incoming().take(2).for_each(drop));
        let load = run(&target, 2, 10, 1);
        assert!(load.as_ref().is_ok_and(|l| l.requests == 0 && l.errors == 2 && l.unsent == 8), "{load:?}");
    }
}
