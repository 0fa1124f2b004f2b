//! Puts together what the benches of one run of `scripts/bench` have written: tables, and what was to be reached.
//!
//! ```text
//! cargo bench --bench report -- FOLDER --json results.json
//! ```
//!
//! Reads `push.json`, `backlog.json`, `spool.json` and `deliver.json` of the folder, and criterion's results beneath it. What
//! is not there was not measured, and is said so.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::Parser;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[path = "common/output.rs"]
mod output;
#[path = "report/targets.rs"]
mod targets;

use output::Output;
use targets::{Results, Target, targets};

#[derive(Debug, Parser)]
struct Options {
    /// Where the results of the benches are.
    folder: PathBuf,
    /// How the run was made, for whoever reads it later.
    #[arg(long, default_value = "full")]
    mode: String,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let results = Results::read(&options.folder)?;
    let machine = machine(&options.folder);
    let versions = versions();
    let targets = targets(&results);

    println!("{machine}\n{versions}");
    results.print();
    // Of a run that only shows that everything runs they would say nothing.
    if options.mode != "smoke" {
        print_targets(&targets);
    }
    options.output.write(&json!({
        "at": OffsetDateTime::now_utc().format(&Rfc3339)?, "mode": options.mode, "machine": machine, "versions": versions,
        "targets": targets.iter().map(Target::json).collect::<Vec<_>>(),
        "push": results.push, "backlog": results.backlog, "spool": results.spool, "deliver": results.deliver,
        "micro_us": results.micro,
    }))
}

impl Results {
    fn read(folder: &Path) -> anyhow::Result<Results> {
        let part = |name: &str| read(&folder.join(name)).map(|part| part.unwrap_or_default());
        Ok(Results {
            push: part("push.json")?,
            backlog: part("backlog.json")?,
            spool: part("spool.json")?,
            deliver: part("deliver.json")?,
            micro: micro(&folder.join("criterion"))?,
        })
    }

    fn print(&self) {
        let push = [
            ("server", "/server", 0),
            ("connections", "/connections", 0),
            ("threads", "/load_threads", 0),
            ("asked/s", "/asked_per_second", 0),
            ("pushes/s", "/pushes_per_second", 0),
            ("p50 ms", "/p50_ms", 2),
            ("p99 ms", "/p99_ms", 2),
            ("p99.9 ms", "/p999_ms", 2),
            ("cpu us", "/processor_us_per_push", 1),
            ("bytes", "/bytes_written_per_push", 0),
            ("MiB", "/resident_mib", 1),
            ("load us", "/load_us_per_push", 1),
            ("load", "/load_busiest", 2),
            ("Kafka p99", "/kafka/p99_ms", 0),
            ("MQTT p99", "/mqtt/p99_ms", 0),
        ];
        table_of("Pushes", &self.push, &push);
        let drains = [
            ("broker", "/broker", 0),
            ("events/s", "/events_per_second", 0),
            ("its tool/s", "/tool_per_second", 0),
            ("cpu us", "/processor_us_per_event", 1),
            ("most MiB", "/most_resident_mib", 1),
        ];
        table_of("Backlog", &self.backlog["drains"], &drains);
        let spool = [
            ("at a time", "/at_a_time", 0),
            ("pushes/s", "/pushes_per_second", 0),
            ("commits/s", "/commits_per_second", 0),
            ("p50 ms", "/p50_ms", 2),
            ("p99 ms", "/p99_ms", 2),
        ];
        table_of("Spool", &self.spool["rows"], &spool);
        table_of("One worker", &self.deliver, &[("sink", "/sink", 0), ("events/s", "/events_per_second", 0)]);
        let micro = self.micro.as_object().into_iter().flatten();
        table("Micro", &["of", "us"], micro.map(|(name, micros)| vec![name.clone(), text(micros, 2)]));
    }
}

fn print_targets(targets: &[Target]) {
    let rows = targets.iter().map(|target| {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| rounded(value, target.unit));
        let verdict = match target.met() {
            None => "not measured",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let wanted = if target.least { ">=" } else { "<=" };
        let limit = format!("{wanted} {}", number(target.limit));
        vec![target.what.clone(), number(target.value), limit, verdict.to_owned()]
    });
    table("Targets", &["what", "measured", "wanted", "verdict"], rows);
}

fn rounded(value: f64, unit: &str) -> String {
    let digits = if value >= 1000.0 { 0 } else { 2 };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

/// A number with so many digits, or a text; a dash where there is neither.
fn text(value: &Value, digits: usize) -> String {
    match value {
        Value::Number(number) => format!("{:.digits$}", number.as_f64().unwrap_or_default()),
        Value::String(text) => text.clone(),
        _ => "-".to_owned(),
    }
}

/// Prints these members of each row, each under its header, from where they are, with so many digits.
fn table_of(title: &str, rows: &Value, columns: &[(&str, &str, usize)]) {
    let headers: Vec<&str> = columns.iter().map(|(header, ..)| *header).collect();
    let cell = |row: &Value, at: &str, digits| text(row.pointer(at).unwrap_or(&Value::Null), digits);
    let rows = rows.as_array().into_iter().flatten();
    table(
        title,
        &headers,
        rows.map(|row| columns.iter().map(|(_, at, digits)| cell(row, at, *digits)).collect()),
    );
}

/// Prints rows under their headers: the first column to the left, the others to the right.
fn table(title: &str, headers: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let headers = headers.iter().map(|header| (*header).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headers).chain(rows).collect();
    if rows.len() == 1 {
        return println!("\n{title}: not measured");
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    println!("\n{title}");
    for row in &rows {
        let mut line = format!("  {:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        println!("{line}");
    }
}

/// The file's JSON; nothing when there is no file.
fn read(file: &Path) -> anyhow::Result<Option<Value>> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| file.display().to_string()).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

/// The medians that criterion has found, in microseconds; of several that are one piece of work, those of one.
fn micro(folder: &Path) -> anyhow::Result<Value> {
    let mut found = Map::new();
    for group in entries(folder) {
        for function in entries(&group) {
            let part = |name: &str| read(&function.join("new").join(name));
            let (Some(about), Some(estimates)) = (part("benchmark.json")?, part("estimates.json")?) else {
                continue;
            };
            let elements = about["throughput"]["Elements"].as_f64().unwrap_or(1.0);
            if let (Some(name), Some(nanos)) =
                (about["full_id"].as_str(), estimates["median"]["point_estimate"].as_f64())
            {
                found.insert(name.to_owned(), json!(nanos / 1e3 / elements));
            }
        }
    }
    Ok(if found.is_empty() { Value::Null } else { Value::Object(found) })
}

/// What is in a folder, by name; nothing where there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn machine(folder: &Path) -> Value {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = read("/proc/cpuinfo");
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": value(&processor, "model name"),
        "virtual": processor.contains(" hypervisor "),
        "memory": value(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "file_system": said(Command::new("stat").args(["-f", "-c", "%T"]).arg(folder)),
    })
}

fn versions() -> Value {
    json!({
        "ccrelay": env!("CARGO_PKG_VERSION"),
        "commit": said(Command::new("git").args(["describe", "--always", "--dirty"])),
        "rustc": said(Command::new("rustc").arg("--version")),
        "kafka": kafka_version(),
        "java": said(Command::new("java").arg("--version")),
        "mosquitto": said(Command::new("mosquitto").arg("-h")),
    })
}

/// From the name of its jar.
fn kafka_version() -> Option<String> {
    let library =
        std::env::var_os("CCRELAY_KAFKA_LIB").map_or_else(|| ".cache/kafka/lib".into(), PathBuf::from);
    entries(&library).iter().find_map(|jar| {
        let version = jar.file_name()?.to_str()?.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?;
        version.starts_with(|first: char| first.is_ascii_digit()).then(|| version.to_owned())
    })
}

/// The first line of what a command prints; nothing where it cannot be run.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}
