//! Agents by API.

use serde_json::Value;

use super::client::Client;
use super::scene::{Scene, agent};
use crate::support::{DEADLINE, eventually};

/// Ids of a page, and where the next begins.
async fn page(client: &Client, query: &str) -> (Vec<String>, u64, Option<String>) {
    let page = client.get(&format!("/api/v1/agents{query}")).await.json();
    let ids = page["agents"].as_array().expect("a list").iter();
    let ids = ids.map(|agent| agent["id"].as_str().expect("an id").to_owned()).collect();
    (ids, page["total"].as_u64().expect("a number"), page["next"].as_str().map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_in_pages_and_by_their_states() {
    let scene = Scene::start().await;
    let client = scene.admin();
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    let all = ["1001", "1002", "1003"].map(str::to_owned).to_vec();
    assert_eq!(page(&client, "").await, (all.clone(), 3, None));
    assert_eq!(page(&client, "?gateway=main&state=active").await.0, all);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (ids, total, next) = page(&client, &format!("?limit=1{after}")).await;
        assert_eq!((ids.len(), total), (1, 3));
        seen.extend(ids);
        match next {
            Some(next) => after = format!("&after={}", next.replace('/', "%2F")),
            None => break,
        }
    }
    assert_eq!(seen, all);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_signed_out_and_in_again_by_the_api() {
    let scene = Scene::start().await;
    let client = scene.admin();
    scene.agent_in("1001", "active").await;
    let reply = client.post("/api/v1/agents/main/1001/sign-out").await;
    assert_eq!(reply.status, 202);
    let gone = scene.agent_in("1001", "signed_out").await;
    assert_eq!(gone["sign_out_budget_secs"], Value::Null);
    assert!(scene.simulator.session(&agent("1001")).is_none(), "the gateway knows it too");
    assert_eq!(page(&client, "?state=signed_out&reason=signed_out").await.0, ["1001"]);
    for misspelt in ["?reason=signed-out", "?gateway=other"] {
        assert_eq!(client.get(&format!("/api/v1/agents{misspelt}")).await.status, 400, "{misspelt}");
    }
    assert_eq!(client.post("/api/v1/agents/main/1001/sign-in").await.status, 202);
    let back = scene.agent_in("1001", "active").await;
    assert!(back["sign_out_budget_secs"].as_f64().expect("a number") > 0.0, "{back}");
    assert!(scene.simulator.session(&agent("1001")).is_some());
    assert_eq!(client.post("/api/v1/agents/main/9999/sign-in").await.status, 404);
    let log = scene.relay.log();
    let line = log.lines().find(|line| line.contains("call of the admin API") && line.contains("sign-out"));
    let line = line.unwrap_or_else(|| panic!("no line for the audit:\n{log}"));
    assert!(line.contains("crm") && line.contains("1001") && line.contains("202"), "{line}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_sessions_sinks_spool_and_budgets() {
    let scene = Scene::start().await;
    let client = scene.admin();
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    let status = eventually("a status with a delivered event", DEADLINE, || async {
        let status = client.get("/api/v1/status").await.json();
        (status["sinks"][0]["delivered"].as_u64()? > 0 && status["spool"]["bytes"].as_u64()? > 0)
            .then_some(status)
    })
    .await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["ready"], true);
    assert_eq!(status["sessions"]["active"], 3);
    assert_eq!(status["sinks"][0]["sink"], "file");
    assert_eq!(status["gateways"][0]["gateway"], "main");
    assert!(status["gateways"][0]["sign_out_budget_secs"].as_f64().expect("a number") > 0.0);
    assert_eq!(client.get("/api/v1/sinks").await.json()["sinks"][0]["sink"], "file");
    scene.end().await;
}
