//! The parts of an endpoint's stored definition that requests do not contain, and which of
//! them stay when the definition changes.

use serde_json::Value;

use askwhen_domain::json::Json;
use askwhen_domain::webhook::endpoint::{Disabled, PreviousSecret, SEALED, SealedSecret};
use askwhen_partition::EngineReply;

/// The parts of an endpoint's stored definition that requests do not contain.
pub struct EndpointSecrets {
    pub secret: Option<SealedSecret>,
    pub previous: Vec<PreviousSecret>,
    pub disabled: Option<Disabled>,
}

impl EndpointSecrets {
    pub fn of(body: &Json) -> EndpointSecrets {
        let value = body.value();
        EndpointSecrets {
            secret: serde_json::from_value(value["secret"].clone()).ok(),
            previous: serde_json::from_value(value["previous_secrets"].clone()).unwrap_or_default(),
            disabled: serde_json::from_value(value["disabled"].clone()).ok(),
        }
    }

    /// Adds them to the end in a fixed order, so that the same content has the same bytes.
    pub fn put_into(self, value: &mut Value) -> Json {
        let Some(members) = value.as_object_mut() else { return Json::of(value) };
        for name in ["secret", "previous_secrets", "disabled"] {
            members.shift_remove(name);
        }
        let json = |part: serde_json::Result<Value>| part.expect("it serialises");
        members.insert("secret".into(), json(serde_json::to_value(self.secret)));
        if !self.previous.is_empty() {
            members.insert("previous_secrets".into(), json(serde_json::to_value(self.previous)));
        }
        if let Some(disabled) = self.disabled {
            members.insert("disabled".into(), json(serde_json::to_value(disabled)));
        }
        Json::of(value)
    }
}

/// Keeps what the endpoint has: its secret when the new body has none or the same one,
/// unless the new profile signs in another way; and that it was given up, while its URL
/// stays the same. An endpoint without a secret gets `fresh`.
pub fn with_secret(new: &Json, old: Option<&Json>, fresh: Option<&SealedSecret>) -> Result<(Json, bool), EngineReply> {
    let given = EndpointSecrets::of(new).secret;
    let (mut value, before) = (new.value(), old.map(Json::value).unwrap_or_default());
    let mut kept =
        old.map_or(EndpointSecrets { secret: None, previous: Vec::new(), disabled: None }, EndpointSecrets::of);
    // The hex form takes any text but a private key, which receivers must not have; the
    // other forms take only their own.
    let is_hex = |body: &Value| body["profile"] == "blitzllama";
    let is_private = before["secret"]["public_key"].is_string();
    if is_hex(&value) != is_hex(&before) && (is_hex(&before) || is_private) {
        (kept.secret, kept.previous) = (None, Vec::new());
    }
    let mut used_fresh = false;
    match (given, &kept.secret) {
        (Some(given), Some(known)) if given.digest == known.digest => {}
        (Some(given), _) => (kept.secret, kept.previous) = (Some(given), Vec::new()),
        (None, Some(_)) => {}
        (None, None) => {
            kept.secret = fresh.cloned();
            used_fresh = fresh.is_some();
        }
    }
    if value["url"] != before["url"] || value["enabled"] != before["enabled"] {
        kept.disabled = None;
    }
    keep_client_key(&mut value, &before);
    keep_headers(&mut value, &before)?;
    Ok((kept.put_into(&mut value), used_fresh))
}

/// Keeps the sealed value of a header when the new definition contains only its placeholder
/// or the same value.
fn keep_headers(new: &mut Value, old: &Value) -> Result<(), EngineReply> {
    let Some(headers) = new.get_mut("headers").and_then(Value::as_object_mut) else { return Ok(()) };
    for (name, given) in headers {
        let known = &old["headers"][name.as_str()];
        let same = given["digest"].is_string() && given["digest"] == known["digest"];
        if *given == SEALED && known.is_null() {
            return Err(EngineReply::Refused {
                code: "invalid".into(),
                pointer: Some(format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"))),
                detail: format!("{SEALED} keeps the value that is there, and there is none: give the value"),
            });
        }
        if same || *given == SEALED {
            *given = known.clone();
        }
    }
    Ok(())
}

/// Keeps the sealed private key when the certificate stays and no key or the same one is
/// given.
fn keep_client_key(new: &mut Value, old: &Value) {
    let (given, known) = (&new["tls"]["client_key"], &old["tls"]["client_key"]);
    let cert = &new["tls"]["client_cert"];
    let left_out = given.is_null() && cert.is_string() && *cert == old["tls"]["client_cert"];
    let same = given["digest"].is_string() && given["digest"] == known["digest"];
    if (left_out || same) && known.is_object() {
        new["tls"]["client_key"] = known.clone();
    }
}
