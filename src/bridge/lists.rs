//! The console's projection, as far as HTTP asks it.

use serde_json::Value;

use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::{EndpointRef, SurveyRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_wire::listing::{DeliveryPlace, Filter, List, ListError, Page, PageRequest};

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
    fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<Value>, ListError>;

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

    /// The counters of a survey, from a time up to and without another.
    ///
    /// # Errors
    /// When the projection cannot be read.
    fn stats(&self, survey: SurveyRef<'_>, since: Option<Millis>, until: Option<Millis>) -> Result<Value, ListError>;
}
