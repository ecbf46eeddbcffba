//! Golden scenarios: definitions, timed inputs, expected decisions, in
//! `tests/scenarios/*.yaml`. Every input is a record as any producer may write
//! it; the first moment is Monday, 2 November 2026, midnight in UTC.
//!
//! A step has a time (`at`, which may carry `-1ms` or `+1ms`) and one of
//! `event`, `trigger`, `displayed`, `dismissed`, `answers` (with `link`, to a link
//! survey), `attributes`, `alias` (another name that becomes the user's), `erase`, `define`,
//! `settings`. `happened` is when it happened, if not `at`. A trigger
//! says what it expects: a reason, or a survey, and with `until` and `actual`
//! what the first survey's evaluation says besides; `shown` is the text of its first
//! question. Answers say how many `responses` they cause, which questions the last of these
//! has `told`, and the locale that was `spoken`; `delivered` names the endpoints that are
//! told of it, and `by` whose answers they are told: a user's, or `anonymous`.
//! `tests/programmes` has the steps for the files of `examples/programmes`.

use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply::{self, ApplyContext, CapAnswers, Output, Outputs, Reply};
use askwhen_domain::eligibility::decision::Decision;
use askwhen_domain::id::Origin;
use askwhen_domain::quota::QuotaAllocator;
use askwhen_domain::quota::cap::{CapAllocator, CapAnswer, CapAsk, CapKey, CapMessage, CapSignal};
use askwhen_domain::record::Body;
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::time::{self, Millis};
use askwhen_domain::user::User;
use askwhen_wire::definition::{self, Target, yaml};
use askwhen_wire::record::{self, Decoded};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const START: &str = "2026-11-02T00:00:00Z";
/// What a step may have.
const KNOWN: [&str; 38] = [
    "alias",
    "whose",
    "at",
    "user",
    "event",
    "trigger",
    "displayed",
    "dismissed",
    "answers",
    "attributes",
    "link",
    "erase",
    "define",
    "settings",
    "happened",
    "sent",
    "properties",
    "session",
    "platform",
    "locale",
    "app_version",
    "timezone",
    "event_id",
    "ask_again_in",
    "completed",
    "offer",
    "expect",
    "survey",
    "until",
    "actual",
    "gates",
    "refused",
    "responses",
    "told",
    "shown",
    "spoken",
    "delivered",
    "by",
];

struct Stage {
    project: Project,
    users: BTreeMap<String, User>,
    /// The last offer made to each.
    offers: BTreeMap<String, String>,
    allocator: QuotaAllocator,
    caps: CapAllocator,
    version: u64,
    offset: u64,
    now: Millis,
}

fn moment(text: &str) -> Millis {
    let start = time::parse_time(START).expect("a time");
    let (span, more) = match (text.strip_suffix("-1ms"), text.strip_suffix("+1ms")) {
        (Some(span), _) => (span, -1),
        (_, Some(span)) => (span, 1),
        _ => (text, 0),
    };
    let (span, sign) = span.strip_prefix('-').map_or((span, 1), |span| (span, -1));
    start + sign * time::parse_duration(span).unwrap_or_else(|wanted| panic!("{text}: {wanted}")) + more
}

impl Stage {
    fn define(&mut self, changes: &Value) {
        let mut survey = json!({
            "survey_id": "s", "name": "S", "status": "active", "show_on": [{"trigger": "Main"}],
            "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}],
        });
        for (name, value) in changes.as_object().expect("a survey is an object") {
            survey[name] = value.clone();
        }
        let read = definition::survey(&survey, None).unwrap_or_else(|faults| panic!("{survey}: {faults:?}"));
        // What is stored is the canonical form, and it reads back the same.
        let canonical = serde_json::to_value(&read).expect("it serialises");
        assert_eq!(definition::survey(&canonical, None).expect("canonical"), read, "{canonical}");
        self.version += 1;
        let (id, limit) = (read.survey_id.clone(), read.limits.max_completed);
        self.offset += 1;
        self.project.put_survey(self.version, read, self.now, self.offset);
        let abroad = self.allocator.set_limit(&SurveyKey::new("default", id), self.version, limit, self.now);
        assert!(abroad.is_empty(), "the only partition has the coordinator");
    }

    fn endpoint(&mut self, body: &Value) {
        self.version += 1;
        let read = definition::endpoint(body, None, Target::Check(&[])).unwrap_or_else(|faults| panic!("{faults:?}"));
        self.project.put_endpoint(self.version, read.endpoint);
    }

    fn settings(&mut self, body: &Value) {
        self.version += 1;
        let settings = definition::settings(body).unwrap_or_else(|faults| panic!("{body}: {faults:?}"));
        self.project.put_settings(self.version, settings);
    }

    fn apply(&mut self, user_id: &str, record: &Value, erase: bool) -> Outputs {
        self.offset += 1;
        let bytes = record.to_string().into_bytes();
        let decoded = record::decode(Some(&bytes), false).unwrap_or_else(|e| panic!("{record}: {e}"));
        let Decoded::User(mut record) = decoded else { panic!("{record} is no user's") };
        if erase {
            record.body = Body::Erase;
        }
        let before = self.users.entry(user_id.to_owned()).or_default().clone();
        let mut answers = CapAnswers::new();
        for round in 0..10 {
            let may_wait = round < 9;
            let key = |id: &str| SurveyKey::new("default", id);
            let status = |id: &str| (id.to_owned(), self.allocator.status(&key(id), self.now));
            let scene = ApplyContext {
                origin: Origin { incarnation: 1, partition: 0, offset: self.offset },
                now: self.now,
                project_id: "default",
                user_id,
                project: &self.project,
                quota_statuses: &apply::quota_surveys(&self.project, &record, &before).map(status).collect(),
                caps: &answers,
                may_wait,
            };
            let apply::Applied { user, out } = apply::apply(scene, &before, &record, false);
            if out.needs_grants() {
                out.needs.iter().for_each(|id| drop(self.allocator.ask(&key(id), 1, self.now)));
                self.ask_caps(&out.needs_caps, &mut answers);
                continue;
            }
            let settled: Vec<CapMessage> = out.caps.iter().map(|change| self.caps.settle(*change)).collect();
            // What was asked for and is not used goes back.
            let back = answers.keys().map(|key| self.caps.give_back(*key, self.offset));
            let settled = settled.into_iter().chain(back).collect();
            assert!(self.caps.receive(settled, self.now).is_empty(), "the only partition has all counters");
            out.quotas.iter().for_each(|(id, change)| self.allocator.change(&key(id), *change, self.now));
            self.allocator.return_unused(self.now);
            self.users.insert(user_id.to_owned(), user);
            return out;
        }
        panic!("the coordinator of the only partition answers at once");
    }

    /// Asks counters in their order; when one is full, all places go back, and the others are
    /// only looked at.
    fn ask_caps(&mut self, asks: &[CapAsk], answers: &mut CapAnswers) {
        let given: Vec<CapKey> = answers.keys().copied().collect();
        let back = given.iter().map(|key| self.caps.give_back(*key, self.offset)).collect();
        self.caps.receive(back, self.now);
        answers.retain(|_, answer| *answer != CapAnswer::Granted);
        let mut is_full = false;
        for ask in asks {
            let asked = self.caps.ask(*ask, self.offset, is_full, self.now);
            let said = self.caps.receive(vec![asked], self.now);
            let [CapMessage { key, signal: CapSignal::Answer { answer, .. }, .. }] = said[..] else {
                panic!("the only partition has all counters: {said:?}");
            };
            if answer != CapAnswer::Granted && !is_full {
                is_full = true;
                let back = answers.keys().map(|key| self.caps.give_back(*key, self.offset)).collect();
                self.caps.receive(back, self.now);
                answers.retain(|_, answer| *answer != CapAnswer::Granted);
            }
            if answer != CapAnswer::Granted || !is_full {
                answers.insert(key, answer);
            }
        }
    }

    /// The user that a name stands for.
    fn owner(&self, name: &str) -> String {
        let alias_of = self.users.get(name).and_then(User::alias_of);
        alias_of.map_or_else(|| name.to_owned(), |owner| self.owner(owner))
    }

    fn alias(&mut self, user_id: &str, alias: &str) {
        self.offset += 1;
        let context = |user_id| ApplyContext {
            origin: Origin { incarnation: 1, partition: 0, offset: self.offset },
            now: self.now,
            project_id: "default",
            user_id,
            project: &self.project,
            quota_statuses: &apply::NO_QUOTAS,
            caps: &apply::NO_CAPS,
            may_wait: false,
        };
        let theirs = self.users.get(alias).cloned().unwrap_or_default();
        assert!(theirs.alias_of().is_none(), "{alias} is nobody's alias yet");
        let departed = apply::depart(context(alias), &theirs, user_id);
        let granted = departed.holds.iter().map(|(survey_id, _)| survey_id.clone()).collect();
        let ours = self.users.get(user_id).cloned().unwrap_or_default();
        let (applied, holds) = apply::absorb(context(user_id), &ours, alias, departed.state, &granted);
        assert_eq!(holds, departed.holds, "of one partition");
        self.users.insert(alias.to_owned(), departed.left);
        self.users.insert(user_id.to_owned(), applied.user);
        if let Some(offer) = self.offers.get(alias).cloned() {
            self.offers.entry(user_id.to_owned()).or_insert(offer);
        }
    }

    fn step(&mut self, step: &Value) {
        let text = |name: &str| step[name].as_str().map(str::to_owned);
        for name in step.as_object().expect("a step is an object").keys() {
            assert!(KNOWN.contains(&name.as_str()), "a step has no {name}");
        }
        let at = moment(step["at"].as_str().expect("a step has a time"));
        assert!(at >= self.now, "time does not run backwards");
        self.now = at;
        if let Some(survey) = step.get("define") {
            return self.define(survey);
        }
        if let Some(settings) = step.get("settings") {
            return self.settings(settings);
        }
        let name = text("user").unwrap_or_else(|| "ann".into());
        let user_id = self.owner(&name);
        if let Some(whose) = text("whose") {
            assert_eq!(user_id, whose, "{step}");
        }
        if let Some(alias) = text("alias") {
            return self.alias(&user_id, &alias);
        }
        let mut record = json!({"user_id": user_id});
        for (name, member) in [("happened", "occurred_at"), ("sent", "sent_at")] {
            if let Some(told) = text(name) {
                record[member] = json!(time::format_time(moment(&told)));
            }
        }
        if step.get("sent").is_some() {
            record["received_at"] = json!(time::format_time(at));
        }
        for name in ["event_id", "properties", "attributes", "completed", "ask_again_in"] {
            if let Some(value) = step.get(name) {
                record[name] = value.clone();
            }
        }
        let mut context = json!({});
        for (name, member) in [
            ("session", "session_id"),
            ("platform", "platform"),
            ("locale", "locale"),
            ("app_version", "app_version"),
            ("timezone", "timezone"),
        ] {
            if let Some(value) = step.get(name) {
                context[member] = value.clone();
            }
        }
        let offer = text("offer").or_else(|| self.offers.get(&user_id).cloned());
        if let Some(name) = text("event") {
            (record["event_name"], record["context"]) = (json!(name), context);
        } else if let Some(trigger) = text("trigger") {
            (record["type"], record["trigger"], record["context"]) = (json!("trigger"), json!(trigger), context);
        } else if step.get("displayed").is_some() || step.get("dismissed").is_some() {
            let kind = if step.get("displayed").is_some() { "displayed" } else { "dismissed" };
            (record["type"], record["offer_id"]) = (json!(kind), json!(offer.expect("an offer was made")));
        } else if let Some(answers) = step.get("answers") {
            let given: Vec<Value> = answers
                .as_object()
                .expect("answers by question")
                .iter()
                .map(|(id, value)| json!({"question_id": id, "value": value}))
                .collect();
            (record["type"], record["answers"]) = (json!("answers"), json!(given));
            match text("link") {
                Some(survey) => record["survey_id"] = json!(survey),
                None => record["offer_id"] = json!(offer.expect("an offer was made")),
            }
        } else if step.get("attributes").is_some() {
            record["type"] = json!("attributes");
        } else if step.get("erase").is_some() {
            // No producer can write an erasure; it has no members but the user.
            record["event_name"] = json!("erase");
        } else {
            panic!("a step does something: {step}");
        }
        let outputs = self.apply(&user_id, &record, step.get("erase").is_some());
        self.check(step, &user_id, outputs);
    }

    fn check(&mut self, step: &Value, user_id: &str, outputs: Outputs) {
        if let Some(count) = step["responses"].as_u64() {
            let found = outputs.items.iter().filter(|item| matches!(item, Output::Response { .. })).count();
            assert_eq!(found as u64, count, "responses of {step}");
        }
        let told = outputs.items.iter().rev().find_map(|item| match item {
            Output::Response { data, .. } => Some(data),
            _ => None,
        });
        if let Some(wanted) = step.get("told") {
            let ids = told.map(|data| data.answers.iter().map(|answer| &*answer.question_id).collect::<Vec<_>>());
            assert_eq!(json!(ids), *wanted, "told by {step}");
        }
        if let Some(wanted) = step.get("spoken") {
            assert_eq!(json!(told.map(|data| &data.locale)), *wanted, "spoken in {step}");
        }
        if let Some(wanted) = step["by"].as_str() {
            let sent = outputs.items.iter().filter_map(|item| match item {
                Output::Delivery(delivery) => delivery.message.data.as_ref(),
                _ => None,
            });
            let all: Vec<_> = sent.chain(told.map(|data| &**data)).collect();
            assert!(!all.is_empty(), "told by {step}");
            for data in all {
                let by = if data.is_anonymous() { "anonymous" } else { &data.user_id };
                assert_eq!(by, wanted, "{step}");
                let bare = data.user_attributes.as_str() == "{}" && data.activation.is_none();
                assert!(bare || !data.is_anonymous(), "{data:?}");
            }
        }
        if let Some(wanted) = step.get("delivered") {
            let sent = outputs.items.iter().filter_map(|item| match item {
                Output::Delivery(delivery) => Some(&*delivery.endpoint_id),
                _ => None,
            });
            assert_eq!(json!(sent.collect::<Vec<_>>()), *wanted, "delivered by {step}");
        }
        match (outputs.reply, step["refused"].as_str()) {
            (Some(Reply::Decided(decision)), None) => self.check_decision(step, user_id, &decision),
            (Some(Reply::Refused(refusal)), Some(expected)) => assert_eq!(refusal.code(), expected, "{step}"),
            (Some(Reply::Refused(refusal)), None) => panic!("{step} was refused: {}", refusal.detail()),
            (reply, Some(expected)) => panic!("{step} was not refused as {expected}: {reply:?}"),
            (reply, None) => {
                let repeated = matches!(reply, Some(Reply::Repeated));
                assert_eq!(repeated, step["expect"] == "repeated", "{step}");
            }
        }
    }

    fn check_decision(&mut self, step: &Value, user_id: &str, decision: &Decision) {
        let expected = step["expect"].as_str().unwrap_or_else(|| panic!("{step} does not say what it expects"));
        let says = || format!("{step}\n{:?}", decision.evaluations);
        assert_eq!(decision.reason.name(), expected, "{}", says());
        let survey = decision.survey.as_ref();
        if let Some(survey) = survey {
            self.offers.insert(user_id.to_owned(), survey.offer_id.clone());
        }
        if let Some(wanted) = step["survey"].as_str() {
            assert_eq!(survey.map(|s| s.survey_id.as_str()), Some(wanted), "{}", says());
        }
        if let Some(wanted) = step["shown"].as_str() {
            assert_eq!(survey.map(|s| s.questions[0].text.as_str()), Some(wanted), "{}", says());
        }
        let first = decision.evaluations.first().and_then(|evaluation| evaluation.failure.as_ref());
        if let Some(until) = step.get("until") {
            let until = until.as_str().map(moment);
            assert_eq!(first.and_then(|stop| stop.until), until, "until of {}", says());
        }
        if let Some(actual) = step.get("actual") {
            assert_eq!(first.map(|stop| &stop.actual), Some(actual), "actual of {}", says());
        }
        for (survey_id, gate) in step["gates"].as_object().into_iter().flatten() {
            let found = decision.evaluations.iter().find(|evaluation| evaluation.survey_id == *survey_id);
            let found = found.unwrap_or_else(|| panic!("{survey_id} was not considered: {}", says()));
            assert_eq!(found.failure.as_ref().map(|stop| stop.gate.name()), gate.as_str(), "{survey_id}: {}", says());
        }
    }
}

fn play(scenario: &Value) {
    let start = time::parse_time(START).expect("a time");
    let mut stage = Stage {
        project: Project::default(),
        users: BTreeMap::new(),
        offers: BTreeMap::new(),
        allocator: QuotaAllocator::new(0, 1),
        caps: CapAllocator::new(0, 1),
        version: 0,
        offset: 0,
        now: start - time::DAY * 365,
    };
    if let Some(settings) = scenario.get("settings") {
        stage.settings(settings);
    }
    let one = scenario.get("survey").into_iter();
    for survey in one.chain(scenario["surveys"].as_array().into_iter().flatten()) {
        stage.define(survey);
    }
    scenario["endpoints"].as_array().into_iter().flatten().for_each(|endpoint| stage.endpoint(endpoint));
    let steps = scenario["steps"].as_array().expect("a scenario has steps");
    assert!(steps.iter().any(|s| ["expect", "refused", "responses"].iter().any(|e| s.get(e).is_some())), "it expects");
    steps.iter().for_each(|step| stage.step(step));
}

#[test]
fn every_scenario_ends_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let (mut played, mut failed) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let documents = yaml::documents(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        for document in documents {
            let name = document.value["scenario"].as_str().unwrap_or_else(|| panic!("{}: a name", file.display()));
            played += 1;
            if std::panic::catch_unwind(|| play(&document.value)).is_err() {
                failed.push(format!("{}: {name}", file.file_name().unwrap_or_default().to_string_lossy()));
            }
        }
    }
    println!("{played} scenarios");
    assert!(failed.is_empty(), "of {played} scenarios these failed: {failed:#?}");
}

/// The one document of a file of steps, and the definitions beside it.
fn programme(root: &Path, name: &str) -> Value {
    let read = |folder: &str| {
        let path = root.join(folder).join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let documents = yaml::documents(&text).unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
        documents.into_iter().map(|document| document.value).collect::<Vec<Value>>()
    };
    let [steps] = &read("tests/programmes")[..] else { panic!("{name}: one document of steps") };
    let mut scenario = steps.clone();
    for definition in read("examples/programmes") {
        match definition["kind"].as_str() {
            Some("settings") => scenario["settings"] = definition,
            kind => {
                let list = if kind == Some("endpoint") { "endpoints" } else { "surveys" };
                let mut all = scenario[list].as_array().cloned().unwrap_or_default();
                all.push(definition);
                scenario[list] = json!(all);
            }
        }
    }
    scenario
}

#[test]
fn every_programme_decides_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root.join(folder)).expect("a folder");
        let mut all: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        all.sort();
        all
    };
    let all = names("examples/programmes");
    assert!(all.len() >= 40 && all == names("tests/programmes"), "each programme has its steps");
    let page = std::fs::read_to_string(root.join("docs/programmes.md")).expect("readable");
    let mut failed = Vec::new();
    for name in &all {
        let text = std::fs::read_to_string(root.join("examples/programmes").join(name)).expect("readable");
        let (title, body) = text.split_once('\n').expect("a title, and more");
        let title = title.trim_start_matches("# ").trim_end_matches('.');
        let shown = format!("### {title}\n\n[{name}](../examples/programmes/{name})\n\n```yaml\n{body}```\n");
        let is_shown = page.contains(&shown);
        if std::panic::catch_unwind(|| play(&programme(root, name))).is_err() || !is_shown {
            failed.push(if is_shown { name.clone() } else { format!("{name} is not on the page as it is") });
        }
    }
    assert!(failed.is_empty(), "of {} programmes these failed: {failed:#?}", all.len());
}

#[test]
fn every_example_of_the_documents_is_a_definition() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/surveys.md")).expect("readable");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 6, "{} examples", blocks.len());
    for block in blocks {
        for document in yaml::documents(block).unwrap_or_else(|e| panic!("{block}: {e:?}")) {
            let faults = match document.value["kind"].as_str() {
                Some("survey") => definition::survey(&document.value, None).err(),
                Some("settings") => definition::settings(&document.value).err(),
                other => panic!("{other:?} is taught nowhere"),
            };
            assert!(faults.is_none(), "{block}: {faults:?}");
        }
    }
}
