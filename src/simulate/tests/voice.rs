//! Calls of a call: what they need, what they cause, and what they are refused with.

use http::Method;
use serde_json::{Value, json};

use super::support::*;
use crate::simulate::Simulator;

/// Agents who poll their events and have read those of their sign-ins.
async fn signed_in(ids: &[u32]) -> (Simulator, Vec<Client>) {
    let simulator = start(settings()).await;
    let mut clients = Vec::new();
    for id in ids {
        let mut client = Client::new(&simulator, *id);
        client.login_to_poll().await;
        let polled = [client.poll().await, client.poll().await];
        assert_eq!(polled[1].body["event"]["eventType"], "AgentState_Ready");
        clients.push(client);
    }
    (simulator, clients)
}

/// The retcode of a call.
async fn ask(client: &Client, method: Method, path: &str, body: Value) -> String {
    client.ask(method, path, body).await.retcode().to_owned()
}

/// The types of the next events.
async fn events(client: &mut Client, count: usize) -> Vec<String> {
    let mut types = Vec::new();
    for _ in 0..count {
        let reply = client.poll().await;
        types.push(reply.body["event"]["eventType"].as_str().unwrap_or("none").to_owned());
    }
    types
}

async fn ringing(simulator: &Simulator, client: &mut Client, id: u32) -> String {
    let call = simulator.ring(&agent(id)).unwrap();
    let expected =
        ["AgentState_Busy", "AgentOther_PhoneOffhook", "AgentEvent_Ringing", "AgentEvent_Customer_Alerting"];
    assert_eq!(events(client, 4).await, expected);
    call
}

#[tokio::test]
async fn a_call_is_answered_held_muted_dialled_into_and_released_and_nothing_else_fits_in_between() {
    let (simulator, mut clients) = signed_in(&[1001]).await;
    let client = &mut clients[0];
    for (method, path, code) in [
        (Method::PUT, "voicecall/1001/answer", "200-002"),
        (Method::POST, "voicecall/1001/hold", "200-013"),
        (Method::POST, "voicecall/1001/gethold", "200-015"),
        (Method::POST, "voicecall/1001/beginmute", "200-003"),
        (Method::POST, "voicecall/1001/endmute", "200-007"),
        (Method::POST, "voicecall/1001/transfer", "200-012"),
        (Method::POST, "voicecall/1001/innerhelp", "200-018"),
        (Method::POST, "voicecall/1001/seconddial/1", "200-026"),
        (Method::DELETE, "voicecall/1001/release", "200-017"),
        (Method::DELETE, "voicecall/1001", "200-017"),
        (Method::POST, "voicecall/1001/dropcall/1-1", "200-017"),
    ] {
        assert_eq!(ask(client, method, path, json!({})).await, code, "{path} without a call");
    }
    let call = ringing(&simulator, client, 1001).await;
    assert_eq!(ask(client, Method::POST, "voicecall/1001/hold", json!({})).await, "200-014");
    assert_eq!(ask(client, Method::PUT, "voicecall/1001/answer?callid=other", json!({})).await, "200-002");
    let answer = format!("voicecall/1001/answer?callid={call}");
    assert_eq!(ask(client, Method::PUT, &answer, json!({})).await, "0");
    assert_eq!(ask(client, Method::PUT, &answer, json!({})).await, "200-002", "it is answered");
    for (path, code) in [
        ("beginmute", "0"),
        ("beginmute", "200-004"),
        ("endmute", "0"),
        ("endmute", "200-008"),
        ("seconddial/%23", "0"),
        ("seconddial/12x", "000-002"),
        ("gethold", "200-016"),
        ("hold", "0"),
        ("hold", "200-014"),
        ("beginmute", "200-004"),
        ("gethold?callid=other", "200-015"),
        ("gethold", "0"),
    ] {
        let path = format!("voicecall/1001/{path}");
        assert_eq!(ask(client, Method::POST, &path, json!({})).await, code, "{path}");
    }
    assert_eq!(ask(client, Method::POST, "voicecall/1001/dropcall/other", json!({})).await, "200-017");
    assert_eq!(ask(client, Method::DELETE, "voicecall/1001/release", json!({})).await, "0");
    let expected = [
        "AgentEvent_Talking",
        "AgentEvent_Hold",
        "AgentEvent_Talking",
        "AgentEvent_Call_Release",
        "AgentEvent_Customer_Release",
        "AgentOther_PhoneRelease",
        "AgentState_Ready",
    ];
    assert_eq!(events(client, 7).await, expected);
}

#[tokio::test]
async fn calls_out_help_and_transfers_need_their_numbers_and_end_as_the_flows_say() {
    let (_simulator, mut clients) = signed_in(&[1001]).await;
    let client = &mut clients[0];
    let out = "voicecall/1001/callout";
    assert_eq!(ask(client, Method::PUT, out, json!({})).await, "000-002");
    assert_eq!(ask(client, Method::PUT, out, json!({"called": "70x"})).await, "200-001");
    let reply = client.ask(Method::PUT, out, json!({"called": "70004#"})).await;
    assert_eq!(reply.retcode(), "0");
    let call = reply.body["result"].as_str().unwrap().to_owned();
    assert_eq!(ask(client, Method::PUT, out, json!({"called": "70004"})).await, "100-009");
    let expected =
        ["AgentOther_PhoneOffhook", "AgentState_Busy", "AgentEvent_Customer_Alerting", "AgentEvent_Talking"];
    assert_eq!(events(client, 4).await, expected);
    let help = "voicecall/1001/innerhelp";
    assert_eq!(ask(client, Method::POST, help, json!({})).await, "000-002");
    let reply = client.ask(Method::POST, help, json!({"dstaddress": "1002", "mode": "2"})).await;
    assert_eq!((reply.retcode(), reply.body["result"].as_str()), ("0", Some(call.as_str())));
    assert_eq!(events(client, 3).await[2], "AgentEvent_Conference");
    let transfer = "voicecall/1001/transfer";
    for body in [json!({}), json!({"devicetype": 6, "address": "1"}), json!({"devicetype": 2, "address": ""})]
    {
        assert_eq!(ask(client, Method::POST, transfer, body).await, "000-002");
    }
    assert_eq!(ask(client, Method::POST, transfer, json!({"devicetype": 2, "address": "1002"})).await, "0");
    let told = events(client, 6).await;
    assert_eq!((told[4].as_str(), told[5].as_str()), ("AgentState_Ready", "AgentEvent_SuccTransResult"));
    assert_eq!(
        ask(client, Method::POST, transfer, json!({"devicetype": 2, "address": "1"})).await,
        "200-012"
    );
}

#[tokio::test]
async fn an_inspector_listens_helps_and_takes_over_only_where_somebody_talks() {
    let (simulator, mut clients) = signed_in(&[1001, 1002]).await;
    let (inspected, inspector) = clients.split_at_mut(1);
    let (inspected, inspector) = (&mut inspected[0], &mut inspector[0]);
    for (path, code) in
        [("addinsert/1001", "900-005"), ("addsupervise/1002", "900-004"), ("intercept/9999", "900-004")]
    {
        let path = format!("qualitycontrol/1002/{path}");
        assert_eq!(ask(inspector, Method::PUT, &path, json!({})).await, code, "{path}");
    }
    ringing(&simulator, inspected, 1001).await;
    assert_eq!(ask(inspected, Method::PUT, "voicecall/1001/answer", json!({})).await, "0");
    assert_eq!(events(inspected, 1).await, ["AgentEvent_Talking"]);
    for verb in ["addsupervise", "addinsert"] {
        let stop = "qualitycontrol/1002/1001";
        assert_eq!(ask(inspector, Method::DELETE, stop, json!({})).await, "900-005");
        let path = format!("qualitycontrol/1002/{verb}/1001");
        assert_eq!(ask(inspector, Method::PUT, &path, json!({})).await, "0", "{verb}");
        assert_eq!(events(inspector, 2).await, ["AgentState_Busy", "AgentOther_PhoneOffhook"]);
        assert_eq!(ask(inspector, Method::POST, "qualitycontrol/1002/switch/1001", json!({})).await, "0");
        assert_eq!(ask(inspector, Method::DELETE, stop, json!({})).await, "0");
        assert_eq!(events(inspector, 2).await, ["AgentOther_PhoneRelease", "AgentState_Ready"]);
    }
    assert_eq!(ask(inspector, Method::PUT, "qualitycontrol/1002/intercept/1001", json!({})).await, "0");
    assert_eq!(events(inspector, 1).await, ["AgentEvent_Talking"]);
    assert_eq!(events(inspected, 4).await[2], "AgentEvent_Call_Release");
    assert_eq!(
        ask(inspector, Method::POST, "voicecall/1002/hold", json!({})).await,
        "0",
        "it has the call now"
    );
    assert_eq!(ask(inspected, Method::POST, "voicecall/1001/hold", json!({})).await, "200-013");
}

#[tokio::test]
async fn recordings_are_played_paused_wound_and_stopped_in_their_states() {
    let (_simulator, mut clients) = signed_in(&[1001]).await;
    let client = &mut clients[0];
    let before = [
        (Method::POST, "pauseplay", "500-003"),
        (Method::POST, "resumeplay", "500-005"),
        (Method::POST, "forefast/5", "500-002"),
        (Method::POST, "backfast/5", "500-001"),
        (Method::DELETE, "stopplay", "500-009"),
        (Method::PUT, "play", "0"),
        (Method::PUT, "play", "500-007"),
        (Method::POST, "forefast/x", "000-002"),
        (Method::POST, "forefast/5", "0"),
        (Method::POST, "backfast/2147483647", "0"),
        (Method::POST, "pauseplay", "0"),
        (Method::POST, "pauseplay", "500-003"),
        (Method::POST, "forefast/5", "500-002"),
        (Method::POST, "resumeplay", "0"),
        (Method::DELETE, "stopplay", "0"),
        (Method::DELETE, "stopplay", "500-009"),
    ];
    for (method, path, code) in before {
        let path = format!("recordplay/1001/{path}");
        assert_eq!(ask(client, method, &path, json!({})).await, code, "{path}");
    }
    let told = events(client, 12).await;
    assert_eq!(told[..5].last().unwrap(), "AgentMediaEvent_Play");
    let rest = [
        "AgentMediaEvent_JumpPlayDone",
        "AgentMediaEvent_JumpPlayDone",
        "AgentMediaEvent_PausePlayDone",
        "AgentMediaEvent_ResumePlayDone",
        "AgentOther_PhoneRelease",
        "AgentState_Ready",
        "AgentMediaEvent_StopPlayDone",
    ];
    assert_eq!(told[5..], rest);
}

#[tokio::test]
async fn a_message_goes_to_a_call_of_the_agents_and_calls_need_a_session() {
    let (simulator, mut clients) = signed_in(&[1001]).await;
    let client = &mut clients[0];
    let send = "mediacall/1001/sendmessage";
    let message = |call: &str| json!({"callid": call, "data": "good morning"});
    assert_eq!(ask(client, Method::POST, send, message("1-1")).await, "200-026");
    let call = ringing(&simulator, client, 1001).await;
    assert_eq!(ask(client, Method::POST, send, message(&call)).await, "0");
    assert_eq!(ask(client, Method::POST, send, json!({"callid": call})).await, "000-002");
    let long = json!({"callid": call, "data": "x".repeat(1901)});
    assert_eq!(ask(client, Method::POST, send, long).await, "000-002");
    let stranger = Client::new(&simulator, 1002);
    assert_eq!(ask(&stranger, Method::PUT, "voicecall/1002/answer", json!({})).await, "100-006");
}

/// The contents of the next events.
async fn contents(client: &mut Client, count: usize) -> Vec<Value> {
    let mut contents = Vec::new();
    for _ in 0..count {
        contents.push(client.poll().await.body["event"]["content"].clone());
    }
    contents
}

#[tokio::test]
async fn events_name_the_numbers_that_were_asked_for_and_one_kind_of_call_throughout() {
    let (simulator, mut clients) = signed_in(&[1001, 1002]).await;
    let (agent, inspector) = clients.split_at_mut(1);
    let (agent, inspector) = (&mut agent[0], &mut inspector[0]);
    assert_eq!(ask(agent, Method::PUT, "voicecall/1001/callout", json!({"called": "70004#"})).await, "0");
    let told = contents(agent, 4).await;
    assert_eq!(told[2]["otherPhone"], "70004#");
    assert_eq!((&told[3]["feature"], &told[3]["called"]), (&json!("7"), &json!("70004#")));
    let help = json!({"dstaddress": "1009", "mode": "2"});
    assert_eq!(ask(agent, Method::POST, "voicecall/1001/innerhelp", help).await, "0");
    let told = contents(agent, 3).await;
    assert_eq!((&told[0]["otherPhone"], &told[1]["number"]), (&json!("1009"), &json!("70004#")));
    assert_eq!(told[2]["partner"], "1009,70004#");
    let transfer = json!({"devicetype": 2, "address": "1008"});
    assert_eq!(ask(agent, Method::POST, "voicecall/1001/transfer", transfer).await, "0");
    let told = contents(agent, 6).await;
    assert_eq!((&told[0]["otherPhone"], &told[5]["result"]), (&json!("1008"), &json!(0)), "it is passed on");

    let call = simulator.ring(&super::support::agent(1001)).unwrap();
    assert_eq!(ask(agent, Method::PUT, "voicecall/1001/answer", json!({})).await, "0");
    let told = contents(agent, 5).await;
    assert_eq!((&told[2]["feature"], &told[4]["feature"]), (&json!("0"), &json!("0")));
    assert_eq!((&told[3]["otherPhone"], &told[4]["caller"]), (&told[2]["caller"], &told[2]["caller"]));
    assert_eq!(ask(inspector, Method::PUT, "qualitycontrol/1002/intercept/1001", json!({})).await, "0");
    assert_eq!(
        (&contents(agent, 4).await[2], &contents(inspector, 1).await[0]["callid"]),
        (&json!(call), &json!(call))
    );
}
