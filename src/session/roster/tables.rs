//! Rosters in TOML: `[[agents]]` tables and nothing else.

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::{Mistake, Row};
use crate::session::config::RawAgent;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    agents: Vec<Spanned<Table>>,
    /// Everything that does not belong here.
    #[serde(flatten)]
    others: Table,
}

/// All agents of a file, and every mistake in how they are written.
pub(super) fn rows(text: &str) -> (Vec<Row>, Vec<Mistake>) {
    let line_at = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    // Reports of the library quote the line, and those about types the value, either of which may hold a secret.
    let line_of = |error: &toml::de::Error| line_at(error.span().map_or(0, |span| span.start));
    if let Err(error) = toml::from_str::<Table>(text) {
        let message = error.message().lines().next().unwrap_or("is not TOML");
        return (Vec::new(), vec![Mistake::at(line_of(&error), None, message)]);
    }
    let file: File = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            let message = "expected [[agents]] tables";
            return (Vec::new(), vec![Mistake::at(line_of(&error), None, message)]);
        }
    };
    let mistakes = match file.others.is_empty() {
        true => Vec::new(),
        false => vec![Mistake::whole("has something else than [[agents]] tables")],
    };
    let rows = file.agents.into_iter().map(|table| row(line_at(table.span().start), table.into_inner()));
    (rows.collect(), mistakes)
}

fn row(line: usize, table: Table) -> Row {
    let mut row = Row { line, raw: RawAgent::default(), wrong: Vec::new() };
    for (key, value) in table {
        if let Err(message) = set(&mut row.raw, &key, value) {
            row.wrong.push((key, message));
        }
    }
    row
}

fn set(raw: &mut RawAgent, key: &str, value: Value) -> Result<(), String> {
    if !RawAgent::KEYS.contains(&key) {
        return Err(format!("unknown key; known here: {}", RawAgent::KEYS.join(", ")));
    }
    raw.set_value(key, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_read_with_the_lines_where_they_begin() {
        let text =
            "# all\n[[agents]]\nid = '1001'\nskills = [1, 2]\n\n[[agents]]\nid = '1002'\ntakeover = true\n";
        let (rows, mistakes) = rows(text);
        assert_eq!(mistakes, []);
        let found: Vec<_> = rows.iter().map(|row| (row.line, row.raw.id.as_str())).collect();
        assert_eq!(found, [(2, "1001"), (6, "1002")]);
        assert_eq!(rows[1].raw.takeover, Some(true));
        assert!(rows.iter().all(|row| row.wrong.is_empty()));
    }

    #[test]
    fn mistakes_name_line_and_key_but_no_value() {
        let (rows, mistakes) =
            rows("[[agents]]\nid = 1001\ntakeover = 'hush'\nstatus = 'hush'\ncolour = 'hush'\n");
        assert_eq!(mistakes, []);
        let keys: Vec<_> = rows[0].wrong.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(!format!("{:?}", rows[0].wrong).contains("hush"));
        for text in
            ["[[agents]]\nid = 'hush\n", "agents = 'hush'", "x = 1\n[[agents]]\nid='1'", "[[agents]]\nid"]
        {
            let (_, mistakes) = super::rows(text);
            assert_eq!(mistakes.len(), 1, "{text}");
            assert!(!format!("{mistakes:?}").contains("hush"), "{mistakes:?}");
        }
    }
}
