//! The deliveries that are in memory: those that wait for their turn, those whose
//! attempt is under way, and those whose records are being written. Each is there
//! once, so none is sent twice at a time.

use std::collections::{HashMap, HashSet};

use crate::delivery::fold::Due;
use crate::delivery::ordering::Item;

/// An attempt under way, or whose records are being written.
#[derive(Debug)]
struct Flight {
    partition: u32,
    /// What it holds in memory, about.
    bytes: usize,
    /// Its end is being written down.
    ends: bool,
    /// Its user was erased meanwhile.
    is_cancelled: bool,
}

/// What is left to do about a delivery that is let go of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// It was cancelled while it was under way, and its end is not on record.
    pub is_cancelled: bool,
    /// It came due again meanwhile, in this partition.
    pub again: Option<(u32, Due)>,
}

#[derive(Debug, Default)]
pub struct TrackedDeliveries {
    ids: HashSet<String>,
    flights: HashMap<String, Flight>,
    flights_bytes: usize,
    /// Due again while the records of the attempt before are being written.
    deferred: HashMap<String, (u32, Due)>,
}

impl TrackedDeliveries {
    /// Takes a delivery in that is due; gives the entry back, unless the delivery is
    /// here already: then the entry waits until that one is let go of.
    pub fn insert(&mut self, delivery_id: &str, partition: u32, due: Due) -> Option<Due> {
        if self.ids.insert(delivery_id.to_owned()) {
            return Some(due);
        }
        self.deferred.insert(delivery_id.to_owned(), (partition, due));
        None
    }

    /// Whether another attempt of so many bytes keeps within a limit. One alone always
    /// does.
    pub fn has_room(&self, bytes: usize, limit_bytes: usize) -> bool {
        self.flights_bytes == 0 || self.flights_bytes + bytes <= limit_bytes
    }

    pub fn start(&mut self, item: &Item, bytes: usize) {
        let flight = Flight { partition: item.partition, bytes, ends: false, is_cancelled: false };
        self.flights.insert(item.delivery_id.clone(), flight);
        self.flights_bytes += bytes;
    }

    /// Its end is being written down: whatever comes to it now comes too late.
    pub fn end(&mut self, delivery_id: &str) {
        if let Some(flight) = self.flights.get_mut(delivery_id) {
            flight.ends = true;
        }
    }

    /// Marks a delivery that is in flight as cancelled; gives whether it is in flight.
    pub fn cancel(&mut self, delivery_id: &str) -> bool {
        let flight = self.flights.get_mut(delivery_id);
        flight.map(|flight| flight.is_cancelled = true).is_some()
    }

    pub fn is_cancelled(&self, delivery_id: &str) -> bool {
        self.flights.get(delivery_id).is_some_and(|flight| flight.is_cancelled)
    }

    pub fn is_in_flight(&self, delivery_id: &str) -> bool {
        self.flights.contains_key(delivery_id)
    }

    /// Lets go of a delivery.
    pub fn release(&mut self, delivery_id: &str) -> Released {
        self.ids.remove(delivery_id);
        let flight = self.flights.remove(delivery_id);
        self.flights_bytes -= flight.as_ref().map_or(0, |flight| flight.bytes);
        let is_cancelled = flight.is_some_and(|flight| flight.is_cancelled && !flight.ends);
        Released { is_cancelled, again: self.deferred.remove(delivery_id) }
    }

    /// Forgets what is not in flight and does not wait any more.
    pub fn close(&mut self, partition: u32, waiting: &HashSet<String>) {
        self.deferred.retain(|_, (of, _)| *of != partition);
        let flights = &self.flights;
        self.ids.retain(|id| waiting.contains(id) || flights.contains_key(id));
    }

    /// Whether something of a partition is in flight.
    pub fn has_flights_of(&self, partition: u32) -> bool {
        self.flights.values().any(|flight| flight.partition == partition)
    }

    pub fn has_flights(&self) -> bool {
        !self.flights.is_empty()
    }

    pub fn flights_bytes(&self) -> usize {
        self.flights_bytes
    }
}
