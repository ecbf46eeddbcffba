//! Processes: they start, die, sleep, and give partitions to each other.

use super::World;
use crate::ops::Role;
use askwhen_partition::StopReason;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl World {
    pub(super) fn start(&mut self, machine: usize) -> Result<(), String> {
        let client = self.next_client;
        self.next_client += 1;
        let log = match self.medium.open(&self.machines[machine].clock, client) {
            Ok(log) => log,
            Err(error @ askwhen_log::Error::Damaged { .. }) => {
                return Err(format!("P1: the log does not start: {error}"));
            }
            // The disk refuses; it is tried again.
            Err(_) => {
                self.machines[machine].process = None;
                self.medium.die(client, (0, false, false));
                return Ok(());
            }
        };
        self.machines[machine].start(log, client)?;
        let owned: Vec<_> = self.owners.iter().filter(|(_, of)| **of == machine).map(|(what, _)| *what).collect();
        owned.into_iter().try_for_each(|what| self.take(what, machine))
    }

    /// A machine opens what it owns; what is not there comes from a snapshot.
    pub(super) fn take(&mut self, (role, partition): (Role, u32), machine: usize) -> Result<(), String> {
        let behind = self.is_behind(machine);
        let to = &mut self.machines[machine];
        if !to.disk.has(role, partition)
            && let Some(snapshot) = self.snapshots.get(&(role, partition))
        {
            to.disk.restore((role, partition), snapshot);
        }
        let Some(process) = &mut to.process else { return Ok(()) };
        process.lost.remove(&(role, partition));
        match role {
            Role::Delivery => process.take_delivery(partition),
            Role::Engine => allowed(process.open_engine(partition), behind)?,
        }
        Ok(())
    }

    pub(super) fn kill(&mut self, machine: usize, (kept, lost_batches): (u8, u8)) {
        let Some(process) = &self.machines[machine].process else { return };
        let client = process.client;
        self.interrupt(client);
        let late = kept == 3 && self.machines.len() > 1;
        // What is written late is written by nobody's owner.
        self.zombies |= self.medium.die(client, (kept, late, lost_batches > 0));
        self.machines[machine].kill(usize::from(lost_batches));
    }

    /// While nobody runs, a bit flips; afterwards all goes on as it was.
    pub(super) fn flip(&mut self, what: (u8, u32, u8)) -> Result<(), String> {
        if !self.medium.is_disk() {
            return Ok(());
        }
        self.medium.heal();
        self.kill(0, (1, 0));
        self.medium.die(0, (1, false, false));
        self.medium.flip(&self.machines[0].clock, what)?;
        self.start(0)
    }

    /// What a client has sent and nobody has on record may be sent again.
    pub(super) fn interrupt(&mut self, client: u32) {
        let before = self.unrecorded.len();
        self.unrecorded.retain(|_, of| *of != client);
        self.interrupted += before - self.unrecorded.len();
    }

    pub(super) fn hand_over(&mut self, what: (Role, u32), to: usize, orderly: bool) -> Result<(), String> {
        let from = self.owners[&what];
        if from == to || self.machines[to].asleep || self.machines[to].process.is_none() {
            return Ok(());
        }
        if self.machines[from].asleep {
            // The group has given up on it; it does not know.
            if orderly {
                return Ok(());
            }
            self.zombies = true;
            if let Some(process) = &mut self.machines[from].process {
                process.lost.insert(what);
                let client = process.client;
                self.interrupt(client);
            }
        } else if self.machines[from].process.is_some() {
            self.give_up(what, from, orderly)?;
        }
        self.owners.insert(what, to);
        self.take(what, to)
    }

    /// An orderly leave settles and checkpoints; a lost lease just ends.
    pub(super) fn give_up(&mut self, (role, partition): (Role, u32), from: usize, settle: bool) -> Result<(), String> {
        // What was on its way arrives behind what the next owner writes.
        self.zombies |= !settle;
        let client = self.machines[from].process.as_ref().map_or(0, |process| process.client);
        self.interrupt(client);
        let machine = &mut self.machines[from];
        let Some(process) = &mut machine.process else { return Ok(()) };
        match role {
            Role::Engine => {
                if let Some(Some(mut open)) = process.engine.remove(&partition) {
                    open.stop_reading();
                    if settle {
                        open.checkpoint_now();
                        for _ in 0..10 {
                            self.medium.land_all();
                            process.checkpointer.step();
                            if open.settle() {
                                break;
                            }
                        }
                    }
                }
                if settle {
                    let store = machine.disk.snapshot(role, partition);
                    self.snapshots.insert((role, partition), store);
                }
            }
            Role::Delivery => {
                process.owned.remove(&partition);
                let gone = process.delivery.release(partition, settle);
                process.delivery.turn();
                let is_gone = || gone.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected);
                if !is_gone() {
                    // What is still on its way is not waited for any longer.
                    machine.clock.pass(Duration::from_secs(6));
                    process.delivery.turn();
                    machine.clock.set_wall(self.now + machine.wall_off_ms);
                }
                if !is_gone() {
                    return Err("a partition of the delivery is not given up".into());
                }
                let sent = process.outbox.take();
                sent.into_iter().try_for_each(|attempt| self.arrive(client, attempt))?;
            }
        }
        Ok(())
    }

    pub(super) fn wake(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        machine.asleep = false;
        if let Some(process) = &machine.process
            && !process.lost.is_empty()
        {
            process.fresh.store(false, Ordering::Release);
        }
    }

    pub(super) fn learn(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        if machine.asleep {
            return;
        }
        let Some(process) = &mut machine.process else { return };
        for (role, partition) in std::mem::take(&mut process.lost) {
            match role {
                Role::Engine => drop(process.engine.remove(&partition)),
                Role::Delivery => {
                    process.owned.remove(&partition);
                    drop(process.delivery.release(partition, false));
                    process.delivery.turn();
                }
            }
        }
        process.fresh.store(true, Ordering::Release);
    }

    pub(super) fn step_engine(&mut self, machine: usize, which: u8) -> Result<(), String> {
        let behind = self.is_behind(machine);
        let machine = &mut self.machines[machine];
        let Some(process) = machine.awake() else { return Ok(()) };
        if process.engine.is_empty() {
            return Ok(());
        }
        let which = usize::from(which) % process.engine.len();
        let (partition, open) = process.engine.iter_mut().nth(which).expect("below its length");
        let partition = *partition;
        let Some(open) = open else { return allowed(process.open_engine(partition), behind) };
        if let Err(stop) = open.step() {
            process.engine.insert(partition, None);
            return allowed(Err(stop), behind);
        }
        Ok(())
    }

    pub(super) fn turn(&mut self, machine: usize) -> Result<(), String> {
        let Some(process) = self.machines[machine].awake() else { return Ok(()) };
        let client = process.client;
        let (sent, _) = process.turn();
        sent.into_iter().try_for_each(|attempt| self.arrive(client, attempt))
    }
}

/// A stop is legal while the clock is behind, and whenever work is to be done again.
fn allowed(done: Result<(), StopReason>, behind: bool) -> Result<(), String> {
    match done {
        Ok(()) | Err(StopReason::Restart(_)) => Ok(()),
        Err(_) if behind => Ok(()),
        Err(stop) => Err(format!("a partition has stopped: {stop}")),
    }
}
