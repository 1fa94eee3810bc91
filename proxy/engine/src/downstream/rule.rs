//! A request that falls under a rule: answered by it, made to fail or to wait, or changed on its way.

use std::rc::Rc;

use vicino_wire::head::{Header, Headers};

use super::Ask;
use super::begin::Way;
use crate::core::Core;
use crate::exchange::Wait;
use crate::plan::Plan;
use crate::reply::{DirectReply, Reason, Reply};
use crate::rules::{Action, CorsFields, Pick, Rule, as_header};

impl Core {
    /// Does with a request what the rule says that it falls under.
    pub(super) fn follow(&mut self, (ask, way): (&Ask<'_>, Way<'_>), plan: &Rc<Plan>, pick: Pick) {
        let Some(rule) = plan.rule.as_deref() else { return };
        if let Some(fields) = rule.cors.as_ref().and_then(|cors| cors.preflight(&ask.head)) {
            return self.respond_by_rule(ask, (plan, rule), (204, &[], ""), Some(&fields));
        }
        let of_cors = || rule.cors.as_ref()?.answer(ask.head.headers);
        match &rule.action {
            Action::Forward => self.forward((ask, way), plan, (rule, pick)),
            Action::Redirect(redirect) => {
                let location = redirect.location(&ask.head, pick.prefix);
                let field = Header { name: b"location", value: location.as_bytes() };
                self.respond_by_rule(ask, (plan, rule), (redirect.status, &[field], ""), of_cors().as_ref());
            }
            Action::Respond { status, body } => {
                let field = [Header { name: b"content-type", value: b"text/plain; charset=utf-8" }];
                let fields = if body.is_empty() { &[][..] } else { &field };
                self.respond_by_rule(ask, (plan, rule), (*status, fields, body), of_cors().as_ref());
            }
        }
    }

    fn respond_by_rule(
        &mut self,
        ask: &Ask<'_>,
        (plan, rule): (&Plan, &Rule),
        (status, own, body): (u16, &[Header<'_>], &str),
        of_cors: Option<&CorsFields>,
    ) {
        let mut fields = Vec::new();
        rule.response.apply(Headers::from(own), &mut fields);
        fields.extend(of_cors.into_iter().flatten().map(as_header));
        plan.tally.answered(status);
        let reply = DirectReply { status, fields: &fields, body: &[body] };
        self.answer_directly(ask.asker(), &reply);
    }

    fn forward(&mut self, (ask, way): (&Ask<'_>, Way<'_>), plan: &Rc<Plan>, (rule, pick): (&Rule, Pick)) {
        let (delay, abort) = rule.fault.throw(&mut self.random);
        if let (None, Some(status)) = (delay, abort) {
            plan.tally.answered(status);
            return self.answer_as(ask.asker(), Reason::FaultInjected, Reply::fault(status));
        }
        let wait = delay.map(|delay| Wait { until: self.now + delay, abort });
        if !rule.edits_request() {
            return self.call((ask, way), plan, (ask.head, wait));
        }
        let (mut fields, mut path) = (Vec::new(), String::new());
        let head = rule.edit_request(ask.head, pick, (&mut fields, &mut path));
        self.call((ask, way), plan, (head, wait));
    }
}
