//! The changes of one round, with the rows that its records are about: each is read and
//! decoded once, and written once, however many records change it.

use std::collections::{BTreeMap, BTreeSet};

use super::delivery_row::{self, DeliveryRow};
use super::document::{self, StoredDocument, StoredResponse};
use super::error::Error;
use super::order::{self, WriteBatch};
use askwhen_domain::refs::UserRef;
use askwhen_store::{Batch, Store};
use askwhen_wire::listing::List;

pub struct Round<'a> {
    /// Everything that is not one of the rows here.
    pub batch: WriteBatch<'a>,
    deliveries: BTreeMap<String, Known<DeliveryRow>>,
    responses: BTreeMap<String, Known<StoredResponse>>,
}

struct Known<T> {
    row: T,
    is_changed: bool,
}

impl<'a> Round<'a> {
    /// A round that looks for erasures in all partitions.
    pub fn new(store: &'a Store) -> Round<'a> {
        Round::of(WriteBatch::new(store))
    }

    /// A round that looks for erasures only in those partitions that have any.
    pub fn with_erasures(store: &'a Store, partitions: BTreeSet<u32>) -> Round<'a> {
        Round::of(WriteBatch::with_erasures(store, partitions))
    }

    fn of(batch: WriteBatch<'a>) -> Round<'a> {
        Round { batch, deliveries: BTreeMap::new(), responses: BTreeMap::new() }
    }

    /// The row of a delivery.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is invalid.
    pub fn delivery(&mut self, id: &str) -> Result<Option<&DeliveryRow>, Error> {
        if !self.deliveries.contains_key(id) {
            let Some(bytes) = self.batch.get(&order::row(List::Deliveries, id))? else { return Ok(None) };
            self.deliveries.insert(id.to_owned(), Known { row: delivery_row::read(&bytes)?, is_changed: false });
        }
        Ok(self.deliveries.get(id).map(|known| &known.row))
    }

    /// The same for whoever changes it, and [puts](Round::put_delivery) it back.
    ///
    /// # Errors
    /// As [`Round::delivery`].
    pub fn take_delivery(&mut self, id: &str) -> Result<Option<DeliveryRow>, Error> {
        self.delivery(id)?;
        Ok(self.deliveries.remove(id).map(|known| known.row))
    }

    pub fn put_delivery(&mut self, row: DeliveryRow) {
        if !row.is_blank() {
            self.batch.moves(&row.project, List::Deliveries);
        }
        self.deliveries.insert(row.delivery_id.clone(), Known { row, is_changed: true });
    }

    /// The row of a response.
    ///
    /// # Errors
    /// When the store cannot be read, or the row is invalid.
    pub fn response(&mut self, id: &str) -> Result<Option<&StoredResponse>, Error> {
        if !self.responses.contains_key(id) {
            let Some(bytes) = self.batch.get(&order::row(List::Responses, id))? else { return Ok(None) };
            let row = StoredResponse::of(document::read(&bytes)?)?;
            self.responses.insert(id.to_owned(), Known { row, is_changed: false });
        }
        Ok(self.responses.get(id).map(|known| &known.row))
    }

    pub fn put_response(&mut self, row: StoredResponse) {
        self.batch.moves(&row.response.project, List::Responses);
        self.responses.insert(row.response.response_id.clone(), Known { row, is_changed: true });
    }

    /// Stores a decision.
    pub fn put_decision(&mut self, id: &str, row: &StoredDocument, terms: &[u32]) {
        self.batch.moves(&row.project, List::Decisions);
        let user = UserRef::new(&row.project, &row.user_id);
        order::places(List::Decisions, user, row.at, id).into_iter().for_each(|place| self.batch.place(place, terms));
        self.batch.put(order::row(List::Decisions, id), document::encode(row));
    }

    /// Moves the rows into the batch, where they are found by their keys.
    pub fn settle(&mut self) {
        for known in std::mem::take(&mut self.deliveries).into_values().filter(|known| known.is_changed) {
            self.settle_delivery(&known.row);
        }
        for known in std::mem::take(&mut self.responses).into_values().filter(|known| known.is_changed) {
            self.settle_response(&known.row);
        }
    }

    fn settle_delivery(&mut self, row: &DeliveryRow) {
        if !row.is_blank() {
            let terms = row.terms();
            order::places(List::Deliveries, row.user(), row.created_at, &row.delivery_id)
                .into_iter()
                .for_each(|place| self.batch.place(place, &terms));
            let failures = order::place_in_failures(&row.project, row.created_at, &row.delivery_id);
            if row.cause().is_some() {
                self.batch.place(failures, &terms);
            } else if row.attempt_count > 1 {
                self.batch.remove_from_index(failures);
            }
        }
        self.batch.put(order::row(List::Deliveries, &row.delivery_id), delivery_row::encode(row));
    }

    fn settle_response(&mut self, row: &StoredResponse) {
        let (document, terms) = (row.document(), row.terms());
        let id = &row.response.response_id;
        let user = UserRef::new(&document.project, &document.user_id);
        let places = order::places(List::Responses, user, document.at, id);
        let in_survey = order::place_in_survey(row.survey(), document.at, id);
        places.into_iter().chain([in_survey]).for_each(|place| self.batch.place(place, &terms));
        self.batch.put(order::row(List::Responses, id), document::encode(&document));
    }

    /// All changes.
    pub fn into_changes(mut self) -> RoundChanges {
        self.settle();
        let moved = self.batch.moved().map(|(project, list)| (project.to_owned(), list)).collect();
        let erasures = self.batch.take_erasures();
        RoundChanges { moved, erasures, batch: self.batch.into_batch() }
    }
}

/// What a round leads to.
pub struct RoundChanges {
    pub batch: Batch,
    /// By project, the lists whose rows change.
    pub moved: Vec<(String, List)>,
    /// The partitions in whose journals users were erased.
    pub erasures: BTreeSet<u32>,
}
