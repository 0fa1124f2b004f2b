//! A headless Chromium, driven by its own protocol over a pair of pipes. It must be there: a test without it fails.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{DEADLINE, START_DEADLINE};

/// One page of a browser of its own.
pub(crate) struct Browser {
    _child: Child,
    _folder: tempfile::TempDir,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    next_id: u64,
    /// What the page and the browser complained about.
    complaints: Vec<String>,
}

impl Browser {
    /// Starts one with an empty page.
    pub(crate) async fn start() -> Browser {
        let program =
            std::env::var("CCRELAY_BROWSER").unwrap_or_else(|_| "chromium-headless-shell".to_owned());
        let folder = tempfile::TempDir::new().expect("a folder");
        // The protocol is spoken on descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null", &program])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--remote-debugging-pipe", "--hide-scrollbars", "--force-color-profile=srgb"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut browser = Browser {
            _child: child,
            _folder: folder,
            input,
            output,
            session: None,
            next_id: 0,
            complaints: Vec::new(),
        };
        let version =
            tokio::time::timeout(START_DEADLINE, browser.try_call("Browser.getVersion", json!({}))).await;
        let version = version.expect("the browser answers in time");
        assert!(
            version.is_some(),
            "{program} does not run: `make setup` installs it (or set CCRELAY_BROWSER)"
        );
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.window(1280, 900).await;
        browser
    }

    async fn try_call(&mut self, method: &str, params: Value) -> Option<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.ok()?;
        loop {
            let mut bytes = Vec::new();
            self.output.read_until(0, &mut bytes).await.ok()?;
            bytes.pop()?;
            let message: Value = serde_json::from_slice(&bytes).expect("JSON");
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return Some(message["result"].clone());
            }
            self.note(&message);
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let result = tokio::time::timeout(DEADLINE, self.try_call(method, params)).await;
        result
            .unwrap_or_else(|_| panic!("{method}: no answer"))
            .unwrap_or_else(|| panic!("{method}: it is gone"))
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                matches!(params["type"].as_str(), Some("error" | "warning" | "assert"))
            }
            // Answers that are no success are for the page to show.
            Some("Log.entryAdded") => {
                params["entry"]["source"] != "network" && params["entry"]["level"] == "error"
            }
            _ => false,
        };
        if complaint {
            self.complaints.push(params.to_string());
        }
    }

    /// Goes to an address.
    pub(crate) async fn go(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(gone.get("errorText").is_none(), "{gone}");
        self.until("document.readyState === 'complete'").await;
    }

    /// The value of an expression in the page.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The text of what a selector finds; empty when it finds nothing.
    pub(crate) async fn text(&mut self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''")).await;
        found.as_str().expect("a text").to_owned()
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn until(&mut self, expression: &str) {
        let begin = std::time::Instant::now();
        while self.value(&format!("Boolean({expression})")).await != true {
            if begin.elapsed() > DEADLINE {
                let page = self.value("document.body.innerText").await;
                panic!("{expression} did not come about:\n{}", page.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses a key where the focus is: `Tab`, `Enter` or ` `.
    pub(crate) async fn press(&mut self, key: &str) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            " " => ("Space", 32, " "),
            other => panic!("no key {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types a text where the focus is.
    pub(crate) async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// What the focus is on: its id, else its name.
    pub(crate) async fn focus(&mut self) -> String {
        let focus = self.value("document.activeElement.id || document.activeElement.className || document.activeElement.tagName").await;
        focus.as_str().expect("a text").to_owned()
    }

    /// Prefers a colour scheme.
    pub(crate) async fn scheme(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Has a window of this size.
    pub(crate) async fn window(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Keeps a picture for who looks, in base64, in the folder of `CCRELAY_PICTURES`; without it there is none.
    pub(crate) async fn picture(&mut self, name: &str) {
        let Ok(folder) = std::env::var("CCRELAY_PICTURES") else { return };
        let size =
            self.value("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]").await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let params = json!({ "captureBeyondViewport": true, "clip": clip });
        let picture = self.call("Page.captureScreenshot", params).await;
        let file = std::path::Path::new(&folder).join(format!("{name}.base64"));
        std::fs::write(file, picture["data"].as_str().expect("a picture"))
            .expect("the folder can be written");
    }

    /// Fails when anything was complained about: an exception, an error on the console, a breach of the page's policy.
    pub(crate) async fn is_content(&mut self) {
        // Complaints come before the answer to what is asked after them.
        self.value("1").await;
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }

    /// Waits until what a selector finds has this in its text.
    pub(crate) async fn shows(&mut self, selector: &str, part: &str) {
        self.until(&format!("(document.querySelector({selector:?})?.innerText ?? '').includes({part:?})"))
            .await;
    }
}
