//! Callers with scripts of their own: the test writes for them and reads what they got.

use std::net::{IpAddr, SocketAddr};

use super::cluster::{caller_ip, node_ip};
use super::{End, L1_PORT, L2_PORT, Link, Mux, Said, World};
use crate::core::Role;

/// A caller with a script of its own: the test writes for it and reads what it got.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a caller does or sees")]
pub(crate) struct ClientSim {
    pub(super) link: usize,
    pub(super) to_send: Vec<u8>,
    pub(crate) got: Vec<u8>,
    pub(crate) is_closed: bool,
    pub(crate) is_reset: bool,
    /// Reads nothing.
    pub(crate) is_stalled: bool,
    shuts: bool,
    has_sent: bool,
    /// It speaks HTTP/2.
    pub(crate) mux: Option<Box<Mux>>,
}

impl ClientSim {
    pub(super) fn has_output(&self) -> bool {
        !self.to_send.is_empty() || self.mux.as_ref().is_some_and(|mux| !mux.out.is_empty())
    }

    /// Nothing was sent yet.
    pub(crate) fn is_unused(&self) -> bool {
        !self.has_sent
    }
}

impl World {
    /// A caller of the node's own neighbourhood, connected to its L1.
    pub(crate) fn client(&mut self, node: usize) -> usize {
        self.client_from(caller_ip(node), node)
    }

    pub(crate) fn client_from(&mut self, ip: IpAddr, node: usize) -> usize {
        self.client_of(Role::L1, ip, node)
    }

    /// Somebody who speaks to a listener with bytes of the test's own.
    pub(crate) fn client_of(&mut self, role: Role, ip: IpAddr, node: usize) -> usize {
        let id = self.clients.len();
        let link = self.links.len();
        let peer = SocketAddr::new(ip, 40_000);
        let now = self.now;
        let l1 = SocketAddr::new(node_ip(node), if role == Role::L1 { L1_PORT } else { L2_PORT });
        let conn = self.nodes[node].core.accepted(role, peer, l1, now).expect("below the limit");
        self.nodes[node].links.insert(conn, link);
        self.links.push(Link {
            ends: [End::Client(id), End::Core(node, conn)],
            pipes: Default::default(),
            connects_at: None,
            opens_at: None,
            is_told_end: [false; 2],
            address: l1,
            secure: None,
        });
        self.turn(node);
        self.clients.push(ClientSim {
            link,
            to_send: Vec::new(),
            got: Vec::new(),
            is_closed: false,
            is_reset: false,
            is_stalled: false,
            shuts: false,
            has_sent: false,
            mux: None,
        });
        id
    }

    /// A caller of the node's own neighbourhood that speaks HTTP/2.
    pub(crate) fn http2_client(&mut self, node: usize) -> usize {
        let client = self.client(node);
        self.clients[client].mux = Some(Box::new(Mux::new(true)));
        client
    }

    /// What a caller says in HTTP/2.
    pub(crate) fn speak<T>(&mut self, client: usize, say: impl FnOnce(&mut Mux) -> T) -> T {
        let said = say(self.clients[client].mux.as_mut().expect("it speaks HTTP/2"));
        self.push_client(client);
        said
    }

    /// What a caller has heard in HTTP/2.
    pub(crate) fn heard(&self, client: usize) -> &[Said] {
        &self.clients[client].mux.as_ref().expect("it speaks HTTP/2").said
    }

    pub(crate) fn send(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].to_send.extend_from_slice(bytes);
        self.clients[client].has_sent = true;
        self.push_client(client);
    }

    /// The caller sends FIN behind what it has to send.
    pub(crate) fn shut(&mut self, client: usize) {
        self.clients[client].shuts = true;
        self.push_client(client);
    }

    /// The caller goes without a word more.
    pub(crate) fn reset_client(&mut self, client: usize) {
        let link = self.clients[client].link;
        self.clients[client].is_closed = true;
        self.links[link].pipes[0].reset();
        self.links[link].ends[0] = End::Nobody;
        if let End::Core(node, _) = self.links[link].ends[1] {
            self.turn(node);
        }
    }

    pub(crate) fn text(&self, client: usize) -> String {
        String::from_utf8_lossy(&self.clients[client].got).into_owned()
    }

    fn push_client(&mut self, client: usize) {
        let latency = self.latency();
        let ClientSim { link, to_send, shuts, mux, has_sent, .. } = &mut self.clients[client];
        if let Some(mux) = mux {
            *has_sent |= !mux.out.is_empty();
            to_send.append(&mut mux.out);
        }
        let pipe = &mut self.links[*link].pipes[0];
        let n = pipe.write(to_send, self.now + latency);
        to_send.drain(..n);
        if *shuts && to_send.is_empty() {
            pipe.shut(self.now + latency);
        }
    }

    pub(super) fn client_turn(&mut self, client: usize) {
        if self.clients[client].is_closed {
            return;
        }
        self.push_client(client);
        let link = self.clients[client].link;
        let pipe = &mut self.links[link].pipes[1];
        let client = &mut self.clients[client];
        if !client.is_stalled {
            let n = pipe.readable();
            let bytes = pipe.read(n);
            match &mut client.mux {
                Some(mux) => mux.take(&bytes),
                None => client.got.extend(bytes),
            }
            client.is_closed = pipe.is_at_end();
            self.news += u64::from(n > 0 || client.is_closed);
        }
        if pipe.is_reset() {
            client.is_closed = true;
            client.is_reset = true;
            self.news += 1;
        }
    }
}
