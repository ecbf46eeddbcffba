//! Connects the console's lists to the bridge, which does not know the console.

use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bridge::Lists;
use crate::console::{self, Console};
use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::{EndpointRef, SurveyRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_wire::listing::{
    DeliveryCause, DeliveryPlace, Filter, List, ListError, ListedDelivery, Page, PageRequest, ResultsQuery,
    SurveyResults,
};
use askwhen_wire::topics::response::ResponseBody;

pub struct ConsoleLists(pub Arc<Console>);

impl Lists for ConsoleLists {
    fn list(&self, list: List, project: &str, filter: &Filter, page: PageRequest<'_>) -> Result<Page, ListError> {
        self.0.list(list, project, filter, page).map_err(list_error)
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.look())
    }

    fn is_whole(&self) -> Result<(), Option<u64>> {
        self.0.is_whole()
    }

    fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<ListedDelivery>, ListError> {
        self.0.delivery(project, delivery_id).map_err(list_error)
    }

    fn place(&self, project: &str, delivery_id: &str) -> Result<Option<DeliveryPlace>, ListError> {
        self.0.place(project, delivery_id).map_err(list_error)
    }

    fn successor(&self, project: &str, delivery_id: &str) -> Result<Option<String>, ListError> {
        self.0.successor(project, delivery_id).map_err(list_error)
    }

    fn is_erased(&self, user: UserRef<'_>, source: RecordPosition) -> Result<bool, ListError> {
        self.0.is_erased(user, source).map_err(list_error)
    }

    fn recoverable(
        &self,
        endpoint: EndpointRef<'_>,
        span: TimeSpan,
        limit: usize,
    ) -> Result<Vec<DeliveryPlace>, ListError> {
        self.0.recoverable(endpoint, span, limit).map_err(list_error)
    }

    fn causes(&self, project: &str, since: Millis) -> Result<Vec<DeliveryCause>, ListError> {
        self.0.causes(project, since).map_err(list_error)
    }

    fn resendable(
        &self,
        project: &str,
        filter: &Filter,
        missed_only: bool,
        ends: &BTreeMap<u32, u64>,
    ) -> Result<Vec<(String, DeliveryPlace)>, ListError> {
        self.0.resendable(project, filter, missed_only, ends).map_err(list_error)
    }

    fn results(&self, survey: SurveyRef<'_>, query: &ResultsQuery) -> Result<SurveyResults, ListError> {
        self.0.results(survey, query).map_err(list_error)
    }

    fn responses(
        &self,
        survey: SurveyRef<'_>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<ResponseBody>, Option<Vec<u8>>), ListError> {
        self.0.responses(survey, after, limit).map_err(list_error)
    }

    fn moved(&self, project: &str, list: List) -> u64 {
        self.0.moved(project, list)
    }

    fn stats(
        &self,
        survey: SurveyRef<'_>,
        since: Option<Millis>,
        until: Option<Millis>,
    ) -> Result<serde_json::Value, ListError> {
        self.0.stats(survey, since, until).map_err(list_error)
    }
}

fn list_error(error: console::Error) -> ListError {
    match error {
        console::Error::Cursor => ListError::Cursor,
        error => ListError::Unreadable(error.into()),
    }
}
