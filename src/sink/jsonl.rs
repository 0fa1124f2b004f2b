//! jsonl sink.
