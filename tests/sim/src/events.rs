//! What happens when, in virtual nanoseconds; things of the same time happen in the order in which they were put down.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::scenario::Call;

#[derive(Debug)]
struct Entry<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The earliest is the greatest, since the heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What is to come.
#[derive(Debug)]
pub(crate) struct Events<E> {
    heap: BinaryHeap<Entry<E>>,
    number: u64,
}

impl<E> Events<E> {
    /// Calls that arrive, by their numbers.
    pub(crate) fn of(calls: &[Call], arrive: impl Fn(usize) -> E) -> Self {
        let mut events = Events { heap: BinaryHeap::new(), number: 0 };
        for (i, call) in calls.iter().enumerate() {
            events.put(call.at, arrive(i));
        }
        events
    }

    pub(crate) fn put(&mut self, at: u64, event: E) {
        self.number += 1;
        self.heap.push(Entry { at, number: self.number, event });
    }

    pub(crate) fn next(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}
