//! What a record costs the engine by the history of its user: events of twenty
//! surveys and triggers, over users who come equally often and by Zipf's law, on
//! RocksDB with checkpoints, in one process and without a log. CPU of the whole
//! process, by tenths of the run, and how large states are at its end.
//! `ASKWHEN_BENCH_RECORDS` says how many records (2000000), `ASKWHEN_BENCH_USERS`
//! how many users there are (1000000).

use askwhen::engine::families;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_partition::{Machine as _, RecordContext};
use askwhen_store::{Batch, Rocks, Shared, Store};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{self, Decoded, Define, Internal};
use serde_json::json;
use std::sync::Arc;

const SURVEYS: u64 = 20;
const CACHE_BYTES: usize = 512 << 20;
const DIRTY_BYTES: usize = 32 << 20;
const BEGIN: i64 = 1_800_000_000_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// CPU time that this process has used, in microseconds.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10_000.0
}

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// From 0 up to 1.
    fn share(&mut self) -> f64 {
        self.roll() as f64 / (1u64 << 31) as f64
    }
}

struct Bench {
    engine: askwhen::engine::Engine,
    store: Arc<Store>,
    offset: u64,
    now: i64,
}

impl Bench {
    fn apply(&mut self, decoded: Decoded<'_>) {
        let origin = Origin { incarnation: 7, partition: 0, offset: self.offset };
        let at = RecordContext { origin, now: self.now, partitions: 1, reply_to: None };
        self.offset += 1;
        let effects = self.engine.apply(at, decoded).expect("it applies");
        let refused = matches!(effects.reply, Some(askwhen_partition::EngineReply::Refused { .. }));
        assert!(!refused, "{:?}", effects.reply);
        std::hint::black_box(&effects);
        for outgoing in effects.forwards {
            let value = outgoing.value.as_str().as_bytes().to_vec();
            self.apply(record::decode(Some(&value), true).expect("our own"));
        }
        if self.engine.dirty_bytes() >= DIRTY_BYTES {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        let mut batch: Batch = self.engine.freeze(self.now)();
        batch.put(families::META, b"place".to_vec(), self.offset.to_be_bytes().to_vec());
        self.store.write(batch).expect("written");
        self.engine.persisted();
    }

    fn define(&mut self, id: &str, body: &serde_json::Value) {
        let define = Define {
            project: "default".into(),
            kind: Kind::Survey,
            id: id.into(),
            body: Some(Json::of(body)),
            new_secret: None,
            if_match: None,
            create: false,
            asked_at: self.now,
            request_id: format!("define-{id}"),
            actor: None,
        };
        self.apply(Decoded::Internal(Box::new(Internal::Define(define))));
    }
}

fn run(name: &str, mut user: impl FnMut(&mut Dice) -> u64) {
    let records = setting("ASKWHEN_BENCH_RECORDS", 2_000_000);
    let dir = tempfile::tempdir().expect("a folder");
    let rocks = Rocks::open(dir.path(), families::ALL, &Shared::new(256 << 20)).expect("it opens");
    let store = Arc::new(Store::Rocks(rocks));
    let engine = askwhen::engine::Engine::open(store.clone(), 0, 1, CACHE_BYTES).expect("it opens");
    let mut bench = Bench { engine, store, offset: 0, now: BEGIN };
    for n in 0..SURVEYS {
        bench.define(
            &format!("survey-{n}"),
            &json!({"survey_id": format!("survey-{n}"), "name": "S", "status": "active", "activate": {"event": format!("event-{n}")},
                "expires_after": "24h", "show_on": [{"trigger": "Main"}],
                "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]}),
        );
    }
    let mut dice = Dice(7);
    let mut tenths = Vec::new();
    let begun = cpu_us();
    for tenth in 0..10 {
        let before = cpu_us();
        for n in tenth * records / 10..(tenth + 1) * records / 10 {
            let user = user(&mut dice);
            let at = askwhen_domain::time::format_time(bench.now);
            let head = format!(
                "\"project\":\"default\",\"user_id\":\"user-{user}\",\"event_id\":\"id-{n}\",\"received_at\":\"{at}\""
            );
            let value = match dice.roll() % 50 {
                0 => format!("{{\"type\":\"trigger\",{head},\"trigger\":\"Main\",\"properties\":{{}}}}"),
                which => format!(
                    "{{{head},\"event_name\":\"event-{}\",\"properties\":{{\"title\":\"War and Peace\",\"n\":{n}}}}}",
                    which % SURVEYS
                ),
            };
            bench.apply(record::decode(Some(value.as_bytes()), false).expect("a record"));
            bench.now += i64::from(n % 4 == 0);
        }
        tenths.push((cpu_us() - before) / (records / 10) as f64);
    }
    bench.checkpoint();
    let each = (cpu_us() - begun) / records as f64;
    let tenths: Vec<String> = tenths.iter().map(|us| format!("{us:.1}")).collect();
    println!("{name}: {each:.2} CPU-µs each; by tenths {}", tenths.join(" "));
    let rows = bench.store.ascending(families::USERS, &[], usize::MAX).expect("readable");
    let mut sizes: Vec<usize> = rows.iter().map(|(_, value)| value.len()).collect();
    sizes.sort_unstable();
    let at = |share: f64| sizes[((sizes.len() - 1) as f64 * share) as usize];
    println!("{name}: {} users, bytes p50 {}, p99 {}, largest {}", sizes.len(), at(0.5), at(0.99), at(1.0));
}

fn main() {
    let users = setting("ASKWHEN_BENCH_USERS", 1_000_000);
    run("uniform", |dice| dice.roll() % users);
    // The n-th user comes n times less often than the first.
    let harmonic = (users as f64).ln();
    run("Zipf(1.0)", |dice| (dice.share() * harmonic).exp() as u64);
}
