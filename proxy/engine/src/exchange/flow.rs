//! How fast a body flows: credit that ends which say it themselves get and give, room on connections that many calls share, and who goes on when there is more.

use std::collections::VecDeque;

use vicino_wire::head::Headers;
use vicino_wire::hop::{Frame, SendCredit, decode, encode_data, encode_trailers, encode_window};
use vicino_wire::http2;

use super::{Exchange, ExchangeId, Origin, Target};
use crate::core::{ConnId, Core};

/// One direction of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Request,
    Response,
}

/// A call's place on a connection that carries many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// A stream of a hop.
    Hop(ConnId, u32),
    /// A stream of an HTTP/2 connection.
    Session(ConnId, u32),
}

/// Calls that have something to say on a connection that takes nothing more now; who has waited longest goes on first.
pub(crate) type Blocked = VecDeque<(ExchangeId, Half)>;

/// The trailers that were kept as a frame.
pub(super) fn kept_trailers(frame: &[u8]) -> Headers<'_> {
    match decode(frame) {
        Ok(Some((Frame::Trailers { headers, .. }, _))) => headers,
        _ => Headers::default(),
    }
}

impl Lane {
    fn conn(self) -> ConnId {
        let (Lane::Hop(conn, _) | Lane::Session(conn, _)) = self;
        conn
    }
}

impl Exchange {
    /// Where the request comes from, when that is an end with credit.
    pub(crate) fn origin_lane(&self) -> Option<Lane> {
        match self.origin {
            Origin::Client(_) | Origin::Mirror | Origin::Hedge(_) => None,
            Origin::Session(conn, stream) => Some(Lane::Session(conn, stream)),
            Origin::Stream(hop, stream) => Some(Lane::Hop(hop, stream)),
        }
    }

    /// Where the response comes from, when that is an end with credit.
    pub(crate) fn target_lane(&self) -> Option<Lane> {
        match self.target {
            Target::None | Target::Waiting(_) | Target::Pod(_) => None,
            Target::Session(conn, stream) => Some(Lane::Session(conn, stream)),
            Target::Stream(hop, stream) => Some(Lane::Hop(hop, stream)),
        }
    }

    /// What the receiver of a half takes, where it says that itself.
    pub(crate) fn send(&mut self, half: Half) -> &mut SendCredit {
        match half {
            Half::Request => &mut self.request.send,
            Half::Response => &mut self.response.send,
        }
    }

    fn is_blocked(&mut self, half: Half) -> &mut bool {
        match half {
            Half::Request => &mut self.request.is_blocked,
            Half::Response => &mut self.response.is_blocked,
        }
    }
}

impl Core {
    /// How much of its `credit` a call may use on a shared connection now; when that is nothing because of the connection, the call goes on when
    /// that takes more.
    pub(super) fn lane_room(&mut self, lane: Lane, id: ExchangeId, half: Half, credit: u32) -> usize {
        if credit == 0 {
            return 0;
        }
        let room = match lane {
            Lane::Hop(hop, _) => self.hop_room(hop),
            Lane::Session(conn, _) => self.session_room(conn),
        };
        if room == 0
            && let Some(exchange) = self.exchanges.get_mut(id)
            && !std::mem::replace(exchange.is_blocked(half), true)
            && let Some(blocked) = self.blocked(lane.conn())
        {
            blocked.push_back((id, half));
        }
        room.min(credit as usize)
    }

    /// Puts a part of a body on a shared connection; it was asked for room.
    pub(super) fn lane_data(&mut self, lane: Lane, data: &[u8], is_end: bool) {
        match lane {
            Lane::Hop(hop, stream) => {
                let max_frame = self.net.hop(hop).map_or(0, |hop| hop.peer.max_frame);
                if let Some(out) = self.net.out(hop) {
                    encode_data(out, stream, data, max_frame, is_end);
                }
            }
            Lane::Session(conn, stream) => {
                if let Some((out, session)) = self.net.session_out(conn) {
                    session.send.take(data.len());
                    session.encoder.data(out, stream, data, is_end);
                }
            }
        }
    }

    /// Ends a body on a shared connection, with trailers or without; those that do not fit a frame are left out, as trailers may be.
    pub(super) fn lane_end(&mut self, lane: Lane, trailers: Headers<'_>) {
        match lane {
            Lane::Hop(hop, stream) => {
                if let Some(out) = self.net.out(hop)
                    && (trailers.is_empty() || encode_trailers(out, stream, trailers).is_err())
                {
                    encode_data(out, stream, &[], 1, true);
                }
            }
            Lane::Session(conn, stream) => {
                let Some((out, session)) = self.net.session_out(conn) else { return };
                if trailers.is_empty() {
                    session.encoder.data(out, stream, &[], true);
                } else {
                    session.encoder.trailers(out, stream, trailers);
                }
            }
        }
    }

    /// Bytes of a body have been passed on: whoever sent them may send as many more.
    pub(crate) fn give_credit(&mut self, id: ExchangeId, half: Half, count: usize) {
        let Some(exchange) = self.exchanges.get_mut(id).filter(|_| count > 0) else { return };
        let (lane, receive) = match half {
            Half::Request => (exchange.origin_lane(), &mut exchange.request.receive),
            Half::Response => (exchange.target_lane(), &mut exchange.response.receive),
        };
        let Some((lane, credit)) = lane.and_then(|lane| Some((lane, receive.release(count)?))) else {
            return;
        };
        let Some(out) = self.net.out(lane.conn()) else { return };
        match lane {
            Lane::Hop(_, stream) => encode_window(out, stream, credit),
            Lane::Session(_, stream) => http2::encode_window(out, stream, credit),
        }
    }

    /// A shared connection takes more: those who waited go on, as long as it does.
    pub(crate) fn unblock_lanes(&mut self, conn: ConnId) {
        loop {
            let is_session = self.net.session(conn).is_some();
            let room = if is_session { self.session_room(conn) } else { self.hop_room(conn) };
            let next = if room == 0 { None } else { self.blocked(conn).and_then(VecDeque::pop_front) };
            let Some((id, half)) = next else { return };
            if let Some(exchange) = self.exchanges.get_mut(id) {
                *exchange.is_blocked(half) = false;
                self.go_on(id, half);
            }
        }
    }

    /// What waits of a call is sent, as far as it may be; then its source goes on.
    pub(crate) fn go_on(&mut self, id: ExchangeId, half: Half) {
        match half {
            Half::Request => self.flush_request(id),
            Half::Response => self.flush_response(id),
        }
    }

    fn blocked(&mut self, conn: ConnId) -> Option<&mut Blocked> {
        let conn = self.net.get_mut(conn)?;
        if conn.session.is_some() {
            return conn.session.as_mut().map(|session| &mut session.blocked);
        }
        conn.hop().map(|hop| &mut hop.blocked)
    }
}
