//! A check of JSON against the part of JSON Schema that `openapi.json` uses, for tests: here and in `tests/it`, which
//! includes this file. A word that it does not know is a fault, so that nothing passes unchecked.

use serde_json::Value;

/// What is wrong with `value`; empty when nothing is.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(document, schema, value, "$", &mut faults);
    faults
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let Some(words) = schema.as_object() else {
        faults.push(format!("{at}: the schema is no object"));
        return;
    };
    for (word, rule) in words {
        let good = match word.as_str() {
            "description" | "default" | "examples" => true,
            "$ref" => {
                let pointer = rule.as_str().unwrap_or_default().trim_start_matches('#');
                match document.pointer(pointer) {
                    Some(schema) => check(document, schema, value, at, faults),
                    None => faults.push(format!("{at}: {rule} leads nowhere")),
                }
                true
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "enum" => rule.as_array().is_some_and(|values| values.contains(value)),
            "minimum" => value.as_f64().zip(rule.as_f64()).is_none_or(|(value, least)| value >= least),
            "maximum" => value.as_f64().zip(rule.as_f64()).is_none_or(|(value, most)| value <= most),
            "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap_or(0)),
            "maxLength" => value.as_str().is_none_or(|text| text.len() as u64 <= rule.as_u64().unwrap_or(0)),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap_or(0)),
            // Patterns are for readers: a check of them would need an engine, and names are checked where they are read.
            "pattern" => true,
            "format" => match rule.as_str() {
                Some("date-time") => value.as_str().is_none_or(is_time),
                Some(_) => true,
                None => false,
            },
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, item, &format!("{at}[{index}]"), faults);
                }
                true
            }
            "required" => value.as_object().is_none_or(|object| {
                rule.as_array()
                    .into_iter()
                    .flatten()
                    .all(|name| name.as_str().is_some_and(|name| object.contains_key(name)))
            }),
            "properties" => {
                for (name, schema) in rule.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(name) {
                        check(document, schema, value, &format!("{at}.{name}"), faults);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = words.get("properties").and_then(Value::as_object);
                value.as_object().is_none_or(|object| {
                    object
                        .keys()
                        .all(|name| known.is_some_and(|known| known.contains_key(name)) || rule == true)
                })
            }
            "oneOf" => {
                let fits = |schema: &&Value| self::faults(document, schema, value).is_empty();
                rule.as_array().is_some_and(|schemas| schemas.iter().filter(fits).count() == 1)
            }
            _ => false,
        };
        if !good {
            faults.push(format!("{at}: {word} {rule} does not hold for {value}"));
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

/// `2026-11-24T03:32:59.120Z`, the only form that ccrelay writes.
fn is_time(text: &str) -> bool {
    let form = b"0000-00-00T00:00:00.000Z";
    let fits = |(found, wanted): (u8, &u8)| {
        if *wanted == b'0' { found.is_ascii_digit() } else { found == *wanted }
    };
    text.len() == form.len() && text.bytes().zip(form).all(fits)
}
