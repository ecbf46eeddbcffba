//! Every metric, declared once. Label values come from closed sets; no user,
//! survey, URL or endpoint ever becomes one.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::sync::OnceLock;

pub struct Metrics {
    registry: Registry,
    process: Registry,
    pub bridge_requests: IntCounterVec,
    pub bridge_request_seconds: Histogram,
    pub bridge_ack_seconds: Histogram,
    pub bridge_connections: IntGauge,
    pub bridge_evictions: IntCounterVec,
    pub bridge_client_quotas: IntGauge,
    pub engine_records: IntCounterVec,
    pub engine_decisions: IntCounterVec,
    pub engine_decision_latency_seconds: Histogram,
    pub engine_lag_records: IntGaugeVec,
    pub engine_lag_seconds: GaugeVec,
    pub engine_rejects: IntCounterVec,
    pub engine_misplaced: IntCounter,
    pub engine_remembered_rows: IntGaugeVec,
    pub delivery_attempts: IntCounterVec,
    pub delivery_attempt_seconds: Histogram,
    pub delivery_latency_seconds: Histogram,
    pub delivery_due_lag_seconds: Histogram,
    pub delivery_waiting: IntGaugeVec,
    pub delivery_inflight: IntGauge,
    pub delivery_endpoints: IntGaugeVec,
    pub delivery_transitions: IntCounterVec,
    pub delivery_dead: IntCounterVec,
    pub delivery_connections: IntGauge,
    pub delivery_done_rows: IntGauge,
    pub console_rows: IntGaugeVec,
    pub console_unreadable: IntCounterVec,
    pub store_bytes: IntGaugeVec,
    pub log_append_seconds: Histogram,
    pub log_bytes: IntGaugeVec,
    pub snapshot_seconds: Histogram,
    pub snapshot_failures: IntCounter,
    pub snapshot_age_seconds: Gauge,
    pub disk_free_bytes: Gauge,
    pub memory_bytes: IntGaugeVec,
    pub memory_users: IntGauge,
    pub memory_counters: IntGauge,
    pub process_lost_log_lines: IntCounterVec,
    pub process_panics: IntCounter,
}

static METRICS: OnceLock<Metrics> = OnceLock::new();

/// The metrics of the process.
pub fn get() -> &'static Metrics {
    METRICS.get_or_init(|| Metrics::new().expect("names are valid and used once"))
}

/// The metrics of the process, if they have been created.
pub fn known() -> Option<&'static Metrics> {
    METRICS.get()
}

/// Buckets in seconds, from a tenth of a millisecond to a minute.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

impl Metrics {
    fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new_custom(Some("askwhen".into()), None)?;
        let histogram = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let build = gauges("build_info", "Always 1; the version is the label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let engine_lag_seconds = GaugeVec::new(
            Opts::new("engine_lag_seconds", "Age of the oldest journal record not yet applied."),
            &["partition"],
        )?;
        registry.register(Box::new(engine_lag_seconds.clone()))?;
        let disk_free_bytes = Gauge::new("disk_free_bytes", "Free bytes on the disk of the data directory.")?;
        registry.register(Box::new(disk_free_bytes.clone()))?;
        let snapshot_failures = IntCounter::new("store_snapshot_failures_total", "Snapshots that were not taken.")?;
        registry.register(Box::new(snapshot_failures.clone()))?;
        let snapshot_age_seconds = Gauge::new(
            "store_snapshot_age_seconds",
            "Since every open store was last found covered by a snapshot, or since the start.",
        )?;
        registry.register(Box::new(snapshot_age_seconds.clone()))?;
        let engine_misplaced =
            IntCounter::new("engine_misplaced_records_total", "Records moved to the partition of their user.")?;
        registry.register(Box::new(engine_misplaced.clone()))?;
        // Without the prefix: dashboards expect `process_*` by these names.
        let process = Registry::new();
        #[cfg(target_os = "linux")]
        process.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let memory_bytes = gauges("memory_bytes", "Who holds how much of the configured memory.", &["part"])?;
        let process_panics = IntCounter::new("process_panics_total", "Panics; those of a thread that serves end it.")?;
        registry.register(Box::new(process_panics.clone()))?;
        let metrics = Metrics {
            bridge_requests: counters("bridge_requests_total", "Requests answered.", &["route", "status"])?,
            bridge_request_seconds: histogram("bridge_request_seconds", "From a request's head to its answer.")?,
            bridge_ack_seconds: histogram("bridge_ack_seconds", "From an append to its acknowledgement.")?,
            bridge_connections: gauge("bridge_connections", "Open connections.")?,
            bridge_evictions: counters(
                "bridge_evictions_total",
                "Connections asked to give way, by what had run out.",
                &["reason"],
            )?,
            bridge_client_quotas: gauge("bridge_client_quotas", "Users of client keys whose quota is remembered.")?,
            engine_records: counters("engine_records_total", "Journal records applied.", &["type"])?,
            engine_decisions: counters("engine_decisions_total", "Decisions by their reason.", &["reason"])?,
            engine_decision_latency_seconds: histogram(
                "engine_decision_latency_seconds",
                "From a trigger's append to its decision.",
            )?,
            engine_lag_records: gauges("engine_lag_records", "Journal records not yet applied.", &["partition"])?,
            engine_lag_seconds,
            engine_rejects: counters("engine_rejects_total", "Records that could not be taken.", &["kind"])?,
            engine_remembered_rows: gauges(
                "engine_remembered_rows",
                "Ids, requests and erased users that are known by a hash, about.",
                &["partition"],
            )?,
            engine_misplaced,
            delivery_attempts: counters("delivery_attempts_total", "Attempts by their outcome.", &["outcome"])?,
            delivery_attempt_seconds: histogram("delivery_attempt_seconds", "Duration of an attempt.")?,
            delivery_latency_seconds: histogram(
                "delivery_latency_seconds",
                "From a message's creation to its delivery.",
            )?,
            delivery_due_lag_seconds: histogram("delivery_due_lag_seconds", "How late an attempt began.")?,
            delivery_waiting: gauges("delivery_waiting", "Deliveries not yet ended.", &["class"])?,
            delivery_inflight: gauge("delivery_inflight", "Attempts under way.")?,
            delivery_endpoints: gauges("delivery_endpoints", "Endpoints by their state.", &["state"])?,
            delivery_transitions: counters(
                "delivery_endpoint_transitions_total",
                "Changes of endpoints' states, by the state that they came to.",
                &["state"],
            )?,
            delivery_dead: counters("delivery_dead_total", "Deliveries given up.", &["reason"])?,
            delivery_connections: gauge("delivery_connections", "Connections to receivers, in use or idle.")?,
            delivery_done_rows: gauge("delivery_done_rows", "Ends of deliveries that are remembered, about.")?,
            console_rows: gauges("console_rows", "Rows of the lists that name no row of their own.", &["kind"])?,
            console_unreadable: counters(
                "console_unreadable_records_total",
                "Records that the lists leave out because they cannot be read.",
                &["topic"],
            )?,
            store_bytes: gauges("store_bytes", "Bytes of the engine's tables on disk.", &["partition"])?,
            log_bytes: gauges("log_bytes", "Bytes of the embedded log's segments.", &["topic"])?,
            log_append_seconds: histogram("log_append_seconds", "Writing and syncing a group of records.")?,
            snapshot_seconds: histogram("store_snapshot_seconds", "Taking a snapshot of one store.")?,
            snapshot_failures,
            snapshot_age_seconds,
            disk_free_bytes,
            memory_users: memory_bytes.with_label_values(&["users"]),
            memory_counters: memory_bytes.with_label_values(&["counters"]),
            memory_bytes,
            process_lost_log_lines: counters(
                "process_lost_log_lines_total",
                "Log lines that standard error did not take.",
                &["reason"],
            )?,
            process_panics,
            process,
            registry,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// Creates counters that alerts look at before their first event.
    fn begin(&self) {
        for kind in ["forged", "invalid_json", "missing_field", "panic", "unknown_type", "wrong_type"] {
            self.engine_rejects.with_label_values(&[kind]).inc_by(0);
        }
        for outcome in askwhen_wire::topics::Outcome::ALL {
            self.delivery_attempts.with_label_values(&[outcome.name()]).inc_by(0);
        }
        for reason in ["connections", "memory"] {
            self.bridge_evictions.with_label_values(&[reason]).inc_by(0);
        }
        for reason in ["failed", "overflow"] {
            self.process_lost_log_lines.with_label_values(&[reason]).inc_by(0);
        }
        for state in ["healthy", "degraded", "open", "half_open", "disabled"] {
            self.delivery_transitions.with_label_values(&[state]).inc_by(0);
        }
        for reason in ["attempts_exhausted", "max_age", "terminal_status", "endpoint_removed"] {
            self.delivery_dead.with_label_values(&[reason]).inc_by(0);
        }
    }

    /// The text for `/metrics`.
    pub fn render(&self) -> String {
        let mut families = self.registry.gather();
        families.extend(self.process.gather());
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }
}
