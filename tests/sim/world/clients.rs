//! Clients: what they append, under which users and ids.

use super::{FORGED, Request, World, signer};
use crate::bodies::{self, EVENTS, SURVEYS, trigger_of};
use crate::ops::Op;
use askwhen_domain::id;
use askwhen_log::{Ack, NewRecord, TopicPartition};
use askwhen_wire::record::{AliasRequest, Erase, Internal};
use askwhen_wire::topic::Topic;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Users from this number on have names that become each other's.
const ALIASED_FROM: u8 = 208;
const ALIASED_NAMES: u8 = 5;
/// How such names begin.
pub const ALIASED: &str = "a";

impl World {
    pub(super) fn append(&mut self, partition: u32, new: NewRecord, repeatable: bool) {
        let at = TopicPartition { topic: Topic::Events, partition };
        let (sender, receiver) = oneshot::channel();
        // Else nobody listens.
        let Some(bridge) = self.medium.bridge() else { return };
        bridge.append(at, vec![new.clone()], Ack::Once(sender));
        self.unanswered.push(self.requests.len());
        self.requests.push(Request {
            at,
            new,
            answer: Some(receiver),
            outcome: None,
            generation: self.generation,
            repeatable,
            asked_at_step: self.step,
            told_at_step: 0,
        });
    }

    pub(super) fn internal(&mut self, partition: u32, internal: &Internal) {
        let new = signer().internal(partition, "k", internal);
        self.append(partition, new, false);
    }

    pub(super) fn user_record(&mut self, user_id: &str, value: &Value, misplaced: bool) {
        let owner = id::partition_of(user_id, self.partitions);
        let partition = if misplaced { (owner + 1) % self.partitions } else { owner };
        let value = Some(value.to_string().into());
        let key = Some(user_id.to_owned().into());
        self.append(partition, NewRecord { key, headers: Vec::new(), value }, true);
    }

    /// Some users are asked of quotas alone: they may have to wait for a grant. Others have
    /// names that become each other's: these are asked of the survey of many forms, about which
    /// the naive model says nothing.
    pub(super) fn user(&self, user: u8, scarce: bool) -> String {
        if self.is_aliased(user) {
            return self.aliased(user);
        }
        let kind = if scarce { "q" } else { "u" };
        format!("{kind}{}-{}", self.generation, user % 7)
    }

    fn is_aliased(&self, user: u8) -> bool {
        self.has_aliases && user >= ALIASED_FROM
    }

    fn aliased(&self, user: u8) -> String {
        format!("{ALIASED}{}-{}", self.generation, user % ALIASED_NAMES)
    }

    /// An offer of a user; of names that become each other's, of any of them.
    pub(super) fn offer(&self, user: &str, which: u8) -> Option<String> {
        let names = (0..ALIASED_NAMES).map(|n| self.aliased(n)).filter(|_| user.starts_with(ALIASED));
        let names: Vec<String> = names.chain((!user.starts_with(ALIASED)).then(|| user.to_owned())).collect();
        let offers: Vec<&String> = names.iter().filter_map(|name| self.offers.get(name)).flatten().collect();
        offers.len().checked_sub(1 + usize::from(which)).map(|at| offers[at].clone())
    }

    pub(super) fn ask(&mut self, op: Op) {
        self.next_request += 1;
        let n = self.next_request;
        match op {
            Op::Event { user, name, id, misplaced } => {
                let user = self.user(user, user % 4 == 3);
                let (name, id) = (EVENTS[usize::from(name) % EVENTS.len()], id % 48);
                let value = json!({"user_id": user, "event_name": name, "event_id": format!("{name}{id}")});
                self.user_record(&user, &value, misplaced);
            }
            Op::Ask { user, survey } => {
                let which =
                    if self.is_aliased(user) { SURVEYS.len() } else { usize::from(survey) % (SURVEYS.len() + 1) };
                let scarce = SURVEYS.get(which).is_none_or(|survey| *survey == bodies::SCARCE);
                let user = self.user(user, scarce);
                let trigger = SURVEYS.get(which).map_or("T-noise".to_owned(), |survey| trigger_of(survey));
                let value = json!({"type": "trigger", "user_id": user, "trigger": trigger, "event_id": format!("t{n}"),
                    "context": {"session_id": "s"}});
                self.user_record(&user, &value, false);
            }
            Op::Displayed { user, which } => self.about_offer(user, which, "displayed", &json!({})),
            Op::Dismissed { user, which } => self.about_offer(user, which, "dismissed", &json!({})),
            Op::Answer { user, which, completed } => {
                let mut answers = vec![json!({"question_id": "q", "value": format!("a{}", n % 3)})];
                let offer = self.offer(&self.user(user, user.is_multiple_of(3)), which);
                if n.is_multiple_of(2) && offer.is_some_and(|offer| self.branching.contains(&offer)) {
                    answers.push(json!({"question_id": bodies::MORE, "value": "more"}));
                }
                self.about_offer(user, which, "answers", &json!({"answers": answers, "completed": completed}));
            }
            Op::Attributes { user } => {
                let user = self.user(user, false);
                let value = json!({"type": "attributes", "user_id": user, "attributes": {"plan": n % 3}});
                self.user_record(&user, &value, false);
            }
            Op::Erase { user } => {
                let user_id = self.user(user, user % 3 == 2);
                let partition = id::partition_of(&user_id, self.partitions);
                let erase = self.erase(user_id);
                self.internal(partition, &erase);
            }
            Op::Alias { user, alias } => {
                let (user_id, alias) = (self.aliased(user), self.aliased(alias));
                if user_id != alias {
                    let partition = id::partition_of(&user_id, self.partitions);
                    let (project, request_id) = (bodies::PROJECT.into(), format!("alias-{n}"));
                    let request = AliasRequest { project, user_id, alias, asked_at: self.now, request_id };
                    self.internal(partition, &Internal::Alias(request));
                }
            }
            Op::Again { which } => {
                let from_end = usize::from(which) + 1;
                if let Some(request) = self.requests.len().checked_sub(from_end).map(|at| &self.requests[at])
                    && request.repeatable
                    && request.generation == self.generation
                {
                    let (partition, new) = (request.at.partition, request.new.clone());
                    self.append(partition, new, true);
                }
            }
            Op::Define { variant } => self.internal(0, &bodies::define_noise(variant, (self.now, n))),
            Op::Endpoint { variant } => self.internal(0, &bodies::define_endpoint(variant, (self.now, n))),
            Op::Junk { partition, variant } => self.junk(u32::from(partition) % self.partitions, variant),
            _ => unreachable!("not a request"),
        }
    }

    pub(super) fn about_offer(&mut self, user: u8, which: u8, kind: &str, more: &Value) {
        let user = self.user(user, user.is_multiple_of(3));
        let Some(offer) = self.offer(&user, which) else { return };
        let mut value = json!({"type": kind, "user_id": user, "offer_id": offer});
        for (name, member) in more.as_object().into_iter().flatten() {
            value[name] = member.clone();
        }
        self.user_record(&user, &value, false);
    }

    pub(super) fn erase(&self, user_id: String) -> Internal {
        let request_id = format!("erase-{}", self.requests.len());
        Internal::Erase(Erase { project: bodies::PROJECT.into(), user_id, asked_at: self.now, request_id })
    }

    pub(super) fn junk(&mut self, partition: u32, variant: u8) {
        let user_id = self.user(variant, false);
        let signed = signer().internal(partition, "k", &self.erase(user_id));
        let forged = match variant % 4 {
            0 => NewRecord { key: None, headers: Vec::new(), value: Some("{".into()) },
            1 => NewRecord { key: None, headers: Vec::new(), value: None },
            // Without its MAC, or with one of another record.
            2 => NewRecord { headers: Vec::new(), ..signed },
            _ => NewRecord { key: Some("other".into()), ..signed },
        };
        self.append(partition, forged.header(FORGED, "1"), false);
    }
}
