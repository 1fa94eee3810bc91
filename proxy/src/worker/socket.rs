//! Sockets as the driver uses them: never blocking, never waiting for themselves to be ready; no decision about calls.

use std::io::{self, IoSlice, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use rustls::Error;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use vicino_engine::account::Party;

use crate::secure::{Hops, Secure};

/// First byte of a TLS connection: the type of the record with the ClientHello (RFC 8446 §5.1). A hop without TLS begins with HELLO, whose length is below 4,096.
const TLS_HANDSHAKE: u8 = 0x16;

/// Room for opened bytes that a connection keeps when it has none.
const OPENED_KEPT_BYTES_MAX: usize = 16 * 1024;

/// What the bytes of a socket are.
#[derive(Debug)]
enum Cover {
    /// Those of the connection.
    Plain,
    /// TLS records, and what of them was opened and waits to be read.
    Tls(Box<Tls>),
    /// The peer's first byte says it.
    Undecided(Arc<Hops>),
}

#[derive(Debug)]
struct Tls {
    secure: Secure,
    opened: Vec<u8>,
    read: usize,
    /// Who tells who the peer is, when it has dialled and the handshake is not through.
    hops: Option<Arc<Hops>>,
    /// Who it is, until that is asked for.
    party: Option<(Party, SystemTime)>,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The peer's machine has yet to take it.
    Connecting,
    /// It has, and with TLS the peer has yet to prove who it is.
    Handshake,
    /// Bytes flow.
    Open,
}

/// A connection's socket.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    cover: Cover,
    /// How far it has come.
    pub(super) stage: Stage,
    /// Whether a write waits for room.
    pub(super) blocked: bool,
    /// Whether the peer has said that it sends no more.
    pub(super) ended: bool,
}

impl Stream {
    /// One that a listener gave.
    pub(super) fn accepted(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, cover: Cover::Plain, stage: Stage::Open, blocked: false, ended: false })
    }

    /// The same, of another neighbourhood's proxy, which may speak TLS.
    pub(super) fn accepted_hop(tcp: TcpStream, hops: Arc<Hops>) -> io::Result<Self> {
        Ok(Self { cover: Cover::Undecided(hops), ..Self::accepted(tcp)? })
    }

    /// Begins to connect; [`Stream::poll_connected`] says what comes of it.
    pub(super) fn connect(address: SocketAddr, secure: Option<Secure>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            // EINPROGRESS of Linux; the standard library has no stable kind for it.
            Err(e) if e.raw_os_error() == Some(115) || e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        let tcp = TcpStream::from_std(socket.into())?;
        let cover = secure.map_or(Cover::Plain, |secure| Cover::Tls(Box::new(Tls::new(secure, None))));
        Ok(Self { tcp, cover, stage: Stage::Connecting, blocked: false, ended: false })
    }

    /// Who has dialled, and until when that is proved; said once, before the first bytes are read.
    pub(super) fn take_party(&mut self) -> Option<(Party, SystemTime)> {
        if let Cover::Tls(tls) = &mut self.cover { tls.party.take() } else { None }
    }

    /// The peer's address, when it is not known yet who that is.
    pub(super) fn stranger(&self) -> Option<SocketAddr> {
        let is_stranger = match &self.cover {
            Cover::Plain => false,
            Cover::Undecided(_) => true,
            Cover::Tls(tls) => !tls.secure.is_open() || tls.hops.is_some(),
        };
        if is_stranger { self.tcp.peer_addr().ok() } else { None }
    }

    /// The own address, once the connection stands and, with TLS, the peer is who was meant.
    pub(super) fn poll_connected(
        &mut self,
        scratch: &mut [u8],
        waker: &Waker,
    ) -> Poll<io::Result<SocketAddr>> {
        let cx = &mut Context::from_waker(waker);
        ready!(self.tcp.poll_write_ready(cx))?;
        if let Some(error) = self.tcp.take_error()? {
            return Poll::Ready(Err(error));
        }
        if let Cover::Tls(tls) = &mut self.cover {
            self.stage = Stage::Handshake;
            ready!(tls.poll_open(&mut self.tcp, scratch, cx))?;
        }
        self.stage = Stage::Open;
        Poll::Ready(self.tcp.local_addr())
    }

    /// Reads into `scratch`; after `Pending`, `waker` is woken when there is something. A read that did not fill the buffer
    /// makes the next one `Pending` without a system call.
    pub(super) fn poll_read(&mut self, scratch: &mut [u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let cx = &mut Context::from_waker(waker);
        if let Cover::Tls(tls) = &mut self.cover {
            return tls.poll_read(&mut self.tcp, scratch, cx);
        }
        let count = ready!(poll_read(&mut self.tcp, scratch, cx))?;
        let Cover::Undecided(hops) = &self.cover else { return Poll::Ready(Ok(count)) };
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        if scratch[0] != TLS_HANDSHAKE {
            if hops.is_strict() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a hop without TLS")));
            }
            self.cover = Cover::Plain;
            return Poll::Ready(Ok(count));
        }
        let secure = hops.accept().map_err(io::Error::other)?;
        let mut tls = Box::new(Tls::new(secure, Some(hops.clone())));
        let taken = tls.take_in(&mut self.tcp, &scratch[..count], cx);
        self.cover = Cover::Tls(tls);
        taken?;
        self.poll_read(scratch, waker)
    }

    /// Writes; after `Pending`, `waker` is woken when there is room.
    pub(super) fn poll_write(&mut self, bytes: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let cx = &mut Context::from_waker(waker);
        match &mut self.cover {
            Cover::Plain => Pin::new(&mut self.tcp).poll_write(cx, bytes),
            Cover::Tls(tls) => tls.poll_write(&mut self.tcp, bytes, cx),
            // Whoever dialled speaks first; what it says wakes.
            Cover::Undecided(_) => Poll::Pending,
        }
    }

    /// Writes what was taken and has not reached the socket; after `Pending`, `waker` is woken when there is room.
    pub(super) fn poll_flush(&mut self, waker: &Waker) -> Poll<io::Result<()>> {
        match &mut self.cover {
            Cover::Tls(tls) => tls.poll_flush(&mut self.tcp, &mut Context::from_waker(waker)),
            Cover::Plain | Cover::Undecided(_) => Poll::Ready(Ok(())),
        }
    }

    /// Sends FIN; tokio does it at once.
    pub(super) fn shut_down(&mut self, waker: &Waker) -> io::Result<()> {
        let cx = &mut Context::from_waker(waker);
        if let Cover::Tls(tls) = &mut self.cover {
            tls.secure.close();
            // What the socket does not take now is lost with it: nothing is said behind this.
            if let Poll::Ready(Err(error)) = tls.poll_flush(&mut self.tcp, cx) {
                return Err(error);
            }
        }
        match Pin::new(&mut self.tcp).poll_shutdown(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

fn poll_read(tcp: &mut TcpStream, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    let read = Pin::new(tcp).poll_read(cx, &mut buffer);
    read.map_ok(|()| buffer.filled().len())
}

impl Tls {
    fn new(secure: Secure, hops: Option<Arc<Hops>>) -> Self {
        Self { secure, opened: Vec::new(), read: 0, hops, party: None }
    }

    /// Through with the handshake.
    fn poll_open(
        &mut self,
        tcp: &mut TcpStream,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // Whether the socket takes all of it now or later, the peer's answer is waited for.
            if let Poll::Ready(Err(error)) = self.poll_flush(tcp, cx) {
                return Poll::Ready(Err(error));
            }
            if self.secure.is_open() {
                return Poll::Ready(Ok(()));
            }
            match ready!(poll_read(tcp, scratch, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                count => self.take_in(tcp, &scratch[..count], cx)?,
            }
        }
    }

    /// Takes bytes of the socket in, and says what they call for.
    fn take_in(&mut self, tcp: &mut TcpStream, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        let taken = self.secure.receive(bytes, &mut self.opened);
        // An alert, too.
        if let Poll::Ready(Err(error)) = self.poll_flush(tcp, cx) {
            return Err(error);
        }
        taken.map_err(|error| {
            let kind = match error {
                // Whoever knows TLS begins otherwise.
                Error::InvalidMessage(_) if !self.secure.is_open() => io::ErrorKind::Unsupported,
                _ => io::ErrorKind::InvalidData,
            };
            io::Error::new(kind, error)
        })?;
        if self.secure.is_open()
            && let Some(hops) = &self.hops
        {
            let party = hops.party(&self.secure).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the peer is nobody of the mesh's trust domain",
                )
            })?;
            (self.party, self.hops) = (Some(party), None);
        }
        Ok(())
    }

    fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let left = &self.opened[self.read..];
            if !left.is_empty() {
                let count = left.len().min(scratch.len());
                scratch[..count].copy_from_slice(&left[..count]);
                self.read += count;
                return Poll::Ready(Ok(count));
            }
            self.opened.clear();
            self.opened.shrink_to(OPENED_KEPT_BYTES_MAX);
            self.read = 0;
            match ready!(poll_read(tcp, scratch, cx))? {
                0 => return Poll::Ready(Ok(0)),
                count => self.take_in(tcp, &scratch[..count], cx)?,
            }
        }
    }

    fn poll_write(
        &mut self,
        tcp: &mut TcpStream,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Before the peer is known nothing is said; what it says wakes.
        let is_open = self.secure.is_open();
        let mut count = if is_open { self.secure.send(bytes) } else { 0 };
        let flushed = self.poll_flush(tcp, cx)?;
        if count == 0 && is_open && flushed.is_ready() {
            // The socket took all that there was no room behind, and so will not wake: there is room now.
            count = self.secure.send(bytes);
            let _ = self.poll_flush(tcp, cx)?;
        }
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn poll_flush(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.secure.has_output() {
            match self.secure.write_to(&mut Sink { tcp, cx }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(_) => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A socket as rustls writes to it.
struct Sink<'a, 'c> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'c>,
}

impl Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, parts) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::secure::tests::two_ends;

    const BUFFER_BYTES: u32 = 4 * 1024 * 1024;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        async fn is_woken(&self) -> bool {
            for _ in 0..100 {
                if self.0.load(Ordering::Relaxed) > 0 {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        }
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let socket = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(BUFFER_BYTES).unwrap();
            socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
            socket
        };
        let listening = socket();
        listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = listening.listen(1).unwrap();
        let dialled = socket().connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    /// All that there is of what was sent.
    fn drain(peer: &TcpStream) -> usize {
        let mut bytes = vec![0; 1024 * 1024];
        std::iter::from_fn(|| peer.try_read(&mut bytes).ok()).sum()
    }

    /// The peer reads all that was sent, and then says nothing: neither is the rest forgotten, nor does it need a word of the peer.
    #[tokio::test]
    async fn a_write_that_waits_is_woken_when_all_that_was_taken_is_out() {
        let (tcp, peer) = connected().await;
        let [secure, _] = two_ends();
        let cover = Cover::Tls(Box::new(Tls::new(secure, None)));
        let mut stream = Stream { tcp, cover, stage: Stage::Open, blocked: false, ended: false };
        let bytes = vec![7; 1024 * 1024];
        for _ in 0..10 {
            let count = Arc::new(Count::default());
            while let Poll::Ready(written) = stream.poll_write(&bytes, &count.clone().into()) {
                assert_ne!(written.unwrap(), 0);
            }
            peer.readable().await.unwrap();
            assert_ne!(drain(&peer), 0);
            assert!(count.is_woken().await);
            drain(&peer);
        }
    }
}
