//! Slots with generations and deadlines: what a connection or an exchange is kept in; it knows nothing of what it keeps.

use crate::deadline::{Deadline, Deadlines, Time};

/// Names a slot and which of its users is meant.
pub(crate) trait Id: Copy {
    fn new(slot: u32, generation: u32) -> Self;
    fn slot(self) -> u32;
    fn generation(self) -> u32;
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    deadline: Deadline,
    value: Option<T>,
}

#[derive(Debug)]
pub(crate) struct Table<K, T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    deadlines: Deadlines<u32>,
    id: std::marker::PhantomData<K>,
}

impl<K: Id, T> Table<K, T> {
    pub(crate) fn new() -> Self {
        Table {
            entries: Vec::new(),
            free: Vec::new(),
            deadlines: Deadlines::new(),
            id: std::marker::PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> K {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.entries[slot as usize];
            entry.value = Some(value);
            return K::new(slot, entry.generation);
        }
        let slot = u32::try_from(self.entries.len()).expect("fewer than 2^32 connections");
        self.entries.push(Entry { generation: 0, deadline: Deadline::default(), value: Some(value) });
        K::new(slot, 0)
    }

    pub(crate) fn remove(&mut self, id: K) -> Option<T> {
        let entry = self.entry_mut(id)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        entry.deadline.due = Time::NEVER;
        self.free.push(id.slot());
        Some(value)
    }

    #[inline]
    fn entry_mut(&mut self, id: K) -> Option<&mut Entry<T>> {
        self.entries.get_mut(id.slot() as usize).filter(|entry| entry.generation == id.generation())
    }

    #[inline]
    pub(crate) fn get(&self, id: K) -> Option<&T> {
        let entry = self.entries.get(id.slot() as usize)?;
        if entry.generation == id.generation() { entry.value.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: K) -> Option<&mut T> {
        self.entry_mut(id)?.value.as_mut()
    }

    /// All that are there now.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(slot, entry)| Some((K::new(slot as u32, entry.generation), entry.value.as_ref()?)))
    }

    /// Sets when something is due; [`Time::NEVER`] takes it away.
    #[inline]
    pub(crate) fn set_due(&mut self, id: K, due: Time) {
        if let Some(entry) =
            self.entries.get_mut(id.slot() as usize).filter(|e| e.generation == id.generation())
        {
            self.deadlines.set(&mut entry.deadline, id.slot(), due);
        }
    }

    pub(crate) fn due(&self, id: K) -> Time {
        let entry = self.entries.get(id.slot() as usize).filter(|e| e.generation == id.generation());
        entry.map_or(Time::NEVER, |e| e.deadline.due)
    }

    pub(crate) fn next_due(&self) -> Option<Time> {
        self.deadlines.next()
    }

    /// The next one that is due; its deadline is taken away.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<K> {
        while let Some(popped) = self.deadlines.pop(now) {
            let entry = &mut self.entries[popped.1 as usize];
            if self.deadlines.is_due(&mut entry.deadline, popped, now) && entry.value.is_some() {
                return Some(K::new(popped.1, entry.generation));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ConnId;

    #[test]
    fn an_id_of_a_slot_that_was_reused_means_nothing() {
        let mut table: Table<ConnId, &str> = Table::new();
        let old = table.insert("old");
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert("new");
        assert_eq!((old.slot, table.get(old), table.get(new)), (new.slot, None, Some(&"new")));
        assert_eq!(table.remove(old), None);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn the_deadline_of_a_former_user_of_a_slot_does_not_fire() {
        let mut table: Table<ConnId, ()> = Table::new();
        let old = table.insert(());
        table.set_due(old, Time(10));
        table.remove(old);
        let new = table.insert(());
        assert_eq!(table.pop_due(Time(20)), None);
        table.set_due(new, Time(30));
        table.set_due(old, Time(1));
        assert_eq!(table.pop_due(Time(29)), None);
        assert_eq!(table.pop_due(Time(30)), Some(new));
        assert_eq!(table.pop_due(Time(99)), None);
    }
}
