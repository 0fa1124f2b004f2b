use std::io::BufRead;
use std::os::fd::OwnedFd;

use super::*;
use crate::sink::Disposition;
use crate::sink::testing::message;

fn sink(path: &Path) -> JsonlSink {
    let options = JsonlOptions { path: path.display().to_string() };
    JsonlSink::new(options.validate("sinks.file", &mut Problems::default()).unwrap())
}

/// A sink whose output is the end of a pipe, as standard output may be.
fn piped() -> (JsonlSink, io::PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    let output = Output::File { file: File::from(OwnedFd::from(writer)), regular: false };
    let mut sink = JsonlSink::new(JsonlConfig { path: None });
    sink.output = Some(Arc::new(output));
    (sink, reader)
}

fn ids(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let id = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(event["id"].as_str()?.to_owned())
    };
    text.lines().map(|line| id(line).unwrap_or_else(|| "torn".to_owned())).collect()
}

#[tokio::test]
async fn acks_resolve_only_after_the_flush_that_wrote_the_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let mut sink = sink(&path);
    let mut first = sink.publish(&message("101", 1)).await.unwrap();
    let second = sink.publish(&message("101", 2)).await.unwrap();
    assert!(futures_util::poll!(&mut first).is_pending());
    sink.flush().await.unwrap();
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(ids(&path), ["101-1", "101-2"]);
    let third = sink.publish(&message("101", 3)).await.unwrap();
    sink.close().await;
    third.await.unwrap();
    assert_eq!(ids(&path), ["101-1", "101-2", "101-3"]);
}

#[tokio::test]
async fn what_the_gateway_wrote_on_several_lines_is_on_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let mut sink = sink(&path);
    let mut message = message("101", 1);
    let content = serde_json::from_str("{\r\n  \"text\": \"two\\nlines\"\n}").unwrap();
    let event = Arc::make_mut(&mut message.event);
    event.data.raw.content = Some(crate::event::data::Verbatim::of(content));
    let ack = sink.publish(&message).await.unwrap();
    sink.flush().await.unwrap();
    ack.await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["data"]["raw"]["content"]["text"], "two\nlines");
}

#[tokio::test]
async fn a_torn_last_line_is_left_alone_and_a_fresh_one_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    std::fs::write(&path, "{\"id\":\"old\"}\n{\"id\":\"to").unwrap();
    let mut sink = sink(&path);
    let ack = sink.publish(&message("101", 1)).await.unwrap();
    sink.flush().await.unwrap();
    ack.await.unwrap();
    assert_eq!(ids(&path), ["old", "torn", "101-1"]);
}

#[tokio::test]
async fn a_reset_drops_what_was_not_written_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let mut sink = sink(&path);
    let ack = sink.publish(&message("101", 1)).await.unwrap();
    sink.reset().await.unwrap();
    assert_eq!(ack.await.unwrap_err().reason, "reset");
    sink.flush().await.unwrap();
    let again = sink.publish(&message("101", 1)).await.unwrap();
    sink.flush().await.unwrap();
    again.await.unwrap();
    assert_eq!(ids(&path), ["101-1"]);
}

#[tokio::test]
async fn a_pipe_is_refused_also_where_it_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let mut sink = sink(&path);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut problems = Problems::default();
    let options = JsonlOptions { path: path.display().to_string() };
    assert!(options.validate("sinks.file", &mut problems).is_none());
    assert_eq!(problems.found()[0].key, "sinks.file.path");
    let ack = sink.publish(&message("101", 1)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Retry, "write"));
    assert_eq!(ack.await.unwrap_err().reason, "write");
}

#[tokio::test]
async fn a_file_that_is_made_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let mut sink = sink(&path);
    let ack = sink.publish(&message("101", 1)).await.unwrap();
    sink.flush().await.unwrap();
    ack.await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_full_device_is_a_retry() {
    let mut sink = sink(Path::new("/dev/full"));
    let ack = sink.publish(&message("101", 1)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert_eq!((error.disposition, error.reason), (Disposition::Retry, "write"));
    assert_eq!(ack.await.unwrap_err().reason, "write");
}

#[tokio::test]
async fn a_write_that_was_given_up_goes_on_and_no_other_tears_its_lines() {
    let (mut sink, reader) = piped();
    // More than a pipe holds.
    let mut large = message("101", 1);
    let content = serde_json::Value::String("x".repeat(200_000));
    let content = serde_json::value::to_raw_value(&content).unwrap();
    Arc::make_mut(&mut large.event).data.raw.content = Some(crate::event::data::Verbatim::of(&content));
    for _ in 0..2 {
        let ack = sink.publish(&large).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), sink.flush()).await.is_err());
        sink.reset().await.unwrap();
        assert_eq!(ack.await.unwrap_err().reason, "reset");
    }
    let ack = sink.publish(&message("101", 2)).await.unwrap();
    let lines = std::thread::spawn(|| {
        let lines = io::BufReader::new(reader).lines().take(2);
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect::<Vec<serde_json::Value>>()
    });
    sink.flush().await.unwrap();
    ack.await.unwrap();
    let ids: Vec<_> = lines.join().unwrap().iter().map(|event| event["id"].clone()).collect();
    assert_eq!(ids, ["101-1", "101-2"]);
}

#[tokio::test]
async fn lines_that_a_slow_reader_has_got_are_confirmed_though_the_rest_waits() {
    let (mut sink, mut reader) = piped();
    let mut acks = Vec::new();
    for sequence in 0..2000 {
        acks.push(sink.publish(&message("101", sequence)).await.unwrap());
    }
    // It reads half of what a pipe holds, and then nothing for longer than a flush goes on.
    let mut read = vec![0; PIECE_BYTES / 2];
    for _ in 0..6 {
        let flushed = tokio::time::timeout(2 * FLUSH_TURN, sink.flush()).await;
        assert!(flushed.is_err() || flushed.unwrap().is_ok());
        reader.read_exact(&mut read).unwrap();
    }
    let now = acks.iter_mut().map_while(FutureExt::now_or_never);
    let confirmed = now.inspect(|result| assert!(result.is_ok(), "{result:?}")).count();
    assert!((1..acks.len() / 2).contains(&confirmed), "{confirmed}");
    std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    sink.close().await;
    for ack in acks.drain(confirmed..) {
        ack.await.unwrap();
    }
}

#[tokio::test]
async fn an_output_that_takes_nothing_does_not_hold_the_end() {
    let (mut sink, mut reader) = piped();
    for sequence in 0..2000 {
        drop(sink.publish(&message("101", sequence)).await.unwrap());
    }
    let began = std::time::Instant::now();
    sink.close().await;
    assert!((CLOSE_TIMEOUT..Duration::from_secs(10)).contains(&began.elapsed()), "{:?}", began.elapsed());
    // The runtime waits for the write.
    std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
}

#[test]
fn the_path_is_required_and_its_folder_must_exist() {
    for path in ["", "/", "/nonexistent/folder/file", "/tmp"] {
        let mut problems = Problems::default();
        assert!(JsonlOptions { path: path.into() }.validate("sinks.file", &mut problems).is_none());
        assert_eq!(problems.found()[0].key, "sinks.file.path", "{path}");
    }
    assert!(JsonlOptions { path: "-".into() }.validate("sinks.file", &mut Problems::default()).is_some());
}
