//! Calls that failed are repeated: which, how often, after which pause, and never more of them than a share of the traffic.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use vicino_wire::hop::{Kind, Reset};

use crate::core::Core;
use crate::deadline::Time;
use crate::exchange::{Exchange, ExchangeId, Method, Wait};
use crate::snapshot::{ServiceName, Snapshot};

/// Pauses grow to this many times the first.
const BACKOFF_GROWTH_MAX: u64 = 10;
/// What is not spent of the budget is saved up for so long …
const SAVED_SECONDS: u64 = 10;
/// … and of traffic's share so many.
const SAVED_OF_SHARE: u64 = 100;
/// One retry.
const TOKEN: u64 = 1_000_000_000;

/// Which calls are repeated, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often one call may be repeated.
    pub attempts: u32,
    /// Statuses that are worth another attempt, whether of an application or of a proxy that could not reach one.
    pub codes: Vec<u16>,
    /// Calls are repeated also when their method is not idempotent (RFC 9110 §9.2.2).
    pub is_for_any_method: bool,
    /// Nanoseconds that the head of a response may take before the attempt is given up; 0 is no limit.
    pub attempt_ns: u64,
    /// Nanoseconds before the first repetition; the pause doubles with each further one, and half of it is by chance.
    pub backoff_ns: u64,
    /// Of a hundred calls so many may be repeated, in the long run …
    pub budget_percent: u32,
    /// … and this many each second, however few calls there are. Both for each worker by itself.
    pub min_per_second: u32,
}

/// When a call is sent once more, should it have no answer by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// Nanoseconds after which it is.
    pub delay_ns: u64,
    /// Of a hundred calls so many may be, in the long run …
    pub budget_percent: u32,
    /// … and this many each second. Both for each worker by itself.
    pub min_per_second: u32,
}

/// What a budget grows by.
#[derive(Clone, Copy, Debug)]
struct Income {
    percent: u32,
    per_second: u32,
}

impl Retry {
    fn income(&self) -> Income {
        Income { percent: self.budget_percent, per_second: self.min_per_second }
    }
}

impl Hedge {
    fn income(&self) -> Income {
        Income { percent: self.budget_percent, per_second: self.min_per_second }
    }
}

/// How many retries, or hedges, a Service's calls have left, in billionths, so that each nanosecond brings as many as the floor is per second.
#[derive(Debug)]
pub(crate) struct Budget {
    tokens: u64,
    filled_at: Time,
}

impl Budget {
    fn fill(&mut self, income: Income, now: Time) {
        let per_second = u64::from(income.per_second);
        let elapsed = u64::try_from(now.since(self.filled_at).as_nanos()).unwrap_or(u64::MAX);
        self.filled_at = now;
        let share = if income.percent > 0 { SAVED_OF_SHARE } else { 0 };
        let saved = (per_second * SAVED_SECONDS + share) * TOKEN;
        self.tokens = self.tokens.saturating_add(per_second.saturating_mul(elapsed)).min(saved);
    }

    /// A call came: it adds its share.
    fn deposit(&mut self, income: Income) {
        self.tokens += u64::from(income.percent) * TOKEN / 100;
    }

    fn withdraw(&mut self) -> bool {
        let left = self.tokens.checked_sub(TOKEN);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Retries,
    Hedges,
}

/// Budgets of Services; they live on through snapshots, so that a busy configuration makes none larger.
#[derive(Debug, Default)]
pub(crate) struct Budgets(HashMap<(ServiceName, Purpose), Rc<RefCell<Budget>>>);

impl Budgets {
    /// The budget of a Service; a new one has what a second brings.
    fn of(&mut self, of: (&ServiceName, Purpose), income: Income, now: Time) -> Account {
        let new = || Budget { tokens: u64::from(income.per_second) * TOKEN, filled_at: now };
        let budget = self.0.entry((of.0.clone(), of.1)).or_insert_with(|| Rc::new(RefCell::new(new())));
        Account { income, budget: Rc::clone(budget) }
    }

    /// What retries of a Service's calls share.
    pub(crate) fn retries(&mut self, service: &ServiceName, policy: &Retry, now: Time) -> Retries {
        let account = self.of((service, Purpose::Retries), policy.income(), now);
        Retries { policy: Rc::new(policy.clone()), account }
    }

    /// What hedges of a Service's calls share.
    pub(crate) fn hedges(&mut self, service: &ServiceName, policy: Hedge, now: Time) -> Hedges {
        Hedges { policy, account: self.of((service, Purpose::Hedges), policy.income(), now) }
    }

    /// Forgets Services that are gone.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) {
        self.0.retain(|(name, _), _| snapshot.service(&name.namespace, &name.name).is_some());
    }
}

/// A budget, and what it grows by.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    income: Income,
    budget: Rc<RefCell<Budget>>,
}

impl Account {
    /// A call begins.
    pub(crate) fn count(&self, now: Time) {
        let mut budget = self.budget.borrow_mut();
        budget.fill(self.income, now);
        budget.deposit(self.income);
    }

    /// Takes one from the budget; false when it is spent.
    pub(crate) fn withdraw(&self, now: Time) -> bool {
        let mut budget = self.budget.borrow_mut();
        budget.fill(self.income, now);
        budget.withdraw()
    }
}

/// A policy, and the budget that its calls share.
#[derive(Clone, Debug)]
pub(crate) struct Retries {
    pub(crate) policy: Rc<Retry>,
    pub(crate) account: Account,
}

/// A policy, and the budget that its calls share.
#[derive(Clone, Debug)]
pub(crate) struct Hedges {
    pub(crate) policy: Hedge,
    pub(crate) account: Account,
}

impl Exchange {
    /// The policy under which it may be repeated after this status, the budget and the time apart.
    fn repeatable(&self, status: u16) -> Option<&Retries> {
        self.may_be_repeated_by().filter(|retries| retries.policy.codes.contains(&status))
    }

    /// Whether there is a status after which it may be repeated.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.may_be_repeated_by().is_some()
    }

    fn may_be_repeated_by(&self) -> Option<&Retries> {
        let retries = self.plan.retries.as_ref()?;
        let policy = &retries.policy;
        let may = self.retries < policy.attempts
            && (policy.is_for_any_method || self.method != Method::Other)
            && self.kind == Kind::Http
            && self.origin.is_caller()
            && self.is_replayable();
        may.then_some(retries)
    }
}

impl Core {
    /// Repeats a call whose attempt came to this status, after a pause. False when it must stay at that.
    pub(crate) fn retry(&mut self, id: ExchangeId, status: u16) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let Some(retries) = exchange.repeatable(status).filter(|_| !self.is_cut) else { return false };
        let policy = &retries.policy;
        let growth =
            1_u64.checked_shl(exchange.retries).map_or(BACKOFF_GROWTH_MAX, |g| g.min(BACKOFF_GROWTH_MAX));
        let pause = policy.backoff_ns.saturating_mul(growth);
        let pause = Duration::from_nanos(pause - pause / 2 + self.random.below(pause / 2 + 1));
        let until = self.now + pause;
        if until >= exchange.deadline {
            return false;
        }
        if !retries.account.withdraw(self.now) {
            self.tally.retries_denied.add(1);
            return false;
        }
        self.tally.retries.add(1);
        let Some(exchange) = self.exchanges.get_mut(id) else { return true };
        exchange.retries += 1;
        exchange.requeues_left = exchange.plan.requeues;
        exchange.is_fresh_only = false;
        exchange.response.interims = 0;
        // Where it failed only when there is nowhere else.
        exchange.tried_pods.clear();
        exchange.tried_nodes.clear();
        exchange.note_tried();
        exchange.may_try_again = true;
        exchange.wait = Some(Wait { until, abort: None });
        self.detach(id, Reset::Cancelled);
        self.set_exchange_due(id);
        true
    }

    /// A call is placed: its time is that of the attempt, at most that of the call.
    pub(crate) fn set_attempt_due(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let attempt_ns = exchange.plan.retries.as_ref().map_or(0, |retries| retries.policy.attempt_ns);
        let attempt = if attempt_ns == 0 { Time::NEVER } else { self.now + Duration::from_nanos(attempt_ns) };
        let due = attempt.min(exchange.deadline);
        let hedge_at = exchange.hedge_time(self.now);
        if let Some(exchange) = self.exchanges.get_mut(id) {
            (exchange.attempt_due, exchange.hedge_at) = (due, hedge_at);
        }
        self.set_exchange_due(id);
    }

    /// The head of a response came: what is left of the call has the time of the call.
    pub(crate) fn attempt_is_answered(&mut self, id: ExchangeId) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.plan.retries.is_some() || exchange.plan.hedges.is_some() {
            exchange.attempt_due = exchange.deadline;
            self.set_exchange_due(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Retry = Retry {
        attempts: 1,
        codes: Vec::new(),
        is_for_any_method: false,
        attempt_ns: 0,
        backoff_ns: 0,
        budget_percent: 20,
        min_per_second: 3,
    };

    /// How many retries of so many calls in a second are granted, each of which wants one.
    fn granted(budget: &mut Budget, policy: &Retry, calls: u64, from: Time) -> u64 {
        let mut granted = 0;
        for call in 0..calls {
            let now = from + Duration::from_nanos(call * 1_000_000_000 / calls);
            budget.fill(policy.income(), now);
            budget.deposit(policy.income());
            budget.fill(policy.income(), now);
            granted += u64::from(budget.withdraw());
        }
        granted
    }

    #[test]
    fn a_budget_is_a_share_of_the_calls_and_a_floor() {
        let mut from = Time(1_000_000_000);
        for (calls, least, most) in [(1000, 202, 204), (10, 4, 6), (3, 2, 3), (100_000, 20_002, 20_004)] {
            let mut budget = Budget { tokens: 0, filled_at: from };
            let granted = granted(&mut budget, &POLICY, calls, from);
            assert!((least..=most).contains(&granted), "{granted} of {calls}");
            from = from + Duration::from_secs(5);
        }
    }

    #[test]
    fn what_is_saved_is_bounded_and_nothing_comes_of_nothing() {
        let start = Time(1_000_000_000);
        let mut budget = Budget { tokens: 0, filled_at: start };
        let later = start + Duration::from_hours(1);
        budget.fill(POLICY.income(), later);
        let saved = std::iter::from_fn(|| budget.withdraw().then_some(())).count();
        assert_eq!(saved, 3 * 10 + 100);
        for _ in 0..10_000 {
            budget.deposit(POLICY.income());
        }
        budget.fill(POLICY.income(), later);
        let saved = std::iter::from_fn(|| budget.withdraw().then_some(())).count();
        assert_eq!(saved, 3 * 10 + 100);
        let nothing = Retry { budget_percent: 0, min_per_second: 0, ..POLICY };
        let mut budget = Budget { tokens: 0, filled_at: start };
        assert_eq!(granted(&mut budget, &nothing, 1000, start), 0);
    }
}
