//! What the gateway's manuals say happens: the flows of events, and an example of each event's content.
//! The data is `flows.json`; `$callid` and the like stand in it for what changes from call to call.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::random::Random;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::load);

/// Chat lines for `$text` that are ASCII, and that are not.
const TEXTS: [&str; 3] = ["testmessage", "Where is my order?", "\"quoted\" \\ and <b>tags</b>"];
const WIDE_TEXTS: [&str; 3] = ["您好，我的订单在哪里？", "Où est ma commande ? Größe 42 €", "Спасибо 🙂"];

/// All flows and contents.
#[derive(Debug)]
pub(super) struct Catalogue {
    flows: Vec<Flow>,
    by_id: HashMap<String, usize>,
    contents: BTreeMap<String, Value>,
    other_contents: BTreeMap<String, Vec<Value>>,
}

/// One flow: what one interface call or call situation triggers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flow {
    pub(super) id: String,
    /// Where in a call it belongs.
    pub(super) place: Place,
    /// The kind of the call that it begins (call type in the appendix of the CEC API Reference); an ordinary inbound one otherwise.
    #[serde(default)]
    pub(super) feature: Feature,
    pub(super) steps: Vec<Step>,
}

/// Events that come together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) recipient: Recipient,
    pub(super) events: Vec<String>,
    /// Only for agents whose phone is not permanently connected.
    #[serde(default, rename = "mustPickUp")]
    pub(super) must_pick_up: bool,
    /// What events say here in place of the example.
    #[serde(default)]
    contents: BTreeMap<String, Value>,
}

/// Where in a call a flow belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    Begin,
    Within,
    End,
    Alone,
}

/// Who gets a step's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Recipient {
    Agent,
    Inspector,
    Inspected,
}

/// Kinds of calls, with the gateway's code. It belongs to the call's id and stays the same through a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Feature {
    #[default]
    #[serde(rename = "0")]
    Inbound,
    #[serde(rename = "7")]
    Outgoing,
}

/// What changes from call to call.
#[derive(Debug, Clone, Default)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) feature: Feature,
    pub(super) caller: String,
    pub(super) called: String,
    /// Whom it is passed on to, or who helps.
    pub(super) target: String,
}

/// What a content is filled with.
#[derive(Debug)]
pub(super) struct Fill<'a> {
    pub(super) agent: &'a str,
    pub(super) peer: &'a str,
    pub(super) login_time: u64,
    pub(super) call: &'a Call,
    pub(super) wide_text: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    flows: Vec<Flow>,
    contents: BTreeMap<String, Value>,
    /// Other spellings of the same, of other editions of the manuals or as clients expect them.
    #[serde(rename = "otherContents")]
    other_contents: BTreeMap<String, Vec<Value>>,
}

impl Catalogue {
    /// The one catalogue.
    pub(super) fn shared() -> &'static Catalogue {
        &CATALOGUE
    }

    fn load() -> Catalogue {
        let file: File = serde_json::from_str(include_str!("flows.json"))
            .expect("flows.json is part of the program, and a test reads it");
        let by_id = file.flows.iter().enumerate().map(|(i, flow)| (flow.id.clone(), i)).collect();
        let File { flows, contents, other_contents } = file;
        Catalogue { flows, by_id, contents, other_contents }
    }

    /// The flow of that name.
    pub(super) fn flow(&self, id: &str) -> Option<&Flow> {
        self.by_id.get(id).map(|i| &self.flows[*i])
    }

    /// The types of all events there is an example of.
    pub(super) fn event_types(&self) -> impl Iterator<Item = &str> {
        self.contents.keys().map(String::as_str)
    }

    /// The names of all flows.
    pub(super) fn flow_ids(&self) -> impl Iterator<Item = &str> {
        self.flows.iter().map(|flow| flow.id.as_str())
    }

    /// All flows of a place that have events.
    pub(super) fn at(&self, place: Place) -> Vec<&Flow> {
        self.flows.iter().filter(|f| f.place == place && !f.steps.is_empty() && f.id != "sign-in").collect()
    }

    /// The example content of an event, or the one that it has in this step, filled in; null for an unknown event.
    pub(super) fn content(
        &self,
        event_type: &str,
        step: Option<&Step>,
        fill: &Fill<'_>,
        random: &mut Random,
    ) -> Value {
        let template = step.and_then(|step| step.contents.get(event_type));
        let template = template.or_else(|| self.contents.get(event_type));
        template.map_or(Value::Null, |template| fill.value(template, random))
    }
}

impl Catalogue {
    /// The types of events whose content is spelt in more than one way.
    #[cfg(test)]
    pub(super) fn other_spellings(&self) -> impl Iterator<Item = &str> {
        self.other_contents.keys().map(String::as_str)
    }

    /// Another spelling of the content, where one is known of.
    pub(super) fn other_content(
        &self,
        event_type: &str,
        fill: &Fill<'_>,
        random: &mut Random,
    ) -> Option<Value> {
        let templates = self.other_contents.get(event_type)?;
        let template = random.pick(templates);
        Some(fill.value(template, random))
    }
}

impl Call {
    /// A new call at `second`, the `number`-th of this run.
    pub(super) fn new(second: u64, number: u64, feature: Feature, random: &mut Random) -> Call {
        let customer = format!("{}", 70_000 + random.below(9_999));
        let own = format!("{}", 6_000 + random.below(999));
        let (caller, called) = match feature {
            Feature::Inbound => (customer, own),
            Feature::Outgoing => (own, customer),
        };
        let target = format!("{}", 80_000 + random.below(9_999));
        Call { id: format!("{second}-{number}"), feature, caller, called, target }
    }

    /// The party that is not ours.
    fn other(&self) -> &str {
        match self.feature {
            Feature::Inbound => &self.caller,
            Feature::Outgoing => &self.called,
        }
    }

    fn feature_code(&self) -> &'static str {
        match self.feature {
            Feature::Inbound => "0",
            Feature::Outgoing => "7",
        }
    }
}

impl Fill<'_> {
    fn value(&self, template: &Value, random: &mut Random) -> Value {
        match template {
            Value::String(text) => Value::String(self.text(text, random)),
            Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), self.value(v, random))).collect(),
            other => other.clone(),
        }
    }

    fn text(&self, template: &str, random: &mut Random) -> String {
        match template {
            "$callid" => self.call.id.clone(),
            "$caller" => self.call.caller.clone(),
            "$called" => self.call.called.clone(),
            "$feature" => self.call.feature_code().to_owned(),
            "$other" => self.call.other().to_owned(),
            "$target" => self.call.target.clone(),
            "$peer" => self.peer.to_owned(),
            "$agent" => self.agent.to_owned(),
            parties if parties.starts_with("$target") => {
                parties.replace("$target", &self.call.target).replace("$other", self.call.other())
            }
            "$loginTime" => self.login_time.to_string(),
            "$text" if self.wide_text => (*random.pick(&WIDE_TEXTS)).to_owned(),
            "$text" => (*random.pick(&TEXTS)).to_owned(),
            plain => plain.to_owned(),
        }
    }
}
