//! Explanations and timelines: what was known of a user and what happened, read from the
//! journal.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use super::app::{App, RequestContext, run_blocking};
use super::history::{ExplainRequest, ExplainTrigger, HistoryError, JournalLookup, TimelineEntry, TimelineRequest};
use super::list_routes::{bad_cursor, page, unlisted};
use super::problem::{Answer, Problem, json_answer};
use askwhen_domain::id;
use askwhen_domain::limits::MAX_OFFER_KNOWN;
use askwhen_domain::record::Context;
use askwhen_domain::time::{self, Millis};
use askwhen_partition::EngineReply;
use askwhen_wire::definition::Code;
use askwhen_wire::json as strict;
use askwhen_wire::listing::{Filter, List, PageRequest};

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// More lines are read than shown, because lines of the cursor's own time may be among
/// them.
const SAME_TIME: usize = 200;
/// Decisions that are searched for the offers of answers.
const MAX_DECISIONS: usize = 1_000;
/// The most aliases whose records are shown with the user's; each is searched in its
/// partition.
const SHOWN_ALIASES: usize = 8;

/// A position in a timeline: time and id of the last line shown.
struct TimelineCursor {
    at: Millis,
    id: String,
}

impl TimelineCursor {
    fn parse(text: &str) -> Result<TimelineCursor, Problem> {
        let bytes = hex::decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad_cursor)?;
        let (at, id) = bytes.split_once(' ').ok_or_else(bad_cursor)?;
        Ok(TimelineCursor { at: at.parse().map_err(|_| bad_cursor())?, id: id.to_owned() })
    }

    fn encode(entry: &TimelineEntry) -> String {
        hex::encode(format!("{} {}", entry.0, entry.1))
    }
}

impl App {
    pub(super) async fn explain(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let known = ["trigger", "at", "properties", "platform", "locale", "app_version", "session_id", "timezone"];
        let query = page(asked.query, &known)?;
        let trigger = query.text("trigger");
        if let Some(Err(why)) = trigger.as_deref().map(id::check) {
            return Err(Problem::field(Code::BadId, "", format!("trigger {why}")));
        }
        let properties = query.text("properties").unwrap_or_else(|| "{}".into());
        let wanted = || Problem::field(Code::WrongType, "", "properties must be a JSON object");
        let properties = strict::check(properties.as_bytes()).ok().filter(|text| text.starts_with('{'));
        let properties = properties.ok_or_else(wanted)?;
        let context = Context {
            platform: query.text("platform"),
            locale: query.text("locale"),
            app_version: query.text("app_version"),
            session_id: query.text("session_id"),
            timezone: query.text("timezone"),
        };
        let properties = properties.to_owned();
        let request = ExplainRequest {
            project: asked.caller.project.clone(),
            user_id: asked.route.parts[0].clone(),
            at: query.time("at")?,
            trigger: trigger.map(|trigger| ExplainTrigger { trigger, properties, context }),
        };
        let explained = self.read_history(move |history| history.explain(request)).await?;
        Ok(json_answer(200, explained.to_string()))
    }

    pub(super) async fn timeline(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let query = page(asked.query, &["since", "until"])?;
        let (project, user_id) = (asked.caller.project.clone(), asked.route.parts[0].clone());
        let since = query.time("since")?.unwrap_or(0);
        let cursor = query.cursor.as_deref().map(TimelineCursor::parse).transpose()?;
        // `until` is exclusive; further lines of a cursor's own time may follow.
        let until = query.time("until")?.map_or(Millis::MAX, |until| until.saturating_sub(1));
        let until = cursor.as_ref().map_or(until, |cursor| cursor.at.min(until));
        let limit = query.limit;
        let mut entries = Vec::new();
        let names = self.names_of(&project, &user_id).await;
        for (name, gone_at) in &names {
            let until = gone_at.map_or(until, |gone_at| gone_at.min(until));
            entries.extend(self.entries_under(&project, name, since, until, limit).await?);
        }
        self.hide_answers(&project, &names, &mut entries).await?;
        entries.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
        if let Some(cursor) = cursor {
            entries.retain(|(at, id, _)| (*at, id.as_str()) < (cursor.at, cursor.id.as_str()));
        }
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(TimelineCursor::encode);
        let items: Vec<Value> = entries.into_iter().map(|(_, _, shown)| shown).collect();
        Ok(json_answer(200, json!({"items": items, "next_cursor": next}).to_string()))
    }

    /// The user's name and the newest aliases, each with the time when it was merged. Only
    /// the engine knows them; when it does not answer, the requested name is used alone,
    /// because that works while a partition stands still.
    async fn names_of(&self, project: &str, name: &str) -> Vec<(String, Option<Millis>)> {
        let only = vec![(name.to_owned(), None)];
        if !self.takes_requests {
            return only;
        }
        let Ok(Some(EngineReply::Body { server, .. })) = self.show_user(project, name).await else { return only };
        let view = server.value();
        let owner = view["user_id"].as_str().unwrap_or(name).to_owned();
        let alias = |alias: &Value| {
            let since = time::parse_time(alias["since"].as_str()?).ok()?;
            Some((alias["alias"].as_str()?.to_owned(), Some(since)))
        };
        let aliases = view["aliases"].as_array().into_iter().flatten().rev().filter_map(alias);
        std::iter::once((owner, None)).chain(aliases.take(SHOWN_ALIASES)).collect()
    }

    /// The lines recorded under one name from `since` to `until`, both inclusive, newest first.
    async fn entries_under(
        &self,
        project: &str,
        name: &str,
        since: Millis,
        until: Millis,
        limit: usize,
    ) -> Result<Vec<TimelineEntry>, Problem> {
        let mut entries = self.listed_entries(project, name, since, until, limit).await?;
        let (project, user_id) = (project.to_owned(), name.to_owned());
        let request = TimelineRequest { project, user_id, since, until, limit: limit + 1 + SAME_TIME };
        entries.extend(self.read_history(move |history| history.timeline(request)).await?);
        entries.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
        if let Some(erased) = entries.iter().position(|(_, _, shown)| shown["kind"] == "erased") {
            // From before an erasure only deliveries are shown, whose outcomes stay listed.
            let mut n = 0;
            entries.retain(|(_, _, shown)| {
                n += 1;
                n <= erased + 1 || shown["kind"] == "delivery"
            });
        }
        Ok(entries)
    }

    /// The newest decisions and deliveries of a user from `since` to `until`, both inclusive.
    async fn listed_entries(
        &self,
        project: &str,
        user_id: &str,
        since: Millis,
        until: Millis,
        limit: usize,
    ) -> Result<Vec<TimelineEntry>, Problem> {
        let lists = self.lists().await?;
        let filter = Filter {
            user_id: Some(user_id.to_owned()),
            since: (since > 0).then_some(since),
            until: until.checked_add(1).filter(|_| until < Millis::MAX),
            ..Filter::default()
        };
        let mut entries = Vec::new();
        for (list, kind, time_member, id_member) in [
            (List::Decisions, "decision", "decided_at", "decision_id"),
            (List::Deliveries, "delivery", "created_at", "delivery_id"),
        ] {
            let wanted = PageRequest::first(limit + 1 + SAME_TIME);
            for mut row in lists.list(list, project, &filter, wanted).map_err(unlisted)?.rows {
                let Some(at) = row[time_member].as_str().and_then(|at| time::parse_time(at).ok()) else { continue };
                let id = row[id_member].as_str().unwrap_or_default().to_owned();
                (row["kind"], row["at"]) = (kind.into(), time::format_time(at).into());
                entries.push((at, id, row));
            }
        }
        Ok(entries)
    }

    /// Removes answers to anonymous surveys, and answers older than their survey's
    /// `retention`: the journal contains them until it is trimmed, but they are not shown.
    async fn hide_answers(
        &self,
        project: &str,
        names: &[(String, Option<Millis>)],
        entries: &mut [TimelineEntry],
    ) -> Result<(), Problem> {
        let is_answer = |entry: &&mut TimelineEntry| entry.2["kind"] == "answers";
        let Some(first_at) = entries.iter_mut().filter(is_answer).map(|entry| entry.0).min() else { return Ok(()) };
        let anonymous = self.view.anonymous_surveys(project);
        let kept_since = self.view.kept_since(project, self.clock.now());
        if anonymous.is_empty() && kept_since.is_empty() {
            return Ok(());
        }
        // The survey of an offer is in the decision that made it, which may lie before the
        // span.
        let lists = self.lists().await?;
        let mut decisions = Vec::new();
        for (name, _) in names {
            let filter = Filter {
                user_id: Some(name.clone()),
                since: Some(first_at.saturating_sub(MAX_OFFER_KNOWN)),
                ..Filter::default()
            };
            let wanted = PageRequest::first(MAX_DECISIONS);
            decisions.extend(lists.list(List::Decisions, project, &filter, wanted).map_err(unlisted)?.rows);
        }
        let offers = decisions.iter().filter_map(|row| {
            let survey = &row["survey"];
            Some((survey["offer_id"].as_str()?, (survey["survey_id"].as_str()?, survey["anonymous"] == true)))
        });
        let offers: BTreeMap<&str, (&str, bool)> = offers.collect();
        for (at, _, shown) in entries.iter_mut().filter(is_answer) {
            let subject = match (shown["survey_id"].as_str(), shown["offer_id"].as_str()) {
                (Some(survey_id), _) => Some((survey_id, anonymous.contains(survey_id))),
                (None, offer_id) => offer_id.and_then(|offer_id| offers.get(offer_id).copied()),
            };
            // The survey of an offer that is not listed any more is unknown.
            let (is_anonymous, is_known) = subject.map_or((true, false), |(survey_id, is_anonymous)| {
                (is_anonymous, kept_since.get(survey_id).is_none_or(|since| *at >= *since))
            });
            if is_anonymous {
                shown["anonymous"] = true.into();
            }
            if is_anonymous || !is_known {
                shown["answers"] = json!([]);
            }
        }
        Ok(())
    }

    /// Reads the journal beside other requests, a few at a time.
    async fn read_history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn JournalLookup) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Problem> {
        let Some(reader) = self.history.clone() else {
            let detail = "this process does not run the role console";
            return Err(Problem::later(503, "no_console", detail, Duration::from_secs(60)));
        };
        let turn = tokio::time::timeout(TURN, reader.turns.acquire()).await;
        let Ok(Ok(turn)) = turn else { return Err(Problem::overloaded()) };
        let history = reader.history.clone();
        let read_result = run_blocking(move || read(&*history)).await;
        drop(turn);
        read_result?.map_err(|error| match error {
            HistoryError::Trimmed(why) => Problem::new(410, "gone", why.to_string()),
            HistoryError::Unreachable(why) => {
                Problem::later(503, "log_unavailable", &why.to_string(), Duration::from_secs(5))
            }
            HistoryError::Failed(why) => Problem::new(500, "internal", why.to_string()),
        })
    }
}
