//! Names that most users have in common: ids of surveys, names of events. A million users
//! with a survey share one text, which stays in the processor's cache; one each would be a
//! million allocations, every one of them fetched to be compared, copied and written.

use std::cell::RefCell;
use std::sync::Arc;

/// How many names a thread remembers, one for each value of a part of the hash. One that gives way
/// to another is allocated again the next time.
const PLACES: usize = 1_024;

thread_local! {
    static NAMES: RefCell<Vec<Option<Arc<str>>>> = const { RefCell::new(Vec::new()) };
}

/// The name, in the allocation that it was last given in by this thread, if that is still
/// remembered.
pub(super) fn shared(name: &str) -> Arc<str> {
    NAMES.with_borrow_mut(|names| {
        if names.is_empty() {
            names.resize(PLACES, None);
        }
        let place = &mut names[xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as usize % PLACES];
        match place {
            Some(known) if **known == *name => known.clone(),
            _ => place.insert(name.into()).clone(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_allocated_once_and_stays_itself_however_many_there_are() {
        assert!(Arc::ptr_eq(&shared("s"), &shared("s")));
        let names: Vec<String> = (0..10 * PLACES).map(|n| format!("survey-{n}")).collect();
        let all: Vec<Arc<str>> = names.iter().map(|name| shared(name)).collect();
        assert!(names.iter().zip(&all).all(|(name, shared)| **name == **shared));
    }
}
