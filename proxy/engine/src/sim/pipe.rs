//! One direction of a simulated TCP connection: bytes arrive in order, late; a receiver that does not read stops the sender.

use std::collections::VecDeque;

use crate::deadline::Time;

/// Bytes on the way and in the receiver's buffer.
const CAPACITY: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    /// When the next so many bytes arrive.
    arrivals: VecDeque<(Time, usize)>,
    arrived: usize,
    ends_at: Option<Time>,
    has_ended: bool,
    has_reset: bool,
    last_arrival: Time,
}

impl Pipe {
    /// Takes as much as fits; it arrives at `at`, or behind what arrives later.
    pub(super) fn write(&mut self, bytes: &[u8], at: Time) -> usize {
        if self.has_reset || self.ends_at.is_some() {
            return bytes.len();
        }
        let n = bytes.len().min(CAPACITY - self.bytes.len().min(CAPACITY));
        if n > 0 {
            self.last_arrival = self.last_arrival.max(at);
            self.bytes.extend(&bytes[..n]);
            self.arrivals.push_back((self.last_arrival, n));
        }
        n
    }

    pub(super) fn shut(&mut self, at: Time) {
        self.last_arrival = self.last_arrival.max(at);
        self.ends_at.get_or_insert(self.last_arrival);
    }

    pub(super) fn reset(&mut self) {
        self.has_reset = true;
    }

    /// When something arrives next.
    pub(super) fn next(&self, now: Time) -> Option<Time> {
        let end = self.ends_at.filter(|_| !self.has_ended);
        self.arrivals.front().map(|(at, _)| *at).or(end).map(|at| at.max(now))
    }

    pub(super) fn arrive(&mut self, now: Time) {
        while let Some((_, n)) = self.arrivals.pop_front_if(|(at, _)| *at <= now) {
            self.arrived += n;
        }
        self.has_ended |= self.ends_at.is_some_and(|at| at <= now) && self.arrivals.is_empty();
    }

    /// Whether a write would take something.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.len() < CAPACITY && !self.has_reset && self.ends_at.is_none()
    }

    pub(super) fn readable(&self) -> usize {
        self.arrived
    }

    pub(super) fn read(&mut self, n: usize) -> Vec<u8> {
        self.arrived -= n;
        self.bytes.drain(..n).collect()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.has_ended && self.arrived == 0
    }

    pub(super) fn is_reset(&self) -> bool {
        self.has_reset
    }
}
