//! The tables of the README and of the runbook are made from what they describe: `config.toml`, the page of metrics, and what
//! retcodes lead to. This test holds them to it; with `CCRELAY_UPDATE_README` set it writes them anew instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ccrelay::metrics::Metrics;
use ccrelay::session::retcode::{Meaning, Operation, Retcode, meaning};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One key of `config.toml`: its table, its name, the value that stands there, and the comment above it.
#[derive(Debug)]
struct Key {
    table: String,
    name: String,
    value: String,
    meaning: String,
}

/// The keys of `config.toml`, in its order. Comments directly above a key or a table speak of it; what stands apart by
/// an empty line speaks to the reader of that file.
fn keys(toml: &str) -> (Vec<Key>, Vec<(String, String)>) {
    let (mut keys, mut tables) = (Vec::<Key>::new(), Vec::<(String, String)>::new());
    let (mut table, mut comment) = (String::new(), Vec::new());
    for line in toml.lines().map(str::trim_end) {
        let live = line.strip_prefix('#').unwrap_or(line);
        if line == "#" {
            comment.clear();
        } else if let Some(words) = line.strip_prefix("# ") {
            comment.push(words.trim());
        } else if let Some(name) = live.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.trim_start_matches('[').trim_end_matches(']').to_owned();
            tables.push((table.clone(), std::mem::take(&mut comment).join(" ")));
        } else if let Some((name, value)) = live.split_once(" = ") {
            // A comment above several keys speaks of all of them, and so does that of a table.
            let meaning = match (std::mem::take(&mut comment).join(" "), keys.last()) {
                (own, Some(Key { table: same, meaning, .. })) if own.is_empty() && *same == table => {
                    meaning.clone()
                }
                (own, _) if own.is_empty() => tables.last().map_or(own, |(_, meaning)| meaning.clone()),
                (own, _) => own,
            };
            keys.push(Key { table: table.clone(), name: name.to_owned(), value: value.to_owned(), meaning });
        } else {
            assert!(line.is_empty(), "config.toml: neither comment, table nor key: {line}");
            comment.clear();
        }
    }
    (keys, tables)
}

/// In a cell of a table a bar would end the cell; what looks like a tag would not be shown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn configuration() -> String {
    let (keys, tables) = keys(&text("config.toml"));
    let mut page = String::new();
    for (table, meaning) in tables {
        let rows: Vec<&Key> = keys.iter().filter(|key| key.table == table).collect();
        if rows.is_empty() {
            continue;
        }
        let meaning = cell(&meaning);
        write!(
            page,
            "\n**`[{table}]`** {meaning}\n\n| key | default or example | meaning |\n|---|---|---|\n"
        )
        .expect("text grows");
        for key in rows {
            let (name, value, meaning) = (&key.name, key.value.replace('|', "\\|"), cell(&key.meaning));
            assert!(!meaning.is_empty(), "config.toml: {table}.{name} has no comment");
            writeln!(page, "| `{name}` | `{value}` | {meaning} |").expect("text grows");
        }
    }
    page
}

fn metrics() -> String {
    let metrics = Metrics::new(["main"], [("bus", &["example"][..])]).expect("the metrics are consistent");
    let page = String::from_utf8(metrics.render()).expect("UTF-8");
    let mut table = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for help in page.lines().filter_map(|line| line.strip_prefix("# HELP ccrelay_")) {
        let (name, meaning) = help.split_once(' ').expect("a name and a help");
        let kind = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE ccrelay_{name} ")))
            .expect("every metric has a type");
        let series = page.lines().find(|line| {
            ["{", "_bucket{", "_count{"].iter().any(|end| line.starts_with(&format!("ccrelay_{name}{end}")))
        });
        let labels: Vec<String> = series
            .and_then(|line| line.split_once('{')?.1.split_once('}'))
            .map(|(labels, _)| labels.split(',').filter_map(|label| label.split_once('=')).collect())
            .unwrap_or_else(Vec::new)
            .into_iter()
            .filter(|(label, _)| *label != "le" || kind != "histogram")
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        writeln!(table, "| `ccrelay_{name}` | {kind} | {} | {} |", labels.join(", "), cell(meaning))
            .expect("text grows");
    }
    table
}

/// What the gateway may answer to a sign-in, and what then follows.
fn sign_in_retcodes() -> String {
    let mut table = "\n| retcode | the gateway says | ccrelay |\n|---|---|---|\n".to_owned();
    for line in text("src/session/retcodes.csv").lines().skip(1) {
        let (code, rest) = line.split_once(',').expect("a code");
        let (says, _class) = rest.rsplit_once(',').expect("a class");
        // Codes of calls, of recordings and of other interfaces are no answers to a sign-in.
        if !["000-", "100-", "105-", "110-"].iter().any(|group| code.starts_with(group)) {
            continue;
        }
        let does = match meaning(Operation::Login, &Retcode::new(code)) {
            Meaning::SignedIn => {
                "forces the agent in where `takeover` is set; else tries for a while, then suspends"
                    .to_owned()
            }
            Meaning::SwitchingOver => "tries again after a few seconds".to_owned(),
            Meaning::Transient => "tries again, ever more slowly".to_owned(),
            Meaning::UnderWay => {
                "tries again, ever more slowly; who is then signed in may be the agent itself".to_owned()
            }
            Meaning::Doubtful => "tries three times, then suspends".to_owned(),
            Meaning::Suspend(why) => format!("suspends the agent: `{}`", why.as_str()),
            other => panic!("{code}: {other:?} is no answer to a sign-in"),
        };
        let says = says.trim_matches('"');
        writeln!(table, "| {code} | {} | {does} |", cell(says)).expect("text grows");
    }
    table
}

/// A page with the text between the marks of `name` replaced.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("\n<!-- {name}: end -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{begin} is not in the page"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{end} is not in the page"));
    format!("{before}{begin}{table}{end}{after}")
}

#[test]
fn the_tables_of_the_readme_are_those_of_the_program() {
    holds("README.md", &[("configuration", configuration()), ("metrics", metrics())]);
}

#[test]
fn the_runbook_has_the_retcodes_of_sign_ins() {
    holds("docs/runbook.md", &[("sign-in retcodes", sign_in_retcodes())]);
}

/// Fails unless these tables stand in the page, or writes them there.
fn holds(name: &str, tables: &[(&str, String)]) {
    let page = text(name);
    let expected = tables.iter().fold(page.clone(), |page, (mark, table)| with_table(&page, mark, table));
    if std::env::var_os("CCRELAY_UPDATE_README").is_some() {
        std::fs::write(file(name), expected).expect("the page can be written");
        return;
    }
    for (line, (found, expected)) in page.lines().zip(expected.lines()).enumerate() {
        assert_eq!(
            found,
            expected,
            "{name} line {}; CCRELAY_UPDATE_README=1 cargo test --test readme",
            line + 1
        );
    }
    assert_eq!(page.len(), expected.len(), "{name} ends too early or too late");
}
