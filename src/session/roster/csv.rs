//! Rosters as comma-separated values (RFC 4180): a header row with keys of `[[agents]]`, then one agent a row.
//!
//! Strict about quotes, since a quote that is never closed would swallow the agents after it. Lenient where nothing
//! is lost: a byte order mark, blank lines, lines that begin with `#`, and spaces around fields without quotes.

use super::{Mistake, Row};
use crate::session::config::RawAgent;

/// One record: where it begins, and its fields.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    line: usize,
    fields: Vec<String>,
}

/// All agents of a file, and every mistake in how they are written.
pub(super) fn rows(text: &str) -> (Vec<Row>, Vec<Mistake>) {
    let (records, mut mistakes) = records(text);
    let mut records = records.into_iter();
    let Some(header) = records.next() else { return (Vec::new(), mistakes) };
    if !check_header(&header, &mut mistakes) {
        // What stands in the rows below such a header is anybody's guess: in a file without one it is not even one.
        return (Vec::new(), mistakes);
    }
    let rows = records.filter_map(|record| row(&header, record, &mut mistakes)).collect();
    (rows, mistakes)
}

/// False when it has a column that is unknown.
fn check_header(header: &Record, mistakes: &mut Vec<Mistake>) -> bool {
    let mut known = true;
    for (at, name) in header.fields.iter().enumerate() {
        let message = if !RawAgent::KEYS.contains(&name.as_str()) {
            known = false;
            format!("unknown column; known here: {}", RawAgent::KEYS.join(", "))
        } else if header.fields[..at].contains(name) {
            "this column stands here twice".to_owned()
        } else {
            continue;
        };
        mistakes.push(Mistake::at(header.line, Some(column_name(name, at)), message));
    }
    known
}

/// The column as its header names it, unless that is not the name of one: then it may be anything, even a password.
fn column_name(name: &str, at: usize) -> String {
    let known = RawAgent::KEYS.contains(&name);
    if known { name.to_owned() } else { format!("{}", at + 1) }
}

fn row(header: &Record, record: Record, mistakes: &mut Vec<Mistake>) -> Option<Row> {
    let (line, expected, found) = (record.line, header.fields.len(), record.fields.len());
    if expected != found {
        let message = format!("has {found} fields, the header has {expected}");
        mistakes.push(Mistake::at(line, None, message));
        return None;
    }
    let mut row = Row { line, raw: RawAgent::default(), wrong: Vec::new() };
    // An empty field is a key that is left out.
    let fields = header.fields.iter().zip(&record.fields).filter(|(_, field)| !field.is_empty());
    for (name, field) in fields {
        if let Err(message) = row.raw.set_text(name, field) {
            row.wrong.push((name.clone(), message));
        }
    }
    Some(row)
}

fn records(text: &str) -> (Vec<Record>, Vec<Mistake>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { rest: text, line: 1 };
    let (mut records, mut mistakes) = (Vec::new(), Vec::new());
    while !reader.rest.is_empty() {
        if reader.skip_blank() {
            continue;
        }
        match reader.record() {
            Ok(record) => records.push(record),
            Err(mistake) => {
                // What a stray quote means for the rest of the file is anybody's guess.
                mistakes.push(mistake);
                break;
            }
        }
    }
    (records, mistakes)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    /// Skips one line that is blank or a comment.
    fn skip_blank(&mut self) -> bool {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        let blank = line.trim().is_empty() || line.starts_with('#');
        if blank {
            self.rest = rest;
            self.line += 1;
        }
        blank
    }

    fn record(&mut self) -> Result<Record, Mistake> {
        let (line, mut fields) = (self.line, Vec::new());
        loop {
            fields.push(if self.rest.starts_with('"') { self.quoted()? } else { self.plain()? });
            if self.ends_line() {
                return Ok(Record { line, fields });
            }
            self.rest = self.rest.strip_prefix(',').unwrap_or(self.rest);
        }
    }

    /// Whether a record ends here; goes beyond the line's end.
    fn ends_line(&mut self) -> bool {
        let after = self.rest.strip_prefix("\r\n").or_else(|| self.rest.strip_prefix('\n'));
        if let Some(after) = after {
            self.rest = after;
            self.line += 1;
        }
        after.is_some() || self.rest.is_empty()
    }

    fn plain(&mut self) -> Result<String, Mistake> {
        let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(end);
        let (field, rest) = match field.strip_suffix('\r') {
            Some(field) if rest.starts_with('\n') => (field, &self.rest[end - 1..]),
            _ => (field, rest),
        };
        if field.contains('"') {
            return Err(self.mistake(self.line, "a quote stands in a field that does not begin with one"));
        }
        self.rest = rest;
        Ok(field.trim().to_owned())
    }

    fn quoted(&mut self) -> Result<String, Mistake> {
        let (begin, mut field) = (self.line, String::new());
        self.rest = &self.rest[1..];
        loop {
            let Some((part, rest)) = self.rest.split_once('"') else {
                return Err(self.mistake(begin, "a quote that begins here is never closed"));
            };
            field.push_str(part);
            self.line += part.matches('\n').count();
            self.rest = rest;
            match rest.strip_prefix('"') {
                Some(rest) => {
                    field.push('"');
                    self.rest = rest;
                }
                None if rest.is_empty() || rest.starts_with([',', '\n']) || rest.starts_with("\r\n") => {
                    return Ok(field);
                }
                None => return Err(self.mistake(self.line, "after the closing quote a comma must follow")),
            }
        }
    }

    fn mistake(&self, line: usize, message: &str) -> Mistake {
        Mistake::at(line, None, message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(text: &str) -> Vec<(usize, Vec<String>)> {
        let (records, mistakes) = records(text);
        assert_eq!(mistakes, []);
        records.into_iter().map(|record| (record.line, record.fields)).collect()
    }

    fn strings(fields: &[&str]) -> Vec<String> {
        fields.iter().map(|field| (*field).to_owned()).collect()
    }

    #[test]
    fn fields_are_read_with_and_without_quotes_and_lines_are_counted() {
        let text =
            "\u{feff}id,phone_number\r\n# nobody\n\n1001 , 7001\r\n\"1002\",\"a \"\"b\"\",\n c\"\n1003,";
        let expected = vec![
            (1, strings(&["id", "phone_number"])),
            (4, strings(&["1001", "7001"])),
            (5, strings(&["1002", "a \"b\",\n c"])),
            (7, strings(&["1003", ""])),
        ];
        assert_eq!(fields(text), expected);
    }

    #[test]
    fn stray_quotes_are_mistakes_with_the_line_where_they_begin() {
        for (text, line, part) in [
            ("id\n1\n\"2\n3\n", 3, "never closed"),
            ("id\n1\"2\n", 2, "does not begin"),
            ("id\n\"1\"2\n", 2, "comma must follow"),
            ("id\n\"a\nb\"2\n", 3, "comma must follow"),
        ] {
            let (_, mistakes) = records(text);
            assert_eq!(mistakes.len(), 1, "{text}");
            assert!(
                mistakes[0].line == Some(line) && mistakes[0].message.contains(part),
                "{:?}",
                mistakes[0]
            );
        }
    }

    #[test]
    fn mistakes_of_the_header_and_of_rows_name_line_and_column_but_no_value() {
        let (rows, mistakes) = rows("id,status,id\n1,2,3\n1,2\n");
        let found: Vec<_> = mistakes.iter().map(|m| (m.line.unwrap(), m.column.as_deref())).collect();
        assert_eq!(found, [(1, Some("id")), (3, None)]);
        assert_eq!(rows.len(), 1);
        let (rows, _) = super::rows("id,takeover,status,ip\n1,hush,hush,hush\n");
        let keys: Vec<_> = rows[0].wrong.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["takeover", "status", "ip"]);
        assert!(!format!("{:?}", rows[0].wrong).contains("hush"));
    }

    #[test]
    fn a_file_without_a_header_is_one_mistake_for_each_field_of_its_first_row_and_none_is_quoted() {
        let text = "1001,7001,hush-hush\n1002,7002,hush-too\n1003\n";
        let (rows, mistakes) = rows(text);
        assert_eq!(rows.len(), 0);
        let found: Vec<_> = mistakes.iter().map(|m| (m.line.unwrap(), m.column.as_deref())).collect();
        assert_eq!(found, [(1, Some("1")), (1, Some("2")), (1, Some("3"))]);
        let said = format!("{mistakes:?}");
        assert!(!["1001", "7001", "hush"].iter().any(|value| said.contains(value)), "{said}");
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back_as_it_was(
            table in prop::collection::vec(prop::collection::vec("[a-z\",\r\n# ä]{0,6}", 1..4), 1..5)
        ) {
            let line = |fields: &Vec<String>| {
                let quoted = fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\"")));
                quoted.collect::<Vec<_>>().join(",")
            };
            let text = table.iter().map(line).collect::<Vec<_>>().join("\r\n");
            let (records, mistakes) = records(&text);
            prop_assert_eq!(mistakes, []);
            let back: Vec<_> = records.into_iter().map(|record| record.fields).collect();
            prop_assert_eq!(back, table);
        }

        #[test]
        fn no_text_makes_the_reader_panic_or_run_for_ever(text in ".{0,60}|[a,\"\r\n#]{0,40}") {
            let _records = records(&text);
        }
    }
}
