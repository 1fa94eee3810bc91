//! A DNS server on loopback that answers by a table.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};

/// Of this name nothing is told.
pub(crate) const SILENT: &str = "silent.example.com.";
/// Of this name it is told that it is not known.
pub(crate) const BROKEN: &str = "broken.example.com.";

/// Answers for as long as the tests run. Names that are not among `records` do not exist.
pub(crate) fn serve(records: &'static [(&'static str, &'static str)]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            if let Some(reply) = reply(&Message::from_vec(&buffer[..length]).unwrap(), records) {
                socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
            }
        }
    });
    address
}

fn reply(request: &Message, records: &[(&str, &str)]) -> Option<Message> {
    let query = request.queries[0].clone();
    let name = query.name().to_string();
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    let mut of_name = records.iter().filter(|(known, _)| *known == name).peekable();
    reply.metadata.response_code = match (&*name, of_name.peek()) {
        (SILENT, _) => return None,
        (BROKEN, _) => ResponseCode::ServFail,
        (_, None) => ResponseCode::NXDomain,
        (_, Some(_)) => ResponseCode::NoError,
    };
    for (_, address) in of_name {
        let data = match address.parse().unwrap() {
            IpAddr::V4(four) => RData::A(four.into()),
            IpAddr::V6(six) => RData::AAAA(six.into()),
        };
        if data.record_type() == query.query_type() {
            reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
        }
    }
    reply.add_query(query);
    Some(reply)
}
