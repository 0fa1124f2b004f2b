//! What consumers can rely on, in forms that their tools read: a JSON Schema (2020-12) of each type's data, one of the whole
//! CloudEvent, one of an agent's retained state, and an AsyncAPI 3 document of it all. Everything is made from the types
//! that events are written from.
//!
//! The contract is only ever added to: members, types and words may come, and consumers must pass over what they do not
//! know. [`compatibility`] finds what would break them.

use serde_json::Value;

mod asyncapi;
pub mod compatibility;
mod schemas;

pub use asyncapi::asyncapi;
pub use schemas::{CLOUDEVENT, STATE, names, schema};

/// Every file of the contract: its path below a folder, and what is in it.
#[must_use]
pub fn files() -> Vec<(String, Value)> {
    let schemas =
        names().into_iter().filter_map(|name| Some((format!("schemas/{name}.json"), schema(name)?)));
    std::iter::once(("asyncapi.json".to_owned(), asyncapi())).chain(schemas).collect()
}

/// A document as it is printed and stored.
#[must_use]
pub fn to_text(document: &Value) -> String {
    format!("{document:#}\n")
}

#[cfg(test)]
pub(crate) mod tests;
