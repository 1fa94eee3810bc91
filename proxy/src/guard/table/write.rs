//! What is sent to the kernel: messages that make, fill and take away a table; decides nothing.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netlink_bindings::nftables::{
    Chained, CmpOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers, RejectTypes, SetFlags,
    VerdictCode,
};
use netlink_bindings::traits::Pusher;

use super::{Element, LEASE};
use crate::guard::plan::Entry;

/// What `nft` shows as its comment. It says how the table is built: one with another comment is built anew.
const COMMENT: &str = "Vicino: connections around the mesh to pods of this node; 1";
/// In the user data of a table: what follows is a comment.
const UDATA_COMMENT: u8 = 0;

const FORWARD: &CStr = c"forward";
const ARRIVALS: &CStr = c"arrivals";
const REFUSE: &CStr = c"refuse";
pub(super) const LEASES: &CStr = c"lease";
/// Rules of all chains.
pub(super) const RULES: usize = 6;
/// After the filters of others, whose refusals are not ours to count (`NF_IP_PRI_FILTER` is 0).
const PRIORITY: i32 = 10;
/// Elements of one message, whose attributes end at 64 KiB; one takes less than 160 bytes.
const ELEMENTS_MAX: usize = 300;

const NFPROTO_INET: u8 = 1;
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
const HOOK_FORWARD: u32 = 2;
const IPPROTO_TCP: u8 = 6;
/// Of the TCP header: where its flags are, and which.
const TCP_FLAGS_OFFSET: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
/// `NFTNL_SET_DATA_VERDICT`.
const TYPE_VERDICT: u32 = 0xffff_ff00;
/// Of a lookup (`enum nft_lookup_attributes` of the kernel).
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
/// How `nft` shows keys: its own numbers for types, six bits each in a concatenation.
const TYPE_NFPROTO: u32 = 2;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;

/// One of the four maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub(super) name: &'static CStr,
    protocol: u8,
    with_port: bool,
}

pub(super) const MAPS: [Map; 4] = [
    Map { name: c"ports4", protocol: NFPROTO_IPV4, with_port: true },
    Map { name: c"pods4", protocol: NFPROTO_IPV4, with_port: false },
    Map { name: c"ports6", protocol: NFPROTO_IPV6, with_port: true },
    Map { name: c"pods6", protocol: NFPROTO_IPV6, with_port: false },
];

impl Map {
    fn holds(self, entry: &Entry) -> bool {
        (self.protocol == NFPROTO_IPV4) == entry.address.is_ipv4() && self.with_port == entry.port.is_some()
    }

    /// Bytes of an address, and where the IP header has the destination.
    fn address(self) -> (u32, u32) {
        if self.protocol == NFPROTO_IPV4 { (4, 16) } else { (16, 24) }
    }

    fn key_length(self) -> u32 {
        self.address().0 + if self.with_port { 4 } else { 0 }
    }

    fn key_type(self) -> u32 {
        let address = if self.protocol == NFPROTO_IPV4 { TYPE_IPV4 } else { TYPE_IPV6 };
        if self.with_port { address << TYPE_BITS | TYPE_PORT } else { address }
    }
}

/// Messages that take effect together, about one table.
pub(super) struct Transaction {
    messages: Chained<'static>,
    table: &'static CStr,
}

impl Transaction {
    pub(super) fn new(table: &'static CStr) -> Self {
        let mut messages = Chained::new(1);
        messages.request().op_batch_begin_do(&batch());
        Self { messages, table }
    }

    /// Takes the table away, with all that is in it.
    pub(super) fn remove(&mut self) {
        self.messages.request().op_deltable_do(&inet()).encode().push_name(self.table);
    }

    /// What is to be sent.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.messages.request().op_batch_end_do(&batch());
        self.messages.finalize().buf().clone()
    }
}

fn batch() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    // The subsystem, nftables.
    header.set_res_id(10);
    header
}

pub(super) fn inet() -> Nfgenmsg {
    Nfgenmsg { nfgen_family: NFPROTO_INET, ..Nfgenmsg::new() }
}

pub(super) fn create(to: &mut Transaction) {
    to.messages
        .request()
        .set_create()
        .set_excl()
        .op_newtable_do(&inet())
        .encode()
        .push_name(to.table)
        .push_userdata(&userdata());
    for map in MAPS {
        to.messages
            .request()
            .set_create()
            .op_newset_do(&inet())
            .encode()
            .push_table(to.table)
            .push_name(map.name)
            .push_flags(SetFlags::Map as u32)
            .push_key_type(map.key_type())
            .push_key_len(map.key_length())
            .push_data_type(TYPE_VERDICT)
            .push_data_len(0)
            // The kernel wants a number that is different from other new sets'.
            .push_id(map.key_type())
            .nested_expr()
            .nested_data_counter()
            .push_packets(0)
            .push_bytes(0)
            .end_nested()
            .end_nested();
    }
    to.messages
        .request()
        .set_create()
        .op_newset_do(&inet())
        .encode()
        .push_table(to.table)
        .push_name(LEASES)
        .push_flags(SetFlags::Timeout as u32)
        .push_key_type(TYPE_NFPROTO)
        .push_key_len(1)
        .push_id(TYPE_NFPROTO)
        .push_timeout(milliseconds(LEASE).to_be());
    to.messages
        .request()
        .set_create()
        .op_newchain_do(&inet())
        .encode()
        .push_table(to.table)
        .push_name(FORWARD)
        .push_type(c"filter")
        .push_policy(VerdictCode::Accept as u32)
        .nested_hook()
        .push_num(HOOK_FORWARD)
        .push_priority(PRIORITY)
        .end_nested();
    for chain in [ARRIVALS, REFUSE] {
        to.messages
            .request()
            .set_create()
            .op_newchain_do(&inet())
            .encode()
            .push_table(to.table)
            .push_name(chain);
    }
    rules(to);
}

/// [`RULES`] of them.
fn rules(to: &mut Transaction) {
    rule(to, REFUSE, |list| {
        meta_is(list, MetaKeys::L4Proto, IPPROTO_TCP)
            .nested_elem()
            .nested_data_reject()
            .push_type(RejectTypes::TcpRst as u32)
            .end_nested()
            .end_nested()
    });
    for map in MAPS {
        rule(to, ARRIVALS, |list| lookup(meta_is(list, MetaKeys::Nfproto, map.protocol), map));
    }
    rule(to, FORWARD, |list| {
        let list = load_meta(list, MetaKeys::Nfproto);
        let list = look_up(list, LEASES, None);
        let list = meta_is(list, MetaKeys::L4Proto, IPPROTO_TCP);
        let list = load(list, PayloadBase::TransportHeader, (TCP_FLAGS_OFFSET, 1), Registers::Reg1)
            .nested_elem()
            .nested_data_bitwise()
            .push_sreg(Registers::Reg1 as u32)
            .push_dreg(Registers::Reg1 as u32)
            .push_len(1)
            .nested_mask()
            .push_value(&[FIN_SYN_RST_ACK])
            .end_nested()
            .nested_xor()
            .push_value(&[0])
            .end_nested()
            .end_nested()
            .end_nested();
        is(list, &[SYN])
            .nested_elem()
            .nested_data_immediate()
            .push_dreg(Registers::RegVerdict as u32)
            .nested_data()
            .nested_verdict()
            .push_code(VerdictCode::Goto as u32)
            .push_chain(ARRIVALS)
            .end_nested()
            .end_nested()
            .end_nested()
            .end_nested()
    });
}

type List<'a> = PushExprListAttrs<netlink_bindings::nftables::PushRuleAttrs<&'a mut Vec<u8>>>;

fn rule(to: &mut Transaction, chain: &CStr, expressions: impl FnOnce(List<'_>) -> List<'_>) {
    let mut request = to.messages.request().set_create().set_append().op_newrule_do(&inet());
    let list = request.encode().push_table(to.table).push_chain(chain).nested_expressions();
    expressions(list).end_nested();
}

fn load_meta<P: Pusher>(list: PushExprListAttrs<P>, key: MetaKeys) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_meta()
        .push_key(key as u32)
        .push_dreg(Registers::Reg1 as u32)
        .end_nested()
        .end_nested()
}

fn is<P: Pusher>(list: PushExprListAttrs<P>, value: &[u8]) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_cmp()
        .push_sreg(Registers::Reg1 as u32)
        .push_op(CmpOps::Eq as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn meta_is<P: Pusher>(list: PushExprListAttrs<P>, key: MetaKeys, value: u8) -> PushExprListAttrs<P> {
    is(load_meta(list, key), &[value])
}

fn load<P: Pusher>(
    list: PushExprListAttrs<P>,
    base: PayloadBase,
    (offset, length): (u32, u32),
    register: Registers,
) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_payload()
        .push_dreg(register as u32)
        .push_base(base as u32)
        .push_offset(offset)
        .push_len(length)
        .end_nested()
        .end_nested()
}

/// `ip daddr [. tcp dport] vmap @map`.
fn lookup<P: Pusher>(list: PushExprListAttrs<P>, map: Map) -> PushExprListAttrs<P> {
    let (length, offset) = map.address();
    let mut list = load(list, PayloadBase::NetworkHeader, (offset, length), Registers::Reg1);
    if map.with_port {
        // Registers of four bytes each follow each other.
        let after = if map.protocol == NFPROTO_IPV4 { Registers::Reg3201 } else { Registers::Reg3204 };
        list = load(list, PayloadBase::TransportHeader, (2, 2), after);
    }
    look_up(list, map.name, Some(Registers::RegVerdict))
}

/// What the first register has, in a set, or in a map whose value goes to another register. The specification, and so
/// netlink-bindings 0.3, has other numbers for these attributes than the kernel.
fn look_up<P: Pusher>(list: PushExprListAttrs<P>, set: &CStr, to: Option<Registers>) -> PushExprListAttrs<P> {
    let mut lookup = list.nested_elem().nested_data_lookup().push_set(set);
    attribute(&mut lookup, NFTA_LOOKUP_SREG, Registers::Reg1 as u32);
    if let Some(register) = to {
        attribute(&mut lookup, NFTA_LOOKUP_DREG, register as u32);
    }
    lookup.end_nested().end_nested()
}

/// An attribute of four bytes in network order.
fn attribute(to: &mut impl Pusher, kind: u16, value: u32) {
    const LENGTH: u16 = 8;
    let message = to.as_vec_mut();
    message.resize(message.len().next_multiple_of(4), 0);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value.to_be_bytes());
}

fn key_of(entry: &Entry) -> Vec<u8> {
    let mut key = match entry.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    if let Some(port) = entry.port {
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
    }
    key
}

pub(super) fn entry_of(map: Map, key: &[u8]) -> Option<Entry> {
    let (address, rest) = if map.protocol == NFPROTO_IPV4 {
        let (address, rest) = key.split_first_chunk::<4>()?;
        (IpAddr::from(Ipv4Addr::from(*address)), rest)
    } else {
        let (address, rest) = key.split_first_chunk::<16>()?;
        (IpAddr::from(Ipv6Addr::from(*address)), rest)
    };
    let port = if map.with_port { Some(u16::from_be_bytes(*rest.first_chunk()?)) } else { None };
    Some(Entry { address, port })
}

pub(super) fn delete(to: &mut Transaction, entries: &[Entry]) {
    for map in MAPS {
        let own: Vec<_> = entries.iter().filter(|entry| map.holds(entry)).collect();
        for some in own.chunks(ELEMENTS_MAX) {
            let mut request = to.messages.request().op_delsetelem_do(&inet());
            let mut list = request.encode().push_table(to.table).push_set(map.name).nested_elements();
            for entry in some {
                list = list.nested_elem().nested_key().push_value(&key_of(entry)).end_nested().end_nested();
            }
        }
    }
}

pub(super) fn add(to: &mut Transaction, elements: &[(Entry, Element)]) {
    for map in MAPS {
        let own: Vec<_> = elements.iter().filter(|(entry, _)| map.holds(entry)).collect();
        for some in own.chunks(ELEMENTS_MAX) {
            let mut request = to.messages.request().set_create().op_newsetelem_do(&inet());
            let mut list = request.encode().push_table(to.table).push_set(map.name).nested_elements();
            for (entry, element) in some {
                let verdict = list
                    .nested_elem()
                    .nested_key()
                    .push_value(&key_of(entry))
                    .end_nested()
                    .nested_data()
                    .nested_verdict();
                let verdict = if element.refuses {
                    verdict.push_code(VerdictCode::Goto as u32).push_chain(REFUSE)
                } else {
                    verdict.push_code(VerdictCode::Accept as u32)
                };
                list = verdict
                    .end_nested()
                    .end_nested()
                    .nested_expr()
                    .nested_data_counter()
                    .push_packets(element.packets)
                    .push_bytes(0)
                    .end_nested()
                    .end_nested()
                    .end_nested();
            }
        }
    }
}

/// Elements of the lease cannot be prolonged before Linux 6.12, but replaced within a transaction.
pub(super) fn renew(to: &mut Transaction, old: &[u8]) {
    if !old.is_empty() {
        let mut request = to.messages.request().op_delsetelem_do(&inet());
        let mut list = request.encode().push_table(to.table).push_set(LEASES).nested_elements();
        for protocol in old {
            list = list.nested_elem().nested_key().push_value(&[*protocol]).end_nested().end_nested();
        }
    }
    let mut request = to.messages.request().set_create().op_newsetelem_do(&inet());
    let mut list = request.encode().push_table(to.table).push_set(LEASES).nested_elements();
    for protocol in [NFPROTO_IPV4, NFPROTO_IPV6] {
        list = list.nested_elem().nested_key().push_value(&[protocol]).end_nested().end_nested();
    }
}

/// The kernel wants times in network order, which its specification, and so netlink-bindings 0.3, does not say.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn userdata() -> Vec<u8> {
    let length = u8::try_from(COMMENT.len() + 1).unwrap_or(u8::MAX);
    let mut data = vec![UDATA_COMMENT, length];
    data.extend(COMMENT.bytes());
    data.push(0);
    data
}
