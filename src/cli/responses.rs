//! `askwhen responses`: what users have answered, as lines of JSON or a table.

use clap::Args;
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeSet;

use super::client::{Client, part, span_query};
use super::context::{Context, Failure, Format, ServerArgs};
use super::moment::Moment;
use super::output;
use crate::bridge::auth::Kind;
use crate::spreadsheet::cell_text;

#[derive(Debug, Args)]
pub struct ResponsesArgs {
    /// The survey's id
    survey: String,
    /// A table for spreadsheets: a row for each response, a column for each question
    #[arg(long)]
    csv: bool,
    /// Of responses that began from this time on: a time, a date, or so long ago, such as 7d
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Begun before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    #[command(flatten)]
    server: ServerArgs,
}

/// The columns before those of the questions.
const COLUMNS: [&str; 6] = ["response_id", "user_id", "survey_version", "completed", "created_at", "updated_at"];

pub async fn run(context: &Context, args: &ResponsesArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    // A misspelt name must not read as "no answers"; but answers outlive their survey.
    let survey = client.call(Method::GET, &format!("/v1/surveys/{}", part(&args.survey)), None).await;
    let is_unknown = survey.as_ref().is_ok_and(|answer| answer.status == 404);
    let definition = survey.ok().filter(|answer| answer.status == 200).map(|answer| answer.body);
    let mut all: Vec<Value> = Vec::new();
    let mut any = false;
    let span: String = span_query(args.since, args.until).iter().map(|filter| format!("&{filter}")).collect();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/responses?survey_id={}&limit=200{span}{cursor}", part(&args.survey));
        let page = client.expect(Method::GET, &path, None).await?;
        let rows = page["responses"].as_array().cloned().unwrap_or_default();
        any |= !rows.is_empty();
        // Lines of JSON are printed page by page; a table needs all columns first.
        if !args.csv && context.format == Format::Text {
            rows.iter().for_each(|row| output::line(&row.to_string()));
        } else {
            all.extend(rows);
        }
        match page["next_cursor"].as_str() {
            Some(next) if !output::nobody_reads() => cursor = format!("&cursor={}", part(next)),
            _ => break,
        }
    }
    if !any && is_unknown {
        let id = &args.survey;
        return Err(Failure::failed(format!("there is no survey {id}, and nobody has answered one of that id")));
    }
    if args.csv {
        output::write(&table(&all, &question_ids(definition.as_ref()))?);
    } else if context.format == Format::Json {
        output::json(&Value::Array(all));
    }
    Ok(())
}

/// The questions of a definition that take answers, in its order.
fn question_ids(definition: Option<&Value>) -> Vec<String> {
    let questions = definition.and_then(|survey| survey["questions"].as_array()).into_iter().flatten();
    let asked = questions.filter(|question| question["type"] != "info");
    asked.filter_map(|question| question["question_id"].as_str()).map(str::to_owned).collect()
}

/// Those of the definition first, then those of earlier versions.
fn table(all: &[Value], defined: &[String]) -> Result<String, Failure> {
    let answers = |row: &Value| row["answers"].as_array().cloned().unwrap_or_default();
    let id = |answer: &Value| answer["question_id"].as_str().unwrap_or_default().to_owned();
    let given: BTreeSet<String> = all.iter().flat_map(answers).map(|answer| id(&answer)).collect();
    let earlier = given.into_iter().filter(|question| !defined.contains(question));
    let questions: Vec<String> = defined.iter().cloned().chain(earlier).collect();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let header = COLUMNS.iter().map(|name| (*name).to_owned()).chain(questions.iter().cloned());
    let mut rows = vec![header.collect::<Vec<String>>()];
    for row in all {
        let given = answers(row);
        let value =
            |question: &String| given.iter().find(|answer| id(answer) == *question).map(|a| cell_text(&a["value"]));
        let own = COLUMNS.iter().map(|name| cell_text(&row[*name]));
        rows.push(own.chain(questions.iter().map(|question| value(question).unwrap_or_default())).collect());
    }
    for row in rows {
        csv.write_record(row).map_err(|e| Failure::failed(e.to_string()))?;
    }
    let bytes = csv.into_inner().map_err(|e| Failure::failed(e.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_for_each_response_and_a_column_for_each_question() {
        let rows = [
            json!({"response_id": "r1", "user_id": "=ann", "survey_version": 1, "completed": true, "created_at": "t", "updated_at": "t",
                "answers": [{"question_id": "q1", "value": -4}, {"question_id": "q2", "value": ["a", "b, c"]},
                    {"question_id": "q4", "value": {"other": "mine"}}]}),
            json!({"response_id": "r2", "user_id": "bob", "survey_version": 2, "completed": false, "created_at": "t", "updated_at": "t",
                "answers": [{"question_id": "q3", "value": "two\nlines"}]}),
        ];
        assert_eq!(
            table(&rows, &["q2".to_owned(), "q4".to_owned()]).unwrap(),
            "response_id,user_id,survey_version,completed,created_at,updated_at,q2,q4,q1,q3\n\
             r1,'=ann,1,true,t,t,\"a; b, c\",mine,-4,\n\
             r2,bob,2,false,t,t,,,,\"two\nlines\"\n"
        );
    }
}
