//! Messages about caps: applied to the counters and requests of this partition, or
//! forwarded.

use std::collections::VecDeque;

use super::changes::to_partition;
use super::quotas::Quotas;
use super::state::Engine;
use askwhen_domain::quota::cap::{CapAnswer, CapKey, CapMessage, CapPlace, CapSignal};
use askwhen_domain::time::Millis;
use askwhen_partition::{Effects, Failure};
use askwhen_wire::record::Internal;

impl Engine {
    /// Applies messages here, or forwards them to their partition.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn send_caps(
        &mut self,
        messages: Vec<CapMessage>,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let mut queue = VecDeque::from(self.quotas.caps.receive(messages, now)?);
        while let Some(message) = queue.pop_front() {
            let CapMessage { key, to, ref signal, .. } = message;
            match *signal {
                CapSignal::Answer { request, answer } if to == self.quotas.allocator.partition() => {
                    let more = self.quotas.take_answer(key, request, answer, now);
                    queue.extend(self.quotas.caps.receive(more, now)?);
                }
                _ => effects.forwards.push(to_partition(to, &Internal::Cap(message), false)),
            }
        }
        Ok(())
    }

    /// Reports to counters what a record made of places.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn change_caps(
        &mut self,
        changes: &[askwhen_domain::quota::cap::CapChange],
        now: Millis,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let of_requests = changes.iter().filter(|change| matches!(change.place, CapPlace::Request(_)));
        self.quotas.used = of_requests.map(|change| change.key).collect();
        if !changes.is_empty() {
            let messages = changes.iter().map(|change| self.quotas.caps.settle(*change)).collect();
            self.send_caps(messages, now, effects)?;
        }
        Ok(())
    }
}

impl Quotas {
    /// Applies an answer to a request; returns the messages that follow.
    fn take_answer(&mut self, key: CapKey, request: u64, answer: CapAnswer, now: Millis) -> Vec<CapMessage> {
        self.caps.remember(key, answer, now);
        let left = self.pending.change(request, |pending| {
            let was_awaited = pending.caps.take(key, answer);
            was_awaited.then(|| pending.caps.release())
        });
        if let Some(left) = left.flatten() {
            self.answered = true;
            let mut messages = self.give_back(left, request);
            messages.extend(self.ask_caps(request, now));
            return messages;
        }
        // It has given up, or was decided without the answer.
        match answer {
            CapAnswer::Granted => vec![self.caps.give_back(key, request)],
            CapAnswer::Refused(_) => Vec::new(),
        }
    }

    /// The messages with which a waiting request asks for its next place.
    pub(super) fn ask_caps(&mut self, request: u64, now: Millis) -> Vec<CapMessage> {
        let next = self.pending.change(request, |pending| (pending.caps.looks(), pending.caps.next()));
        let Some((looks, next)) = next else { return Vec::new() };
        next.into_iter().map(|ask| self.caps.ask(ask, request, looks, now)).collect()
    }

    /// The messages with which a request returns places that it does not use.
    pub(super) fn give_back(&self, keys: Vec<CapKey>, request: u64) -> Vec<CapMessage> {
        keys.into_iter().map(|key| self.caps.give_back(key, request)).collect()
    }
}
