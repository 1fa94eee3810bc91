//! Connections that had one answer each and stay open, and waiting for a target that comes up; blocking sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::LoadError;
use super::exchange::{Answers, request};
use crate::clock;
use crate::options::Target;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens `connections`, one after the other, and has one answer on each; gives those that stay open. The rest failed.
pub fn open(target: &Target, connections: u32) -> Vec<TcpStream> {
    (0..connections).filter_map(|_| call(target).ok()).collect()
}

/// Calls every 20 ms until the target answers 200.
pub fn probe(target: &Target, patience: Duration) -> Result<(), LoadError> {
    let mut last = "nothing tried".to_owned();
    clock::wait_for(patience, || call(target).map_err(|e| last = e.to_string()).ok()).map(drop).ok_or_else(
        || LoadError::NotReady { target: target.address, seconds: patience.as_secs(), last: last.clone() },
    )
}

/// One request on a connection of its own, which stays open.
fn call(target: &Target) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target.address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&request(target))?;
    let mut answers = Answers::default();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match answers.take(&buffer[..read]).map_err(std::io::Error::other)? {
            Some(200) => return Ok(stream),
            Some(status) => return Err(std::io::Error::other(format!("status {status}"))),
            None => {}
        }
    }
}
