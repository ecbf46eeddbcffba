//! Finds keys and secrets that are long enough and still easy to guess.

/// The fewest different characters: random text of 16 hex digits has fewer about once in
/// 100,000 times.
const LEAST_DISTINCT: usize = 6;

/// Why a key is easy to guess, if it is.
pub fn weakness(key: &str) -> Option<&'static str> {
    let chars: Vec<char> = key.chars().collect();
    let mut distinct = chars.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < LEAST_DISTINCT {
        return Some("is made of a few characters");
    }
    let repeats = |period: &usize| chars.iter().zip(chars.iter().skip(*period)).all(|(a, b)| a == b);
    if (1..=chars.len() / 2).any(|period| repeats(&period)) {
        return Some("repeats itself");
    }
    let steps = chars.windows(2).filter(|pair| u32::from(pair[0]).abs_diff(u32::from(pair[1])) <= 1).count();
    (steps * 4 >= chars.len() * 3).then_some("counts up or down")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_guessed_is_found_and_nothing_else() {
        for weak in [
            "aaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababab",
            "passwordpassword",
            "password1password1pass",
            "123456789012345678",
            "abcdefghijklmnopqrstuvwxyz",
            "zyxwvutsrqponmlkjihg",
        ] {
            assert!(weakness(weak).is_some(), "{weak}");
        }
        for good in ["a key of sixteen and more", "9f86d081884c7d65", "ak_admin_0Z3kq9Yv2bTn", "the old one of sixteen"]
        {
            assert_eq!(weakness(good), None, "{good}");
        }
    }
}
