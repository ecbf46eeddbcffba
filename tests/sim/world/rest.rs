//! Everything is healed, and runs until nothing is left to do.

use super::World;
use crate::ops::Reply;
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_partition::StopReason;
use askwhen_wire::topic::Topic;

impl World {
    /// Heals everything and lets it run until nothing is left to do.
    ///
    /// # Errors
    /// When it does not come to rest.
    pub fn rest(&mut self) -> Result<(), String> {
        self.medium.heal();
        self.end_with_the_log();
        for machine in &mut self.machines {
            machine.wall_off_ms = 0;
        }
        // A clock that was ahead has stamped the journal of a disk: its partitions
        // wait until time has come there.
        self.pass((self.furthest - self.now).max(0));
        for machine in 0..self.machines.len() {
            self.wake(machine);
            self.learn(machine);
            if self.machines[machine].process.is_none() {
                self.start(machine)?;
            }
        }
        let (mut idle, mut quiet) = (0, 0);
        for _ in 0..20_000 + self.journal_records() {
            self.step += 1;
            // A sync that failed before everything was healed is heard of when a later
            // write waits for it.
            if self.end_with_the_log() {
                self.start(0)?;
            }
            self.observe()?;
            if self.round()? {
                (idle, quiet) = (0, 0);
                continue;
            }
            idle += 1;
            if idle < 2 {
                continue;
            }
            let next_due = self.next_due();
            quiet = if next_due.is_none() && self.waiting()?.is_empty() { quiet + 1 } else { 0 };
            // Whoever waits for a grant would have been served meanwhile.
            if quiet == 4 {
                self.checkpoint_all()?;
                return self.observe();
            }
            // What is left waits for its time.
            let wait = next_due.map_or(1_000, |due| (due - self.now).clamp(600, 3_600_000));
            self.pass(wait);
            idle = 0;
        }
        Err(format!("it does not come to rest; deliveries that wait: {:?}", self.waiting()?))
    }

    /// A partition that has lost its state reads its journal again, a record or two in a round.
    fn journal_records(&self) -> u64 {
        let journals = (0..self.partitions).map(|partition| TopicPartition { topic: Topic::Events, partition });
        journals.filter_map(|at| self.medium.bounds(at)).map(|bounds| bounds.end).sum()
    }

    /// Ends the process of a log that has failed, as a supervisor does. Returns whether it had.
    fn end_with_the_log(&mut self) -> bool {
        let has_failed = self.medium.has_failed();
        if has_failed {
            self.kill(0, (0, 0));
        }
        has_failed
    }

    pub(super) fn round(&mut self) -> Result<bool, String> {
        let mut worked = self.medium.land_all();
        for machine in 0..self.machines.len() {
            let Some(process) = self.machines[machine].awake() else { continue };
            let partitions: Vec<u32> = process.engine.keys().copied().collect();
            for partition in partitions {
                let stepped = match process.engine.get_mut(&partition).and_then(Option::as_mut) {
                    None => process.open_engine(partition).map(|()| true),
                    Some(open) => open.step().map(|progress| progress == askwhen_partition::Progress::Worked),
                };
                match stepped {
                    Ok(some) => worked |= some,
                    Err(StopReason::Restart(_)) => {
                        worked = true;
                        process.engine.insert(partition, None);
                    }
                    // It goes on when its clock is right.
                    Err(StopReason::Waits { .. }) => {}
                    Err(stop) => return Err(format!("partition {partition} has stopped: {stop}")),
                }
            }
            worked |= process.checkpointer.step();
            worked |= process.projection.step().map_err(|e| e.to_string())?;
            let client = process.client;
            let (sent, busy) = process.turn();
            worked |= busy;
            sent.into_iter().try_for_each(|attempt| self.arrive(client, attempt))?;
        }
        while !self.pending.is_empty() {
            worked = true;
            self.reply(0, Reply::Fine);
        }
        Ok(worked)
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        processes.filter_map(|process| process.status.next_due()).min()
    }

    /// Deliveries that have not ended, and requests that wait for a grant.
    pub(super) fn waiting(&self) -> Result<Vec<String>, String> {
        let mut waiting = Vec::new();
        for process in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            for partition in &process.owned {
                let rows = process.delivery.waiting(*partition).map_err(|e| e.to_string())?;
                waiting.extend(rows.into_iter().map(|row| {
                    let (id, endpoint) = (row.delivery.delivery_id, row.delivery.endpoint_id);
                    format!(
                        "{id} to {endpoint} {:?} since {} ms, attempts {}",
                        row.phase,
                        self.now - row.due_at,
                        row.attempt
                    )
                }));
            }
        }
        Ok(waiting)
    }

    pub(super) fn checkpoint_all(&mut self) -> Result<(), String> {
        for machine in 0..self.machines.len() {
            let Some(process) = self.machines[machine].awake() else { continue };
            for (partition, open) in &mut process.engine {
                let Some(open) = open else { return Err(format!("partition {partition} is not open")) };
                let mut settled = false;
                for _ in 0..10 {
                    if !settled {
                        open.checkpoint_now();
                    }
                    self.medium.land_all();
                    process.checkpointer.step();
                    settled = open.settle();
                }
                if !settled {
                    return Err(format!("the checkpoint of partition {partition} does not settle"));
                }
            }
        }
        Ok(())
    }
}
