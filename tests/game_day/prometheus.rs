//! A Prometheus of the test's own, with the rules of `deploy/`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::Process;
use crate::support::{START_DEADLINE, eventually, free_port};

const RULES: &str = include_str!("../../deploy/prometheus/ccrelay.rules.yml");
/// What each window of a rule is here; scrapes come every second.
const WINDOW: &str = "20s";
const PATIENCE: &str = "1s";

pub(crate) struct Prometheus {
    process: Process,
    port: u16,
    _folder: TempDir,
}

/// Names of all alerts.
pub(crate) fn alerts() -> impl Iterator<Item = &'static str> {
    RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: "))
}

/// The rules with short windows and little patience.
fn rules() -> String {
    let shorter = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: {PATIENCE}\n"),
        _ => {
            let mut parts = line.split('[');
            let mut shorter = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (window, rest) = part.split_once(']').expect("a bracket is closed");
                let is_window = window.ends_with(['s', 'm', 'h', 'd'])
                    && window.starts_with(|c: char| c.is_ascii_digit());
                assert!(is_window, "{window} is no window");
                shorter.push_str(&format!("[{WINDOW}]{rest}"));
            }
            shorter + "\n"
        }
    };
    RULES.lines().map(shorter).collect()
}

impl Prometheus {
    /// Scrapes the operations listener on that port.
    pub(crate) async fn start(operations_port: u16) -> Prometheus {
        let folder = tempfile::Builder::new().prefix("ccrelay-prometheus-").tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("rules.yml"), rules()).expect("the folder can be written");
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n- job_name: ccrelay\n  static_configs: [{{targets: ['127.0.0.1:{operations_port}']}}]\n"
        );
        std::fs::write(path("prometheus.yml"), configuration).expect("the folder can be written");
        let port = free_port();
        let command = [
            "prometheus".to_owned(),
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let prometheus =
            Prometheus { process: Process::start(folder.path(), &command), port, _folder: folder };
        eventually("a Prometheus that is ready", START_DEADLINE, || async {
            prometheus.process.assert_alive();
            let answer = prometheus.get("/-/ready").await?;
            answer.starts_with("HTTP/1.0 200").then_some(())
        })
        .await;
        // Before its first scrape it has no target, so CcrelayDown fires.
        eventually("a first scrape", START_DEADLINE, || async {
            let answer = prometheus.get("/api/v1/query?query=up").await?;
            let scraped = answer.contains("\"job\":\"ccrelay\"");
            (scraped && !prometheus.firing().await.contains("CcrelayDown")).then_some(())
        })
        .await;
        prometheus
    }

    /// Names of the alerts that fire.
    pub(crate) async fn firing(&self) -> BTreeSet<String> {
        let answer = self.get("/api/v1/alerts").await.expect("Prometheus answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let answer: Value = serde_json::from_str(body).expect("JSON");
        let alerts = answer["data"]["alerts"].as_array().expect("a list of alerts");
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().expect("a name").to_owned()).collect()
    }

    /// In HTTP/1.0, so that the body comes as it is.
    async fn get(&self, path: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten()
    }
}

#[test]
fn only_windows_and_patience_differ_from_the_rules() {
    let rules = rules();
    assert_eq!(rules.lines().count(), RULES.lines().count());
    for (here, there) in rules.lines().zip(RULES.lines()).filter(|(here, there)| here != there) {
        let is_patience = here.trim() == format!("for: {PATIENCE}") && there.trim().starts_with("for: ");
        assert!(
            is_patience || here.matches(&format!("[{WINDOW}]")).count() == there.matches('[').count(),
            "{here}"
        );
    }
}
