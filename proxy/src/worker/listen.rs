//! Opens the listening sockets of a worker and accepts from them; what is accepted is the driver's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted at one socket; the kernel lowers it to `net.core.somaxconn`, by default 4096.
pub const BACKLOG: i32 = 4096;

/// Why a socket does not listen.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A socket that listens, one of several on its address: each worker, and during an upgrade each proxy, has its own.
pub fn listen(ip: Option<IpAddr>, port: u16) -> Result<std::net::TcpListener, ListenError> {
    let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let address = ip.map_or(all, |ip| SocketAddr::new(ip, port));
    match open(address) {
        // A node without IPv6.
        Err(_) if ip.is_none() => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            open(address).map_err(|source| ListenError { address, source })
        }
        result => result.map_err(|source| ListenError { address, source }),
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 callers as well.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A peer's address as people and snapshots write it: IPv4 that came through an IPv6 socket is IPv4.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether accepting failed because this process or the machine is out of descriptors or memory, which passes, but not at
/// once: asking again in the same turn would spin.
pub fn is_exhausted(error: &io::Error) -> bool {
    // ENFILE, EMFILE, ENOBUFS, ENOMEM of Linux.
    matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12))
}
