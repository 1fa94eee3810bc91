//! Nothing is allocated once buffers have grown: a request's whole way through this crate, counted by the allocator.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use vicino_wire::{
    head::Framing,
    hop::{self, Destination, Frame, Kind, RequestFrame, ResponseFrame, decode},
    http1::{Slots, parse_request, parse_response, write_request_head, write_response_head},
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system allocator's; the counter is a plain thread-local that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const REQUEST: &[u8] = b"GET http://quotes.demo/api/v1/quotes?page=2 HTTP/1.1\r\nHost: quotes.demo\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\
    Accept-Encoding: gzip\r\nX-Request-Id: 0123456789abcdef\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
    Connection: keep-alive, x-one\r\nX-One: 1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n";

#[derive(Default)]
struct Buffers {
    slots: Slots,
    hop: Vec<u8>,
    http1: Vec<u8>,
}

/// caller → L1 → L2 → application → L2 → L1 → caller.
fn exchange(buffers: &mut Buffers) {
    let Buffers { slots, hop, http1 } = buffers;
    let read = parse_request(REQUEST, slots).expect("good").expect("whole");
    let to = Destination { namespace: "demo", service: "quotes", port: 80, port_name: "http", pod: None };
    let request = RequestFrame {
        to,
        kind: Kind::Http,
        deadline_ms: 0,
        hops: 1,
        is_last_resort: false,
        caller: Some([10, 0, 0, 1].into()),
        head: read.head,
        framing: read.framing,
    };
    hop.clear();
    hop::encode_request(hop, 1, &request, &[]).expect("it fits");
    let Ok(Some((Frame::Request { request, .. }, _))) = decode(hop) else { panic!("no request") };
    http1.clear();
    write_request_head(http1, &request.head, request.framing, &[], true);

    let read = parse_response(RESPONSE, slots, "GET").expect("good").expect("whole");
    hop.clear();
    hop::encode_response(hop, 1, &ResponseFrame { head: read.head, framing: read.framing }, &[])
        .expect("it fits");
    let Ok(Some((Frame::Response { response, .. }, _))) = decode(hop) else { panic!("no response") };
    assert_eq!(response.framing, Framing::Length(1024));
    write_response_head(http1, &response.head, response.framing, &[], true);
}

#[test]
fn the_second_exchange_allocates_nothing() {
    let mut buffers = Buffers::default();
    let before = ALLOCATIONS.with(Cell::get);
    exchange(&mut buffers);
    let first = ALLOCATIONS.with(Cell::get);
    assert!(first > before, "the allocator counts");
    for _ in 0..10 {
        exchange(&mut buffers);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - first, 0);
}
