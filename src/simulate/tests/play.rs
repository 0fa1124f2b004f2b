use std::collections::HashSet;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::support::*;
use crate::simulate::catalogue::Catalogue;
use crate::simulate::settings::{Inspection, Variety};
use crate::simulate::{EmitError, Settings, Simulator};

async fn signed_in(settings: Settings, receiver: &Receiver, ids: &[u32]) -> Simulator {
    let simulator = start(settings).await;
    for id in ids {
        let mut client = Client::new(&simulator, *id);
        client.login_to(receiver).await;
        assert_eq!(client.call(Method::POST, "resetskill/true").await.retcode(), "0");
    }
    let events = 2 * ids.len() as u64;
    assert!(simulator.wait_for(LIMIT, |s| s.total.delivered == events).await);
    simulator
}

fn events(simulator: &Simulator, id: u32) -> Vec<Value> {
    let ledger = simulator.ledger_of(&agent(id));
    ledger.iter().skip(2).map(|e| serde_json::from_str(&e.json).unwrap()).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["eventType"].as_str().unwrap()).collect()
}

#[test]
fn every_event_of_every_flow_has_an_example_content() {
    let catalogue = Catalogue::shared();
    let known: HashSet<&str> = Simulator::event_types().collect();
    assert_eq!(Simulator::flows().count(), 35);
    assert!(catalogue.other_spellings().all(|event_type| known.contains(event_type)));
    for id in Simulator::flows() {
        for step in &catalogue.flow(id).unwrap().steps {
            for event in &step.events {
                assert!(known.contains(event.as_str()), "{event} of {id}");
            }
        }
    }
}

#[tokio::test]
async fn contents_are_spelt_as_other_editions_have_them_too() {
    let receiver = Receiver::start().await;
    let variety = Variety { other_content: 1.0, non_ascii: 0.0, empty_content: 0.0, ..Variety::default() };
    let simulator = signed_in(Settings { variety, ..settings() }, &receiver, &[1001]).await;
    for flow in ["auto-answer", "three-party-call", "release"] {
        simulator.play_flow(&agent(1001), flow, Duration::ZERO).await.unwrap();
    }
    assert!(simulator.drained(LIMIT).await);
    let events = events(&simulator, 1001);
    let content =
        |event_type: &str| &events.iter().find(|event| event["eventType"] == event_type).unwrap()["content"];
    let released = content("AgentEvent_Call_Release");
    let call = released.get("callid").or(released.get("callId")).expect("an object");
    assert_eq!(*call, content("AgentEvent_Talking")["callid"]);
    let partner = content("AgentEvent_Conference")["partner"].as_str().unwrap();
    let (helper, customer) = partner.split_once(", ").or(partner.split_once('，')).expect("two numbers");
    assert_eq!(customer, content("AgentEvent_Talking")["caller"]);
    assert!(helper.parse::<u32>().is_ok() && helper != customer, "{partner}");
}

#[tokio::test]
async fn a_flow_has_one_call_id_and_steps_for_phones_to_be_picked_up_only_when_set() {
    for (must_pick_up, expected) in
        [(false, vec!["AgentState_Busy"]), (true, vec!["AgentState_Busy", "AgentOther_PhoneAlerting"])]
    {
        let receiver = Receiver::start().await;
        let simulator = signed_in(Settings { must_pick_up, ..settings() }, &receiver, &[1001]).await;
        let count = simulator.play_flow(&agent(1001), "manual-answer", Duration::ZERO).await.unwrap();
        simulator.play_flow(&agent(1001), "hold", Duration::ZERO).await.unwrap();
        simulator.play_flow(&agent(1001), "release", Duration::ZERO).await.unwrap();
        assert!(simulator.drained(LIMIT).await);
        let events = events(&simulator, 1001);
        let types = types(&events);
        assert!(types.starts_with(&expected), "{types:?}");
        assert_eq!(types[expected.len()], "AgentOther_PhoneOffhook");
        assert_eq!(count, expected.len() + 4);
        let ids: HashSet<&str> = events
            .iter()
            .filter_map(|e| e["content"]["callid"].as_str().or(e["content"].as_str()))
            .filter(|id| !id.is_empty())
            .collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
}

#[tokio::test]
async fn an_inspection_is_of_another_agent_or_with_the_setting_of_the_same() {
    for (inspection, inspected, inspector) in [(Inspection::Other, 4, 1), (Inspection::Same, 0, 5)] {
        let receiver = Receiver::start().await;
        let simulator = signed_in(Settings { inspection, ..settings() }, &receiver, &[1001, 1002]).await;
        simulator.play_flow(&agent(1001), "intercept", Duration::ZERO).await.unwrap();
        assert_eq!(events(&simulator, 1002).len(), inspected);
        assert_eq!(events(&simulator, 1001).len(), inspector);
    }
}

#[tokio::test]
async fn an_unknown_flow_or_agent_is_named() {
    let simulator = start(settings()).await;
    let flow = simulator.play_flow(&agent(1001), "no-such", Duration::ZERO).await;
    assert_eq!(flow, Err(EmitError::NoSuchFlow("no-such".into())));
    let nobody = simulator.play_flow(&agent(7), "hold", Duration::ZERO).await;
    assert_eq!(nobody, Err(EmitError::NoSuchAgent(agent(7))));
    let away = simulator.play_flow(&agent(1001), "hold", Duration::ZERO).await;
    assert_eq!(away, Err(EmitError::NotSignedIn(agent(1001))));
}

#[tokio::test]
async fn continuous_play_keeps_its_rate_stops_when_told_and_varies_its_events() {
    let variety = Variety {
        event_gen_time: 0.5,
        json_key: 0.5,
        non_ascii: 1.0,
        empty_content: 0.5,
        other_content: 0.0,
    };
    let receiver = Receiver::start().await;
    let simulator = signed_in(Settings { variety, ..settings() }, &receiver, &[1001, 1002, 1003]).await;
    simulator.play(200.0);
    assert!(simulator.wait_for(LIMIT, |s| s.total.events > 900).await);
    simulator.stop_playing();
    assert!(simulator.drained(LIMIT).await);
    let played: Vec<Value> = [1001, 1002, 1003].into_iter().flat_map(|id| events(&simulator, id)).collect();
    let text: String = receiver.pushes().iter().map(|p| p.text.as_str()).collect();
    assert!(played.iter().any(|e| e["content"].is_null()));
    assert!(played.iter().any(|e| e["content"] == ""));
    assert!(played.iter().any(|e| e["content"].is_object()));
    assert!(played.iter().any(|e| e["content"].as_str().is_some_and(|s| s.contains('-'))));
    assert!(played.iter().any(|e| e.get("eventGenTime").is_some()));
    assert!(played.iter().any(|e| e.get("jsonKey").is_some()));
    assert!(!text.is_ascii());
    let statistics = simulator.statistics();
    assert_eq!(statistics.total.events, statistics.total.delivered);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(simulator.statistics().total.events, statistics.total.events);
}

#[tokio::test]
async fn listed_flows_are_played_in_turn_and_nothing_before_skills_are_reset() {
    let receiver = Receiver::start().await;
    let flows = vec!["auto-answer".to_owned(), "release".to_owned()];
    let settings = Settings { flows, rate: 300.0, mark_events: true, ..settings() };
    let simulator = start(settings).await;
    let mut client = Client::new(&simulator, 1001);
    client.login_to(&receiver).await;
    assert!(!simulator.wait_for(Duration::from_millis(100), |s| s.total.events > 2).await);
    client.call(Method::POST, "resetskill/true").await;
    assert!(simulator.wait_for(LIMIT, |s| s.total.events > 40).await);
    simulator.stop_playing();
    let events = events(&simulator, 1001);
    let types = types(&events);
    assert_eq!(
        types[..5],
        [
            "AgentState_Busy",
            "AgentOther_PhoneOffhook",
            "AgentEvent_Auto_Answer",
            "AgentEvent_Customer_Alerting",
            "AgentEvent_Talking"
        ]
    );
    assert_eq!(types[5], "AgentEvent_Call_Release");
    assert_eq!(events[0]["simulatorSerial"], 3);
}

#[tokio::test]
async fn settings_that_contradict_themselves_do_not_start() {
    let wrong = [
        Settings { guid_interval_ms: 5, guid_timeout_ms: 5, ..settings() },
        Settings { auth_mode: 3, ..settings() },
        Settings { flows: vec!["no-such".into()], ..settings() },
        Settings { rate: -1.0, ..settings() },
    ];
    for settings in wrong {
        assert!(Simulator::start(settings).await.is_err());
    }
}

#[test]
fn settings_are_read_by_the_gateways_own_names() {
    let settings: Settings = toml::from_str(
        r#"
        AUTHMODE = 1
        TIMEOUT_FLAG = "OFF"
        EVENT_PUSH_FAIL_INTERVALTIME = 5000
        EVENT_PUST_WHILTELIST_CALLBACKURI = "https://a/;https://b/"
        eventpush.ssl.trustAll = true
        eventpush.ssl.cert.file = "/x.pem"
        rate = 2.5
        push_shape = "legacy"
        agents = [{ first = 1001, last = 1002, password = "p", skills = [] }]
        misbehaviours = [
            { operation = "handshake", chance = 0.1, kind = { retcode = "100-007" } },
            { operation = "login", times = 1, kind = "drop_answer" },
        ]
        "#,
    )
    .unwrap();
    assert_eq!((settings.auth_mode, settings.push_fail_interval_ms), (1, 5000));
    assert_eq!(settings.callback_trust_list, "https://a/;https://b/");
    assert!(settings.eventpush.ssl.trust_all);
    assert_eq!(settings.misbehaviours.len(), 2);
    assert!(!format!("{settings:?}").contains("\"p\""));
    assert!(toml::from_str::<Settings>("GUIDINTERVALL = 5").is_err());
}
