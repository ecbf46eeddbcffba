//! `GET /v1/changes`: names of lists that have changed, as server-sent events. Clients read
//! the lists for the contents.

use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::app::{App, RequestContext};
use super::lists::Lists;
use super::problem::{Answer, AnswerBody, Problem};
use super::view::View;
use askwhen_wire::definition::Kind;
use askwhen_wire::listing::List;

/// The most clients that listen at once.
pub const MAX_LISTENERS: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A list is named at most once in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Proxies close connections without traffic.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Events that wait to be read; a client that reads slower gets them later.
const WAITING_PIECES: usize = 4;

const DEFINITIONS: [(&str, Kind); 6] = [
    ("surveys", Kind::Survey),
    ("endpoints", Kind::Endpoint),
    ("triggers", Kind::Trigger),
    ("settings", Kind::Settings),
    ("keys", Kind::Key),
    ("jobs", Kind::Job),
];

/// Counts of changes, as the listener last got them.
struct ChangeWatch {
    project: String,
    view: Arc<View>,
    lists: Option<Arc<dyn Lists>>,
    ending: Arc<AtomicBool>,
}

impl ChangeWatch {
    fn now(&self) -> BTreeMap<&'static str, u64> {
        let mut all: BTreeMap<&'static str, u64> =
            DEFINITIONS.iter().map(|(name, kind)| (*name, self.view.moved(&self.project, *kind))).collect();
        // The list of endpoints shows their health, too.
        *all.entry("endpoints").or_default() += self.view.moved(&self.project, Kind::Health);
        if let Some(lists) = &self.lists {
            for list in [List::Deliveries, List::Decisions, List::Responses] {
                all.insert(list.name(), lists.moved(&self.project, list));
            }
        }
        all
    }

    /// Sends changes until the client leaves or the process ends.
    async fn send(self, sender: Sender<Result<Bytes, std::io::Error>>) {
        let mut known = self.now();
        let mut sent_at: BTreeMap<&'static str, Instant> = BTreeMap::new();
        let mut spoke = Instant::now();
        let mut piece = String::from("retry: 2000\n\n");
        while !self.ending.load(Ordering::Acquire) {
            let now = Instant::now();
            for (list, count) in self.now() {
                let may = sent_at.get(list).is_none_or(|at| now.duration_since(*at) >= TELL_EVERY);
                if may && known.get(list) != Some(&count) {
                    known.insert(list, count);
                    sent_at.insert(list, now);
                    piece.push_str(&format!("event: changed\ndata: {}\n\n", json!({"list": list})));
                }
            }
            if piece.is_empty() && now.duration_since(spoke) >= SIGN_OF_LIFE {
                piece.push_str(": \n\n");
            }
            if !piece.is_empty() {
                spoke = now;
                if sender.send(Ok(Bytes::from(std::mem::take(&mut piece)))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

impl App {
    pub(super) fn changes(&self, asked: &RequestContext<'_>, is_head: bool) -> Result<Answer, Problem> {
        asked.no_query()?;
        let place = self.listeners.clone().try_acquire_owned().map_err(|_| Problem::overloaded())?;
        let body = if is_head {
            AnswerBody::whole(Bytes::new())
        } else {
            let (sender, receiver) = tokio::sync::mpsc::channel(WAITING_PIECES);
            let watch = ChangeWatch {
                project: asked.caller.project.clone(),
                view: self.view.clone(),
                lists: self.lists.clone(),
                ending: self.ending.clone(),
            };
            tokio::spawn(async move {
                watch.send(sender).await;
                drop(place);
            });
            AnswerBody::Stream(receiver)
        };
        let mut answer = Answer::new(body);
        let out = answer.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        // Proxies that buffer answers would hold events back.
        out.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(answer)
    }
}
