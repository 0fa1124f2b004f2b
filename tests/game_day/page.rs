//! What the status page shows, from the stream that it is made of.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Somebody who has the page open all night.
#[derive(Debug, Default, Clone)]
pub(crate) struct Page(Arc<Mutex<BTreeSet<String>>>);

impl Page {
    /// Opens it, and again whenever the relay is back.
    pub(crate) fn open(operations: SocketAddr, token: &str) -> Page {
        let page = Page::default();
        let (shown, token) = (Arc::downgrade(&page.0), token.to_owned());
        tokio::task::spawn(async move {
            while shown.strong_count() > 0 {
                if let Ok(stream) = TcpStream::connect(operations).await {
                    let told = |concerns| {
                        let shown = shown.upgrade()?;
                        *shown.lock().expect("nobody panics with it") = concerns;
                        Some(())
                    };
                    follow(stream, &token, told).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        page
    }

    /// Alerts whose concerns it shows now.
    pub(crate) fn shows(&self) -> BTreeSet<String> {
        self.0.lock().expect("nobody panics with it").clone()
    }
}

/// Reads until the stream ends, or nobody wants to be told.
async fn follow(mut stream: TcpStream, token: &str, told: impl Fn(BTreeSet<String>) -> Option<()>) {
    let head = format!(
        "GET /api/v1/status/stream HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(data) = line.strip_prefix("data: ") else { continue };
        let Ok(beat) = serde_json::from_str::<Value>(data) else { continue };
        let Some(concerns) = beat["status"]["concerns"].as_array() else { continue };
        let alerts = concerns.iter().filter_map(|concern| concern["alert"].as_str().map(str::to_owned));
        if told(alerts.collect()).is_none() {
            return;
        }
    }
}
