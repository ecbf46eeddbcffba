//! From the store into the ordering queues: what is due is taken up line by line, so much
//! of each that no endpoint's backlog keeps another's out of memory.

use super::Loop;
use crate::delivery::fold::{Due, Error, Fold, FoldEvent, before, due_id, split};
use crate::delivery::ordering::Item;
use askwhen_domain::time::Millis;

/// What ids held in memory take at most, but for a few of each line; the rest
/// waits in the store.
const LANES_BYTES: usize = 8 << 20;
/// Of one line while there is room, when there is not, and when the few of many
/// lines have taken as much again.
const LINE_MOST: usize = 1_024;
const LINE_FEW: usize = 16;
const LINE_LEAST: usize = 1;
/// Of one partition's part of it at a time: then whichever is due first.
const STRETCH: usize = 32;
/// Stretches taken up in one turn.
const LINES_A_TURN: usize = 512;

/// One endpoint's part of a partition's due index.
#[derive(Default)]
pub(super) struct EndpointQueue {
    /// Everything up to here is in memory.
    loaded: Vec<u8>,
    /// When the next one behind that is due.
    due: Option<Millis>,
}

impl Loop {
    /// Takes up a partition that has just been opened.
    pub(super) fn begin(&mut self, partition: u32) -> Result<(), Error> {
        let (now, watched) = (self.time.now(), self.setup.status.watched);
        let Some(fold) = self.fold_mut(partition) else { return Ok(()) };
        if !watched {
            let early = fold.pull_in(now)?;
            if early > 0 {
                tracing::warn!(partition, early, "retries were put off by a clock that was ahead: they are due now");
            }
        }
        let (endpoints, queue_ids) = (fold.endpoints()?, fold.queue_ids()?);
        for update in endpoints {
            for queue_id in self.endpoints.take(update) {
                self.ordering.look_again(queue_id);
            }
        }
        for (queue_id, due) in queue_ids {
            self.plan(partition, queue_id, due);
        }
        Ok(())
    }

    /// Something of a line is due then, or sooner than was known.
    fn plan(&mut self, partition: u32, queue_id: u64, due: Millis) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        let known = part.queues.entry(queue_id).or_default();
        if known.due.is_some_and(|known| known <= due) {
            return;
        }
        if let Some(before) = known.due.replace(due) {
            self.timer_queue.remove(&(before, partition, queue_id));
        }
        self.timer_queue.insert((due, partition, queue_id));
    }

    /// What is due from then on is taken up anew: its time has not come after all, or
    /// there is no room. What is in the ordering queues already is known there.
    pub(super) fn put_back(&mut self, partition: u32, queue_id: u64, due_at: Millis) {
        if let Some(known) = self.parts.get_mut(&partition).and_then(|part| part.queues.get_mut(&queue_id)) {
            let before = before(queue_id, due_at);
            if known.loaded > before {
                known.loaded = before;
            }
        }
        self.plan(partition, queue_id, due_at);
    }

    /// New dues behind what is loaded are found by the next load.
    pub(super) fn hear(&mut self, partition: u32, heard: Vec<FoldEvent>) -> Result<(), Error> {
        for one in heard {
            match one {
                FoldEvent::Due(due) => {
                    let (queue_id, due_at) = split(&due.key);
                    let loaded =
                        self.parts[&partition].queues.get(&queue_id).is_some_and(|queue| due.key <= queue.loaded);
                    if loaded && self.ordering.queued_of(queue_id) < self.line_most(queue_id) {
                        self.enqueue(partition, due);
                    } else {
                        self.put_back(partition, queue_id, due_at);
                    }
                }
                FoldEvent::Endpoint(update) => {
                    for queue_id in self.endpoints.take(update) {
                        self.ordering.look_again(queue_id);
                    }
                }
                // An attempt of this process is under way until everything of it is
                // written. Another one's may stay without what follows from it.
                FoldEvent::FollowUpMissing { delivery_id } if !self.in_flight.contains_key(&delivery_id) => {
                    self.write_missing_of(partition, &delivery_id)?;
                }
                FoldEvent::FollowUpMissing { .. } => {}
                FoldEvent::Cancelled { delivery_ids } => {
                    for id in delivery_ids {
                        // What is under way says itself how it has ended.
                        if let Some(flight) = self.in_flight.get_mut(&id) {
                            flight.is_cancelled = true;
                            continue;
                        }
                        self.write_missing_of(partition, &id)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes up what is due; gives whether there was anything.
    pub(super) fn load(&mut self, now: Millis) -> bool {
        let now = if askwhen_process::fault::mutant("send_early") {
            now.saturating_add(askwhen_domain::time::HOUR)
        } else {
            now
        };
        let mut worked = false;
        for _ in 0..LINES_A_TURN {
            let Some((due, partition, queue_id)) = self.timer_queue.first().copied().filter(|(due, ..)| *due <= now)
            else {
                break;
            };
            self.timer_queue.remove(&(due, partition, queue_id));
            let room = self.line_most(queue_id).saturating_sub(self.ordering.queued_of(queue_id));
            if room == 0 {
                let full = self.full.entry(queue_id).or_default();
                if !full.contains(&partition) {
                    full.push(partition);
                }
                continue;
            }
            worked = true;
            if let Err(error) = self.load_line(partition, queue_id, now, room) {
                self.fail(partition, &error);
            }
        }
        worked
    }

    fn line_most(&self, queue_id: u64) -> usize {
        match self.ordering.queued_bytes() {
            bytes if bytes < LANES_BYTES && !self.endpoints.is_held(queue_id) => LINE_MOST,
            bytes if bytes < 2 * LANES_BYTES => LINE_FEW,
            _ => LINE_LEAST,
        }
    }

    fn load_line(&mut self, partition: u32, queue_id: u64, now: Millis, room: usize) -> Result<(), Error> {
        let Some(part) = self.parts.get_mut(&partition) else { return Ok(()) };
        let (Some(fold), Some(known)) = (part.fold.as_deref(), part.queues.get_mut(&queue_id)) else {
            return Ok(());
        };
        let (due, next) = fold.due(queue_id, &known.loaded, now, room.min(STRETCH))?;
        if let Some(last) = due.last() {
            known.loaded.clone_from(&last.key);
        }
        known.due = next;
        self.timer_queue.extend(next.map(|due| (due, partition, queue_id)));
        due.into_iter().for_each(|due| self.enqueue(partition, due));
        Ok(())
    }

    /// A line has been emptied: what waits behind it is taken up.
    pub(super) fn refill(&mut self, queue_id: u64) {
        if self.ordering.queued_of(queue_id) > self.line_most(queue_id) / 2 {
            return;
        }
        let waiting = self.full.remove(&queue_id).unwrap_or_default();
        self.plan_again(queue_id, waiting);
    }

    /// There may be room for what these partitions have due there.
    fn plan_again(&mut self, queue_id: u64, partitions: Vec<u32>) {
        for partition in partitions {
            let due = self.parts.get(&partition).and_then(|part| part.queues.get(&queue_id)?.due);
            self.timer_queue.extend(due.map(|due| (due, partition, queue_id)));
        }
    }

    /// Whether it is still to be sent is looked at when it is its turn.
    pub(super) fn enqueue(&mut self, partition: u32, due: Due) {
        let delivery_id = due_id(&due.key);
        if !self.held.insert(delivery_id.clone()) {
            self.deferred.insert(delivery_id, (partition, due));
            return;
        }
        let (queue_id, due_at) = split(&due.key);
        self.ordering.push(Item {
            partition,
            delivery_id,
            due_at,
            first: due.first,
            queue_id,
            ordering_key: due.ordering_key,
        });
    }

    /// Starts nothing more of a partition.
    pub(super) fn drop_agenda(&mut self, partition: u32) {
        self.timer_queue.retain(|(_, of, _)| *of != partition);
        if let Some(part) = self.parts.get_mut(&partition) {
            part.queues.clear();
        }
        // What filled a line may have been this partition's: the others' turn.
        for (queue_id, partitions) in std::mem::take(&mut self.full) {
            self.plan_again(queue_id, partitions);
        }
    }

    pub(super) fn fold(&self, partition: u32) -> Option<&Fold> {
        self.parts.get(&partition)?.fold.as_deref()
    }
}
