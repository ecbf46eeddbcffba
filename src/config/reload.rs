//! What is put in force while the server runs.

use toml::Table;

/// Keys that are put in force without a restart; a section stands for all keys in it.
const RELOADED: [&str; 5] = ["keys", "projects", "process.log_level", "http.cors_origins", "limits"];

/// Whether a dotted key is put in force without a restart.
pub fn is_reloaded(key: &str) -> bool {
    RELOADED.iter().any(|name| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The configuration in force after one has been read again: that of before, with the keys
/// that need no restart.
pub fn in_force(before: &Table, reread: &Table) -> Table {
    let mut table = before.clone();
    for key in RELOADED {
        let (section, name) = key.split_once('.').map_or((None, key), |(section, name)| (Some(section), name));
        let of = |table: &Table| section.map_or(Some(table.clone()), |section| table.get(section)?.as_table().cloned());
        let value = of(reread).and_then(|from| from.get(name).cloned());
        let into = match section {
            Some(section) => table.get_mut(section).and_then(toml::Value::as_table_mut),
            None => Some(&mut table),
        };
        match (into, value) {
            (Some(into), Some(value)) => drop(into.insert(name.to_owned(), value)),
            (Some(into), None) => drop(into.remove(name)),
            (None, _) => {}
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let before: Table =
            toml::from_str("data_dir = 'a'\nkeys = [1]\n[http]\nlisten = 'x'\ncors_origins = []").unwrap();
        let reread: Table =
            toml::from_str("data_dir = 'b'\n[http]\nlisten = 'y'\ncors_origins = ['z']\n[limits]\nper_key = '1/s'")
                .unwrap();
        let wanted: Table =
            toml::from_str("data_dir = 'a'\n[http]\nlisten = 'x'\ncors_origins = ['z']\n[limits]\nper_key = '1/s'")
                .unwrap();
        assert_eq!(in_force(&before, &reread), wanted);
        assert!(is_reloaded("limits.per_key") && is_reloaded("keys") && !is_reloaded("http.listen"));
    }
}
