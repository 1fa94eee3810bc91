//! Sockets as the driver uses them: never blocking, never waiting for themselves to be ready; no decision about calls.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection's socket.
#[derive(Debug)]
pub(super) struct Stream {
    tcp: TcpStream,
    /// Whether connecting still goes on.
    pub(super) connecting: bool,
    /// Whether a write waits for room.
    pub(super) blocked: bool,
    /// Whether the peer has said that it sends no more.
    pub(super) ended: bool,
}

impl Stream {
    /// One that a listener gave.
    pub(super) fn accepted(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, connecting: false, blocked: false, ended: false })
    }

    /// Begins to connect; [`Stream::poll_connected`] says what comes of it.
    pub(super) fn connect(address: SocketAddr) -> io::Result<Self> {
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
        Ok(Self { tcp, connecting: true, blocked: false, ended: false })
    }

    /// The own address, once the connection stands.
    pub(super) fn poll_connected(&mut self, waker: &Waker) -> Poll<io::Result<SocketAddr>> {
        match self.tcp.poll_write_ready(&mut Context::from_waker(waker)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) => {
                let outcome = match self.tcp.take_error() {
                    Ok(None) => self.tcp.local_addr(),
                    Ok(Some(e)) | Err(e) => Err(e),
                };
                self.connecting = outcome.is_err();
                Poll::Ready(outcome)
            }
        }
    }

    /// Reads into `scratch`; after `Pending`, `waker` is woken when there is something. A read that did not fill the buffer
    /// makes the next one `Pending` without a system call.
    pub(super) fn poll_read(&mut self, scratch: &mut [u8], waker: &Waker) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(scratch);
        let read = Pin::new(&mut self.tcp).poll_read(&mut Context::from_waker(waker), &mut buffer);
        read.map_ok(|()| buffer.filled().len())
    }

    /// Writes; after `Pending`, `waker` is woken when there is room.
    pub(super) fn poll_write(&mut self, bytes: &[u8], waker: &Waker) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(&mut Context::from_waker(waker), bytes)
    }

    /// Sends FIN; tokio does it at once.
    pub(super) fn shut_down(&mut self, waker: &Waker) -> io::Result<()> {
        match Pin::new(&mut self.tcp).poll_shutdown(&mut Context::from_waker(waker)) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}
