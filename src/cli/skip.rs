//! `askwhen skip`: skips a record that ends the process.

use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::client::Client;
use super::context::{BrokerArgs, Context, Failure, Format, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;
use crate::supervisor::repair;
use askwhen_log::TopicPartition;
use askwhen_wire::topic::Topic;

#[derive(Debug, Args)]
pub struct SkipArgs {
    #[command(flatten)]
    pub brokers: BrokerArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// The record, such as events/3@1234 or deliveries/3@1234, or its topic
    #[arg(value_name = "RECORD")]
    record: String,
    /// Its partition, where RECORD is a topic
    #[arg(value_name = "PARTITION", requires = "offset")]
    partition: Option<u32>,
    /// Its offset, where RECORD is a topic
    #[arg(value_name = "OFFSET")]
    offset: Option<u64>,
}

impl SkipArgs {
    fn place(&self) -> Result<(TopicPartition, u64), Failure> {
        let shape = || {
            Failure::usage(format!(
                "{:?} names no record: write it as TOPIC/PARTITION@OFFSET, such as events/3@1234, or as three words: TOPIC \
                 PARTITION OFFSET",
                self.record
            ))
        };
        let (at, offset) = match (self.partition, self.offset) {
            (Some(partition), Some(offset)) => {
                let topic = Topic::by_name(&self.record).ok_or_else(shape)?;
                (TopicPartition { topic, partition }, offset)
            }
            _ => {
                let (at, offset) = self.record.split_once('@').ok_or_else(shape)?;
                (at.parse().map_err(|()| shape())?, offset.parse().map_err(|_| shape())?)
            }
        };
        if !at.topic.is_skippable() {
            return Err(Failure::usage(format!(
                "only records of the journal (topic events) and of those that the delivery reads (deliveries, \
                 deliveries.retry.*, attempts, dead) are skipped; nothing stops at one of topic {}",
                at.topic.name()
            )));
        }
        Ok((at, offset))
    }
}

pub async fn run(context: &Context, args: &SkipArgs) -> Result<(), Failure> {
    let (at, offset) = args.place()?;
    if repair::is_served(&context.config) || args.server.is_given() {
        let client = Client::new(context, &args.server, Kind::Admin)?;
        let path = format!("/v1/journal/{}/skip", at.partition);
        client.expect(Method::POST, &path, Some(&json!({"topic": at.topic.name(), "offset": offset}))).await?;
    } else {
        let config = context.config.clone();
        let done = tokio::task::spawn_blocking(move || repair::skip(&config, at, offset)).await;
        done.map_err(|e| Failure::failed(e.to_string()))?.map_err(super::serve::failure)?;
    }
    if context.format == Format::Json {
        output::json(&json!({"topic": at.topic.name(), "partition": at.partition, "offset": offset, "skipped": true}));
    } else {
        output::line(&format!("{at}@{offset} is skipped: it becomes a reject with reason `skipped` and its raw bytes"));
    }
    Ok(())
}
