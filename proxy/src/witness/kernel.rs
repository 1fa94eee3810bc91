//! What the kernel says of links and of what is behind an address, by rtnetlink; decides nothing.
//!
//! Behind an address is the link that its route ends at, when that is a pod's own (veth, netkit); or, when the route ends at a bridge,
//! the bridge's port behind which it has the hardware address that the neighbour table has for it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_bindings::builtin::Nlmsghdr;
use netlink_bindings::rt_link::{self, Ifinfomsg, OpGetlinkDump};
use netlink_bindings::rt_neigh::{self, Ndmsg, OpGetneighDo};
use netlink_bindings::rt_route::{self, OpGetrouteDo, Rtmsg};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, socket_with, sockopt};

use super::bindings::Face;
use crate::guard::socket::{RECEIVE_BYTES, Socket, messages};

/// Types of messages (`linux/rtnetlink.h`).
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWNEIGH: u16 = 28;
/// RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x4 | 0x40 | 0x400;
/// The kernel's numbers of families.
const UNSPEC: u8 = 0;
const INET: u8 = 2;
const BRIDGE: u8 = 7;
const INET6: u8 = 10;
/// A route to one neighbour or network (`RTN_UNICAST`).
const UNICAST: u8 = 1;
/// States of neighbours whose hardware address is good for something: REACHABLE, STALE, DELAY, PROBE, PERMANENT.
const VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
/// So that a burst of events is not lost while this process does not get to run.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Attempts to get a list that did not change while it was read.
const ATTEMPTS: usize = 8;
/// Events that are taken in one turn; what is left is taken in the next.
const EVENTS_MAX: usize = 16_384;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A link was made, or changed.
    Link(u32, Face),
    /// A link has gone.
    LinkGone(u32),
    /// The route to an address has changed.
    Route(IpAddr),
    /// A neighbour has this hardware address.
    Neighbour(IpAddr, Box<[u8]>),
    /// A bridge has this hardware address behind this port.
    Station(Box<[u8]>, u32),
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// All that there was.
    All,
    /// There is more.
    Some,
    /// Events were lost.
    Overrun,
}

/// For what a link is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The other end is in the pod.
    Own,
    Bridge,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kernel {
    events: OwnedFd,
    questions: Socket,
    /// Of links of other kinds nothing is kept.
    kinds: HashMap<u32, Kind>,
    /// Hardware addresses by which pods behind bridges were found.
    stations: HashMap<IpAddr, Box<[u8]>>,
    buffer: Vec<u8>,
}

impl AsFd for Kernel {
    /// Readable when something has happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Kernel {
    /// Hears from now on what happens in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol is 0, which is NETLINK_ROUTE.
        let events = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // Without the capability the buffer is as the system gives it, and overruns come sooner; they are heard of.
        let _ = sockopt::set_socket_recv_buffer_size_force(&events, BUFFER_BYTES);
        bind(&events, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self {
            events,
            questions: Socket::open_route()?,
            kinds: HashMap::new(),
            stations: HashMap::new(),
            buffer: vec![0; RECEIVE_BYTES],
        })
    }

    /// Every link that there is.
    pub(super) fn links(&mut self) -> io::Result<HashMap<u32, Face>> {
        let mut failed = io::ErrorKind::Interrupted.into();
        for _ in 0..ATTEMPTS {
            let (mut links, mut kinds) = (HashMap::new(), HashMap::new());
            let request = rt_link::Request::new().op_getlink_dump(&Ifinfomsg::new());
            let asked = self.questions.ask(&request, |answer| {
                if let Some((index, face, kind)) = link(answer) {
                    links.insert(index, face);
                    kinds.extend(kind.map(|kind| (index, kind)));
                }
            });
            match asked {
                Ok(()) => {
                    self.kinds = kinds;
                    return Ok(links);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => failed = e,
                Err(e) => return Err(e),
            }
        }
        Err(failed)
    }

    /// Moves what has happened to the end of `into`, in order.
    pub(super) fn drain(&mut self, into: &mut Vec<Event>) -> io::Result<Drained> {
        loop {
            if into.len() >= EVENTS_MAX {
                return Ok(Drained::Some);
            }
            let read = match recv(&self.events, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((read, _)) => read,
                Err(Errno::AGAIN) => return Ok(Drained::All),
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => return Ok(Drained::Overrun),
                Err(e) => return Err(e.into()),
            };
            let buffer = std::mem::take(&mut self.buffer);
            for message in messages(&buffer[..read]).filter_map(Result::ok) {
                into.extend(self.event(&message));
            }
            self.buffer = buffer;
        }
    }

    fn event(&mut self, (header, payload): &(Nlmsghdr, &[u8])) -> Option<Event> {
        match header.r#type {
            NEWLINK => {
                let (index, face, kind) = link(payload)?;
                self.kinds.extend(kind.map(|kind| (index, kind)));
                Some(Event::Link(index, face))
            }
            DELLINK => {
                let (header, _) = OpGetlinkDump::decode_request(payload);
                // A port that leaves its bridge is said to go as well, in the bridges' family; the link stays.
                let index = u32::try_from(header.ifi_index).ok().filter(|_| header.ifi_family == UNSPEC)?;
                self.kinds.remove(&index);
                Some(Event::LinkGone(index))
            }
            NEWROUTE | DELROUTE => {
                let (header, attributes) = OpGetrouteDo::decode_request(payload);
                let address = attributes.get_dst().ok()?;
                (header.rtm_dst_len == bits(address)).then_some(Event::Route(address))
            }
            NEWNEIGH => {
                let (header, attributes) = OpGetneighDo::decode_request(payload);
                let mac = Box::from(attributes.get_lladdr().ok()?);
                match header.ndm_family {
                    BRIDGE => Some(Event::Station(mac, u32::try_from(header.ndm_ifindex).ok()?)),
                    _ if header.ndm_state & VALID == 0 => None,
                    _ => Some(Event::Neighbour(attributes.get_dst().ok()?, mac)),
                }
            }
            _ => None,
        }
    }

    /// The number of the link behind an address; None: there is none that is its pod's own.
    pub(super) fn behind(&mut self, address: IpAddr) -> Option<u32> {
        self.stations.remove(&address);
        let end = self.route(address)?;
        match self.kinds.get(&end)? {
            Kind::Own => Some(end),
            Kind::Bridge => {
                let mac = self.neighbour(address, end)?;
                let port = self.port(&mac, end);
                self.stations.insert(address, mac);
                port.filter(|port| self.kinds.get(port) == Some(&Kind::Own))
            }
        }
    }

    /// The hardware address by which an address was found behind a bridge.
    pub(super) fn station(&self, address: IpAddr) -> Option<&[u8]> {
        self.stations.get(&address).map(|mac| &**mac)
    }

    /// Addresses that were found behind a bridge by a hardware address.
    pub(super) fn at_station<'a>(&'a self, mac: &'a [u8]) -> impl Iterator<Item = IpAddr> + 'a {
        self.stations.iter().filter(move |(_, known)| ***known == *mac).map(|(address, _)| *address)
    }

    /// Forgets what is kept of addresses that are no pod's any more.
    pub(super) fn retain(&mut self, is_kept: impl Fn(IpAddr) -> bool) {
        self.stations.retain(|address, _| is_kept(*address));
    }

    /// The number of the link at which the route to an address ends, without a gateway.
    fn route(&mut self, address: IpAddr) -> Option<u32> {
        let mut header = Rtmsg::new();
        (header.rtm_family, header.rtm_dst_len) = (family(address), bits(address));
        let mut request = rt_route::Request::new().op_getroute_do(&header);
        request.encode().push_dst(address);
        let mut end = None;
        let asked = self.questions.ask(&request, |answer| {
            let (header, attributes) = OpGetrouteDo::decode_request(answer);
            let is_direct = attributes.get_gateway().is_err()
                && attributes.get_via().is_err()
                && attributes.get_multipath().is_err();
            end = attributes.get_oif().ok().filter(|_| header.rtm_type == UNICAST && is_direct);
        });
        asked.ok().and(end)
    }

    fn neighbour(&mut self, address: IpAddr, device: u32) -> Option<Box<[u8]>> {
        let mut header = Ndmsg::new();
        (header.ndm_family, header.ndm_ifindex) = (family(address), i32::try_from(device).ok()?);
        let mut request = rt_neigh::Request::new().op_getneigh_do(&header);
        request.encode().push_dst(address);
        let mut mac = None;
        let asked = self.questions.ask(&request, |answer| {
            let (header, attributes) = OpGetneighDo::decode_request(answer);
            let is_valid = header.ndm_state & VALID != 0;
            mac = attributes.get_lladdr().ok().filter(|_| is_valid).map(Box::from);
        });
        asked.ok().and(mac)
    }

    fn port(&mut self, mac: &[u8], bridge: u32) -> Option<u32> {
        let mut header = Ndmsg::new();
        header.ndm_family = BRIDGE;
        let mut request = rt_neigh::Request::new().op_getneigh_do(&header);
        request.encode().push_lladdr(mac).push_master(bridge);
        let mut port = None;
        let asked = self.questions.ask(&request, |answer| {
            let (header, _) = OpGetneighDo::decode_request(answer);
            port = u32::try_from(header.ndm_ifindex).ok();
        });
        asked.ok().and(port)
    }
}

/// Number, looks and kind in a message about a link.
fn link(payload: &[u8]) -> Option<(u32, Face, Option<Kind>)> {
    let (header, attributes) = OpGetlinkDump::decode_request(payload);
    if header.ifi_family != UNSPEC {
        return None;
    }
    let index = u32::try_from(header.ifi_index).ok()?;
    let name = attributes.get_ifname().ok()?.to_string_lossy().into();
    let mac = attributes.get_address().unwrap_or_default().into();
    let kind = attributes.get_linkinfo().and_then(|info| info.get_kind()).ok();
    Some((index, Face { name, mac }, kind.and_then(kind_of)))
}

fn kind_of(name: &CStr) -> Option<Kind> {
    match name.to_bytes() {
        b"veth" | b"netkit" => Some(Kind::Own),
        b"bridge" => Some(Kind::Bridge),
        _ => None,
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
