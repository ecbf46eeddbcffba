//! A deterministic simulation: one thread, one printed seed. The real engine,
//! delivery, registrar, quotas and projection run on machines around one log,
//! and everything that a network, a disk, a clock or an operator may do happens
//! to them. Which faults are legal stands where they are made: of brokers in
//! `log::simulated`, of a disk in `log::disk::simulated`, of stores in
//! `store::memory`, of machines below.
//!
//! Clients send, repeat and give up; they own no machine. Receivers answer 2xx,
//! 4xx, 5xx, hang or drop. A machine's wall clock steps both ways; time itself
//! only goes on. A process may die between any two of its steps, with a power
//! cut of its disk or without; sleep, lose its partitions, and go on as a
//! zombie until it hears of it. After everything has come to rest, `check` holds
//! all that can be seen against the promises.
//!
//!     ASKWHEN_SIM_SEED=7              one seed, as it was
//!     ASKWHEN_SIM_SEEDS=1000          so many, from ASKWHEN_SIM_FROM on
//!     ASKWHEN_SIM_STEPS=1000000       operations of each

mod bodies;
mod chance;
mod check;
mod machine;
mod medium;
mod model;
mod ops;
mod shrink;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use askwhen_process::fault;
use ops::Op;
use world::{Shape, World};

const SEEDS: u64 = 50;
/// A long list says so often how far it is.
const TOLD_EVERY: usize = 50_000;
/// Longer lists, and many more seeds, are for `script/soak`.
const STEPS: usize = 10_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number: {text}")))
}

/// What a seed simulates.
fn shape(seed: u64) -> Shape {
    let (partitions, machines, on_disk) =
        [(3, 1, false), (2, 2, false), (3, 3, false), (2, 1, true), (3, 1, true)][(seed % 5) as usize];
    Shape { partitions, machines, on_disk, has_aliases: seed.is_multiple_of(3), seed }
}

fn operations(seed: u64, steps: usize) -> Vec<Op> {
    let mut ops = ops::list(seed, steps, shape(seed));
    ops.push(Op::Calm { check: true });
    ops
}

/// Runs a list; gives the operation at which it fails, and why.
fn run(seed: u64, ops: &[Op]) -> Result<World, (usize, String)> {
    let mut at = 0;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(shape(seed)).map_err(|why| (0, why))?;
        for (n, op) in ops.iter().enumerate() {
            at = n;
            if n > 0 && n.is_multiple_of(TOLD_EVERY) {
                println!("seed {seed}: {n} operations are done");
            }
            world.perform(*op).map_err(|why| (n, why))?;
        }
        Ok(world)
    }));
    ran.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err((at, format!("it panics: {}", said.unwrap_or_default())))
    })
}

/// Says how to see a failure again, with as few operations as can be found.
fn report(seed: u64, ops: &[Op], (at, why): (usize, &str)) -> String {
    println!("ASKWHEN_SIM_SEED={seed} fails at operation {at}: {why}\na shorter list is looked for");
    let ops = &ops[..=at];
    let mut last = why.to_owned();
    // The same failure, and not any other that a list full of holes may have.
    let kind = |why: &str| why.chars().filter(char::is_ascii_alphabetic).take(16).collect::<String>();
    let mut shorter = shrink::shrink(ops, |ops| match run(seed, ops) {
        Err((_, now)) if kind(&now) == kind(why) => {
            last = now;
            true
        }
        _ => false,
    });
    if let Err((at, _)) = run(seed, &shorter) {
        shorter.truncate(at + 1);
    }
    let list: Vec<String> = shorter.iter().map(|op| format!("    {op:?}")).collect();
    format!(
        "ASKWHEN_SIM_SEED={seed} fails at operation {at}: {why}\nthe shortest list found ({} operations) fails with: {last}\n{}",
        shorter.len(),
        list.join("\n")
    )
}

fn check_seed(seed: u64, steps: usize) {
    let ops = operations(seed, steps);
    if let Err((at, why)) = run(seed, &ops) {
        panic!("{}", report(seed, &ops, (at, &why)));
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    let steps = number("ASKWHEN_SIM_STEPS").map_or(STEPS, |steps| steps as usize);
    if let Some(seed) = number("ASKWHEN_SIM_SEED") {
        println!("ASKWHEN_SIM_SEED={seed}");
        return check_seed(seed, steps);
    }
    let (first, count) = (number("ASKWHEN_SIM_FROM").unwrap_or(1), number("ASKWHEN_SIM_SEEDS").unwrap_or(SEEDS));
    println!("seeds {first} to {}, {steps} operations each", first + count - 1);
    let next = AtomicU64::new(first);
    // One thread for each simulation; as many simulations as there are cores.
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    check_seed(seed, steps);
                }
            });
        }
    });
}

#[test]
fn a_seed_does_the_same_again() {
    let trace = |seed: u64| {
        let ops = operations(seed, 2_000);
        let world = run(seed, &ops).unwrap_or_else(|(at, why)| panic!("seed {seed} at {at}: {why}"));
        let arrived: Vec<String> = world.arrivals.iter().map(|a| format!("{}/{}", a.delivery_id, a.attempt)).collect();
        (world.now, world.requests.len(), arrived)
    };
    for seed in [3, 4, 5, 6] {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

/// Deliberate bugs are found, and within the seeds that always run.
#[test]
fn every_deliberate_bug_is_found() {
    // They are in builds with debug assertions alone.
    const { assert!(fault::ENABLED) };
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for mutant in fault::MUTANTS {
        fault::set_mutant(Some(mutant));
        let found = (1..=SEEDS).find_map(|seed| {
            let ops = operations(seed, 2_000);
            run(seed, &ops).err().map(|(at, why)| (seed, at, why))
        });
        fault::set_mutant(None);
        match found {
            Some((seed, at, why)) => println!("{mutant}: seed {seed}, operation {at}: {why:.200}"),
            None => missed.push(mutant),
        }
    }
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "deliberate bugs that no seed finds: {missed:?}");
}

#[test]
fn a_failing_list_is_made_short() {
    fault::set_mutant(Some("send_early"));
    let found = (1..=SEEDS).find_map(|seed| {
        let ops = operations(seed, 2_000);
        run(seed, &ops).err().map(|(at, why)| report(seed, &ops, (at, &why)))
    });
    fault::set_mutant(None);
    let report = found.expect("it is found");
    let operations = report.lines().filter(|line| line.starts_with("    ")).count();
    println!("{report}");
    assert!(operations < 200, "{report}");
}
