//! Who may call, and what everybody else is told.

use std::os::unix::fs::PermissionsExt;

use super::client::{Client, over_tls};
use super::scene::{ADMIN, READ, Scene};
use crate::support::in_process::TestRelay;

#[tokio::test(flavor = "multi_thread")]
async fn only_tokens_of_the_file_are_let_in_and_only_as_far_as_their_scope_goes() {
    let scene = Scene::start().await;
    for wrong in [None, Some("admin-token-canary-012345678"), Some("wrong"), Some("")] {
        for path in ["/api/v1/status", "/api/v1/agents", "/api/v1/agents/main/1001"] {
            let reply = scene.client(wrong).get(path).await;
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorised"), "{wrong:?} {path}");
            assert!(reply.has("www-authenticate: bearer"), "{reply:?}");
        }
        assert_eq!(scene.client(wrong).get("/api/v1/openapi.json").await.status, 200);
    }
    let reader = scene.client(Some(READ));
    assert_eq!(reader.get("/api/v1/status").await.status, 200);
    assert_eq!(reader.get("/api/v1/agents/main/1001").await.status, 200);
    let refused = reader.post("/api/v1/agents/main/1001/sign-out").await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "scope_missing"));
    assert!(refused.head.contains("insufficient_scope"), "{refused:?}");
    // The pages that were there before need no token.
    for path in ["/metrics", "/live", "/ready"] {
        assert_eq!(scene.client(None).send("GET", path, "").await.status, 200, "{path}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_not_allowed_or_too_large_is_refused_in_json() {
    let scene = Scene::start().await;
    let client = scene.admin();
    for path in ["/api/v1/nothing", "/api/v1/agents/main", "/api/v1/status/", "/api/v1/agents/main/1001/x"] {
        assert_eq!(client.get(path).await.status, 404, "{path}");
    }
    for path in ["/api/v1/agents/main/9999", "/api/v1/agents/other/1001", "/api/v1/agents/main/%31001"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "not_found"), "{path}");
    }
    let reply = client.call("DELETE", "/api/v1/status", "").await;
    assert_eq!(reply.status, 405);
    assert!(reply.has("allow: get"), "{reply:?}");
    let reply = client.call("POST", "/api/v1/agents/main/1001/sign-in", &"x".repeat(70_000)).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "too_large"));
    for query in
        ["?limit=0", "?limit=1001", "?limit=x", "?after=x", "?state=asleep", "?color=red", "?limit=1&limit=2"]
    {
        assert_eq!(client.get(&format!("/api/v1/agents{query}")).await.status, 400, "{query}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_of_tokens_the_api_is_off_and_says_so() {
    let relay = TestRelay::start().await;
    let client = Client { address: relay.operations, token: Some(ADMIN.to_owned()) };
    let reply = client.get("/api/v1/status").await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "api_off"));
    assert!(reply.text.contains("operations.admin_tokens_file"), "{reply:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_tokens_counts_at_once() {
    let scene = Scene::start().await;
    let file = scene.relay.folder().join("tokens");
    std::fs::write(&file, "read new another-canary-of-a-token\n").expect("the folder can be written");
    assert_eq!(scene.admin().get("/api/v1/status").await.status, 401);
    let new = scene.client(Some("another-canary-of-a-token"));
    assert_eq!(new.get("/api/v1/status").await.status, 200);
    // A file that everybody may read changes nothing, and is complained about.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    std::fs::write(&file, "read newer yet-another-canary-token\n").expect("the folder can be written");
    assert_eq!(new.get("/api/v1/status").await.status, 200);
    assert!(scene.relay.log().contains("is open to everybody"), "{}", scene.relay.log());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_the_operations_listener_speaks_tls() {
    let scene = TestRelay::with_operations(|folder| {
        let at = folder.display();
        format!("certificate_file = '{at}/cert.pem'\nkey_file = '{at}/key.pem'\n")
    })
    .await;
    let ca = std::fs::read_to_string(scene.ca_file()).expect("the authority's file");
    let request = "GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(over_tls(scene.operations, &ca, request).await.text, "live\n");
    scene.stop().await;
}
