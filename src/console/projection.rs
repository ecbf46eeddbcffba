//! Reads of the lists.

use crate::console::families;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::error::Error;
use super::follow::{Follower, RowRetention};
use super::shared::{OpenStore, Shared};
use super::{deliveries, delivery_row, document, erased, order, results, stats};
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::refs::{EndpointRef, SurveyRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_log::Log;
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service};
use askwhen_store::Store;
use askwhen_wire::listing::{
    DeliveryCause, DeliveryPlace, Filter, List, ListedDelivery, MessageSource, Page, PageRequest, ResultsQuery,
    SurveyResults,
};
use askwhen_wire::topics::response::ResponseBody;

/// The most replacements of a delivery that are followed.
const MAX_SUCCESSORS: usize = 100;
/// How long a start waits for lists that are being rebuilt.
const START_PATIENCE: Duration = Duration::from_secs(3);

pub struct Console {
    shared: Arc<Shared>,
    following: Mutex<Option<Service>>,
}

impl Console {
    /// Starts to read the topics. It waits a little for lists that are being rebuilt.
    ///
    /// `notes` is the file that says of which records earlier processes died.
    ///
    /// # Errors
    /// When that file cannot be read or written, or the thread cannot be started.
    pub fn start(
        log: Log,
        open: OpenStore,
        clock: Clock,
        keep: RowRetention,
        notes: &Path,
    ) -> std::io::Result<Console> {
        let notify = Arc::new(Notify::default());
        let shared = Arc::new(Shared::new(open, notify.clone()));
        let mut follower = Follower::new(log, notify.clone(), shared.clone(), Some((clock, keep)));
        follower.note_attempts(notes)?;
        follower.catch_up(START_PATIENCE);
        let following = Service::spawn("console", notify, move |turns| follower.run(turns))?;
        Ok(Console { shared, following: Mutex::new(Some(following)) })
    }

    /// Lists over a store that a [`Projection`](super::Projection) updates, without a
    /// thread.
    pub fn over(store: Arc<Store>) -> Console {
        let shared = Shared::of(store.clone(), Arc::default());
        *shared.store.write().expect("no panic holds this lock") = Some(store);
        shared.set_left(0);
        let shared = Arc::new(shared);
        Console { shared, following: Mutex::new(None) }
    }

    /// Sets how long responses are kept, by project and survey id; only surveys with a
    /// `retention`.
    pub fn keep_responses(&self, retentions: BTreeMap<(String, String), Millis>) {
        *self.shared.retentions.lock().expect("no panic holds this lock") = retentions;
    }

    pub fn stop(&self) {
        drop(self.following.lock().expect("no panic holds this lock").take());
    }

    /// Whether the lists are complete.
    ///
    /// # Errors
    /// How many records are still to be read while they are being rebuilt; `None` when that
    /// is not known yet.
    pub fn is_whole(&self) -> Result<(), Option<u64>> {
        match self.shared.left.load(Ordering::Acquire) {
            0 => Ok(()),
            u64::MAX => Err(None),
            left => Err(Some(left)),
        }
    }

    /// Waits, after a while in which nobody has looked, until the lists are brought up to date.
    pub async fn look(&self) {
        self.shared.pace.look_and_wait().await;
    }

    /// Reads the store; a damaged one is rebuilt.
    fn ask<T>(&self, question: impl FnOnce(&Store) -> Result<T, Error>) -> Result<T, Error> {
        self.shared.pace.look();
        let store = self.shared.store.read().expect("no panic holds this lock").clone();
        let store = store.ok_or_else(|| Error::Failed("the lists cannot be opened; see the log".into()))?;
        let answer = question(&store);
        if let Err(Error::Damaged(why)) = &answer {
            self.shared.set_damaged(why);
        }
        answer
    }

    /// A page of a list, newest first.
    ///
    /// # Errors
    /// An invalid cursor, or a store that cannot be read.
    pub fn list(&self, list: List, project: &str, filter: &Filter, page: PageRequest<'_>) -> Result<Page, Error> {
        let shown = |bytes: Vec<u8>| {
            Ok(match list {
                List::Deliveries => {
                    let row = delivery_row::read(&bytes)?;
                    row.fits(filter).then(|| deliveries::shown(&row, false))
                }
                List::Decisions => {
                    let decision = document::read(&bytes)?.decision()?;
                    document::fits_decision(&decision, filter).then(|| document::shown(&decision))
                }
                List::Responses => {
                    let response = document::read(&bytes)?.response()?;
                    document::fits_response(&response, filter).then(|| document::shown(&response))
                }
            })
        };
        let looked_for = match list {
            List::Deliveries => deliveries::looked_for(filter),
            List::Decisions | List::Responses => document::looked_for(filter),
        };
        self.ask(|store| order::page(store, list, project, filter, &looked_for, page, shown))
    }

    /// Failed deliveries that a filter accepts and that were not resent, oldest first, each
    /// with its endpoint.
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
        self.ask(|store| deliveries::resendable(store, project, filter, missed_only, ends))
    }

    /// Failed deliveries grouped by cause.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn causes(&self, project: &str, since: Millis) -> Result<Vec<DeliveryCause>, Error> {
        self.ask(|store| deliveries::causes(store, project, since))
    }

    /// The results of a survey.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn results(&self, survey: SurveyRef<'_>, query: &ResultsQuery) -> Result<SurveyResults, Error> {
        self.ask(|store| results::of(store, survey, query))
    }

    /// Responses of a survey after a position, oldest first, and the position of the last.
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

    /// How often a list of a project has changed since the process started.
    pub fn moved(&self, project: &str, list: List) -> u64 {
        self.shared.pace.look();
        let counts = self.shared.moved.lock().expect("no panic holds this lock");
        counts.get(&(project.to_owned(), list)).copied().unwrap_or(0)
    }

    /// One delivery with all its attempts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<ListedDelivery>, Error> {
        let Some(row) = self.row(project, delivery_id)? else { return Ok(None) };
        self.ask(|store| {
            let shown = deliveries::shown(&row, true);
            let is_erased = row
                .source
                .map_or(Ok(false), |source| erased::is_erased(store, UserRef::new(project, &row.user_id), source))?;
            let message = match row.place() {
                _ if is_erased => MessageSource::Erased,
                Some(place) => MessageSource::Kept(place),
                None => MessageSource::NotKept,
            };
            Ok(Some(ListedDelivery { shown, message }))
        })
    }

    /// The position of a delivery's record in topic `deliveries`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn place(&self, project: &str, delivery_id: &str) -> Result<Option<DeliveryPlace>, Error> {
        Ok(self.row(project, delivery_id)?.and_then(|row| row.place()))
    }

    /// The id of a delivery that replaces a failed one, or replaces the failed one that
    /// replaced it; `None` when neither has failed.
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

    fn row(&self, project: &str, delivery_id: &str) -> Result<Option<delivery_row::DeliveryRow>, Error> {
        self.ask(|store| {
            let bytes = store.get(families::INDEX, &order::row(List::Deliveries, delivery_id))?;
            let row = bytes.map(|bytes| delivery_row::read(&bytes)).transpose()?;
            Ok(row.filter(|row| row.is_of(project)))
        })
    }

    /// Deliveries that an endpoint has missed and that were not resent, oldest first.
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
                let row = delivery_row::read(&bytes)?;
                let Some(place) = row.place().filter(|_| row.is_missed_by(endpoint_id)) else { return Ok(()) };
                let user = UserRef::new(project, &row.user_id);
                if row.source.map_or(Ok(false), |source| erased::is_erased(store, user, source))? {
                    return Ok(());
                }
                if !row.is_resent() {
                    places.push_front(place);
                    // They come newest first, and the oldest are kept.
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
        self.ask(|store| erased::is_erased(store, user, source))
    }

    /// The counters of a survey in a time span.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stats(&self, survey: SurveyRef<'_>, since: Option<Millis>, until: Option<Millis>) -> Result<Value, Error> {
        self.ask(|store| stats::of(store, survey, since, until))
    }
}
