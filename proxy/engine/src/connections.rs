//! The table of all connections of a worker, and what the driver is to be told of them; it knows nothing of who is at their ends.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::connection::{AfterFlush, BUFFER_KEPT_BYTES_MAX, Buffers, Conn, Kind};
use crate::core::{Command, ConnId, SecureDial};
use crate::deadline::Time;
use crate::downstream::Client;
use crate::hop::Hop;
use crate::session::Session;
use crate::table::Table;
use crate::tally::Tally;
use crate::upstream::Pod;

/// Bytes that were read and not yet understood, beyond which a connection is not read: a head and what a caller pipelines behind it.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// What came of writing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// So many bytes that had come over a hop have left.
    pub(crate) released: usize,
    /// The source that was paused because of this output may go on.
    pub(crate) unblocks: bool,
}

/// All connections of a worker, and what the driver is to be told of them.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) table: Table<ConnId, Conn>,
    pub(crate) buffers: Buffers,
    pub(crate) commands: Vec<Command>,
    pub(crate) dirty: Vec<ConnId>,
    pub(crate) resumed: Vec<ConnId>,
    /// Connections whose input is to be looked at again.
    ready: Vec<ConnId>,
    tally: Arc<Tally>,
    output_bytes_max: usize,
}

impl Connections {
    pub(crate) fn new(tally: Arc<Tally>, output_bytes_max: usize) -> Self {
        Connections {
            table: Table::new(),
            buffers: Buffers::default(),
            commands: Vec::new(),
            dirty: Vec::new(),
            resumed: Vec::new(),
            ready: Vec::new(),
            tally,
            output_bytes_max,
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        self.table.get(id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.table.get_mut(id)
    }

    pub(crate) fn client(&mut self, id: ConnId) -> Option<&mut Client> {
        self.table.get_mut(id)?.client()
    }

    pub(crate) fn pod(&mut self, id: ConnId) -> Option<&mut Pod> {
        self.table.get_mut(id)?.pod()
    }

    pub(crate) fn session(&mut self, id: ConnId) -> Option<&mut Session> {
        self.table.get_mut(id)?.session.as_deref_mut()
    }

    pub(crate) fn hop(&mut self, id: ConnId) -> Option<&mut Hop> {
        self.table.get_mut(id)?.hop()
    }

    /// A connection that was accepted.
    pub(crate) fn accept(&mut self, kind: Kind, peer: SocketAddr) -> ConnId {
        let conn = Conn {
            kind,
            session: None,
            peer,
            is_open: true,
            is_ended: false,
            is_shut: false,
            is_paused: false,
            blocks_source: false,
            is_dirty: false,
            is_queued: false,
            wants_read: true,
            after_flush: AfterFlush::Nothing,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            owed: 0,
        };
        let tally = conn.tally(&self.tally);
        tally.opened.add(1);
        tally.open.add(1);
        self.table.insert(conn)
    }

    /// A connection that the driver is told to open.
    pub(crate) fn dial(&mut self, kind: Kind, address: SocketAddr) -> ConnId {
        self.dial_with(kind, address, None)
    }

    /// The same, with TLS when `secure` says so.
    pub(crate) fn dial_with(
        &mut self,
        kind: Kind,
        address: SocketAddr,
        secure: Option<SecureDial>,
    ) -> ConnId {
        let id = self.accept(kind, address);
        if let Some(conn) = self.table.get_mut(id) {
            conn.is_open = false;
            conn.wants_read = false;
        }
        self.commands.push(Command::Connect { id, address, secure });
        id
    }

    pub(crate) fn connected(&mut self, id: ConnId) {
        if let Some(conn) = self.table.get_mut(id) {
            conn.is_open = true;
            if conn.pending() > 0 && !conn.is_dirty {
                conn.is_dirty = true;
                self.dirty.push(id);
            }
        }
        self.resume(id);
    }

    #[inline]
    pub(crate) fn set_due(&mut self, id: ConnId, due: Time) {
        self.table.set_due(id, due);
    }

    /// The buffer of what is to be written to a connection. The connection will be written in this turn.
    #[inline]
    pub(crate) fn out(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        let conn = self.table.get_mut(id)?;
        if conn.is_open && !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(id);
        }
        if conn.output.capacity() == 0 {
            conn.output = self.buffers.take();
        }
        Some(&mut conn.output)
    }

    /// The same for an HTTP/2 connection, with what writing to it needs.
    #[inline]
    pub(crate) fn session_out(&mut self, id: ConnId) -> Option<(&mut Vec<u8>, &mut Session)> {
        self.out(id)?;
        let conn = self.table.get_mut(id)?;
        Some((&mut conn.output, conn.session.as_deref_mut()?))
    }

    /// How many more bytes may be queued for a connection before its source is paused.
    #[inline]
    pub(crate) fn room(&self, id: ConnId) -> usize {
        self.table.get(id).map_or(0, |conn| self.output_bytes_max.saturating_sub(conn.pending()))
    }

    /// The same; when there is none, the source goes on once there is.
    #[inline]
    pub(crate) fn room_or_block(&mut self, id: ConnId) -> usize {
        let room = self.room(id);
        if room == 0
            && let Some(conn) = self.table.get_mut(id)
        {
            conn.blocks_source = true;
        }
        room
    }

    /// The driver takes the list of connections to write.
    pub(crate) fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        for id in self.dirty.drain(..) {
            if let Some(conn) = self.table.get_mut(id) {
                conn.is_dirty = false;
                into.push(id);
            }
        }
    }

    #[inline]
    pub(crate) fn output(&self, id: ConnId) -> &[u8] {
        match self.table.get(id) {
            Some(conn) if conn.is_open => &conn.output[conn.written..],
            _ => &[],
        }
    }

    /// Bytes were written. What follows from an empty buffer is done.
    pub(crate) fn wrote(&mut self, id: ConnId, n: usize) -> Option<Written> {
        let conn = self.table.get_mut(id)?;
        let n = n.min(conn.pending());
        conn.tally(&self.tally).bytes_out.add(n as u64);
        conn.written += n;
        if let Kind::Hop(hop) = &mut conn.kind {
            hop.written += n as u64;
        }
        let pending = conn.pending();
        // Whatever is pending may be owed: credit is given rather too late than too early.
        let released = conn.owed.saturating_sub(pending);
        conn.owed -= released;
        let unblocks = conn.blocks_source && pending <= self.output_bytes_max / 2;
        conn.blocks_source &= !unblocks;
        if pending == 0 {
            conn.written = 0;
            conn.output.clear();
            if !matches!(conn.kind, Kind::Hop(_)) || conn.output.capacity() > BUFFER_KEPT_BYTES_MAX {
                self.buffers.give(std::mem::take(&mut conn.output));
            }
            self.flushed(id);
        } else if conn.written > self.output_bytes_max {
            conn.output.drain(..conn.written);
            conn.written = 0;
        }
        Some(Written { released, unblocks })
    }

    fn flushed(&mut self, id: ConnId) {
        let Some(conn) = self.table.get_mut(id) else { return };
        match std::mem::replace(&mut conn.after_flush, AfterFlush::Nothing) {
            AfterFlush::Nothing => {}
            AfterFlush::ShutdownWrite => self.commands.push(Command::ShutdownWrite { id }),
            AfterFlush::Close => self.close(id),
        }
    }

    /// Sends FIN after what is still to be written.
    pub(crate) fn shutdown_write(&mut self, id: ConnId) {
        self.after_flush(id, AfterFlush::ShutdownWrite);
    }

    /// Closes after what is still to be written.
    pub(crate) fn close_flushed(&mut self, id: ConnId) {
        self.after_flush(id, AfterFlush::Close);
    }

    fn after_flush(&mut self, id: ConnId, what: AfterFlush) {
        let Some(conn) = self.table.get_mut(id) else { return };
        if conn.is_shut && what == AfterFlush::ShutdownWrite {
            return;
        }
        conn.is_shut = true;
        conn.after_flush = what;
        if conn.is_open && conn.pending() == 0 {
            self.flushed(id);
        }
    }

    /// Closes at once, and gives the connection up.
    pub(crate) fn close(&mut self, id: ConnId) {
        if self.forget(id).is_some() {
            self.commands.push(Command::Close { id });
        }
    }

    /// Gives a connection up that the driver knows is gone.
    pub(crate) fn forget(&mut self, id: ConnId) -> Option<(Kind, Option<Box<Session>>)> {
        let conn = self.table.remove(id)?;
        conn.tally(&self.tally).open.sub(1);
        self.buffers.give(conn.input);
        self.buffers.give(conn.output);
        Some((conn.kind, conn.session))
    }

    pub(crate) fn pause(&mut self, id: ConnId) {
        if let Some(conn) = self.table.get_mut(id) {
            conn.is_paused = true;
        }
    }

    /// Lets a connection go on; what it has in its input is looked at before the call of the core ends.
    pub(crate) fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.table.get_mut(id) else { return };
        conn.is_paused = false;
        if !conn.is_queued {
            conn.is_queued = true;
            self.ready.push(id);
        }
    }

    /// The next connection whose input is to be looked at.
    pub(crate) fn next_ready(&mut self) -> Option<ConnId> {
        let id = self.ready.pop()?;
        if let Some(conn) = self.table.get_mut(id) {
            conn.is_queued = false;
        }
        Some(id)
    }

    pub(crate) fn count_received(&self, id: ConnId, n: usize) {
        if let Some(conn) = self.table.get(id) {
            conn.tally(&self.tally).bytes_in.add(n as u64);
        }
    }

    /// Keeps what was not understood.
    pub(crate) fn keep_input(&mut self, id: ConnId, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let Some(conn) = self.table.get_mut(id) else { return };
        if conn.input.capacity() == 0 {
            conn.input = self.buffers.take();
        }
        conn.input.extend_from_slice(rest);
    }

    /// Puts back an input that was looked at, without its first `used` bytes.
    pub(crate) fn put_input_back(&mut self, id: ConnId, mut input: Vec<u8>, used: usize) {
        let Some(conn) = self.table.get_mut(id).filter(|_| used < input.len()) else {
            self.buffers.give(input);
            return;
        };
        input.drain(..used);
        conn.input = input;
    }

    #[inline]
    pub(crate) fn wants_read(&self, id: ConnId) -> bool {
        self.table.get(id).is_some_and(|conn| conn.wants_read)
    }

    /// Decides anew whether a connection is read, and tells the driver when it is again.
    #[inline]
    pub(crate) fn update_wants_read(&mut self, id: ConnId) {
        let Some(conn) = self.table.get_mut(id) else { return };
        let bound = if let Kind::Hop(_) = conn.kind { 2 * INPUT_BYTES_MAX } else { INPUT_BYTES_MAX };
        let wants = conn.is_open && !conn.is_paused && !conn.is_ended && conn.input.len() < bound;
        if wants && !conn.wants_read {
            self.resumed.push(id);
        }
        conn.wants_read = wants;
    }
}
