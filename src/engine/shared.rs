//! Shares definitions between the partitions of a process: their texts, and the surveys
//! parsed from them, are held once. A survey follows from its text alone, so decisions do
//! not depend on who parsed it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use askwhen_domain::json::Json;
use askwhen_domain::survey::Survey;
use askwhen_wire::definition;
use xxhash_rust::xxh3::xxh3_128;

/// The memory of a parsed survey in multiples of its text, measured with surveys of 100
/// questions.
const READ_TIMES: usize = 2;
/// The map is not swept for unused entries while it has fewer than this.
const LEAST_SWEPT: usize = 64;

#[derive(Default)]
struct Known {
    text: Weak<Json>,
    survey: Weak<Survey>,
}

#[derive(Default)]
struct Shared {
    /// By the hash of the text.
    known: HashMap<u128, Known>,
    sweep_at: usize,
}

static SHARED: LazyLock<Mutex<Shared>> = LazyLock::new(Mutex::default);

fn shared() -> MutexGuard<'static, Shared> {
    SHARED.lock().expect("no panic holds this lock")
}

impl Shared {
    /// The entry of a text, unless it is of another text with the same hash.
    fn of(&self, hash: u128, text: &Json) -> Option<(&Known, Arc<Json>)> {
        let known = self.known.get(&hash)?;
        let held = known.text.upgrade().filter(|held| **held == *text)?;
        Some((known, held))
    }

    fn keep(&mut self, hash: u128, known: Known) {
        self.known.insert(hash, known);
        if self.known.len() >= self.sweep_at.max(LEAST_SWEPT) {
            self.known.retain(|_, known| known.text.strong_count() > 0);
            self.sweep_at = 2 * self.known.len();
        }
    }
}

/// The shared copy of a definition's text.
pub fn text(own: Json) -> Arc<Json> {
    let hash = xxh3_128(own.as_str().as_bytes());
    let mut shared = shared();
    if let Some((_, held)) = shared.of(hash, &own) {
        return held;
    }
    let own = Arc::new(own);
    shared.keep(hash, Known { text: Arc::downgrade(&own), survey: Weak::new() });
    own
}

/// The survey parsed from a text.
///
/// # Errors
/// What this version cannot read of it.
pub fn survey(text: &Arc<Json>) -> Result<Arc<Survey>, Vec<definition::Fault>> {
    let hash = xxh3_128(text.as_str().as_bytes());
    if let Some((known, _)) = shared().of(hash, text)
        && let Some(survey) = known.survey.upgrade()
    {
        return Ok(survey);
    }
    // Without the lock; two threads that parse the same text at once both keep their
    // result.
    let survey = Arc::new(definition::survey(&text.value(), None)?);
    shared().keep(hash, Known { text: Arc::downgrade(text), survey: Arc::downgrade(&survey) });
    Ok(survey)
}

/// About how many bytes the definitions of all partitions take.
pub fn memory_bytes() -> usize {
    let shared = shared();
    let texts =
        shared.known.values().filter_map(|known| Some((known.text.upgrade()?, known.survey.strong_count() > 0)));
    texts.map(|(text, is_read)| text.len_bytes() * if is_read { 1 + READ_TIMES } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(name: &str) -> Json {
        Json::of(&json!({"survey_id": "shared", "name": name, "status": "active", "link": true,
            "questions": [{"question_id": "q1", "type": "text", "text": "How?"}]}))
    }

    #[test]
    fn one_text_is_held_once_and_read_once_and_let_go_with_its_last_holder() {
        let (one, other, another) = (text(body("A")), text(body("A")), text(body("B")));
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &another));
        let (read, same) = (survey(&one).unwrap(), survey(&other).unwrap());
        assert!(Arc::ptr_eq(&read, &same));
        assert_eq!((&*survey(&another).unwrap().name, &*read.name), ("B", "A"));
        let (left, seen) = (Arc::downgrade(&read), Arc::downgrade(&one));
        drop((one, other, read, same));
        assert_eq!((left.strong_count(), seen.strong_count()), (0, 0));
        assert_eq!(survey(&text(body("A"))).unwrap().name, "A", "read again");
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        for n in 0..20 * LEAST_SWEPT {
            drop(text(body(&format!("gone-{n}"))));
        }
        // Other tests hold some, too.
        assert!(shared().known.len() < 10 * LEAST_SWEPT, "{}", shared().known.len());
    }

    #[test]
    fn what_cannot_be_read_is_refused_every_time() {
        let wrong = text(Json::of(&json!({"survey_id": "s", "of_a_later_version": 1})));
        assert!(survey(&wrong).is_err() && survey(&wrong).is_err());
    }
}
