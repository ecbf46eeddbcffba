//! Answers to requests that wait. Embedded, they pass through this registry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

use crate::domain::json::Json;

/// What an actor tells whoever waits for a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A body as a server key gets it, and as a client key does.
    Body {
        server: Json,
        client: Json,
    },
    Accepted {
        duplicate: bool,
        response_id: Option<String>,
    },
    Refused {
        code: &'static str,
        pointer: Option<String>,
        detail: String,
    },
    /// A partition has taken a definition; `of` partitions will say so.
    Defined {
        partition: u32,
        of: u32,
        version: u64,
        changed: bool,
        created: bool,
        used_new_secret: bool,
    },
}

/// Requests that wait for answers, by a correlation that they made up.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    waiting: Arc<Mutex<HashMap<u128, mpsc::UnboundedSender<Answer>>>>,
}

/// One waiting request; dropping it ends the wait.
#[derive(Debug)]
pub struct Waiter {
    correlation: u128,
    replies: Replies,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Replies {
    /// Begins to wait under a fresh correlation. At most as many answers come
    /// as there are partitions, so the queue needs no bound of its own.
    pub fn wait(&self) -> Waiter {
        let correlation = uuid::Uuid::new_v4().as_u128();
        let (sender, answers) = mpsc::unbounded_channel();
        self.waiting.lock().expect("no panic holds this lock").insert(correlation, sender);
        Waiter { correlation, replies: self.clone(), answers }
    }

    /// Hands an answer to whoever waits for it, if anyone still does.
    pub fn answer(&self, reply_to: &[u8], answer: Answer) {
        let correlation = std::str::from_utf8(reply_to).ok().and_then(|text| u128::from_str_radix(text, 16).ok());
        let Some(correlation) = correlation else { return };
        if let Some(sender) = self.waiting.lock().expect("no panic holds this lock").get(&correlation) {
            // The waiter may be leaving at this very moment.
            drop(sender.send(answer));
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.lock().expect("no panic holds this lock").len()
    }
}

impl Waiter {
    /// The value of the record's `reply-to` header.
    pub fn header(&self) -> String {
        format!("{:032x}", self.correlation)
    }

    pub async fn next(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.replies.waiting.lock().expect("no panic holds this lock").remove(&self.correlation);
    }
}
