//! Calls through to the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ccrelay::simulate::{Fault, FaultKind, Operation};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::client::Client;
use super::scene::{ADMIN, READ, Scene, agent};
use crate::support::in_process::answer;
use crate::support::{DEADLINE, eventually};

const OPEN: &str = "[[gateways]]\ncall_through = [\"POST onlineagent/{agent}/saybusy\", \"POST onlineagent/{agent}/cancelbusy\", \
                    \"GET onlineagent/{agent}/agentstatus\", \"POST onlineagent/{agent}/rest/*/*\", \
                    \"PUT voicecall/{agent}/answer\", \"POST voicecall/{agent}/hold\", \
                    \"POST voicecall/{agent}/gethold\", \"POST voicecall/{agent}/seconddial/*\", \
                    \"POST voicecall/{agent}/transfer\", \"DELETE voicecall/{agent}/release\"]\n";

async fn scene() -> Scene {
    let scene = Scene::with(|relay| relay.edit("[[gateways]]\n", OPEN)).await;
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    scene
}

fn through(agent: &str, path: &str) -> String {
    format!("/api/v1/gateway/main/{agent}/{path}")
}

async fn gateway_state(client: &Client) -> u64 {
    let reply = client.get(&through("1001", "onlineagent/1001/agentstatus")).await;
    assert!(reply.has("ccrelay-answer: gateway"), "{reply:?}");
    reply.json()["result"]["agentState"].as_u64().expect("a state")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_changes_an_agents_state_at_the_gateway_without_knowing_a_guid() {
    let scene = scene().await;
    let client = scene.admin();
    assert_eq!(gateway_state(&client).await, 4);
    // Over several GUIDs, each of which lives a second here.
    let guids = std::cell::RefCell::new(std::collections::BTreeSet::new());
    eventually("calls over four GUIDs", DEADLINE, || async {
        let busy = client.post(&through("1001", "onlineagent/1001/saybusy?reason=200&prolong=true")).await;
        assert_eq!((busy.status, busy.json()["retcode"].as_str()), (200, Some("0")), "{busy:?}");
        assert!(!busy.head.contains("set-guid") && !busy.head.contains("set-cookie"), "{busy:?}");
        assert_eq!(gateway_state(&client).await, 3);
        let free = client.post(&through("1001", "onlineagent/1001/cancelbusy")).await;
        assert_eq!(free.json()["retcode"], "0", "{free:?}");
        let guid = client.get("/api/v1/agents/main/1001/guid").await.json()["guid"].to_string();
        guids.borrow_mut().insert(guid);
        (guids.borrow().len() == 4).then_some(())
    })
    .await;
    assert!(scene.simulator.drained(DEADLINE).await);
    let refused = client.post(&through("1001", "onlineagent/1001/cancelbusy")).await;
    assert_eq!(refused.status, 200);
    assert_ne!(refused.json()["retcode"], "0", "the gateway's refusal passes as it is");
    assert!(refused.has("ccrelay-answer: gateway"), "{refused:?}");
    assert_eq!(scene.simulator.counts(&agent("1001")).sign_ins, 1, "no session was lost");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_driven_from_its_ringing_to_its_end_and_each_step_comes_back_as_an_event() {
    let scene = scene().await;
    let client = scene.admin();
    let mut read = 0;
    // The events of the agent that came after those already read.
    let mut told = async |count: usize| {
        let types = eventually("the events of a step", DEADLINE, || async {
            let types = scene.delivered("1001");
            (types.len() >= read + count).then_some(types)
        })
        .await;
        let fresh = types[read..].to_vec();
        read = types.len();
        fresh
    };
    let ask = async |method: &str, path: &str, body: &str| {
        let reply = client.call(method, &through("1001", &format!("voicecall/1001/{path}")), body).await;
        assert!(reply.status == 200 && reply.has("ccrelay-answer: gateway"), "{path}: {reply:?}");
        reply.json()["retcode"].as_str().expect("a retcode").to_owned()
    };
    assert_eq!(told(2).await, ["AgentOther_InService", "AgentState_Ready"]);
    assert_eq!(ask("PUT", "answer", "").await, "200-002", "there is no call");
    let call = scene.simulator.ring(&agent("1001")).expect("the agent is signed in");
    let ringing =
        ["AgentState_Busy", "AgentOther_PhoneOffhook", "AgentEvent_Ringing", "AgentEvent_Customer_Alerting"];
    assert_eq!(told(4).await, ringing);
    assert_eq!(ask("PUT", &format!("answer?callid={call}"), "").await, "0");
    assert_eq!(told(1).await, ["AgentEvent_Talking"]);
    assert_eq!(ask("POST", "seconddial/%23", "").await, "0", "a hash reaches the gateway");
    assert_eq!(ask("POST", "hold", "").await, "0");
    assert_eq!(told(1).await, ["AgentEvent_Hold"]);
    assert_eq!(ask("POST", "hold", "").await, "200-014", "it is on hold");
    assert_eq!(ask("POST", &format!("gethold?callid={call}"), "").await, "0");
    assert_eq!(told(1).await, ["AgentEvent_Talking"]);
    assert_eq!(ask("DELETE", "release", "").await, "0");
    let end = [
        "AgentEvent_Call_Release",
        "AgentEvent_Customer_Release",
        "AgentOther_PhoneRelease",
        "AgentState_Ready",
    ];
    assert_eq!(told(4).await, end);
    assert_eq!(ask("DELETE", "release", "").await, "200-017");
    let log = scene.relay.log();
    for (operation, times) in [
        ("PUT voicecall/{agent}/answer", 2),
        ("POST voicecall/{agent}/hold", 2),
        ("POST voicecall/{agent}/seconddial/*", 1),
    ] {
        let named = format!("\"operation\":\"{operation}\"");
        assert_eq!(log.lines().filter(|line| line.contains(&named)).count(), times, "{operation}");
    }

    scene.simulator.ring(&agent("1001")).expect("the agent is signed in");
    assert_eq!(told(4).await, ringing);
    assert_eq!(ask("PUT", "answer", "").await, "0");
    assert_eq!(ask("POST", "transfer", r#"{"devicetype": 2, "address": "1002"}"#).await, "0");
    let told = told(7).await;
    assert_eq!(told.last().map(String::as_str), Some("AgentEvent_SuccTransResult"), "{told:?}");
    assert_eq!(scene.simulator.counts(&agent("1001")).sign_ins, 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_open_or_another_agents_or_no_plain_path_is_refused_here() {
    let scene = scene().await;
    let client = scene.admin();
    let sign_ins = |id: &str| scene.simulator.counts(&agent(id)).sign_ins;
    for (method, path) in [
        ("PUT", "onlineagent/1001/answer"),
        ("GET", "onlineagent/1001/saybusy"),
        ("POST", "onlineagent/1002/saybusy"),
        ("POST", "onlineagent/1001/rest/60"),
        ("POST", "onlineagent/1001/sayfree"),
        ("PUT", "onlineagent/1001"),
        ("PUT", "onlineagent/1001/forcelogin"),
        ("DELETE", "onlineagent/1001/logout"),
        ("POST", "onlineagent/1001/handshake"),
        ("GET", "agentevent/1001"),
    ] {
        let reply = client.call(method, &through("1001", path), "").await;
        assert_eq!((reply.status, reply.code().as_str()), (403, "not_open"), "{method} {path}");
        assert!(!reply.has("ccrelay-answer: gateway"));
    }
    for path in [
        "onlineagent/1001/../1002/saybusy",
        "onlineagent/./1001/saybusy",
        "onlineagent//1001/saybusy",
        "/onlineagent/1001/saybusy",
        "onlineagent/1001/saybusy/",
        "onlineagent/1001%2fsaybusy",
        "onlineagent/%31001/saybusy",
        "onlineagent/1001/rest/60/%2e%2e",
        "voicecall/1001/seconddial/%2e%2e",
        "voicecall/1001/seconddial/%2fx",
        "voicecall/1001/seconddial/%5c",
        "voicecall/1001/seconddial/%00",
        "voicecall/1001/seconddial/%2523",
        "onlineagent/1001/rest/60/..;x",
        "onlineagent/1001;x=1/saybusy",
        "onlineagent/1001\\saybusy",
    ] {
        let reply = client.call("POST", &through("1001", path), "").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_request"), "{path}: {reply:?}");
    }
    assert_eq!(client.post(&through("9999", "onlineagent/9999/saybusy")).await.status, 404);
    let other = "/api/v1/gateway/other/1001/onlineagent/1001/saybusy";
    assert_eq!(client.post(other).await.status, 404);
    let reader = scene.client(Some(READ));
    assert_eq!(reader.get(&through("1001", "onlineagent/1001/agentstatus")).await.status, 403);
    assert_eq!((sign_ins("1001"), sign_ins("1002")), (1, 1), "nobody was signed in anew");
    assert_eq!(gateway_state(&client).await, 4);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_wait_for_a_slow_gateway_keep_nobody_from_the_pages() {
    let scene = Scene::with(|relay| {
        relay.edit("[[gateways]]\n", OPEN);
        relay.edit("call_deadline_secs = 5\n", "call_deadline_secs = 9\n");
    })
    .await;
    let client = scene.admin();
    // Nine agents, each of whom may have one call under way and eight that wait.
    let body = format!(r#"{{"phone_number":"7","password_file":"{}"}}"#, scene.password_file());
    for id in 1004..=1009 {
        assert_eq!(client.call("PUT", &format!("/api/v1/agents/main/{id}"), &body).await.status, 201);
    }
    for id in 1001..=1009 {
        scene.agent_in(&id.to_string(), "active").await;
    }
    scene.simulator.inject(Fault::next(Operation::AgentStatus, 1_000, FaultKind::DelayMs(30_000)));
    let (busy, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..70 {
        let id = 1001 + n % 9;
        let path = through(&id.to_string(), &format!("onlineagent/{id}/agentstatus"));
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
        let mut stream = TcpStream::connect(client.address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it takes what is sent");
        let (busy, answered) = (busy.clone(), answered.clone());
        callers.spawn(async move {
            let answer = answer(&mut stream).await.expect("an answer");
            if answer.body.contains("\"busy\"") {
                let head = answer.head.to_lowercase();
                assert!(head.contains("retry-after: 1") && head.contains("connection: close"), "{answer:?}");
                assert_eq!(answer.status, 503, "{answer:?}");
                busy.fetch_add(1, Ordering::SeqCst);
            } else {
                answered.fetch_add(1, Ordering::SeqCst);
            }
            stream
        });
    }
    // Who has come after them is answered while they wait.
    for path in ["/live", "/ready", "/metrics"] {
        assert_eq!(scene.client(None).send("GET", path, "").await.status, 200, "{path}");
    }
    assert_eq!(answered.load(Ordering::SeqCst), 0, "the pages came after the first who waited");
    eventually("six calls too many", DEADLINE, || async { (busy.load(Ordering::SeqCst) == 6).then_some(()) })
        .await;
    assert_eq!(scene.client(None).send("GET", "/live", "").await.status, 200);
    assert_eq!(client.get("/api/v1/status").await.status, 200, "who looks has a place of their own");
    assert_eq!(answered.load(Ordering::SeqCst), 0, "all of this came while they wait");
    scene.simulator.clear_faults();
    // Those that were under way end at their deadline, and the next ones are answered.
    while let Some(stream) = callers.join_next().await {
        drop(stream.expect("no panic"));
    }
    assert_eq!(busy.load(Ordering::SeqCst), 6);
    assert_eq!(client.get(&through("1001", "onlineagent/1001/agentstatus")).await.status, 200);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_callers_have_hung_up_while_they_waited_are_not_made() {
    let scene = scene().await;
    let client = scene.admin();
    let forwarded = "ccrelay_forwarded_calls_total{gateway=\"main\",outcome=\"answered\"}";
    assert_eq!(scene.relay.metric(forwarded).await, 0.0);
    scene.simulator.inject(Fault::next(Operation::SayBusy, 1, FaultKind::DelayMs(3_000)));
    let path = through("1001", "onlineagent/1001/saybusy");
    // One is under way and the others wait once one more is refused; which one that is nobody can say.
    let callers: Vec<_> =
        futures_util::future::join_all((0..10).map(|_| client.ask("POST", &path, ""))).await;
    let answers = callers.into_iter().map(async |mut stream| {
        let answer = answer(&mut stream).await.expect("an answer");
        assert_eq!(answer.status, 429, "the others wait for the first: {answer:?}");
        assert_eq!(scene.relay.log().matches("\"status\":499").count(), 0);
    });
    // All others are dropped with this: they hang up.
    drop(futures_util::future::select_all(answers.map(Box::pin)).await);
    let not_made = || scene.relay.log().matches("\"status\":499").count();
    eventually("calls that were not made", DEADLINE, || async { (not_made() >= 6).then_some(()) }).await;
    let reply = client.get(&through("1001", "onlineagent/1001/agentstatus")).await;
    assert_eq!(reply.status, 200, "they have left their places: {reply:?}");
    // The one that was under way, whose line has what the gateway answered, and the one after it.
    assert_eq!(scene.relay.metric(forwarded).await, 2.0);
    let log = scene.relay.log();
    let noted =
        log.lines().filter(|line| line.contains("\"operation\":\"POST onlineagent/{agent}/saybusy\""));
    let noted: Vec<_> = noted.filter(|line| line.contains("\"status\":200")).collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_gateway_are_told_apart() {
    let scene = scene().await;
    let client = scene.admin();
    let busy = through("1001", "onlineagent/1001/saybusy");
    for (kind, status, code) in [
        (FaultKind::DropAnswer, 502, "gateway_failed"),
        (FaultKind::Status(503), 503, ""),
        (FaultKind::Retcode("100-009".to_owned()), 200, ""),
    ] {
        scene.simulator.inject(Fault::next(Operation::SayBusy, 1, kind.clone()));
        let reply = client.post(&busy).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{kind:?}: {reply:?}");
        assert_eq!(reply.has("ccrelay-answer: gateway"), code.is_empty(), "{kind:?}");
        client.post(&through("1001", "onlineagent/1001/cancelbusy")).await;
    }
    // One call at a time for each agent: while one waits eight may queue up, and one more is refused.
    scene.simulator.inject(Fault::next(Operation::AgentStatus, 1, FaultKind::DelayMs(1_500)));
    let status = through("1002", "onlineagent/1002/agentstatus");
    let calls = (0..12).map(|_| client.get(&status));
    let replies = futures_util::future::join_all(calls).await;
    let full = replies.iter().filter(|reply| reply.code() == "queue_full").count();
    assert!(replies.iter().all(|reply| [200, 429].contains(&reply.status)), "{replies:?}");
    assert!((1..=4).contains(&full), "{full} were refused");
    assert!(replies.iter().filter(|r| r.status == 429).all(|r| r.has("retry-after: 1")), "{replies:?}");

    // Longer than the five seconds that a call may take here.
    scene.simulator.inject(Fault::next(Operation::AgentStatus, 1, FaultKind::DelayMs(8_000)));
    let reply = client.get(&status).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "gateway_silent"), "{reply:?}");

    assert_eq!(client.post("/api/v1/agents/main/1003/sign-out").await.status, 202);
    scene.agent_in("1003", "signed_out").await;
    let reply = client.post(&through("1003", "onlineagent/1003/saybusy")).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "no_session"));
    scene.simulator.pause_listening().await;
    let reply = client.post(&busy).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "gateway_unreachable"), "{reply:?}");
    scene.simulator.resume_listening().await.expect("the port is free");
    scene.heartbeats("1001", 1).await;
    let relayed =
        scene.relay.metric("ccrelay_forwarded_calls_total{gateway=\"main\",outcome=\"answered\"}").await;
    assert!(relayed >= 8.0, "{relayed}");
    scene.end().await;
}
