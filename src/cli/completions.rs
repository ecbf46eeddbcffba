//! `askwhen completions`: a script for a shell, which asks the program itself for the
//! ids of surveys, endpoints and triggers.

use clap::{Arg, Args, Command};
use clap_complete::Shell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::client::Client;
use super::context::{Context, Failure, ServerArgs};
use super::get::Listed;
use super::output;
use crate::bridge::auth::Kind;

/// How long to wait for the server: nobody waits longer after pressing a key.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that reads the script
    #[arg(required_unless_present = "words")]
    pub shell: Option<Shell>,
    /// What the script asks: the words before the one that is completed
    #[arg(last = true, hide = true)]
    pub words: Vec<String>,
}

/// The completion script of a shell.
pub fn script(command: &mut Command, shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "askwhen", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + BASH,
        // Loaded from `fpath`, the file is the body of the function: its last lines call
        // it.
        Shell::Zsh => {
            let end = script.rfind("\nif [ \"$funcstack[1]\"").unwrap_or(script.len());
            format!("{}{ZSH}", &script[..end])
        }
        Shell::Fish => {
            let mut options = BTreeSet::new();
            options_with_ids(command, &mut options);
            // Rules for arguments do not apply to the values of options.
            let of_option = |name| format!("complete -c askwhen -l {name} -x -a \"{FISH_IDS}\"\n");
            let of_options: String = options.into_iter().map(of_option).collect();
            format!("{script}\ncomplete -c askwhen -f -a \"{FISH_IDS}\"\n{of_options}")
        }
        _ => script,
    }
}

// Ids are compared as words; the shell must not expand them.
const BASH: &str = r#"
_askwhen_and_ids() {
    local id
    _askwhen "$@"
    while IFS= read -r id; do
        if [[ "${id}" == "${COMP_WORDS[COMP_CWORD]}"* ]]; then COMPREPLY+=("${id}"); fi
    done < <(askwhen completions -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
}
complete -F _askwhen_and_ids -o bashdefault -o default askwhen
"#;

const ZSH: &str = r#"
_askwhen_and_ids() {
    local -a ids
    ids=("${(@f)$(askwhen completions -- "${(@)words[2,CURRENT-1]}" 2>/dev/null)}")
    if [[ -n "${ids[1]}" ]]; then compadd -a ids; fi
    _askwhen "$@"
}
compdef _askwhen_and_ids askwhen
if [ "$funcstack[1]" = "_askwhen" ]; then
    _askwhen_and_ids "$@"
fi
"#;

const FISH_IDS: &str = "(askwhen completions -- (commandline -opc)[2..-1] 2>/dev/null)";

/// The long names of all options that take an id.
fn options_with_ids(command: &Command, found: &mut BTreeSet<String>) {
    let named = command.get_arguments().filter(|arg| listed(arg.get_id().as_str(), "").is_some());
    found.extend(named.filter_map(Arg::get_long).map(str::to_owned));
    command.get_subcommands().for_each(|verb| options_with_ids(verb, found));
}

/// The meaning of the words before the one that is completed.
#[derive(Debug, Default)]
pub struct Typed {
    pub config: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    server: Option<String>,
    key: Option<String>,
    project: Option<String>,
    /// The kind whose ids may come next.
    listed: Option<Listed>,
}

/// Follows the words down the tree of verbs.
pub fn read(root: &Command, words: &[String]) -> Typed {
    let mut typed = Typed::default();
    let mut path = vec![root];
    let (mut places, mut last) = (0, "");
    let mut open: Option<&Arg> = None;
    for word in words {
        if let Some(option) = open.take() {
            typed.note(option.get_id().as_str(), word);
            continue;
        }
        let verb = path[path.len() - 1];
        if let Some(option) = word.strip_prefix("--") {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            open = option_of(&path, |arg| arg.get_long() == Some(name));
            if let (Some(option), Some(value)) = (open, value) {
                typed.note(option.get_id().as_str(), value);
                open = None;
            }
        } else if let Some(short) = word.strip_prefix('-').and_then(|word| word.chars().next()) {
            open = option_of(&path, |arg| arg.get_short() == Some(short));
        } else if let Some(next) = verb.find_subcommand(word) {
            path.push(next);
            places = 0;
        } else {
            places += 1;
            last = word;
        }
    }
    let next = open.or_else(|| path[path.len() - 1].get_positionals().nth(places));
    typed.listed = next.and_then(|arg| listed(arg.get_id().as_str(), last));
    typed
}

/// An option with a value, of the verb or of a verb above it.
fn option_of<'a>(path: &[&'a Command], is: impl Fn(&Arg) -> bool) -> Option<&'a Arg> {
    let found = path.iter().rev().find_map(|verb| verb.get_arguments().find(|arg| is(arg)));
    found.filter(|arg| arg.get_action().takes_values())
}

/// The kind of the ids that an argument takes; for `get` the word before names it.
fn listed(argument: &str, before: &str) -> Option<Listed> {
    match (argument, before) {
        ("survey", _) | ("id", "surveys") => Some(Listed::Surveys),
        ("endpoint", _) | ("id", "endpoints") => Some(Listed::Endpoints),
        ("trigger", _) | ("id", "triggers") => Some(Listed::Triggers),
        _ => None,
    }
}

impl Typed {
    fn note(&mut self, option: &str, value: &str) {
        match option {
            "config" => self.config = Some(value.into()),
            "data_dir" => self.data_dir = Some(value.into()),
            "server" => self.server = Some(value.to_owned()),
            "key" => self.key = Some(value.to_owned()),
            "project" => self.project = Some(value.to_owned()),
            _ => {}
        }
    }

    /// Prints the ids that may come next, one per line.
    ///
    /// # Errors
    /// When the server cannot be asked; scripts ignore that.
    pub async fn print_ids(self, context: &Context) -> Result<(), Failure> {
        let Some(listed) = self.listed else { return Ok(()) };
        let from = |name: &str| std::env::var(name).ok();
        let server = ServerArgs {
            server: self.server.or_else(|| from("ASKWHEN_SERVER")),
            key: self.key.or_else(|| from("ASKWHEN_KEY")),
            project: self.project.or_else(|| from("ASKWHEN_PROJECT")).unwrap_or_else(|| "default".into()),
        };
        let client = Client::new(context, &server, Kind::Admin)?;
        let ids = tokio::time::timeout(ANSWER_WITHIN, listed.ids(&client)).await;
        let mut ids = ids.map_err(|_| Failure::unreachable(format!("{} does not answer", client.base())))??;
        ids.sort_unstable();
        // Ids that a shell would interpret have to be typed by hand.
        let plain = |id: &&String| id.chars().all(|c| c.is_alphanumeric() || "_-.+@/".contains(c));
        for id in ids.iter().filter(plain) {
            output::line(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_words_before_say_whose_ids_may_stand_next() {
        let root = super::super::Cli::command();
        let listed = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            read(&root, &words).listed
        };
        for line in
            ["pause", "archive", "delete", "get surveys", "stats", "responses --csv", "deliveries list --survey"]
        {
            assert_eq!(listed(line), Some(Listed::Surveys), "{line}");
        }
        for line in [
            "endpoints show",
            "--output json endpoints rotate-secret",
            "get endpoints",
            "deliveries recover --endpoint",
        ] {
            assert_eq!(listed(line), Some(Listed::Endpoints), "{line}");
        }
        for line in ["triggers delete", "send trigger ann", "explain ann --trigger", "get triggers"] {
            assert_eq!(listed(line), Some(Listed::Triggers), "{line}");
        }
        for line in ["", "get", "pause a", "users show", "send event ann", "apply -f", "deliveries list --limit"] {
            assert_eq!(listed(line), None, "{line}");
        }
    }

    #[test]
    fn fish_asks_for_the_ids_of_options_too() {
        let script = script(&mut super::super::Cli::command(), Shell::Fish);
        for option in ["survey", "endpoint", "trigger"] {
            let rule = format!("complete -c askwhen -l {option} -x -a \"(askwhen completions -- ");
            assert_eq!(script.matches(&rule).count(), 1, "{option}");
        }
        assert!(!script.contains("-l limit -x"), "a number is no id");
    }

    #[test]
    fn what_says_where_the_server_is_counts_for_its_ids_too() {
        let words = ["--data-dir", "d", "pause", "--server=http://h:1", "--key", "k", "--project", "p"];
        let typed = read(&super::super::Cli::command(), &words.map(str::to_owned));
        assert_eq!(typed.data_dir, Some("d".into()));
        assert_eq!(
            [typed.server.as_deref(), typed.key.as_deref(), typed.project.as_deref()],
            [Some("http://h:1"), Some("k"), Some("p")]
        );
        assert_eq!(typed.listed, Some(Listed::Surveys));
    }
}
