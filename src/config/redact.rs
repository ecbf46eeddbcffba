//! Hides passwords, keys and secrets of a configuration, so that it can be shown.

use toml::{Table, Value};
use url::Url;

/// Replaces a secret.
const HIDDEN: &str = "(hidden)";
/// Members that are secret in every section.
const SECRET_MEMBERS: [&str; 2] = ["key", "identity_secret"];
/// Parts of the names of librdkafka's settings whose values are secret.
const SECRET_PARTS: [&str; 6] = ["password", "secret", "ssl.key.pem", "token", "jaas", "oauthbearer.config"];

/// A merged configuration as it is shown, without its secrets.
pub fn shown(table: &Table) -> serde_json::Value {
    let mut table = table.clone();
    redact(&mut table);
    serde_json::to_value(&table).unwrap_or_default()
}

/// Hides the secrets of a merged configuration.
pub fn redact(table: &mut Table) {
    for (name, value) in table {
        let lower = name.to_ascii_lowercase();
        let is_secret = SECRET_MEMBERS.contains(&name.as_str()) || SECRET_PARTS.iter().any(|part| lower.contains(part));
        redact_value(value, is_secret);
    }
}

fn redact_value(value: &mut Value, is_secret: bool) {
    match value {
        Value::Table(inner) => redact(inner),
        Value::Array(list) => list.iter_mut().for_each(|one| redact_value(one, is_secret)),
        Value::String(text) if is_secret && !text.is_empty() => HIDDEN.clone_into(text),
        Value::String(text) => {
            if let Some(bare) = without_password(text) {
                *text = bare;
            }
        }
        _ => {}
    }
}

/// A URL whose password is hidden; `None` where there is none.
fn without_password(text: &str) -> Option<String> {
    let mut url = Url::parse(text).ok().filter(|url| url.password().is_some())?;
    url.set_password(Some("hidden")).ok()?;
    Some(url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let mut table: Table = toml::from_str(
            r#"
            data_dir = "./data"
            [kafka.client]
            "sasl.password" = "canary"
            "sasl.username" = "ann"
            "ssl.key.pem" = "canary"
            "ssl.keystore.password" = "canary"
            [delivery]
            egress_proxy = "http://ann:canary@proxy:3128"
            [secrets]
            key_file = "/etc/key"
            [[projects]]
            project = "default"
            identity_secret = ["canary", "canary"]
            [[keys]]
            kind = "admin"
            key = "canary"
            "#,
        )
        .unwrap();
        redact(&mut table);
        let shown = toml::to_string(&table).unwrap();
        assert!(!shown.contains("canary"), "{shown}");
        for kept in ["./data", "ann", "proxy:3128", "/etc/key", "admin", "default"] {
            assert!(shown.contains(kept), "{kept} is not in {shown}");
        }
    }
}
