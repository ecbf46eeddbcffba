//! The port through which the bridge reads the console's projection.

use futures_util::future::BoxFuture;
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

/// Responses, and the position after the last of them.
pub type ResponsePage = (Vec<ResponseBody>, Option<Vec<u8>>);

/// Reads of the console's projection.
pub trait Lists: Send + Sync {
    /// A page of a list.
    ///
    /// # Errors
    /// An invalid cursor, or a projection that cannot be read.
    fn list(&self, list: List, project: &str, filter: &Filter, page: PageRequest<'_>) -> Result<Page, ListError>;

    /// Waits, after a while in which nobody has looked, until the lists are brought up to date.
    fn look(&self) -> BoxFuture<'_, ()>;

    /// Whether the lists are complete.
    ///
    /// # Errors
    /// How many records have still to be read while the lists are being rebuilt; `None`
    /// when that is not known yet.
    fn is_whole(&self) -> Result<(), Option<u64>>;

    /// One delivery.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<ListedDelivery>, ListError>;

    /// The position of a delivery's record.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn place(&self, project: &str, delivery_id: &str) -> Result<Option<DeliveryPlace>, ListError>;

    /// The id of a delivery that replaces a failed one, or replaces the failed one that
    /// replaced it; `None` when neither has failed.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn successor(&self, project: &str, delivery_id: &str) -> Result<Option<String>, ListError>;

    /// Deliveries that an endpoint has missed in a time span and that were not sent again
    /// since, oldest first.
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

    /// Deliveries that failed or were given up since a time, grouped by cause, the most
    /// frequent first.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn causes(&self, project: &str, since: Millis) -> Result<Vec<DeliveryCause>, ListError>;

    /// Failed deliveries that a filter accepts and that were not sent again, oldest first,
    /// each with its endpoint. `missed_only` leaves out those that were cancelled for
    /// another reason than their endpoint. Deliveries from behind the given ends of the
    /// journal are left out.
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

    /// The results of a survey.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn results(&self, survey: SurveyRef<'_>, query: &ResultsQuery) -> Result<SurveyResults, ListError>;

    /// Responses to a survey after a position, oldest first, and the position of the last.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn responses(&self, survey: SurveyRef<'_>, after: Option<&[u8]>, limit: usize) -> Result<ResponsePage, ListError>;

    /// How often a list of a project has changed since the process started.
    fn moved(&self, project: &str, list: List) -> u64;

    /// The counters of a survey in a time span.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn stats(&self, survey: SurveyRef<'_>, since: Option<Millis>, until: Option<Millis>) -> Result<Value, ListError>;
}
