//! The deliveries in memory: those that wait for their turn, and those in flight. Each
//! is there once, so that no two attempts of a delivery are made at a time.

use std::collections::{HashMap, HashSet};

use crate::delivery::fold::Due;
use crate::delivery::ordering::Item;

/// An attempt that is being made, or whose records are being appended.
#[derive(Debug)]
struct Flight {
    partition: u32,
    /// About how much memory it holds.
    bytes: usize,
    /// Whether its records end the delivery.
    ends: bool,
    /// Whether its user was erased meanwhile.
    is_cancelled: bool,
}

/// What is left to do for a delivery that is released.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Whether it was cancelled while it was in flight, and no end of it is on record.
    pub is_cancelled: bool,
    /// The entry and its partition, when it came due again meanwhile.
    pub due_again: Option<(u32, Due)>,
}

#[derive(Debug, Default)]
pub struct TrackedDeliveries {
    ids: HashSet<String>,
    flights: HashMap<String, Flight>,
    flights_bytes: usize,
    /// Deliveries that came due again while they were in flight, with their partitions.
    deferred: HashMap<String, (u32, Due)>,
}

impl TrackedDeliveries {
    /// Adds a delivery that is due and gives its entry back. When the delivery is here
    /// already, the entry waits until it is released.
    pub fn insert(&mut self, delivery_id: &str, partition: u32, due: Due) -> Option<Due> {
        if self.ids.insert(delivery_id.to_owned()) {
            return Some(due);
        }
        self.deferred.insert(delivery_id.to_owned(), (partition, due));
        None
    }

    /// Whether another attempt of `bytes` stays within the limit. A single one always does,
    /// however large it is.
    pub fn has_room(&self, bytes: usize, limit_bytes: usize) -> bool {
        self.flights_bytes == 0 || self.flights_bytes + bytes <= limit_bytes
    }

    pub fn start(&mut self, item: &Item, bytes: usize) {
        let flight = Flight { partition: item.partition, bytes, ends: false, is_cancelled: false };
        self.flights.insert(item.delivery_id.clone(), flight);
        self.flights_bytes += bytes;
    }

    /// Notes that the end of a delivery is being appended: a cancellation comes too late.
    pub fn end(&mut self, delivery_id: &str) {
        if let Some(flight) = self.flights.get_mut(delivery_id) {
            flight.ends = true;
        }
    }

    /// Marks a delivery that is in flight as cancelled; returns whether it is in flight.
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

    /// Removes a delivery.
    pub fn release(&mut self, delivery_id: &str) -> Released {
        self.ids.remove(delivery_id);
        let flight = self.flights.remove(delivery_id);
        self.flights_bytes -= flight.as_ref().map_or(0, |flight| flight.bytes);
        let is_cancelled = flight.is_some_and(|flight| flight.is_cancelled && !flight.ends);
        Released { is_cancelled, due_again: self.deferred.remove(delivery_id) }
    }

    /// Removes the deliveries of a partition that are neither in flight nor in `waiting`.
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
