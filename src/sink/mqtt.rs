//! mqtt sink.
