//! One netlink socket to the kernel: a request and its answers; knows nothing of rules.
//!
//! The kernel works on a request within `send`, so that an answer is there when that returns, or never.

use std::io;
use std::os::fd::OwnedFd;

use netlink_bindings::builtin::Nlmsghdr;
use netlink_bindings::consts::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_bindings::traits::{NetlinkRequest, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{netlink, recv, send, socket_with, sockopt};

/// Types of messages of netlink itself (`linux/netlink.h`).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel puts no more than half of this into one datagram.
pub(crate) const RECEIVE_BYTES: usize = 64 * 1024;
/// A transaction is one datagram; the greatest plan is well below this.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// A socket to what knows links, routes and neighbours, in the calling thread's network namespace.
    pub fn open_route() -> io::Result<Self> {
        // No protocol is 0, which is NETLINK_ROUTE.
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// A socket to the packet filter of the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let fd = socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
        // Refused without CAP_NET_ADMIN, and so is everything else then.
        sockopt::set_socket_send_buffer_size_force(&fd, BUFFER_BYTES)?;
        sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER_BYTES)?;
        Ok(Self { fd, sequence: 0 })
    }

    /// The payloads of all answers to a request; `each` gets them one by one.
    pub fn ask<R: NetlinkRequest>(&mut self, request: &R, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let Protocol::Raw { request_type, .. } = request.protocol() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.sequence = self.sequence.wrapping_add(1);
        let header = Nlmsghdr {
            len: u32::try_from(Nlmsghdr::len() + request.payload().len()).unwrap_or(u32::MAX),
            r#type: request_type,
            flags: request.flags() | flag(NLM_F_REQUEST),
            seq: self.sequence,
            pid: 0,
        };
        let mut message = header.as_slice().to_vec();
        message.extend_from_slice(request.payload());
        send(&self.fd, &message, SendFlags::empty())?;
        let is_list = request.flags() & flag(NLM_F_DUMP) != 0;
        let (wanted, mut interrupted) = (self.sequence, false);
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                let (header, payload) = message?;
                interrupted |= header.flags & flag(NLM_F_DUMP_INTR) != 0;
                if header.seq != wanted {
                    continue;
                }
                match header.r#type {
                    NLMSG_ERROR => return outcome(payload),
                    NLMSG_DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_DONE => return Ok(()),
                    _ => each(payload),
                }
                if !is_list {
                    return Ok(());
                }
            }
        }
    }

    /// Sends a transaction of several messages that each want to be acknowledged; an error of any is that of all.
    pub fn commit(&mut self, messages_: &[u8]) -> io::Result<()> {
        send(&self.fd, messages_, SendFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let (mut acknowledged, mut failed) = (false, None);
        loop {
            let received = match self.receive(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                received => received?,
            };
            for message in messages(received) {
                let (header, payload) = message?;
                if header.r#type == NLMSG_ERROR {
                    acknowledged = true;
                    failed = failed.or(outcome(payload).err());
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel does not answer")),
        }
    }

    /// What the kernel has said; `WouldBlock` when it has nothing more to say.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
                Ok((read, whole)) if whole == read => return Ok(&buffer[..read]),
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "an answer longer than any may be",
                    ));
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn flag(bits: i32) -> u16 {
    u16::try_from(bits).unwrap_or(0)
}

/// The error in an `nlmsgerr`; 0 is an acknowledgement.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) }
}

/// The messages in a datagram.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = io::Result<(Nlmsghdr, &[u8])>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let header = datagram.get(..Nlmsghdr::len()).and_then(Nlmsghdr::new_from_slice);
        let length = header.as_ref().map_or(0, |header| header.len as usize);
        let payload = datagram.get(Nlmsghdr::len()..length);
        let (Some(header), Some(payload)) = (header, payload) else {
            datagram = &[];
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that is cut off")));
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((header, payload)))
    })
}

#[cfg(test)]
mod tests {
    use super::{messages, outcome};

    #[test]
    fn messages_are_cut_by_their_lengths_and_nothing_else() {
        let mut datagram = Vec::new();
        for payload in [&b"abcde"[..], b"", b"xyz"] {
            let length = u32::try_from(16 + payload.len()).unwrap();
            datagram.extend(length.to_ne_bytes());
            datagram.extend([0; 12]);
            datagram.extend(payload);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        let all: Vec<_> = messages(&datagram).map(|message| message.unwrap().1.to_vec()).collect();
        assert_eq!(all, [b"abcde".to_vec(), vec![], b"xyz".to_vec()]);
        for length in [0, 3, 15, 17, u32::MAX] {
            let mut odd = datagram[..16].to_vec();
            odd[..4].copy_from_slice(&length.to_ne_bytes());
            let all: Vec<_> = messages(&odd).collect();
            assert!(all.len() == 1 && all[0].is_err(), "{length}");
        }
    }

    #[test]
    fn errors_are_negative_numbers_and_0_is_none() {
        assert!(outcome(&0i32.to_ne_bytes()).is_ok());
        assert_eq!(outcome(&(-1i32).to_ne_bytes()).unwrap_err().raw_os_error(), Some(1));
        assert!(outcome(&i32::MIN.to_ne_bytes()).is_err());
    }
}
