//! Copies of calls for another Service: calls of their own that nobody waits for, so that they neither slow nor fail what they are copies of.

use std::rc::Rc;
use std::time::Duration;

use vicino_wire::hop::{Frame, RequestFrame, decode, encode_request};

use super::{Exchange, ExchangeId, Origin};
use crate::core::Core;
use crate::plan::{Choice, Plan};

/// Copies that one worker has open; what would be copied beyond is not.
pub(crate) const MIRRORS_MAX: u32 = 1024;
/// A copy is over after this time, should its route allow for more.
const MIRROR_TIME_MAX: Duration = Duration::from_secs(30);

impl Core {
    /// All of a request has come: it is sent to its mirror, too, when it has one and all of it is still here.
    pub(crate) fn mirror(&mut self, id: ExchangeId) {
        let mirror = self.exchanges.get_mut(id).and_then(|e| e.aside.as_mut()?.mirror.take());
        if let Some(plan) = mirror {
            let is_sent = self.mirrors < MIRRORS_MAX && self.send_copy(id, &plan).is_some();
            let count = if is_sent { &self.tally.mirrored } else { &self.tally.mirrors_skipped };
            count.add(1);
        }
    }

    fn send_copy(&mut self, id: ExchangeId, plan: &Rc<Plan>) -> Option<()> {
        let copy = self.copy_of(id, Origin::Mirror, plan, plan.choices.first()?)?;
        self.mirrors += 1;
        let time = plan.request_timeout.map_or(MIRROR_TIME_MAX, |time| time.min(MIRROR_TIME_MAX));
        self.start(copy, self.now + time, None);
        Some(())
    }

    /// A call like this one, of which all has come and is still here, for another origin, plan and Service.
    pub(super) fn copy_of(
        &mut self,
        id: ExchangeId,
        origin: Origin,
        plan: &Rc<Plan>,
        to: &Choice,
    ) -> Option<Exchange> {
        let mut head = self.net.buffers.take();
        let original = self.exchanges.get(id).filter(|exchange| exchange.request.is_kept)?;
        let (request, account) = (&original.request, original.account);
        let (kept, body) = request.kept.split_at(request.body_at);
        let Ok(Some((Frame::Request { request: frame, .. }, _))) = decode(kept) else { return None };
        let frame = RequestFrame { to: to.destination(), ..frame };
        encode_request(&mut head, 1, &frame, &[]).ok()?;
        let mut copy = self.exchange(origin, plan, head, &frame);
        copy.account = account;
        copy.request.kept.extend_from_slice(body);
        copy.request.is_ended = true;
        copy.request.trailers.clone_from(&request.trailers);
        Some(copy)
    }
}
