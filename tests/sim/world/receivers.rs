//! Receivers of webhooks: what must never reach one, and what they answer.

use super::{Arrival, World};
use crate::ops::Reply;
use askwhen::delivery::{SimulatedAttempt, SimulatedReply};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_wire::topics::Source;

impl World {
    pub(super) fn arrive(&mut self, client: u32, attempt: SimulatedAttempt) -> Result<(), String> {
        let delivery = attempt.delivery();
        let id = &delivery.delivery_id;
        let about = format!("attempt {} of {id} ({})", attempt.number(), delivery.message.kind.name());
        if attempt.started_at < attempt.due_at() && !self.stepped {
            return Err(format!("{about} was sent before it was due"));
        }
        if !self.zombies {
            if let Some(at_step) = self.ended.get(id) {
                return Err(format!("{about} was sent after its end, seen at step {at_step}"));
            }
            let source = Source::parse(attempt.source().as_bytes());
            let erased = self.erased.get(&delivery.user_id).into_iter().flatten().find(|erased| {
                let before = source.is_some_and(|source| {
                    source.partition == erased.source.partition && source.offset < erased.source.offset
                });
                before && erased.at_step < self.step && delivery.message.kind != EventType::Erased
            });
            if erased.is_some() {
                return Err(format!("{about} was sent after its user was erased"));
            }
        }
        self.unrecorded.insert((id.clone(), attempt.number()), client);
        self.arrivals.push(Arrival {
            delivery_id: id.clone(),
            message_id: delivery.message_id.clone(),
            endpoint_id: delivery.endpoint_id.clone(),
            attempt: attempt.number(),
            body: attempt.body.clone(),
        });
        self.pending.push((client, attempt));
        Ok(())
    }

    pub(super) fn reply(&mut self, which: usize, reply: Reply) {
        if self.pending.is_empty() {
            return;
        }
        let (client, attempt) = self.pending.remove(which % self.pending.len());
        let status = |code, retry_after| SimulatedReply::Status { code, retry_after };
        let reply = match reply {
            Reply::Fine => status(200, None),
            Reply::Busy => status(429, Some(90_000)),
            Reply::Broken => status(500, None),
            Reply::Refused => status(400, None),
            Reply::Gone => status(410, None),
            Reply::Hang => SimulatedReply::Hang,
            Reply::Drop => SimulatedReply::Drop,
        };
        let of = self.machines.iter().find(|m| m.process.as_ref().is_some_and(|p| p.client == client));
        let now = of.map_or(self.now, |machine| machine.clock.now());
        attempt.end(reply, now);
    }
}
