use super::explain::{Explanation, Tried};
use super::*;
use crate::clock::Timestamp;
use crate::event::details::{CallData, QueueData};
use crate::event::{AgentId, EventData, GatewayName, codes, vocabulary};

/// An event of `agent` at `gateway`, with this media and skill queue.
pub(super) fn event(gateway: &str, agent: &str, event_type: &str) -> Event {
    let (gateway, agent_id) = (GatewayName::parse(gateway).unwrap(), AgentId::parse(agent).unwrap());
    let event_type = vocabulary::event_types().into_iter().find(|known| *known == event_type).unwrap();
    Event {
        id: "spool-1-0".to_owned(),
        source: format!("/ccrelay/{gateway}/agents/{agent_id}"),
        event_type,
        category: vocabulary::category(event_type),
        time: Timestamp(1_784_529_722_590),
        recorded_time: Timestamp(1_784_529_722_600),
        written: Default::default(),
        sequence: 7,
        repeat: false,
        data: EventData::new(gateway.clone(), agent_id.clone()),
        gateway,
        agent_id,
    }
}

fn call(media: i64, skill: Option<(i64, &str)>) -> Event {
    let mut event = event("main", "1001", "ccrelay.call.offered");
    let media = codes::Code { code: media, name: (media == 1).then_some("voice") };
    event.data.details.call = Some(Box::new(CallData { media: Some(media), ..CallData::default() }));
    event.data.details.queue =
        skill.map(|(id, name)| QueueData { id: Some(id), name: Some(name.into()), ..QueueData::default() });
    event
}

fn condition(subject: Subject, texts: &[&str]) -> Condition {
    let pattern = |text: &&str| match subject {
        Subject::Agents => Pattern::agents(text).unwrap(),
        _ => Pattern::text(text).unwrap(),
    };
    Condition { subject, any_of: texts.iter().map(pattern).collect() }
}

fn target(topic: &str) -> Target {
    Target { topic: TopicTemplate::parse(topic, TopicRules::Mqtt).unwrap(), mask: Arc::default() }
}

fn rule(name: &str, conditions: Vec<Condition>, topic: Option<&str>) -> Rule {
    Rule { name: name.into(), conditions: conditions.into(), target: topic.map(target) }
}

#[test]
fn each_condition_holds_for_what_it_names() {
    use Subject::{Agents, Categories, Gateways, Media, Skills, Types};
    let ready = || event("main", "1001", "ccrelay.agent.ready");
    for (subject, texts, event, holds) in [
        (Gateways, &["north", "main"][..], ready(), true),
        (Gateways, &["north"], ready(), false),
        (Gateways, &["ma*"], ready(), true),
        (Agents, &["1000-1999"], ready(), true),
        (Agents, &["2000-2999", "10?1"], ready(), true),
        (Agents, &["1002"], ready(), false),
        (Categories, &["agent-state"], ready(), true),
        (Categories, &["call"], ready(), false),
        (Types, &["ccrelay.agent.*"], ready(), true),
        (Types, &["ccrelay.call.*"], ready(), false),
        (Media, &["voice"], ready(), false),
        (Media, &["voice"], call(1, None), true),
        (Media, &["text"], call(1, None), false),
        (Media, &["1"], call(1, None), true),
        (Media, &["5"], call(1, None), false),
        (Media, &["99"], call(99, None), true),
        (Skills, &["12"], call(1, Some((12, "Sales"))), true),
        (Skills, &["Sal*"], call(1, Some((12, "Sales"))), true),
        (Skills, &["13"], call(1, Some((12, "Sales"))), false),
        (Skills, &["*"], call(1, None), false),
    ] {
        let condition = condition(subject, texts);
        assert_eq!(condition.holds(&Facts::of(&event)), holds, "{condition:?}");
        assert_eq!(condition.miss(&Facts::of(&event)).is_none(), holds, "{condition:?}");
    }
}

#[test]
fn the_first_rule_that_holds_decides_and_without_one_the_sinks_own_topic() {
    let rules = vec![
        rule("hidden", vec![condition(Subject::Agents, &["1002"])], None),
        rule(
            "north-calls",
            vec![condition(Subject::Gateways, &["north"]), condition(Subject::Categories, &["call"])],
            Some("north/{type}"),
        ),
        rule("calls", vec![condition(Subject::Types, &["ccrelay.call.*"])], Some("calls/{gateway}/{agent}")),
        rule("calls-again", vec![condition(Subject::Categories, &["call"])], Some("never")),
    ];
    let publishes = Router::new(rules.clone(), Some(target("rest/{category}")), Arc::default());
    let drops = Router::new(rules, None, Arc::default());
    for (gateway, agent, event_type, topic, otherwise) in [
        ("main", "1001", "ccrelay.call.ringing", Some("calls/main/1001"), None),
        ("main", "1002", "ccrelay.call.ringing", None, None),
        ("north", "1001", "ccrelay.call.ringing", Some("north/ccrelay.call.ringing"), None),
        ("north", "1001", "ccrelay.agent.ready", None, Some("rest/agent-state")),
        ("main", "1001", "ccrelay.unknown", None, Some("rest/unknown")),
    ] {
        let event = event(gateway, agent, event_type);
        let to = |router: &Router| router.route(event.clone().into()).map(|(topic, _)| topic.to_string());
        assert_eq!(to(&publishes).as_deref(), topic.or(otherwise), "{agent} {event_type}");
        assert_eq!(to(&drops).as_deref(), topic, "{agent} {event_type}");
        // What is explained is what is done.
        let explained = publishes.explain("wall", &Facts::of(&event));
        assert_eq!(explained.topic.as_deref(), topic.or(otherwise), "{explained:?}");
    }
}

#[test]
fn an_explanation_names_the_rule_and_what_failed_in_those_before() {
    let both = vec![condition(Subject::Gateways, &["north"]), condition(Subject::Media, &["text", "video"])];
    let router = Router::new(
        vec![
            rule("texts", both, Some("texts")),
            rule("calls", vec![condition(Subject::Types, &["ccrelay.call.*"])], Some("calls")),
            rule("all", vec![], Some("all")),
        ],
        None,
        Arc::default(),
    );
    let miss = |key, expected: &[&str], found: &[&str]| Miss {
        key,
        expected: expected.iter().map(|text| (*text).to_owned()).collect(),
        found: found.iter().map(|text| (*text).to_owned()).collect(),
    };
    let expected = Explanation {
        sink: "wall".into(),
        topic: Some("calls".into()),
        rule: Some("calls".into()),
        mask: vec![],
        raw_withheld: false,
        tried: vec![
            Tried {
                rule: "texts".into(),
                misses: vec![
                    miss("gateways", &["north"], &["main"]),
                    miss("media", &["text", "video"], &["1", "voice"]),
                ],
            },
            Tried { rule: "calls".into(), misses: vec![] },
        ],
    };
    assert_eq!(router.explain("wall", &Facts::of(&call(1, None))), expected);
}

#[test]
fn a_cloud_event_that_was_written_down_has_the_facts_of_its_event() {
    for event in [
        call(1, Some((12, "Sales"))),
        call(99, None),
        event("north", "1002", "ccrelay.agent.ready"),
        event("main", "1001", "ccrelay.unknown"),
    ] {
        let written = crate::event::cloudevent::structured(&event);
        let read: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(Facts::of_cloud_event(&read), Some(Facts::of(&event)));
    }
    for other in [r#"{}"#, r#"{"source":"/x","type":"y"}"#, r#"{"source":"/ccrelay/a/agents/1"}"#, "[]"] {
        assert_eq!(Facts::of_cloud_event(&serde_json::from_str(other).unwrap()), None, "{other}");
    }
}

#[test]
fn an_event_is_left_out_where_no_rule_speaks_of_it_though_one_leads_others_of_its_agent_here() {
    use Subject::{Agents, Categories};
    let calls =
        || rule("calls", vec![condition(Agents, &["1*"]), condition(Categories, &["call"])], Some("calls"));
    let not_rest = || rule("not-rest", vec![condition(Subject::Types, &["*.rest-*"])], None);
    let router = |rules, default: Option<&str>| Router::new(rules, default.map(target), Arc::default());
    let left_out = |router: &Router, agent, event_type| router.leaves_out(&event("main", agent, event_type));
    let some = router(vec![not_rest(), calls()], None);
    assert!(left_out(&some, "1001", "ccrelay.agent.ready"));
    assert!(!left_out(&some, "1001", "ccrelay.call.ringing"), "it goes there");
    assert!(!left_out(&some, "1001", "ccrelay.agent.rest-cancelled"), "it is kept away on purpose");
    assert!(!left_out(&some, "2001", "ccrelay.agent.ready"), "nothing of the agent goes there");
    assert!(!left_out(&router(vec![calls()], Some("rest")), "1001", "ccrelay.agent.ready"));
}
