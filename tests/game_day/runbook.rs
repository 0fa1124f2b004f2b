//! What the runbook says to look at first.

const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// The first thing to look at, between backticks or in the words "the log line `...`".
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A command of ours, by its words.
    Ccrelay(Vec<&'static str>),
    /// A metric.
    Metric(&'static str),
    /// A line of the log that has this in it.
    Log(&'static str),
    /// The end of the log.
    LogTail,
    /// A command of the system.
    Shell(&'static str),
}

/// What the section of an alert begins with.
pub(crate) fn first_look(alert: &str) -> Look {
    let section = RUNBOOK.split("\n## ").find(|section| section.lines().next() == Some(alert));
    let section = section.unwrap_or_else(|| panic!("the runbook has no section {alert}"));
    let look = section.split("**Look:**").nth(1).expect("something to look at");
    let mut parts = look.split('`');
    let (before, code) = (parts.next().unwrap_or_default(), parts.next().expect("something in backticks"));
    match code {
        code if code.starts_with("ccrelay ") => Look::Ccrelay(code.split_whitespace().skip(1).collect()),
        code if code.starts_with("ccrelay_") => Look::Metric(code),
        _ if before.ends_with("log line ") || before.ends_with("log lines ") => Look::Log(code),
        code => match code.strip_prefix("journalctl -u ccrelay").map(str::trim) {
            Some(rest) if rest.starts_with("-n ") => Look::LogTail,
            Some(rest) => Look::Log(rest.strip_prefix("| grep ").expect("a pattern").trim_matches('"')),
            None => Look::Shell(code),
        },
    }
}

#[test]
fn every_section_says_where_to_look_first() {
    for alert in crate::prometheus::alerts() {
        first_look(alert);
    }
    assert_eq!(first_look("CcrelaySpoolFilling"), Look::Ccrelay(vec!["sinks"]));
}
