//! An example or two of every verb, shown at the end of its help.

use clap::Command;

/// The verb, and lines as they are typed.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "askwhen demo",
            "askwhen serve --dev",
            "askwhen apply -f survey.yaml",
            "askwhen send trigger ann MainActivity",
        ],
    ),
    (
        "serve",
        &[
            "askwhen serve --dev",
            "askwhen --config /etc/askwhen/askwhen.toml serve",
            "askwhen serve --brokers kafka-1:9092,kafka-2:9092 --roles engine,delivery",
        ],
    ),
    ("demo", &["askwhen demo", "askwhen demo --web"]),
    ("apply", &["askwhen apply -f survey.yaml endpoint.yaml", "askwhen apply -f all.yaml --dry-run"]),
    ("validate", &["askwhen validate -f survey.yaml"]),
    ("get", &["askwhen get surveys", "askwhen get surveys sleep-quality > survey.json"]),
    (
        "explain",
        &[
            "askwhen explain ann --trigger MainActivity",
            "askwhen explain ann --trigger MainActivity --at 2026-03-01T08:00:00Z",
        ],
    ),
    (
        "backtest",
        &[
            "askwhen backtest -f survey.yaml --from 30d",
            "askwhen backtest -f survey.yaml --from 30d --html report.html",
        ],
    ),
    ("replay", &["askwhen replay plan", "askwhen replay run"]),
    ("replay plan", &["askwhen replay plan --from 7d"]),
    ("replay run", &["askwhen replay run --from 7d --rate 20000/s"]),
    ("replay diff", &["askwhen replay diff --exit-code"]),
    ("replay promote", &["askwhen replay promote"]),
    ("replay abort", &["askwhen replay abort"]),
    ("stats", &["askwhen stats sleep-quality", "askwhen stats sleep-quality --since 2026-03-01T00:00:00Z"]),
    ("results", &["askwhen results nps", "askwhen results nps --version 2 --since 2026-03-01T00:00:00Z"]),
    ("import", &["askwhen import history.ndjson", "askwhen import export.csv.gz --rate 5000/s"]),
    ("deliveries", &["askwhen deliveries list --status dead"]),
    ("deliveries list", &["askwhen deliveries list --endpoint crm --status dead"]),
    ("deliveries show", &["askwhen deliveries show dlv_0123456789abcdef"]),
    ("deliveries resend", &["askwhen deliveries resend dlv_0123456789abcdef"]),
    ("deliveries recover", &["askwhen deliveries recover --endpoint crm --since 2026-03-01T00:00:00Z"]),
    ("deliveries backfill", &["askwhen deliveries backfill --endpoint crm --since 2026-01-01T00:00:00Z --rate 50/s"]),
    ("pause", &["askwhen pause sleep-quality"]),
    ("resume", &["askwhen resume sleep-quality"]),
    ("archive", &["askwhen archive sleep-quality"]),
    ("link", &["askwhen link nps ann", "askwhen link nps ann --expires-in 7d --single-use"]),
    ("responses", &["askwhen responses sleep-quality", "askwhen responses sleep-quality --csv > responses.csv"]),
    ("users", &["askwhen users show ann"]),
    ("users show", &["askwhen users show ann"]),
    ("users erase", &["askwhen users erase ann"]),
    ("users attributes", &["askwhen users attributes ann plan=pro age=41 trial=null"]),
    ("keys", &["askwhen keys list"]),
    ("keys create", &["askwhen keys create anna --kind viewer"]),
    ("keys list", &["askwhen keys list"]),
    ("keys revoke", &["askwhen keys revoke key_5f3a9c017be24d68"]),
    ("triggers", &["askwhen triggers list"]),
    ("triggers list", &["askwhen triggers list"]),
    ("triggers create", &["askwhen triggers create 'Successful payment' --kind backend"]),
    ("triggers delete", &["askwhen triggers delete successful_payment"]),
    ("endpoints", &["askwhen endpoints list"]),
    ("endpoints list", &["askwhen endpoints list"]),
    ("endpoints show", &["askwhen endpoints show crm"]),
    ("endpoints disable", &["askwhen endpoints disable crm"]),
    ("endpoints delete", &["askwhen endpoints delete crm"]),
    ("endpoints enable", &["askwhen endpoints enable crm"]),
    ("endpoints rotate-secret", &["askwhen endpoints rotate-secret crm --overlap 48h"]),
    ("endpoints test", &["askwhen endpoints test crm"]),
    ("webhook", &["askwhen webhook listen"]),
    ("webhook listen", &["askwhen webhook listen", "askwhen webhook listen --answer 500,503,200 --count 3"]),
    (
        "webhook verify",
        &["askwhen webhook verify --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw -H 'webhook-id: msg_1' \
              -H 'webhook-timestamp: 1767225600' -H 'webhook-signature: v1,…' --body body.json"],
    ),
    ("send", &["askwhen send event ann ended_sleep duration_min=415"]),
    ("send event", &["askwhen send event ann ended_sleep duration_min=415 device=watch"]),
    ("send trigger", &["askwhen send trigger ann MainActivity --session-id s1 --platform ios"]),
    ("send displayed", &["askwhen send displayed ann off_0123456789abcdef"]),
    ("send answer", &["askwhen send answer ann off_0123456789abcdef q1=5 'q2=Slept well' --completed"]),
    ("tail", &["askwhen tail decisions --user ann", "askwhen tail attempts --from end --follow"]),
    ("topics", &["askwhen topics print"]),
    ("topics print", &["askwhen topics print", "askwhen topics print --schema events"]),
    ("topics check", &["askwhen topics check --brokers kafka-1:9092"]),
    ("topics apply", &["askwhen topics apply --brokers kafka-1:9092"]),
    ("snapshot", &["askwhen snapshot list"]),
    ("snapshot create", &["askwhen snapshot create"]),
    ("snapshot list", &["askwhen snapshot list"]),
    ("snapshot verify", &["askwhen snapshot verify"]),
    (
        "export",
        &[
            "askwhen export --brokers kafka-1:9092 --prefix moved. --dry-run",
            "askwhen export --brokers kafka-1:9092 --prefix moved.",
        ],
    ),
    ("backup", &["askwhen backup create file:///var/backups/askwhen --key-file backup.key"]),
    ("backup create", &["askwhen backup create s3://bucket/askwhen --key-file backup.key"]),
    ("backup verify", &["askwhen backup verify s3://bucket/askwhen --key-file backup.key"]),
    ("backup restore", &["askwhen --data-dir fresh backup restore s3://bucket/askwhen --key-file backup.key"]),
    ("config", &["askwhen config print"]),
    ("config print", &["askwhen config print", "askwhen config print --default > askwhen.toml"]),
    ("skip", &["askwhen skip events/3@1234", "askwhen skip deliveries.retry.1m/3@17"]),
    ("doctor", &["askwhen doctor"]),
    (
        "completions",
        &["source <(askwhen completions bash)", "askwhen completions fish > ~/.config/fish/completions/askwhen.fish"],
    ),
];

/// The command with the examples of all its verbs.
pub fn add_to(command: Command) -> Command {
    add(command, "")
}

fn add(command: Command, verb: &str) -> Command {
    let command = match EXAMPLES.iter().find(|(name, _)| *name == verb) {
        Some((_, [one])) => command.after_help(format!("Example:\n  {one}")),
        Some((_, more)) => command.after_help(format!("Examples:\n  {}", more.join("\n  "))),
        None => command,
    };
    command.mut_subcommands(|sub| {
        let name = format!("{verb} {}", sub.get_name());
        add(sub, name.trim_start())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// Every verb and every one below it, by its words.
    fn verbs(command: &Command, above: &str, all: &mut Vec<String>) {
        all.push(above.to_owned());
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            verbs(sub, format!("{above} {}", sub.get_name()).trim_start(), all);
        }
    }

    /// The words of a line as a shell gives them; quotes are plain ones.
    fn words(line: &str) -> Vec<String> {
        let line = line.strip_prefix("source <(").and_then(|line| line.strip_suffix(')')).unwrap_or(line);
        let mut all = vec![String::new()];
        let mut is_quoted = false;
        for c in line.chars() {
            match c {
                '\'' => is_quoted = !is_quoted,
                ' ' if !is_quoted => all.push(String::new()),
                _ => all.last_mut().unwrap().push(c),
            }
        }
        let end = all.iter().position(|word| word == ">").unwrap_or(all.len());
        all[..end].iter().filter(|word| !word.is_empty()).cloned().collect()
    }

    #[test]
    fn every_verb_shows_an_example_and_each_is_understood() {
        let command = add_to(super::super::Cli::command());
        let mut all = Vec::new();
        verbs(&command, "", &mut all);
        assert!(all.len() > 50, "{all:?}");
        let named: Vec<&str> = EXAMPLES.iter().map(|(verb, _)| *verb).collect();
        let missing: Vec<&String> = all.iter().filter(|verb| !named.contains(&verb.as_str())).collect();
        assert!(missing.is_empty(), "these have no example: {missing:?}");
        for (verb, lines) in EXAMPLES {
            assert!(all.iter().any(|known| known == verb), "{verb} is no verb");
            assert_eq!(named.iter().filter(|name| *name == verb).count(), 1, "{verb} has one entry");
            let parts: Vec<&str> = verb.split(' ').filter(|part| !part.is_empty()).collect();
            let mut shown = command.clone();
            for part in &parts {
                shown = shown.find_subcommand(part).expect("it was walked through").clone();
            }
            // Long lines are wrapped.
            let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let help = plain(&shown.render_help().to_string());
            for line in *lines {
                assert!(help.contains(&plain(line)), "{verb} shows {line}");
                let words = words(line);
                let said = command.clone().try_get_matches_from(&words);
                let mut matches = &said.unwrap_or_else(|error| panic!("{line}: {error}"));
                for part in &parts {
                    let (name, below) = matches.subcommand().unwrap_or_else(|| panic!("{line} is of {verb}"));
                    assert!(name == *part, "{line} is of {name}, not of {verb}");
                    matches = below;
                }
            }
        }
    }
}
