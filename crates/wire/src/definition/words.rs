//! What people write where a definition wants a word or a shape of its own: the word that
//! is meant, and an example of the shape.

/// What other products, programs and people in a hurry call the first word of each.
const WORDS: [(&str, &[&str]); 29] = [
    ("active", &["live", "published", "on", "enabled", "running", "started"]),
    ("paused", &["off", "disabled", "stopped", "inactive"]),
    ("draft", &["new", "unpublished"]),
    ("archived", &["deleted", "closed", "ended"]),
    ("every_activation", &["always", "every_time", "each_time", "unlimited"]),
    ("eq", &["=", "==", "===", "equals", "equal", "is"]),
    ("neq", &["!=", "<>", "!==", "not_equals", "not_equal", "is_not", "not", "ne"]),
    ("gt", &[">", "greater", "greater_than", "more_than"]),
    ("gte", &[">=", "≥", "at_least", "ge", "greater_or_equal"]),
    ("lt", &["<", "less", "less_than", "fewer_than"]),
    ("lte", &["<=", "≤", "at_most", "le", "less_or_equal"]),
    ("in", &["one_of", "any_of"]),
    ("not_in", &["nin", "none_of"]),
    ("exists", &["is_set", "present", "not_null", "is_not_null"]),
    ("not_exists", &["is_not_set", "missing", "null", "is_null", "empty"]),
    ("contains", &["includes", "like", "has"]),
    ("nps", &["net_promoter_score"]),
    ("rating_star", &["star", "stars", "rating", "csat"]),
    ("rating_emoji", &["emoji", "emojis", "smiley", "smileys"]),
    ("rating_number", &["scale", "number", "numeric", "likert", "ces"]),
    (
        "single_choice",
        &["choice", "select", "radio", "single", "dropdown", "mcq", "single_select", "boolean", "yes_no"],
    ),
    ("multi_choice", &["checkbox", "checkboxes", "multi", "multiple", "multiple_choice", "multi_select"]),
    ("text", &["open", "open_text", "free_text", "textarea", "input", "string", "comment"]),
    ("info", &["statement", "intro", "message", "welcome", "cta"]),
    ("displayed", &["shown", "seen", "viewed"]),
    ("completed", &["finished", "submitted"]),
    ("exponential", &["backoff"]),
    ("fixed", &["constant", "linear"]),
    ("1flow", &["oneflow", "one_flow"]),
];

/// How a member of this name is written.
const SHAPES: [(&str, &str); 18] = [
    ("activate", "{event: ended_sleep}"),
    ("cancel_on", "[{event: started_sleep}]"),
    ("show_on", "[{trigger: MainActivity}]"),
    ("where", "[{property: plan, op: eq, value: pro}]"),
    ("targeting", "{attribute: plan, op: eq, value: pro}"),
    ("schedule", "{end_at: 2026-12-24T00:00:00Z}"),
    ("hours", "[\"08:00\", \"20:00\"]"),
    ("days", "[mon, tue]"),
    ("frequency", "{repeat: until_completed, cooldown: 14d}"),
    ("limits", "{max_completed: 100}"),
    ("sampling", "{percent: 25}"),
    ("holdout", "{percent: 5}"),
    ("platforms", "[ios, android]"),
    ("locales", "[de, en-GB]"),
    ("questions", "[{question_id: q1, type: nps, text: \"How likely …?\"}]"),
    ("options", "[\"yes\", \"no\"]"),
    ("when", "{op: gte, value: 9}"),
    ("retry", "{preset: standard}"),
];

/// The word among `known` that is meant: spelled in another style, called so elsewhere, or
/// a slip of a few letters away.
pub fn meant<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    let bare =
        |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase() };
    // Pages and mails put typographic quotes around words.
    let given = given.trim().trim_matches(['“', '”', '„', '‘', '’', '"', '\'']);
    let plain = bare(given);
    let is = |name: &str| if plain.is_empty() { name == given } else { bare(name) == plain };
    let called = || WORDS.iter().find(|(_, others)| others.iter().any(|other| is(other))).map(|(word, _)| *word);
    let same = known.iter().find(|known| is(known)).copied();
    let same = same.or_else(|| called().and_then(|word| known.iter().find(|known| **known == word).copied()));
    let near = || {
        let distances = known.iter().map(|known| (strsim::damerau_levenshtein(known, given), *known));
        distances.min().filter(|(distance, known)| *distance <= known.len() / 3).map(|(_, known)| known)
    };
    same.or_else(near)
}

/// An example of a member, as the end of a sentence; nothing for one that has none.
pub fn example(member: &str) -> String {
    let shape = SHAPES.iter().find(|(name, _)| *name == member);
    shape.map_or_else(String::new, |(_, shape)| format!(", such as {shape}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_told_ours() {
        let types =
            ["text", "nps", "single_choice", "multi_choice", "rating_number", "rating_star", "rating_emoji", "info"];
        let operators = ["eq", "neq", "gt", "gte", "lt", "lte", "between", "in", "not_in", "starts_with", "exists"];
        let states = ["draft", "test", "shadow", "active", "paused", "archived"];
        for (given, known, word) in [
            ("stars", &types[..], Some("rating_star")),
            ("NPS", &types, Some("nps")),
            ("“nps”", &types, Some("nps")),
            ("checkbox", &types, Some("multi_choice")),
            ("singleChoice", &types, Some("single_choice")),
            ("matrix", &types, None),
            ("==", &operators, Some("eq")),
            (">=", &operators, Some("gte")),
            ("≥", &operators, Some("gte")),
            ("startsWith", &operators, Some("starts_with")),
            ("matches", &operators, None),
            ("live", &states, Some("active")),
            ("Active", &states, Some("active")),
            ("actve", &states, Some("active")),
            ("", &states, None),
        ] {
            assert_eq!(meant(given, known), word, "{given}");
        }
        for (word, _) in WORDS {
            assert_eq!(meant(word, &[word]), Some(word));
        }
    }
}
