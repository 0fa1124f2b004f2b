//! The OpenAPI document against the router, and its own examples against its schemas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::routes::{Access, ROUTES};
use super::schema;

const DOCUMENT: &str = include_str!("openapi.json");

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

#[test]
fn every_route_is_in_the_document_and_the_document_has_no_others() {
    let served: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| (route.method.as_str().to_lowercase(), route.path.replace("...}", "}")))
        .collect();
    let document = document();
    assert_eq!(document["servers"][0]["url"], super::routes::ROOT);
    let documented: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(served, documented);
}

#[test]
fn the_document_says_which_scope_each_route_needs() {
    let document = document();
    for route in ROUTES {
        let path = route.path.replace("...}", "}");
        let operation = &document["paths"][&path][route.method.as_str().to_lowercase()];
        let security = match route.access {
            Access::Open => serde_json::json!([]),
            Access::Read => serde_json::json!([{ "token": ["read"] }]),
            Access::Admin => serde_json::json!([{ "token": ["admin"] }]),
        };
        assert_eq!(operation["security"], security, "{} {path}", route.method);
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named: BTreeSet<_> = path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
            .map(str::to_owned)
            .collect();
        let documented: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(named, documented, "{} {path}", route.method);
    }
}

#[test]
fn operation_ids_are_unique_and_every_reference_leads_somewhere() {
    let document = document();
    let mut ids = BTreeSet::new();
    for operation in
        document["paths"].as_object().unwrap().values().flat_map(|p| p.as_object().unwrap().values())
    {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{operation}");
    }
    let mut waiting = vec![&document];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                waiting.extend(object.values());
            }
            Value::Array(array) => waiting.extend(array),
            _ => {}
        }
    }
}

#[test]
fn the_examples_of_the_document_are_what_its_schemas_say() {
    let document = document();
    let mut checked = 0;
    let mut waiting = vec![&document];
    while let Some(value) = waiting.pop() {
        if let Value::Object(object) = value {
            if let (Some(schema), Some(example)) = (object.get("schema"), object.get("example")) {
                assert_eq!(schema::faults(&document, schema, example), Vec::<String>::new(), "{example}");
                checked += 1;
            }
            for example in object.get("examples").and_then(Value::as_array).into_iter().flatten() {
                assert_eq!(schema::faults(&document, value, example), Vec::<String>::new(), "{example}");
                checked += 1;
            }
            waiting.extend(object.values());
        } else if let Value::Array(array) = value {
            waiting.extend(array);
        }
    }
    assert!(checked > 5, "only {checked} examples");
}

#[test]
fn the_document_knows_every_setting_of_an_agent() {
    let unknown = serde_json::from_value::<crate::session::config::RawAgent>(serde_json::json!({ "zzz": 1 }));
    let said = unknown.unwrap_err().to_string();
    let known = said.split_once("expected one of ").unwrap().1;
    let mut known: BTreeSet<_> = known.split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
    known.insert("password".to_owned());
    let document = document();
    let documented = document["components"]["schemas"]["AgentSettings"]["properties"].as_object().unwrap();
    assert_eq!(known, documented.keys().cloned().collect());
}
