//! The lists, as others ask for them.

use crate::console::families;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::error::Error;
use super::follow::{Follower, RowRetention};
use super::{deliveries, kept, order, results, stats};
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::refs::{EndpointRef, SurveyRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_log::Log;
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service};
use askwhen_store::Store;
use askwhen_wire::listing::{
    DeliveryCause, DeliveryPlace, Filter, List, Page, PageRequest, ResultsQuery, SurveyResults,
};
use askwhen_wire::topics::response::ResponseBody;

/// Deliveries that took each other's places, followed up to so many.
const MAX_SUCCESSORS: usize = 100;
/// How long a start waits for lists that are made anew.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// How long a damaged store may be read to the end of what was begun.
const LAST_READERS: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(30) };

/// Opens the projection's store; one that is damaged, and why, is set aside first.
pub type OpenStore = Box<dyn Fn(Option<&str>) -> Result<Arc<Store>, Error> + Send + Sync>;

pub struct Console {
    shared: Arc<Shared>,
    following: Mutex<Option<Service>>,
}

/// What the lists' readers and their writer share.
pub(super) struct Shared {
    open: OpenStore,
    store: RwLock<Option<Arc<Store>>>,
    /// Why the store is to be set aside.
    damaged: Mutex<Option<String>>,
    /// Records to read before the lists are whole; zero but while they are made
    /// once more.
    left: AtomicU64,
    notify: Arc<Notify>,
    /// How often each list of a project has got other rows.
    moved: Mutex<BTreeMap<(String, List), u64>>,
}

impl Shared {
    fn new(open: OpenStore, notify: Arc<Notify>) -> Shared {
        let (store, damaged) = (RwLock::default(), Mutex::default());
        Shared { open, store, damaged, left: AtomicU64::new(u64::MAX), notify, moved: Mutex::default() }
    }

    /// Of one store, which whoever has made it sets aside.
    pub fn of(store: Arc<Store>, notify: Arc<Notify>) -> Shared {
        let open: OpenStore = Box::new(move |damaged| match damaged {
            Some(why) => Err(Error::Damaged(why.to_owned())),
            None => Ok(store.clone()),
        });
        Shared::new(open, notify)
    }

    /// The store, opened if it is not, made anew if it is damaged.
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

    /// Its files cannot be opened again before the last reader is gone.
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

    /// A store that is to be set aside is not whole, however far it has been read.
    pub fn set_left(&self, left: u64) {
        let damaged = self.damaged.lock().expect("no panic holds this lock");
        if damaged.is_none() {
            self.left.store(left, Ordering::Release);
        }
    }
}

impl Console {
    /// Starts to follow the topics. Lists that are made anew are waited for, but
    /// not for long.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(log: Log, open: OpenStore, clock: Clock, keep: RowRetention) -> std::io::Result<Console> {
        let notify = Arc::new(Notify::default());
        let shared = Arc::new(Shared::new(open, notify.clone()));
        let mut follower = Follower::new(log, notify.clone(), shared.clone(), Some((clock, keep)));
        follower.catch_up(START_PATIENCE);
        let following = Service::spawn("console", notify, move |turns| follower.run(turns))?;
        Ok(Console { shared, following: Mutex::new(Some(following)) })
    }

    /// Lists over a store that a [`Projection`](super::Projection) beside it keeps,
    /// without a thread.
    pub fn over(store: Arc<Store>) -> Console {
        let shared = Shared::of(store.clone(), Arc::default());
        *shared.store.write().expect("no panic holds this lock") = Some(store);
        shared.set_left(0);
        let shared = Arc::new(shared);
        Console { shared, following: Mutex::new(None) }
    }

    pub fn stop(&self) {
        drop(self.following.lock().expect("no panic holds this lock").take());
    }

    /// How many records are to be read before the lists are whole, while they are
    /// made once more; `None` when that is not known yet.
    ///
    /// # Errors
    /// That they are not whole.
    pub fn is_whole(&self) -> Result<(), Option<u64>> {
        match self.shared.left.load(Ordering::Acquire) {
            0 => Ok(()),
            u64::MAX => Err(None),
            left => Err(Some(left)),
        }
    }

    /// Asks the store; one that turns out to be damaged is made again.
    fn ask<T>(&self, question: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        let store = self.shared.store.read().expect("no panic holds this lock").clone();
        let store = store.ok_or_else(|| Error::Failed("the lists cannot be opened; see the log".into()))?;
        let answer = question(&store);
        if let Err(Error::Damaged(why)) = &answer {
            self.shared.set_damaged(why);
        }
        answer
    }

    /// Newest first.
    ///
    /// # Errors
    /// A cursor that is none, or a store that cannot be read.
    pub fn list(&self, list: List, project: &str, filter: &Filter, page: PageRequest<'_>) -> Result<Page, Error> {
        let shown = |store: &Store, bytes: Vec<u8>| {
            Ok(match list {
                List::Deliveries => {
                    let row = deliveries::read(&bytes)?;
                    let resent_as = deliveries::resent_as(store, &row)?;
                    let fits = row.fits(filter, resent_as.is_some());
                    fits.then(|| deliveries::shown(&row, resent_as, false))
                }
                List::Decisions => {
                    let decision = kept::read(&bytes)?.decision()?;
                    kept::fits_decision(&decision, filter).then(|| kept::shown(&decision))
                }
                List::Responses => {
                    let response = kept::read(&bytes)?.response()?;
                    kept::fits_response(&response, filter).then(|| kept::shown(&response))
                }
            })
        };
        let looked_for = match list {
            List::Deliveries => deliveries::looked_for(filter),
            List::Decisions | List::Responses => kept::looked_for(filter),
        };
        let both = (filter, &looked_for);
        self.ask(|store| order::page(store, list, project, both, page, |bytes| shown(store, bytes)))
    }

    /// Deliveries that a filter takes, that came to nothing and that nobody has sent again,
    /// oldest first, with their endpoints.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn resendable(
        &self,
        project: &str,
        filter: &Filter,
        missed_only: bool,
        ends: &BTreeMap<u32, u64>,
    ) -> Result<Vec<(String, DeliveryPlace)>, Error> {
        self.ask(|store| deliveries::resendable(store, project, (filter, missed_only), ends))
    }

    /// Deliveries that failed or were given up, by what keeps them from their receivers.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn causes(&self, project: &str, since: Millis) -> Result<Vec<DeliveryCause>, Error> {
        self.ask(|store| deliveries::causes(store, project, since))
    }

    /// What a survey was answered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn results(&self, survey: SurveyRef<'_>, query: &ResultsQuery) -> Result<SurveyResults, Error> {
        self.ask(|store| results::of(store, survey, query))
    }

    /// Responses of a survey behind a place, oldest first, and the place of the last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn responses(
        &self,
        survey: SurveyRef<'_>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<ResponseBody>, Option<Vec<u8>>), Error> {
        self.ask(|store| results::responses(store, survey, after, limit))
    }

    /// How often a list of a project has got other rows since the process began.
    pub fn moved(&self, project: &str, list: List) -> u64 {
        let counts = self.shared.moved.lock().expect("no panic holds this lock");
        counts.get(&(project.to_owned(), list)).copied().unwrap_or(0)
    }

    /// One delivery with all its attempts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<Value>, Error> {
        let Some(row) = self.row(project, delivery_id)? else { return Ok(None) };
        self.ask(|store| {
            let mut shown = deliveries::shown(&row, deliveries::resent_as(store, &row)?, true);
            // It has the time of the one that it was sent in place of.
            let at = row.created_at();
            order::between(store, List::Deliveries, project, TimeSpan::new(at, at.saturating_add(1)), |bytes| {
                let other = deliveries::read(&bytes)?;
                if id::successor(other.delivery_id()) == delivery_id {
                    shown["resend_of"] = other.delivery_id().into();
                }
                Ok(())
            })?;
            Ok(Some(shown))
        })
    }

    /// Where a delivery's record stands in topic `deliveries`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn place(&self, project: &str, delivery_id: &str) -> Result<Option<DeliveryPlace>, Error> {
        Ok(self.row(project, delivery_id)?.and_then(|row| row.place()))
    }

    /// The id of a delivery that takes the place of one that came to nothing, or of what
    /// was sent instead of it and came to nothing, too; `None` when neither has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn successor(&self, project: &str, delivery_id: &str) -> Result<Option<String>, Error> {
        let mut id = delivery_id.to_owned();
        for _ in 0..MAX_SUCCESSORS {
            match self.row(project, &id)? {
                Some(row) if row.came_to_nothing() => id = id::successor(&id),
                Some(_) => return Ok(None),
                None => return Ok((id != delivery_id).then_some(id)),
            }
        }
        Ok(None)
    }

    fn row(&self, project: &str, delivery_id: &str) -> Result<Option<deliveries::DeliveryRow>, Error> {
        self.ask(|store| {
            let bytes = store.get(families::INDEX, &order::row(List::Deliveries, delivery_id))?;
            let row = bytes.map(|bytes| deliveries::read(&bytes)).transpose()?;
            Ok(row.filter(|row| row.is_of(project)))
        })
    }

    /// What an endpoint has missed, oldest first, and what nobody has sent again.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recoverable(
        &self,
        endpoint: EndpointRef<'_>,
        span: TimeSpan,
        limit: usize,
    ) -> Result<Vec<DeliveryPlace>, Error> {
        let EndpointRef { project, endpoint_id } = endpoint;
        self.ask(|store| {
            let mut places = std::collections::VecDeque::new();
            order::between(store, List::Deliveries, project, span, |bytes| {
                let row = deliveries::read(&bytes)?;
                let Some(place) = row.place().filter(|_| row.is_missed_by(endpoint_id)) else { return Ok(()) };
                let user = UserRef::new(project, row.user_id());
                if row.source().map_or(Ok(false), |source| kept::is_erased(store, user, source))? {
                    return Ok(());
                }
                let successor = order::row(List::Deliveries, &id::successor(&place.delivery_id));
                if store.get(families::INDEX, &successor)?.is_none() {
                    places.push_front(place);
                    // They come newest first, and the oldest stay.
                    places.truncate(limit);
                }
                Ok(())
            })?;
            Ok(places.into())
        })
    }

    /// Whether a user was erased after a record of the journal.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_erased(&self, user: UserRef<'_>, source: RecordPosition) -> Result<bool, Error> {
        self.ask(|store| kept::is_erased(store, user, source))
    }

    /// The counters of a survey from `since`, up to and without `until`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stats(&self, survey: SurveyRef<'_>, since: Option<Millis>, until: Option<Millis>) -> Result<Value, Error> {
        self.ask(|store| stats::of(store, survey, since, until))
    }
}
