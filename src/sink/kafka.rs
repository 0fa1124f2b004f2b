//! kafka sink.
