//! The brokers of a log: its settings, and the clients that are shared.

use rdkafka::admin::AdminClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

use super::client::{self, Context, Health};
use super::faults::DEFINITIONS;
use super::offsets::Offsets;
use super::producer::Producer;
use super::settings::Settings;
use super::source::Source;
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_wire::topic::Topic;

pub struct Cluster {
    pub settings: Settings,
    /// Never gives up: for partitions, whose records must not have gaps.
    pub patient: Producer,
    /// Gives up in time for an answer: for requests.
    pub hasty: Producer,
    /// Consumers by purpose; kept open, because partitions come back.
    sources: Mutex<BTreeMap<&'static str, Arc<Source>>>,
    /// Asks for watermarks and offsets.
    pub offsets: Arc<Offsets>,
    pub admin: AdminClient<Context>,
    pub runtime: Handle,
    pub health: Arc<Health>,
}

impl Cluster {
    /// Creates the clients without contacting the brokers. Has to be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`Error::Refused`] for a setting that librdkafka does not accept.
    pub fn open(settings: Settings) -> Result<Arc<Cluster>, Error> {
        let health = Arc::new(Health::of(&settings));
        Ok(Arc::new(Cluster {
            runtime: Handle::try_current().map_err(|e| Error::Refused(e.to_string()))?,
            patient: Producer::patient(&settings, &health)?,
            hasty: Producer::hasty(&settings, &health)?,
            sources: Mutex::default(),
            offsets: Arc::new(Offsets::new(Arc::new(Source::open(&settings, &health, "scan")?), &settings)),
            admin: client::admin(&settings, &health)?,
            health,
            settings,
        }))
    }

    pub fn name(&self, topic: Topic) -> &str {
        self.offsets.name(topic)
    }

    /// Refuses to continue after lost records of the partitions that `concerns` selects.
    /// Lost definitions do not count, because they are written again.
    pub fn must_be_complete(&self, concerns: impl Fn(TopicPartition) -> bool) -> Result<(), Error> {
        self.health.faults.must_be_complete(|lost| lost != DEFINITIONS && concerns(lost))
    }

    /// The consumer of a purpose, shared by all its readers.
    pub fn source(&self, purpose: &'static str) -> Result<Arc<Source>, Error> {
        if purpose == "scan" {
            return Ok(self.offsets.source.clone());
        }
        let mut sources = self.sources.lock().expect("no panic holds this lock");
        if let Some(source) = sources.get(purpose) {
            return Ok(source.clone());
        }
        let source = Arc::new(self.own_source(purpose)?);
        sources.insert(purpose, source.clone());
        Ok(source)
    }

    /// A consumer that nobody else reads with.
    pub fn own_source(&self, purpose: &'static str) -> Result<Source, Error> {
        Source::open(&self.settings, &self.health, purpose)
    }
}
