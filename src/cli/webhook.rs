//! `askwhen webhook`: receives and verifies webhooks on this machine.

use bytes::Bytes;
use clap::Subcommand;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

use super::context::{Failure, Format};
use super::output;
use askwhen_domain::time::SECOND;
use askwhen_process::clock::Clock;
use askwhen_process::complain;
use askwhen_wire::profile::{self, Verified};

const MAX_BODY_BYTES: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Receive webhooks, verify them and print them; ends with Ctrl-C
    Listen {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDR")]
        listen: String,
        /// The endpoint's secret, or the public key of one that signs with ed25519 (whpk_…)
        #[arg(long, env = "ASKWHEN_WEBHOOK_SECRET", hide_env_values = true)]
        secret: Option<String>,
        /// Statuses to answer, one after the other; the last one stays
        #[arg(long, value_delimiter = ',', default_value = "200", value_name = "STATUS",
              value_parser = clap::value_parser!(u16).range(200..600))]
        answer: Vec<u16>,
        /// End after so many
        #[arg(long, value_name = "N")]
        count: Option<usize>,
    },
    /// Verify one request that was kept; exit code 1 unless its signature is right
    Verify {
        /// The endpoint's secret, or the public key of one that signs with ed25519 (whpk_…)
        #[arg(long, env = "ASKWHEN_WEBHOOK_SECRET", hide_env_values = true)]
        secret: String,
        /// A header as it came, "name: value"; once for each
        #[arg(short = 'H', long = "header", value_name = "HEADER", required = true)]
        headers: Vec<String>,
        /// The exact body, - is standard input
        #[arg(long, default_value = "-", value_name = "FILE")]
        body: PathBuf,
        /// Do not mind how old it is
        #[arg(long)]
        any_age: bool,
    },
}

pub async fn run(what: WebhookCommand, format: Format) -> Result<(), Failure> {
    match what {
        WebhookCommand::Listen { listen, secret, answer, count } => {
            if listen.parse::<std::net::SocketAddr>().is_err() {
                return Err(Failure::usage("--listen must be an address such as 127.0.0.1:9000"));
            }
            let listener = TcpListener::bind(&listen).await;
            let listener = listener.map_err(|e| Failure::unreachable(format!("cannot listen on {listen}: {e}")))?;
            receive(listener, Shared { secret, answer, format, seen: AtomicUsize::new(0) }, count).await
        }
        WebhookCommand::Verify { secret, headers, body, any_age } => verify(&secret, &headers, &body, any_age, format),
    }
}

struct Shared {
    secret: Option<String>,
    answer: Vec<u16>,
    format: Format,
    seen: AtomicUsize,
}

async fn receive(listener: TcpListener, shared: Shared, count: Option<usize>) -> Result<(), Failure> {
    let at = listener.local_addr().map_err(|e| Failure::failed(e.to_string()))?;
    complain(&format!("askwhen webhook listens on http://{at}"));
    if shared.secret.is_none() {
        complain("signatures are not verified: give --secret or ASKWHEN_WEBHOOK_SECRET");
    }
    if shared.secret.as_deref().is_some_and(|secret| !profile::can_verify(secret)) {
        complain("this secret verifies x-webhook-signature (blitzllama) alone: it is neither whsec_… nor whpk_…");
    }
    let shared = Arc::new(shared);
    let (done, mut over) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    complain(&format!("askwhen: a connection could not be accepted: {error}"));
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = over.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let (shared, done) = (shared.clone(), done.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let (shared, done) = (shared.clone(), done.clone());
                async move {
                    let (answer, seen) = take(&shared, request).await;
                    if count.is_some_and(|count| seen >= count) {
                        // The response must be sent before the process ends.
                        tokio::spawn(async move {
                            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                            done.send(()).await.ok();
                        });
                    }
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut server = http1::Builder::new();
            // The sender has gone, so nobody waits for a response.
            server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn take(shared: &Shared, request: hyper::Request<Incoming>) -> (hyper::Response<Full<Bytes>>, usize) {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map(|whole| whole.to_bytes()).unwrap_or_default();
    let seen = shared.seen.fetch_add(1, Ordering::AcqRel);
    let status = shared.answer.get(seen).or(shared.answer.last()).copied().unwrap_or(200);
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let now = Clock::new().wall() / SECOND;
    let verified = shared.secret.as_deref().map(|secret| profile::verify(secret, header, &body, now));
    let content = serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)));
    if shared.format == Format::Json {
        let (verified, why) = match &verified {
            None => (Value::Null, Value::Null),
            Some(Verified::Yes) => (true.into(), Value::Null),
            Some(Verified::No(why)) => (false.into(), (*why).into()),
        };
        output::line(
            &json!({
                "path": head.uri.path(), "webhook_id": header("webhook-id"), "attempt": header("webhook-attempt"),
                "verified": verified, "why": why, "answered": status, "body": content,
            })
            .to_string(),
        );
    } else {
        let verdict = match verified {
            None => "not verified".to_owned(),
            Some(Verified::Yes) => "verified".to_owned(),
            Some(Verified::No(why)) => format!("NOT GENUINE: {why}"),
        };
        let (id, attempt) = (header("webhook-id").unwrap_or("-"), header("webhook-attempt").unwrap_or("-"));
        let line = format!("{} {} attempt {attempt}, {verdict}, answered {status}", head.uri.path(), id);
        output::line(&output::escape(&line));
        output::json(&content);
    }
    let mut answer = hyper::Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    (answer, seen + 1)
}

fn verify(secret: &str, headers: &[String], body: &PathBuf, any_age: bool, format: Format) -> Result<(), Failure> {
    let mut pairs = Vec::new();
    for text in headers {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| Failure::usage("--header must be \"name: value\", such as \"webhook-id: msg_1\""))?;
        pairs.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut bytes = Vec::new();
    let read = if body.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(body).map(|read| bytes = read)
    };
    read.map_err(|e| Failure::usage(format!("{}: cannot be read: {e}", body.display())))?;
    let standard = pairs.iter().any(|(name, _)| name == "webhook-signature");
    if standard && !profile::can_verify(secret) {
        return Err(Failure::usage(
            "--secret must be whsec_ and the base64 of 24 to 64 bytes, or the public key whpk_…, for these headers",
        ));
    }
    let header = |name: &str| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let now = match header("webhook-timestamp").and_then(|text| text.parse().ok()) {
        Some(then) if any_age => then,
        _ => Clock::new().wall() / SECOND,
    };
    let verified = profile::verify(secret, header, &bytes, now);
    let why = match verified {
        Verified::Yes => None,
        Verified::No(why) => Some(why),
    };
    match (format, why) {
        (Format::Json, _) => output::json(&json!({"verified": why.is_none(), "why": why})),
        (Format::Text, None) => output::line("verified"),
        (Format::Text, Some(_)) => {}
    }
    why.map_or(Ok(()), |why| Err(Failure::failed(format!("not genuine: {why}"))))
}
