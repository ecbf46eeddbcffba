//! State that readers and the writer of the lists share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::error::Error;
use super::pace::Pace;
use askwhen_domain::time::Millis;
use askwhen_process::thread::Notify;
use askwhen_store::Store;
use askwhen_wire::listing::List;

/// How long readers may finish with a damaged store.
const LAST_READERS: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(30) };

/// Opens the projection's store. With a reason why it is damaged, it is set aside first.
pub type OpenStore = Box<dyn Fn(Option<&str>) -> Result<Arc<Store>, Error> + Send + Sync>;

/// The store and its progress; opened when it is first needed.
pub(super) struct Shared {
    pub(super) open: OpenStore,
    pub(super) store: RwLock<Option<Arc<Store>>>,
    /// Why the store has to be set aside.
    pub(super) damaged: Mutex<Option<String>>,
    /// How many records are to be read before the lists are complete; 0 unless they are
    /// being rebuilt.
    pub(super) left: AtomicU64,
    pub(super) notify: Arc<Notify>,
    /// By project and list, how often its rows have changed.
    pub(super) moved: Mutex<BTreeMap<(String, List), u64>>,
    /// By project and survey id, how long responses are kept; only surveys with a
    /// `retention`.
    pub(super) retentions: Mutex<BTreeMap<(String, String), Millis>>,
    pub(super) pace: Pace,
}

impl Shared {
    pub fn new(open: OpenStore, notify: Arc<Notify>) -> Shared {
        let (store, damaged) = (RwLock::default(), Mutex::default());
        let (left, moved, retentions) = (AtomicU64::new(u64::MAX), Mutex::default(), Mutex::default());
        Shared { open, store, damaged, left, notify, moved, retentions, pace: Pace::default() }
    }

    /// For a store whose owner handles damage.
    pub fn of(store: Arc<Store>, notify: Arc<Notify>) -> Shared {
        let open: OpenStore = Box::new(move |damaged| match damaged {
            Some(why) => Err(Error::Damaged(why.to_owned())),
            None => Ok(store.clone()),
        });
        Shared::new(open, notify)
    }

    /// The store; it is opened if needed, and rebuilt if it is damaged.
    pub fn opened(&self) -> Result<Arc<Store>, Error> {
        let mut damaged = self.damaged.lock().expect("no panic holds this lock").take();
        let in_use = self.store.read().expect("no panic holds this lock");
        let has_failed = in_use.as_ref().is_some_and(|store| store.is_damaged());
        drop(in_use);
        if damaged.is_none() && has_failed {
            self.left.store(u64::MAX, Ordering::Release);
            damaged = Some("it failed its checksums while it was in use".into());
        }
        if damaged.is_some() {
            self.close();
        } else if let Some(store) = &*self.store.read().expect("no panic holds this lock") {
            return Ok(store.clone());
        }
        match (self.open)(damaged.as_deref()) {
            Ok(store) => {
                *self.store.write().expect("no panic holds this lock") = Some(store.clone());
                Ok(store)
            }
            Err(error) => {
                if let Some(why) = &damaged {
                    self.set_damaged(why);
                }
                Err(error)
            }
        }
    }

    /// Its files cannot be opened again before the last reader is done.
    pub fn close(&self) {
        let store = self.store.write().expect("no panic holds this lock").take();
        let deadline = Instant::now() + LAST_READERS;
        while store.as_ref().is_some_and(|store| Arc::strong_count(store) > 1) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn set_damaged(&self, why: &str) {
        let mut damaged = self.damaged.lock().expect("no panic holds this lock");
        *damaged = Some(why.to_owned());
        self.left.store(u64::MAX, Ordering::Release);
        drop(damaged);
        self.notify.notify();
    }

    pub fn note_moved(&self, moved: impl IntoIterator<Item = (String, List)>) {
        let mut counts = self.moved.lock().expect("no panic holds this lock");
        for list in moved {
            *counts.entry(list).or_default() += 1;
        }
    }

    /// A store that is to be set aside is not complete, however far it was read.
    pub fn set_left(&self, left: u64) {
        let damaged = self.damaged.lock().expect("no panic holds this lock");
        if damaged.is_none() {
            self.left.store(left, Ordering::Release);
        }
    }
}
