//! What every connection has, whoever is at its end: buffers, back-pressure, how it ends. It parses nothing.

use std::net::SocketAddr;

use crate::core::ConnId;
use crate::downstream::Client;
use crate::hop::Hop;
use crate::session::Session;
use crate::table::Id;
use crate::tally::{ConnectionTally, Tally};
use crate::upstream::Pod;

/// First size of a buffer.
const BUFFER_BYTES: usize = 4 * 1024;
/// Buffers that have grown beyond this are not kept.
pub(crate) const BUFFER_KEPT_BYTES_MAX: usize = 128 * 1024;
/// Buffers that are kept for reuse.
const BUFFERS_KEPT_MAX: usize = 256;

impl Id for ConnId {
    fn new(slot: u32, generation: u32) -> Self {
        ConnId { slot, generation }
    }
    fn slot(self) -> u32 {
        self.slot
    }
    fn generation(self) -> u32 {
        self.generation
    }
}

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Kind {
    Client(Client),
    Pod(Pod),
    Hop(Box<Hop>),
}

/// What happens once all output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFlush {
    Nothing,
    ShutdownWrite,
    Close,
}

/// One connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about a socket")]
pub(crate) struct Conn {
    pub(crate) kind: Kind,
    /// HTTP/2 is spoken on it.
    pub(crate) session: Option<Box<Session>>,
    pub(crate) peer: SocketAddr,
    /// Whether it is connected.
    pub(crate) is_open: bool,
    /// The peer sends no more.
    pub(crate) is_ended: bool,
    /// FIN was sent, or will be once all is written.
    pub(crate) is_shut: bool,
    /// Nothing is to be read until someone resumes it.
    pub(crate) is_paused: bool,
    /// The source of what is written here was paused because of `output`.
    pub(crate) blocks_source: bool,
    pub(crate) is_dirty: bool,
    pub(crate) is_queued: bool,
    pub(crate) wants_read: bool,
    pub(crate) after_flush: AfterFlush,
    /// Read and not yet understood.
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    pub(crate) written: usize,
    /// So many bytes in `output` came over a hop, whose sender gets credit for them as they leave.
    pub(crate) owed: usize,
}

impl Conn {
    /// Bytes that wait to be written.
    #[inline]
    pub(crate) fn pending(&self) -> usize {
        self.output.len() - self.written
    }

    #[cfg(test)]
    pub(crate) fn owns_no_buffer(&self) -> bool {
        let is_hop = matches!(self.kind, Kind::Hop(_));
        is_hop || (self.input.capacity() == 0 && self.output.capacity() == 0)
    }

    pub(crate) fn client(&mut self) -> Option<&mut Client> {
        if let Kind::Client(client) = &mut self.kind { Some(client) } else { None }
    }

    pub(crate) fn pod(&mut self) -> Option<&mut Pod> {
        if let Kind::Pod(pod) = &mut self.kind { Some(pod) } else { None }
    }

    pub(crate) fn hop(&mut self) -> Option<&mut Hop> {
        if let Kind::Hop(hop) = &mut self.kind { Some(hop) } else { None }
    }

    #[inline]
    pub(crate) fn tally<'t>(&self, tally: &'t Tally) -> &'t ConnectionTally {
        match &self.kind {
            Kind::Client(_) => &tally.clients,
            Kind::Pod(_) => &tally.pods,
            Kind::Hop(hop) if hop.node.is_some() => &tally.hops_dialed,
            Kind::Hop(_) => &tally.hops_accepted,
        }
    }
}

/// Buffers that nobody uses now.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    #[inline]
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    #[inline]
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        let is_kept = (1..=BUFFER_KEPT_BYTES_MAX).contains(&buffer.capacity());
        if is_kept && self.0.len() < BUFFERS_KEPT_MAX {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;
    use crate::exchange::Exchange;
    use crate::session::Session;

    /// What an idle connection costs beside its socket, since its buffers are given back; and what a call and an HTTP/2 connection come on top. Whoever makes these
    /// larger should mean it: there may be 65,536 of each.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Conn>() <= 256, "a connection has {} bytes", size_of::<Conn>());
        assert!(size_of::<Exchange>() <= 528, "a call has {} bytes", size_of::<Exchange>());
        assert!(size_of::<Session>() <= 320, "an HTTP/2 connection has {} bytes", size_of::<Session>());
    }
}
