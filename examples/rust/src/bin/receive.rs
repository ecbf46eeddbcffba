//! Receives webhooks and verifies them: cargo run --bin receive

use std::{collections::HashSet, env, io::Read as _};

use standardwebhooks::Webhook;
use tiny_http::{Request, Response, Server};

type Error = Box<dyn std::error::Error + Send + Sync>;
const MAX_BODY_BYTES: u64 = 1 << 20;

/// The message's id and body, if it verifies.
fn verified(webhook: &Webhook, request: &mut Request) -> Result<(String, serde_json::Value), Error> {
    let mut body = Vec::new();
    request.as_reader().take(MAX_BODY_BYTES).read_to_end(&mut body)?;
    let mut headers = http::HeaderMap::new();
    for header in request.headers() {
        let name = http::HeaderName::from_bytes(header.field.as_str().as_bytes().as_ref())?;
        headers.insert(name, header.value.as_str().parse()?);
    }
    webhook.verify(&body, &headers)?;
    let id = headers["webhook-id"].to_str()?.to_owned();
    Ok((id, serde_json::from_slice(&body)?))
}

fn main() -> Result<(), Error> {
    let webhook = Webhook::new(&env::var("ASKWHEN_WEBHOOK_SECRET")?)?;
    let port = env::var("PORT").unwrap_or("9000".into());
    let mut seen = HashSet::new(); // in earnest: a table of the last days' ids
    for mut request in Server::http(format!("127.0.0.1:{port}"))?.incoming_requests() {
        match verified(&webhook, &mut request) {
            Ok((id, message)) => {
                request.respond(Response::empty(204))?;
                if seen.insert(id) {
                    println!("verified {} {}", message["type"], message["data"]["user_id"]);
                }
            }
            Err(why) => {
                eprintln!("refused: {why}");
                request.respond(Response::empty(401))?;
            }
        }
    }
    Ok(())
}
