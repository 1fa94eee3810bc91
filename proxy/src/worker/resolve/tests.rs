//! A DNS server on loopback that answers by a table, and what workers are told.

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::{Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::worker::post;

/// Names with their records' address and seconds. Names that are not in it do not exist; `broken.example.` is not told.
const RECORDS: [(&str, &str, u32); 6] = [
    ("both.example.", "2001:db8::7", 20),
    ("both.example.", "198.51.100.7", 50),
    ("both.example.", "198.51.100.8", 30),
    ("six.example.", "2001:db8::9", 7200),
    ("half.example.", "198.51.100.9", 10),
    ("late.example.", "198.51.100.1", 10),
];

fn reply(request: &Message) -> Message {
    let query = request.queries[0].clone();
    let (name, kind) = (query.name().to_string(), query.query_type());
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    if name == "broken.example." || (name == "half.example." && kind == RecordType::AAAA) {
        reply.metadata.response_code = ResponseCode::ServFail;
    } else if !RECORDS.iter().any(|(known, ..)| *known == name) {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    for (known, address, seconds) in RECORDS {
        let data = match address.parse().unwrap() {
            IpAddr::V4(four) => RData::A(four.into()),
            IpAddr::V6(six) => RData::AAAA(six.into()),
        };
        if known == name && data.record_type() == kind {
            reply.add_answer(Record::from_rdata(query.name().clone(), seconds, data));
        }
    }
    reply.add_query(query);
    reply
}

/// Its address; it answers until what comes with that is dropped.
async fn server() -> (SocketAddr, JoinSet<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let reply = reply(&Message::from_vec(&buffer[..length]).unwrap());
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, tasks)
}

fn names(all: &[&str]) -> Arc<[Box<str>]> {
    all.iter().map(|name| (*name).into()).collect()
}

/// What a worker finds in its letterbox once everything it asked has been answered.
fn told(desk: &post::Desk) -> Vec<(Arc<[Box<str>]>, Found)> {
    desk.take().resolved
}

#[tokio::test]
async fn a_name_leads_to_its_addresses_ipv4_first_for_as_long_as_dns_says() {
    let (address, _server) = server().await;
    let resolver = resolver(&[address]).unwrap();
    assert_eq!(resolver.options().use_hosts_file, ResolveHosts::Never);
    for (asked, addresses, seconds) in [
        (&["both.example."][..], &["198.51.100.7", "198.51.100.8", "2001:db8::7"][..], 20),
        (&["six.example."], &["2001:db8::9"], 60),
        (&["half.example."], &["198.51.100.9"], 10),
        (&["gone.example.", "late.example.", "six.example."], &["198.51.100.1"], 10),
    ] {
        let (found, kept) = first(&resolver, &names(asked)).await.unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(found, addresses, "{asked:?}");
        let kept = kept.as_secs_f64();
        assert!(kept <= f64::from(seconds) && kept > 0.0, "{asked:?}: {kept}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_there_is_told_from_one_that_is_not_known() {
    let (address, _server) = server().await;
    let resolver = resolver(&[address]).unwrap();
    for (asked, expected) in [
        (&["gone.example."][..], Unresolved::NoSuchName),
        (&["gone.example.", "gone.example.org."], Unresolved::NoSuchName),
        (&["broken.example."], Unresolved::Failed),
        // What comes after it might be another host.
        (&["broken.example.", "late.example."], Unresolved::Failed),
    ] {
        assert_eq!(first(&resolver, &names(asked)).await, Err(expected), "{asked:?}");
    }
}

#[tokio::test]
async fn every_question_is_answered_also_when_nobody_looks_into_it() {
    let (_line, desk) = post::line();
    let (questions, asked) = mpsc::channel(1);
    questions.try_send(Question::new(names(&["late.example."]), desk.post())).unwrap();
    assert!(told(&desk).is_empty());
    // There is no room for a second one.
    drop(questions.try_send(Question::new(names(&["both.example."]), desk.post())));
    assert_eq!(told(&desk), [(names(&["both.example."]), Err(Unresolved::Failed))]);
    drop(questions);
    let (address, _server) = server().await;
    answer(asked, vec![address]).await;
    let told = told(&desk);
    let [(of, Ok((addresses, _)))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((of, &addresses[..]), (&names(&["late.example."]), &["198.51.100.1".parse().unwrap()][..]));
    // The task is gone.
    let (questions, asked) = mpsc::channel(1);
    questions.try_send(Question::new(names(&["six.example."]), desk.post())).unwrap();
    drop(asked);
    assert_eq!(self::told(&desk), [(names(&["six.example."]), Err(Unresolved::Failed))]);
}
