//! The engine in this process: on RocksDB with checkpoints, and without a log.

use askwhen::engine::families;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::time::format_time;
use askwhen_partition::{EngineReply, Machine as _, RecordContext};
use askwhen_store::{Batch, Rocks, Shared, Store};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{self, Decoded, Define, Internal};
use serde_json::Value;
use std::sync::Arc;

const STORE_BYTES: usize = 256 << 20;
const DIRTY_BYTES: usize = 32 << 20;
const BEGIN: i64 = 1_800_000_000_000;

pub struct EngineAlone {
    engine: askwhen::engine::Engine,
    store: Arc<Store>,
    offset: u64,
    pub now: i64,
    _dir: tempfile::TempDir,
}

impl EngineAlone {
    pub fn open() -> EngineAlone {
        let dir = tempfile::tempdir().expect("a folder");
        let rocks = Rocks::open(dir.path(), families::ALL, &Shared::new(STORE_BYTES)).expect("it opens");
        let store = Arc::new(Store::Rocks(rocks));
        let cached = super::setting("ASKWHEN_BENCH_CACHE_MIB", 512) as usize * (1 << 20);
        let engine = askwhen::engine::Engine::open(store.clone(), 0, 1, cached).expect("it opens");
        EngineAlone { engine, store, offset: 0, now: BEGIN, _dir: dir }
    }

    /// Gives the body of the answer, if it has one.
    fn apply(&mut self, decoded: Decoded<'_>) -> Option<Json> {
        let origin = Origin { incarnation: 7, partition: 0, offset: self.offset };
        let reply_to = bytes::Bytes::from_static(b"here");
        let at = RecordContext { origin, now: self.now, partitions: 1, reply_to: Some(&reply_to), passed_on: None };
        self.offset += 1;
        let effects = self.engine.apply(at, decoded).expect("it applies");
        let refused = matches!(effects.reply, Some(EngineReply::Refused { .. }));
        assert!(!refused, "{:?}", effects.reply);
        std::hint::black_box(&effects);
        let late = effects.late_replies.into_iter().map(|(_, reply)| reply);
        let body = effects.reply.into_iter().chain(late).find_map(|reply| match reply {
            EngineReply::Body { server, .. } => Some(server),
            _ => None,
        });
        for outgoing in effects.forwards {
            let value = outgoing.value.as_str().as_bytes().to_vec();
            self.apply(record::decode(Some(&value), true).expect("our own"));
        }
        if self.engine.dirty_bytes() >= DIRTY_BYTES {
            self.checkpoint();
        }
        body
    }

    /// A record as it stands in the journal; gives the body of the answer, if it has one.
    pub fn record(&mut self, value: &str) -> Option<Json> {
        let body = self.apply(record::decode(Some(value.as_bytes()), false).expect("a record"));
        self.now += i64::from(self.offset.is_multiple_of(4));
        body
    }

    /// An event of a user, or with no name a trigger at `Main`.
    pub fn tell(&mut self, user: u64, event: Option<&str>) {
        let (n, at) = (self.offset, format_time(self.now));
        let head = format!(
            "\"project\":\"default\",\"user_id\":\"user-{user}\",\"event_id\":\"id-{n}\",\"received_at\":\"{at}\""
        );
        let value = match event {
            None => format!("{{\"type\":\"trigger\",{head},\"trigger\":\"Main\",\"properties\":{{}}}}"),
            Some(name) => {
                format!("{{{head},\"event_name\":\"{name}\",\"properties\":{{\"title\":\"War and Peace\",\"n\":{n}}}}}")
            }
        };
        self.record(&value);
    }

    pub fn checkpoint(&mut self) {
        let mut batch: Batch = self.engine.freeze(self.now)();
        batch.put(families::META, b"place".to_vec(), self.offset.to_be_bytes().to_vec());
        self.store.write(batch).expect("written");
        self.engine.persisted();
    }

    pub fn define(&mut self, id: &str, body: &Value) {
        self.define_as(Kind::Survey, id, body);
    }

    pub fn define_as(&mut self, kind: Kind, id: &str, body: &Value) {
        let define = Define {
            project: "default".into(),
            kind,
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

    /// Surveys that events `event-N` arm for a day, and that show on one trigger.
    pub fn define_surveys(&mut self, count: u64, trigger: impl Fn(u64) -> String) {
        self.define_surveys_with(count, trigger, &serde_json::json!({}));
    }

    /// The same with a quota each that is never used up.
    pub fn define_limited_surveys(&mut self, count: u64, trigger: impl Fn(u64) -> String) {
        self.define_surveys_with(count, trigger, &serde_json::json!({"max_completed": 1_000_000}));
    }

    fn define_surveys_with(&mut self, count: u64, trigger: impl Fn(u64) -> String, limits: &Value) {
        for n in 0..count {
            let id = format!("survey-{n}");
            let body = serde_json::json!({"limits": limits, "survey_id": id, "name": "S", "status": "active",
                "activate": {"event": format!("event-{n}")}, "expires_after": "24h", "show_on": [{"trigger": trigger(n)}],
                "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]});
            self.define(&id, &body);
        }
    }

    /// Bytes of all counters of caps, and of what else quotas keep, as they are stored.
    pub fn quota_bytes(&self) -> usize {
        let rows = self.store.ascending(families::QUOTAS, &[], usize::MAX).expect("readable");
        rows.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Bytes of each stored user, the smallest first.
    pub fn user_sizes(&self) -> Vec<usize> {
        let rows = self.store.ascending(families::USERS, &[], usize::MAX).expect("readable");
        let mut sizes: Vec<usize> = rows.iter().map(|(_, value)| value.len()).collect();
        sizes.sort_unstable();
        sizes
    }
}
