//! What a simulation does, as a list that a seed makes. An operation names what
//! it concerns by numbers that are taken modulo what there is when its turn
//! comes: so a list stays meaningful when some of it is left out.

use crate::chance::Chance;
use crate::world::Shape;

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Fine,
    Busy,
    Broken,
    Refused,
    Gone,
    Hang,
    Drop,
}

/// What a process owns partitions of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Engine,
    Delivery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    // What clients ask.
    Event {
        user: u8,
        name: u8,
        id: u8,
        misplaced: bool,
    },
    Ask {
        user: u8,
        survey: u8,
    },
    Displayed {
        user: u8,
        which: u8,
    },
    Dismissed {
        user: u8,
        which: u8,
    },
    Answer {
        user: u8,
        which: u8,
        completed: bool,
    },
    Attributes {
        user: u8,
    },
    Erase {
        user: u8,
    },
    /// One of the names that become each other's becomes an alias of another.
    Alias {
        user: u8,
        alias: u8,
    },
    /// An earlier request once more, under its own id.
    Again {
        which: u16,
    },
    Define {
        variant: u8,
    },
    Endpoint {
        variant: u8,
    },
    Junk {
        partition: u8,
        variant: u8,
    },
    // What time does.
    Pass {
        ms: u32,
    },
    /// The log's own time, and everyone's, goes on by years.
    Years {
        years: u8,
    },
    /// A process's wall clock steps, both ways.
    Wall {
        process: u8,
        by_ms: i64,
    },
    // What processes do, one step at a time.
    Step {
        process: u8,
        which: u8,
    },
    Turn {
        process: u8,
    },
    Project {
        process: u8,
    },
    Freeze {
        process: u8,
        which: u8,
    },
    WriteCheckpoint {
        process: u8,
    },
    Snapshot {
        which: u8,
    },
    // What the log and the network do.
    Land {
        queue: u8,
        count: u8,
    },
    LandAll,
    TimeOut {
        queue: u8,
    },
    Refuse {
        queue: u8,
    },
    Reply {
        which: u8,
        reply: Reply,
    },
    // What befalls processes.
    Kill {
        process: u8,
        kept: u8,
        lost_batches: u8,
    },
    Start {
        process: u8,
    },
    Move {
        role: Role,
        partition: u8,
        to: u8,
        orderly: bool,
    },
    Sleep {
        process: u8,
    },
    Wake {
        process: u8,
    },
    /// A process that has slept hears what the group has decided meanwhile.
    Learn {
        process: u8,
    },
    // What befalls the disk, where the log is on one.
    DiskError {
        after: u8,
        which: u8,
    },
    /// The disk has so much room and no more, or again enough.
    DiskRoom {
        megabytes: u8,
    },
    /// A bit flips at rest.
    Flip {
        file: u8,
        byte: u32,
        bit: u8,
    },
    /// Everything comes to rest, and other users come; with `check` everything is
    /// checked, which costs as much as there is.
    Calm {
        check: bool,
    },
}

/// Which operations a seed prefers: each seed leaves some out, so that what
/// needs many of the others happens, too.
fn weights(chance: &mut Chance, shape: Shape) -> Vec<(u64, u8)> {
    let (several, on_disk) = (u64::from(shape.machines > 1), shape.on_disk);
    let mut all: Vec<(u64, u8)> = vec![
        (160, 0),
        (140, 1),
        (70, 2),
        (15, 3),
        (80, 4),
        (5, 5),
        (6, 6),
        (12, 34),
        (50, 7),
        (6, 8),
        (4, 9),
        (6, 10),
        (120, 11),
        (3, 13),
        (330, 14),
        (250, 15),
        (30, 16),
        (25, 17),
        (40, 18),
        (6, 19),
        (240, 20),
        (30, 21),
        (6, 22),
        (6, 23),
        (140, 24),
        (7, 25),
        (25, 26),
        (12 * several, 27),
        (5 * several, 28),
        (10 * several, 29),
        (10 * several, 30),
        (8 * u64::from(on_disk), 31),
        (4 * u64::from(on_disk), 32),
        (2 * u64::from(on_disk), 33),
    ];
    all.retain(|(_, kind)| *kind != 34 || shape.has_aliases);
    for (weight, kind) in &mut all {
        // Without these nothing moves.
        let needed = [0, 1, 11, 14, 15, 20, 24, 26, 29, 30].contains(kind);
        match chance.below(6) {
            0 if !needed => *weight = 0,
            1 => *weight = (*weight / 4).max(u64::from(*weight > 0)),
            2 => *weight *= 3,
            _ => {}
        }
    }
    all
}

const CALM_EVERY: usize = 2_500;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// The operations of a seed.
pub fn list(seed: u64, count: usize, shape: Shape) -> Vec<Op> {
    let mut chance = Chance::new(seed);
    let weights = weights(&mut chance, shape);
    let years_at = (chance.below(4) == 0).then(|| chance.below(count as u64) as usize);
    // However long the list is, everything is looked at only a few times.
    let check_every = CALM_EVERY.max(count / 4);
    let mut ops = Vec::with_capacity(count);
    for n in 0..count {
        let op = if n % CALM_EVERY == CALM_EVERY - 1 {
            Op::Calm { check: n % check_every < CALM_EVERY }
        } else if Some(n) == years_at {
            Op::Years { years: 10 }
        } else {
            let kind = chance.weighted(&weights);
            one(kind, &mut chance, shape.on_disk)
        };
        ops.push(op);
    }
    ops
}

fn one(kind: u8, chance: &mut Chance, on_disk: bool) -> Op {
    let [a, b, c] = [(); 3].map(|()| chance.below(256) as u8);
    match kind {
        0 => Op::Event { user: a, name: b, id: c, misplaced: chance.percent(15) },
        1 => Op::Ask { user: a, survey: b },
        2 => Op::Displayed { user: a, which: b % 3 },
        3 => Op::Dismissed { user: a, which: b % 3 },
        4 => Op::Answer { user: a, which: b % 3, completed: chance.percent(60) },
        5 => Op::Attributes { user: a },
        6 => Op::Erase { user: a },
        7 => Op::Again { which: chance.below(40) as u16 },
        8 => Op::Define { variant: a },
        9 => Op::Endpoint { variant: a },
        10 => Op::Junk { partition: a, variant: b },
        11 => {
            let ms = chance.weighted(&[(60, 900), (25, 20_000), (12, 300_000), (2, 3_600_000), (1, 9_000_000)]);
            Op::Pass { ms: 1 + chance.below(ms) as u32 }
        }
        13 => {
            let far = chance.weighted(&[(4, HOUR), (2, 4 * MINUTE), (1, 10 * 365 * 24 * HOUR)]);
            let ahead = chance.percent(50);
            // A log on a disk has no other time than its machine's: once it is far
            // ahead, it stays so.
            let far = if ahead && on_disk { 4 * MINUTE } else { far };
            Op::Wall { process: a, by_ms: if ahead { far } else { -far } }
        }
        14 => Op::Step { process: a, which: b },
        15 => Op::Turn { process: a },
        16 => Op::Project { process: a },
        17 => Op::Freeze { process: a, which: b },
        18 => Op::WriteCheckpoint { process: a },
        19 => Op::Snapshot { which: a },
        20 => Op::Land { queue: a, count: 1 + b % 6 },
        21 => Op::LandAll,
        22 => Op::TimeOut { queue: a },
        23 => Op::Refuse { queue: a },
        24 => {
            let reply = chance.weighted(&[
                (50, Reply::Fine),
                (12, Reply::Broken),
                (5, Reply::Busy),
                (4, Reply::Refused),
                (1, Reply::Gone),
                (6, Reply::Hang),
                (6, Reply::Drop),
            ]);
            Op::Reply { which: a, reply }
        }
        25 => Op::Kill { process: a, kept: b % 4, lost_batches: if chance.percent(40) { c % 8 } else { 0 } },
        26 => Op::Start { process: a },
        27 => {
            let role = if chance.percent(50) { Role::Engine } else { Role::Delivery };
            Op::Move { role, partition: a, to: b, orderly: chance.percent(70) }
        }
        28 => Op::Sleep { process: a },
        29 => Op::Wake { process: a },
        30 => Op::Learn { process: a },
        31 => Op::DiskError { after: a % 12, which: b },
        32 => Op::DiskRoom { megabytes: if chance.percent(60) { 0 } else { a } },
        34 => Op::Alias { user: a, alias: b },
        33 => Op::Flip { file: a, byte: chance.below(1 << 20) as u32, bit: b % 8 },
        _ => unreachable!("no such kind"),
    }
}
