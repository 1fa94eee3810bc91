//! The ready list of a worker: wakers that put a number on it, once until it is taken; knows nothing of sockets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

#[derive(Debug, Default)]
struct List {
    numbers: Vec<u32>,
    driver: Option<Waker>,
}

/// Shared between a worker's driver and its wakers. Wakes come from the worker's own thread, but for control's bell, so
/// the lock is never waited for in practice.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadyList {
    list: Arc<Mutex<List>>,
}

/// Puts one number on the list.
#[derive(Debug)]
pub(super) struct Token {
    number: u32,
    listed: AtomicBool,
    ready: ReadyList,
}

impl ReadyList {
    /// A token; as a waker it puts `number` on the list and wakes the driver.
    pub(super) fn token(&self, number: u32) -> Arc<Token> {
        Arc::new(Token { number, listed: AtomicBool::new(false), ready: self.clone() })
    }

    /// Takes the numbers that are ready, in the order in which they became so, into `into`, which must be empty; from now on
    /// `driver` is woken when the next one comes.
    pub(super) fn take(&self, into: &mut Vec<u32>, driver: &Waker) {
        let mut list = self.lock();
        if !list.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            list.driver = Some(driver.clone());
        }
        std::mem::swap(&mut list.numbers, into);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    /// Its number was taken from the list: the next wake lists it again. To be called before what it stands for is looked
    /// at, so that nothing that comes later is missed.
    pub(super) fn taken(&self) {
        self.listed.store(false, Ordering::Release);
    }
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = {
            let mut list = self.ready.lock();
            list.numbers.push(self.number);
            if list.numbers.len() == 1 { list.driver.clone() } else { None }
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    use super::ReadyList;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_number_is_listed_once_and_the_driver_woken_once_a_turn() {
        let (ready, wakes) = (ReadyList::default(), Arc::new(Count::default()));
        let driver: Waker = wakes.clone().into();
        let mut turn = Vec::new();
        ready.take(&mut turn, &driver);
        let tokens = [7, 9].map(|number| ready.token(number));
        for token in [&tokens[0], &tokens[1], &tokens[0]] {
            Waker::from(token.clone()).wake();
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        ready.take(&mut turn, &driver);
        assert_eq!(turn, [7, 9]);
        tokens[0].taken();
        Waker::from(tokens[0].clone()).wake();
        Waker::from(tokens[1].clone()).wake();
        turn.clear();
        ready.take(&mut turn, &driver);
        assert_eq!(turn, [7], "9 was not taken yet, so it is not listed again");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    }
}
