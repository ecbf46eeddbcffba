//! What a record costs the engine by the history of its user: events of twenty
//! surveys and triggers, over users who come equally often and by Zipf's law, on
//! RocksDB with checkpoints, in one process and without a log. CPU of the whole
//! process, by tenths of the run, and how large states are at its end.
//! `ASKWHEN_BENCH_RECORDS` says how many records (2000000), `ASKWHEN_BENCH_USERS`
//! how many users there are (1000000).

mod common;

use common::machine::EngineAlone;
use common::{Dice, Distribution, cpu_us, load, setting};

const SURVEYS: u64 = 20;

fn run(distribution: Distribution, users: u64) {
    let (name, records) = (distribution.name(), setting("ASKWHEN_BENCH_RECORDS", 2_000_000));
    let mut engine = EngineAlone::open();
    engine.define_surveys(SURVEYS, |_| "Main".into());
    let mut dice = Dice(7);
    let mut tenths = Vec::new();
    let begun = cpu_us();
    for _ in 0..10 {
        let before = cpu_us();
        for _ in 0..records / 10 {
            let user = distribution.user(&mut dice, users);
            let event = match dice.roll() % 50 {
                0 => None,
                which => Some(format!("event-{}", which % SURVEYS)),
            };
            engine.tell(user, event.as_deref());
        }
        tenths.push((cpu_us() - before) / (records / 10) as f64);
    }
    engine.checkpoint();
    let each = (cpu_us() - begun) / records as f64;
    let tenths: Vec<String> = tenths.iter().map(|us| format!("{us:.1}")).collect();
    println!("{name}: {each:.2} CPU-µs each; by tenths {}; load {:.1}", tenths.join(" "), load());
    let sizes = engine.user_sizes();
    let at = |share: f64| sizes[((sizes.len() - 1) as f64 * share) as usize];
    println!("{name}: {} users, bytes p50 {}, p99 {}, largest {}", sizes.len(), at(0.5), at(0.99), at(1.0));
}

fn main() {
    let users = setting("ASKWHEN_BENCH_USERS", 1_000_000);
    run(Distribution::Uniform, users);
    run(Distribution::Zipf, users);
}
