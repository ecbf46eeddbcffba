//! `askwhen link`: makes a signed link to a survey's page for one user.

use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::client::{Client, part};
use super::context::{Context, Failure, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct LinkArgs {
    /// A survey with link: true
    survey: String,
    /// Who answers by the link
    user: String,
    /// How long it holds, such as 7d; 30 days when left out
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// One completed response, and no second one
    #[arg(long)]
    single_use: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(context: &Context, args: &LinkArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Server)?;
    let body = json!({"user_id": args.user, "expires_in": args.expires_in, "single_use": args.single_use});
    let path = format!("/v1/surveys/{}/links", part(&args.survey));
    let answer = client.expect(Method::POST, &path, Some(&body)).await?;
    let url = answer["url"].as_str().unwrap_or_default();
    output::answer(context.format, &answer, url);
    if leads_to_this_machine(url) {
        askwhen_process::complain(
            "this link opens on this machine alone: it leads where the server was asked. For others, give --server with \
             the address that they use, such as https://ask.example",
        );
    }
    Ok(())
}

fn leads_to_this_machine(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}
