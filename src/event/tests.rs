//! Tests of the whole way from a body to an event.
