//! API keys created at run time. They are stored as definitions, so that every process has
//! them; the digest is sealed with the cluster key, so that whoever can write to the topic
//! cannot create a key.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::app::{App, RequestContext};
use super::auth::{self, KeyGrant, KeyGrants, Kind};
use super::fields::Fields;
use super::manage::{DefinitionDraft, outcome_answer, random};
use super::problem::{Answer, Problem, json_answer};
use askwhen_domain::json::Json;
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::SealedSecret;
use askwhen_log::TopicPartition;
use askwhen_partition::Signer;
use askwhen_wire::definition::{self, Code};
use askwhen_wire::json as strict;
use askwhen_wire::record::{Internal, KeyUse};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::DefinitionRecord;

/// Characters of a key that lists show after the name of its kind.
const SHOWN_CHARS: usize = 4;

/// The body of a key's definition.
#[derive(Debug, Serialize, Deserialize)]
struct KeyDefinition {
    key_id: String,
    name: String,
    kind: Kind,
    prefix: String,
    created_at: String,
    /// Digest and kind of the key.
    sealed: SealedSecret,
}

/// The endpoint id under which a key's digest is sealed; no endpoint can have it.
fn sealed_for(key_id: &str) -> String {
    format!("\0key\0{key_id}")
}

/// The rights in the records whose seal opens and matches the record.
fn runtime_grants(key: &ClusterKey, records: &[DefinitionRecord]) -> KeyGrants {
    let grant = |record: &DefinitionRecord| {
        let known: KeyDefinition = serde_json::from_str(record.body.as_str()).ok()?;
        let opened = key.open(&record.project, &sealed_for(&record.id), &known.sealed).ok()?;
        let (digest, kind) = opened.split_once(' ')?;
        let digest = hex::decode(digest).ok()?.try_into().ok()?;
        let created_at = time::parse_time(&known.created_at).ok();
        let grant = KeyGrant {
            key_id: record.id.clone(),
            project: record.project.clone(),
            kind: Kind::parse(kind)?,
            name: known.name,
            prefix: Some(known.prefix),
            created_at,
        };
        Some((digest, grant))
    };
    records
        .iter()
        .filter_map(|record| {
            let granted = grant(record);
            if granted.is_none() {
                tracing::error!(key_id = record.id, "a key in the log was sealed with another cluster key");
            }
            granted
        })
        .collect()
}

impl App {
    /// Takes over keys that were created or revoked since the last request.
    pub(super) fn sync_keys(&self) {
        let generation = self.view.keys_generation();
        self.auth.sync_runtime_keys(generation, || runtime_grants(&self.key, &self.view.keys()));
    }

    pub(super) async fn create_key(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let mut fields = Fields::of(strict::check(&asked.body).map_err(Problem::json)?, String::new());
        let name = fields.name("name");
        if name.is_none() && !fields.has("name") {
            fields.fault(Code::MissingField, "name", "is required");
        }
        let given = fields.text("kind");
        let kind = given.as_deref().and_then(Kind::parse);
        match (&given, kind) {
            (None, _) if !fields.has("kind") => fields.fault(Code::MissingField, "kind", "is required"),
            (Some(_), None) => fields.fault(Code::Invalid, "kind", "must be client, server, viewer or admin"),
            _ => {}
        }
        let faults = fields.close();
        let (Some(name), Some(kind), true) = (name, kind, faults.is_empty()) else {
            return Err(Problem::fields(faults));
        };
        let begins = format!("ak_{}_", kind.name());
        let key = format!("{begins}{}", &hex::encode(random()?)[..40]);
        let key_id = format!("key_{}", &hex::encode(random()?)[..16]);
        let text = format!("{} {}", hex::encode(auth::digest(&key)), kind.name());
        let known = KeyDefinition {
            key_id: key_id.clone(),
            name: name.clone(),
            kind,
            prefix: key[..begins.len() + SHOWN_CHARS].to_owned(),
            created_at: time::format_time(self.clock.now()),
            sealed: self.seal(asked, &sealed_for(&key_id), &text)?,
        };
        let draft = DefinitionDraft {
            kind: definition::Kind::Key,
            id: key_id.clone(),
            body: Some(Json::of(&known)),
            new_secret: None,
            create: true,
            if_match: None,
        };
        let outcome = self.define(asked, &draft).await?;
        self.sync_keys();
        let mut body = json!({"key_id": key_id, "key": key, "name": name, "kind": kind.name()});
        if outcome.missing.is_empty() {
            return Ok(json_answer(201, body.to_string()));
        }
        body["status"] = "pending".into();
        body["missing_partitions"] = outcome.missing.into();
        Ok(json_answer(202, body.to_string()))
    }

    pub(super) fn list_keys(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let project = &asked.caller.project;
        let (files, runtime) = (self.auth.file_keys(), self.auth.runtime_keys());
        let sources = [("file", &files), ("runtime", &*runtime)];
        let mut keys: Vec<(Option<Millis>, &str, Value)> = Vec::new();
        for (source, grants) in sources {
            for (digest, grant) in grants.iter().filter(|(_, grant)| grant.project == *project) {
                let last_used_at = self.auth.last_used(digest).max(self.reported_use(project, &grant.key_id));
                let shown = json!({
                    "key_id": grant.key_id,
                    "name": grant.name,
                    "kind": grant.kind.name(),
                    "prefix": grant.prefix,
                    "created_at": grant.created_at.map(time::format_time),
                    "last_used_at": last_used_at.map(time::format_time),
                    "source": source,
                });
                keys.push((grant.created_at, &grant.key_id, shown));
            }
        }
        // Newest first; keys from the configuration, which have no time, at the end.
        keys.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let keys: Vec<Value> = keys.into_iter().map(|(_, _, shown)| shown).collect();
        Ok(json_answer(200, json!({"keys": keys}).to_string()))
    }

    pub(super) async fn revoke_key(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let key_id = &asked.route.parts[0];
        if self.auth.file_keys().values().any(|grant| grant.key_id == *key_id) {
            let detail = "this key is one of the configuration or of keys.toml: take it out there, then send SIGHUP";
            return Err(Problem::new(409, "key_of_a_file", detail));
        }
        let draft = DefinitionDraft {
            kind: definition::Kind::Key,
            id: key_id.clone(),
            body: None,
            new_secret: None,
            create: false,
            if_match: None,
        };
        let outcome = self.define(asked, &draft).await?;
        self.sync_keys();
        Ok(outcome_answer(&outcome, None, 200))
    }

    /// When any process last used a key, as far as that was reported.
    fn reported_use(&self, project: &str, key_id: &str) -> Option<Millis> {
        let record = self.view.get(project, definition::Kind::KeyUse, key_id)?.record;
        time::parse_time(record.body.value()["last_used_at"].as_str()?).ok()
    }

    /// Reports uses of keys that were not reported; to be called about once a minute. A
    /// failed report is repeated the next time.
    pub fn report_key_uses(&self) {
        self.sync_keys();
        let (files, runtime) = (self.auth.file_keys(), self.auth.runtime_keys());
        let uses: Vec<KeyUse> = files
            .iter()
            .chain(runtime.iter())
            .filter_map(|(digest, grant)| {
                let at = self.auth.last_used(digest)?;
                let is_news = self.reported_use(&grant.project, &grant.key_id).is_none_or(|known| known < at);
                let KeyGrant { project, key_id, .. } = grant;
                is_news.then(|| KeyUse { project: project.clone(), key_id: key_id.clone(), last_used_at: at })
            })
            .collect();
        if !uses.is_empty() {
            let new = Signer::new(&self.log, &self.key).internal(0, "keys", &Internal::KeysUsed(uses));
            let (sender, _unheard) = tokio::sync::oneshot::channel();
            let registrar = TopicPartition { topic: Topic::Events, partition: 0 };
            self.log.append(registrar, vec![new], askwhen_log::Ack::Once(sender));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_cluster_has_sealed_is_a_key() {
        let cluster = ClusterKey::new([7; 32]);
        let record = |project: &str, id: &str, sealed: SealedSecret| DefinitionRecord {
            kind: definition::Kind::Key,
            project: project.into(),
            id: id.into(),
            version: 1,
            body: Json::of(&KeyDefinition {
                key_id: id.into(),
                name: "anna".into(),
                kind: Kind::Admin,
                prefix: "ak".into(),
                created_at: "2026-11-01T00:00:00Z".into(),
                sealed,
            }),
            updated_at: "2026-11-01T00:00:00Z".into(),
            actor: None,
        };
        let text = format!("{} viewer", hex::encode([3; 32]));
        let sealed = cluster.seal("p", &sealed_for("k1"), &text, [1; 24]);
        let granted = runtime_grants(&cluster, &[record("p", "k1", sealed.clone())]);
        // The kind is the sealed one, whatever stands beside it.
        assert_eq!(granted.get(&[3; 32]).map(|grant| grant.kind), Some(Kind::Viewer));
        for forged in [
            record("other", "k1", sealed.clone()),
            record("p", "k2", sealed),
            record("p", "k1", ClusterKey::new([8; 32]).seal("p", &sealed_for("k1"), &text, [1; 24])),
            record("p", "k1", cluster.seal("p", "k1", &text, [1; 24])),
        ] {
            assert!(runtime_grants(&cluster, &[forged]).is_empty());
        }
    }
}
