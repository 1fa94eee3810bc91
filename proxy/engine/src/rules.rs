//! Which rule of a route a request falls under, and what the rule changes or answers; pure, and the same for a proxy and for
//! `vicino explain`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;
use vicino_wire::head::{Header, RequestHead};

use crate::random::Random;
use crate::rate::RateLimit;
use crate::retry::{Hedge, Retry};
use crate::snapshot::Times;

mod cors;
mod edit;
mod overriding;

pub use cors::{Cors, OriginTest};
pub(crate) use cors::{CorsFields, as_header};
pub use edit::{HeaderEdit, PathEdit, Redirect};
pub use overriding::{NotAllowed, OVERRIDE_FIELD, overridden};

/// The rules of one route. Cloning it makes regular expressions that share no cache, so that each worker has its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    list: Vec<Arc<Rule>>,
    /// The most specific first.
    tests: Vec<Candidate>,
}

/// A rule without the tests that lead to it.
#[derive(Debug, Default, PartialEq)]
pub struct Rule {
    /// For people; empty when it has none.
    pub name: Box<str>,
    /// How long things may take.
    pub times: Times,
    /// How many calls a second each node lets through; None: as many as the route says.
    pub rate_limit: Option<RateLimit>,
    /// Which calls are repeated; None: none.
    pub retry: Option<Retry>,
    /// Which calls are sent once more when their answer takes long; None: none.
    pub hedge: Option<Hedge>,
    /// Statuses of answers that are failures of a pod, in place of those of its breaker; None: its breaker's.
    pub failures: Option<Box<[u16]>>,
    /// Of a hundred calls so many are sent to the mirror, too.
    pub mirror_percent: u8,
    /// Changes to the request's fields.
    pub request: HeaderEdit,
    /// Changes to the response's fields, also of answers that the rule gives itself.
    pub response: HeaderEdit,
    /// Which pages of other origins may call; None: the application says so itself.
    pub cors: Option<Cors>,
    /// The host that the application sees.
    pub host: Option<Box<str>>,
    /// The path that the application sees.
    pub path: Option<PathEdit>,
    /// What becomes of the call.
    pub action: Action,
    /// Faults on purpose.
    pub fault: Fault,
}

/// What becomes of a call.
#[derive(Debug, Default, PartialEq)]
pub enum Action {
    /// It goes to the rule's backends.
    #[default]
    Forward,
    /// It is answered with a location.
    Redirect(Redirect),
    /// It is answered with this.
    Respond {
        /// 200 to 599.
        status: u16,
        /// May be empty.
        body: Box<str>,
    },
}

/// Faults on purpose; percentages are of a hundred calls, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Nanoseconds that a call waits.
    pub delay_ns: u64,
    /// Of a hundred calls so many wait.
    pub delay_percent: u8,
    /// Status of the answer.
    pub abort_status: u16,
    /// Of a hundred calls so many are answered with it.
    pub abort_percent: u8,
}

/// A test of a request, and the rule that it leads to.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    rule: usize,
    /// Which of the rule's tests.
    index: usize,
    test: Test,
}

/// What a request has to be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Test {
    /// Of its path.
    pub path: PathTest,
    /// Its method; None is any.
    pub method: Option<Box<str>>,
    /// Fields that it has.
    pub headers: Vec<(Box<str>, ValueTest)>,
    /// Query parameters that it has.
    pub query: Vec<(Box<str>, ValueTest)>,
}

/// What a path has to be like. It is compared without its query, as it is written.
#[derive(Clone, Debug, PartialEq)]
pub enum PathTest {
    /// The same.
    Exact(Box<str>),
    /// Begins with these elements. No slash at the end: `` is every path.
    Prefix(Box<str>),
    /// All of it matches.
    Regex(Pattern),
}

impl Default for PathTest {
    fn default() -> Self {
        PathTest::prefix("/")
    }
}

impl PathTest {
    /// A prefix; a slash at its end makes no difference.
    pub fn prefix(text: &str) -> Self {
        PathTest::Prefix(text.strip_suffix('/').unwrap_or(text).into())
    }

    pub(crate) fn is_met(&self, path: &str) -> bool {
        match self {
            PathTest::Exact(text) => **text == *path,
            PathTest::Prefix(text) => path
                .strip_prefix(&**text)
                .is_some_and(|rest| text.is_empty() || rest.is_empty() || rest.starts_with('/')),
            PathTest::Regex(pattern) => pattern.regex.is_match(path.as_bytes()),
        }
    }

    /// Class and length, the more specific the greater.
    fn rank(&self) -> (u8, usize) {
        match self {
            PathTest::Exact(text) => (3, text.len()),
            PathTest::Regex(pattern) => (2, pattern.text.len()),
            PathTest::Prefix(text) => (1, text.len()),
        }
    }
}

/// What a value has to be like.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueTest {
    /// The same.
    Exact(Box<str>),
    /// All of it matches.
    Regex(Pattern),
}

impl ValueTest {
    pub(crate) fn is_met(&self, value: &[u8]) -> bool {
        match self {
            ValueTest::Exact(text) => text.as_bytes() == value,
            ValueTest::Regex(pattern) => pattern.regex.is_match(value),
        }
    }
}

/// A regular expression, which is the same as another when its text is.
#[derive(Clone)]
pub struct Pattern {
    /// As it was written.
    pub text: Arc<str>,
    /// Has to match all of a value.
    pub regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

/// The first thing about a request that a test does not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The path is another.
    Path,
    /// The method is another.
    Method,
    /// No field of that name has such a value; index into the test's headers.
    Header(usize),
    /// There is no such parameter, or its first value is another; index into the test's parameters.
    Query(usize),
}

/// The rule that a request falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Index of the rule.
    pub rule: usize,
    /// Which of the rule's tests was met.
    pub test: usize,
    /// Bytes of the path that a prefix took; 0 when it was no prefix.
    pub prefix: usize,
}

impl Fault {
    /// Throws the dice for one call: how long it waits, and the status that it is answered with then.
    pub(crate) fn throw(self, random: &mut Random) -> (Option<Duration>, Option<u16>) {
        let mut hits = |percent: u8| percent > 0 && random.below(100) < u64::from(percent);
        let delay =
            (self.delay_ns > 0 && hits(self.delay_percent)).then(|| Duration::from_nanos(self.delay_ns));
        let abort = (self.abort_status > 0 && hits(self.abort_percent)).then_some(self.abort_status);
        (delay, abort)
    }
}

impl Test {
    /// What is not as it should be; None when the test is met.
    pub fn mismatch(&self, head: &RequestHead<'_>) -> Option<Mismatch> {
        let (path, query) = split_query(head.path);
        if !self.path.is_met(path) {
            return Some(Mismatch::Path);
        }
        if self.method.as_ref().is_some_and(|method| **method != *head.method) {
            return Some(Mismatch::Method);
        }
        let has_field =
            |(name, test): &(Box<str>, ValueTest)| head.headers.get_all(name).any(|value| test.is_met(value));
        if let Some(missing) = self.headers.iter().position(|header| !has_field(header)) {
            return Some(Mismatch::Header(missing));
        }
        let has_parameter = |(name, test): &(Box<str>, ValueTest)| {
            parameter(query, name).is_some_and(|value| test.is_met(value.as_bytes()))
        };
        self.query.iter().position(|parameter| !has_parameter(parameter)).map(Mismatch::Query)
    }

    fn prefix_len(&self) -> usize {
        if let PathTest::Prefix(text) = &self.path { text.len() } else { 0 }
    }
}

/// A target in origin-form as path and query, without the `?`.
pub(crate) fn split_query(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// The first value of a query parameter, percent-decoded.
pub(crate) fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value)
}

impl Rules {
    /// Rules in order, each with its tests; a rule without any is about every request.
    pub fn new(rules: Vec<(Rule, Vec<Test>)>) -> Self {
        let (mut list, mut tests) = (Vec::with_capacity(rules.len()), Vec::new());
        for (rule, (what, mut of_rule)) in rules.into_iter().enumerate() {
            list.push(Arc::new(what));
            if of_rule.is_empty() {
                of_rule.push(Test::default());
            }
            tests.extend(of_rule.into_iter().enumerate().map(|(index, test)| Candidate {
                rule,
                index,
                test,
            }));
        }
        // Stable: what is as specific stays in order.
        tests.sort_by_key(|Candidate { test, .. }| {
            std::cmp::Reverse((test.path.rank(), test.method.is_some(), test.headers.len(), test.query.len()))
        });
        Self { list, tests }
    }

    /// Whether there is none: then every request goes to the route's backends.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The rules in order.
    pub fn list(&self) -> &[Arc<Rule>] {
        &self.list
    }

    /// Every test, the most specific first: the rule's index, which of its tests, the test.
    pub fn tests(&self) -> impl Iterator<Item = (usize, usize, &Test)> {
        self.tests.iter().map(|candidate| (candidate.rule, candidate.index, &candidate.test))
    }

    /// The most specific rule that a request falls under.
    pub fn pick(&self, head: &RequestHead<'_>) -> Option<Pick> {
        let found = self.tests.iter().find(|candidate| candidate.test.mismatch(head).is_none())?;
        Some(Pick { rule: found.rule, test: found.index, prefix: found.test.prefix_len() })
    }
}

impl Rule {
    /// Whether the application sees another request than the caller sent.
    pub fn edits_request(&self) -> bool {
        !self.request.is_empty() || self.host.is_some() || self.path.is_some()
    }

    /// The head that the application sees; `fields` and `path` are where its parts lie.
    pub fn edit_request<'a>(
        &'a self,
        head: RequestHead<'a>,
        pick: Pick,
        (fields, path): (&'a mut Vec<Header<'a>>, &'a mut String),
    ) -> RequestHead<'a> {
        let mut edited = head;
        if !self.request.is_empty() {
            self.request.apply(head.headers, fields);
            edited.headers = (&fields[..]).into();
        }
        if let Some(host) = &self.host {
            edited.authority = host;
        }
        if let Some(edit) = &self.path {
            edit.apply(head.path, pick.prefix, path);
            edited.path = path;
        }
        edited
    }
}

#[cfg(test)]
mod tests;
