//! A worker's sockets by slot, each with the waker that lists it; which of them lives is the engine's to say.

use std::sync::Arc;
use std::task::Waker;

use vicino_engine::ConnId;

use super::ready::{ReadyList, Token};
use super::socket::Stream;

/// A slot: the waker outlives its users.
#[derive(Debug)]
struct Slot {
    token: Arc<Token>,
    waker: Waker,
    user: Option<(ConnId, Stream)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    ready: ReadyList,
}

/// A connection, and the waker that lists it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) id: ConnId,
    pub(super) stream: &'a mut Stream,
    pub(super) waker: &'a Waker,
}

impl Table {
    pub(super) fn new(ready: ReadyList) -> Self {
        Self { slots: Vec::new(), ready }
    }

    /// Puts a socket where the engine says. The engine may have given up the one that was there, in this very turn, and its
    /// command to close it is still to come: it is closed now.
    pub(super) fn put(&mut self, id: ConnId, stream: Stream) {
        while self.slots.len() <= id.slot as usize {
            let number = self.slots.len() as u32;
            let token = self.ready.token(number);
            self.slots.push(Slot { waker: Waker::from(token.clone()), token, user: None });
        }
        let slot = &mut self.slots[id.slot as usize];
        slot.user = Some((id, stream));
    }

    /// The connection, while it is this one.
    pub(super) fn get(&mut self, id: ConnId) -> Option<Entry<'_>> {
        self.slots.get_mut(id.slot as usize)?.entry().filter(|entry| entry.id == id)
    }

    /// The connection whose number was on the ready list, which from now on lists it again.
    pub(super) fn taken(&mut self, number: u32) -> Option<Entry<'_>> {
        let slot = self.slots.get_mut(number as usize)?;
        slot.token.taken();
        slot.entry()
    }

    /// Closes a socket.
    pub(super) fn close(&mut self, id: ConnId) {
        if let Some(slot) = self.slots.get_mut(id.slot as usize)
            && slot.user.as_ref().is_some_and(|(user, _)| *user == id)
        {
            slot.user = None;
        }
    }
}

impl Slot {
    fn entry(&mut self) -> Option<Entry<'_>> {
        let (id, stream) = self.user.as_mut()?;
        Some(Entry { id: *id, stream, waker: &self.waker })
    }
}
