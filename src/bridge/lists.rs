//! The console's projection, as far as HTTP asks it.

use serde_json::Value;
use std::collections::BTreeMap;

use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::{EndpointRef, SurveyRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_wire::listing::{
    DeliveryCause, DeliveryPlace, Filter, List, ListError, ListedDelivery, Page, PageRequest, ResultsQuery,
    SurveyResults,
};
use askwhen_wire::topics::response::ResponseBody;

/// Responses, and the place of the last of them.
pub type ResponsePage = (Vec<ResponseBody>, Option<Vec<u8>>);

/// The console's projection, as far as HTTP asks it.
pub trait Lists: Send + Sync {
    /// # Errors
    /// What is wrong with the cursor, or with the projection.
    fn list(&self, list: List, project: &str, filter: &Filter, page: PageRequest<'_>) -> Result<Page, ListError>;

    /// # Errors
    /// How many records are to be read before the lists are whole, while they are
    /// made once more; `None` when that is not known yet.
    fn is_whole(&self) -> Result<(), Option<u64>>;

    /// # Errors
    /// When the projection cannot be read.
    fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<ListedDelivery>, ListError>;

    /// Where a delivery's record stands.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn place(&self, project: &str, delivery_id: &str) -> Result<Option<DeliveryPlace>, ListError>;

    /// The id of a delivery that takes the place of one that came to nothing, or of what
    /// was sent instead of it and came to nothing, too; `None` when neither has.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn successor(&self, project: &str, delivery_id: &str) -> Result<Option<String>, ListError>;

    /// What an endpoint has missed in a span of time, and nobody has sent again
    /// since; oldest first.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn recoverable(
        &self,
        endpoint: EndpointRef<'_>,
        span: TimeSpan,
        limit: usize,
    ) -> Result<Vec<DeliveryPlace>, ListError>;

    /// Whether a user was erased after a record of the journal.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn is_erased(&self, user: UserRef<'_>, source: RecordPosition) -> Result<bool, ListError>;

    /// Deliveries that failed or were given up since a time, by what keeps them from their
    /// receivers, the most frequent first.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn causes(&self, project: &str, since: Millis) -> Result<Vec<DeliveryCause>, ListError>;

    /// Deliveries that a filter takes, that came to nothing and that nobody has sent again,
    /// oldest first, with their endpoints; `missed_only` leaves out those that were cancelled
    /// for another reason than their endpoint. What comes from behind the ends of the journal
    /// that are given is left out.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn resendable(
        &self,
        project: &str,
        filter: &Filter,
        missed_only: bool,
        ends: &BTreeMap<u32, u64>,
    ) -> Result<Vec<(String, DeliveryPlace)>, ListError>;

    /// What a survey was answered.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn results(&self, survey: SurveyRef<'_>, query: &ResultsQuery) -> Result<SurveyResults, ListError>;

    /// Responses of a survey behind a place, oldest first, and the place of the last.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn responses(&self, survey: SurveyRef<'_>, after: Option<&[u8]>, limit: usize) -> Result<ResponsePage, ListError>;

    /// How often a list of a project has got other rows since the process began.
    fn moved(&self, project: &str, list: List) -> u64;

    /// The counters of a survey, from a time up to and without another.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn stats(&self, survey: SurveyRef<'_>, since: Option<Millis>, until: Option<Millis>) -> Result<Value, ListError>;
}
