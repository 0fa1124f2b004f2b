//! Who may call, and what everybody else is told.

use std::os::unix::fs::PermissionsExt;

use tokio::io::AsyncWriteExt;

use super::client::{Client, over_tls};
use super::scene::{ADMIN, READ, Scene};
use crate::support::in_process::TestRelay;
use crate::support::{DEADLINE, eventually};

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
    // Then what the complaint asks for is done, and nothing else.
    let newer = scene.client(Some("yet-another-canary-token"));
    eventually("the new token", DEADLINE, || async {
        // More than once, as times of files may be as coarse as ten milliseconds.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        (newer.get("/api/v1/status").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(new.get("/api/v1/status").await.status, 401);
    // A line that is none takes nothing away; no line at all takes all of them away, and so does no file.
    std::fs::write(&file, "short\n").expect("the folder can be written");
    assert_eq!(newer.get("/api/v1/status").await.status, 200);
    std::fs::write(&file, "# revoked\n").expect("the folder can be written");
    assert_eq!(newer.get("/api/v1/status").await.status, 401);
    std::fs::write(&file, "read newer yet-another-canary-token\n").expect("the folder can be written");
    assert_eq!(newer.get("/api/v1/status").await.status, 200);
    std::fs::remove_file(&file).expect("the folder can be written");
    assert_eq!(newer.get("/api/v1/status").await.status, 401);
    assert!(scene.relay.log().contains("it refuses everybody"), "{}", scene.relay.log());
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

/// Every path and method of the document, which is held against the table of routes elsewhere.
fn routes() -> Vec<(String, String)> {
    let document: serde_json::Value =
        serde_json::from_str(include_str!("../../../src/admin/openapi.json")).expect("the document is JSON");
    let paths = document["paths"].as_object().expect("paths").iter();
    let routes = paths.flat_map(|(path, methods)| {
        let path = path.replace("{gateway}", "main").replace("{agent}", "1001").replace("{id}", "1");
        let path = format!("/api/v1{}", path.replace("{path}", "voicecall/1001/answer"));
        let methods = methods.as_object().expect("methods").keys().filter(|method| *method != "parameters");
        methods.map(move |method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    });
    routes.filter(|(_, path)| path != "/api/v1/openapi.json").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_is_open_to_who_has_no_token_or_a_wrong_one() {
    let scene = Scene::start().await;
    let routes = routes();
    assert!(routes.len() >= 23, "{routes:?}");
    for wrong in [None, Some("read-token-canary-012345678"), Some(&ADMIN[1..]), Some("")] {
        let client = scene.client(wrong);
        let calls = routes.iter().map(|(method, path)| client.call(method, path, ""));
        for (reply, route) in futures_util::future::join_all(calls).await.iter().zip(&routes) {
            assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorised"), "{wrong:?} {route:?}");
            assert!(reply.has("www-authenticate: bearer") && reply.has("connection: close"), "{reply:?}");
        }
    }
    assert_eq!(scene.admin().get("/api/v1/agents/main/1001").await.json()["state"], "active");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_the_api_are_counted_and_slowed_down_and_a_right_token_passes_at_once() {
    let scene = Scene::start().await;
    let admin = scene.admin();
    assert_eq!(admin.get("/api/v1/status").await.status, 200);
    let wrong = scene.client(Some("not-a-token-of-anybody-0123"));
    let guesses: Vec<_> = (0..40).map(|_| wrong.get("/api/v1/status")).collect();
    let right = async {
        let began = std::time::Instant::now();
        let reply = admin.get("/api/v1/status").await;
        (reply.status, began.elapsed())
    };
    let (guesses, (status, took)) = tokio::join!(futures_util::future::join_all(guesses), right);
    assert!(guesses.iter().all(|reply| reply.status == 401) && status == 200);
    println!("a right token took {took:?} beside 40 wrong ones");
    let series =
        |answer: &str| format!("ccrelay_token_guesses_total{{answer=\"{answer}\",listener=\"operations\"}}");
    let (at_once, late) =
        (scene.relay.metric(&series("at_once")).await, scene.relay.metric(&series("late")).await);
    assert!(at_once + late == 40.0 && late >= 4.0, "{at_once} at once, {late} late");
    let began = std::time::Instant::now();
    assert_eq!(wrong.get("/api/v1/status").await.status, 401);
    assert!(began.elapsed() >= std::time::Duration::from_millis(900), "{:?}", began.elapsed());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_never_sent_whole_take_no_place_from_others() {
    let scene = Scene::start().await;
    let reader = scene.client(Some(READ));
    let mut unfinished = Vec::new();
    for _ in 0..70 {
        let mut stream = tokio::net::TcpStream::connect(reader.address).await.expect("it accepts");
        let head = format!(
            "GET /api/v1/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {READ}\r\ncontent-length: 1\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        unfinished.push(stream);
    }
    // None of them is answered before its body has come.
    for client in [scene.admin(), reader] {
        assert_eq!(client.get("/api/v1/status").await.status, 200);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_climb_out_of_their_place_lead_nowhere() {
    let scene = Scene::start().await;
    let client = scene.admin();
    for climb in [
        "..",
        "../..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "..%5c..",
        "....//",
        ".%00",
        "%2fetc%2fpasswd",
        "1001%2f..",
    ] {
        for path in [
            format!("/api/v1/agents/main/{climb}"),
            format!("/api/v1/agents/{climb}/1001"),
            format!("/api/v1/agents/main/{climb}/guid"),
            format!("/api/v1/dead-letters/{climb}"),
            format!("/api/v1/{climb}/etc/passwd"),
            format!("/{climb}/metrics"),
        ] {
            for method in ["GET", "DELETE"] {
                let reply = client.send(method, &path, "").await;
                assert!(matches!(reply.status, 400 | 404 | 405), "{method} {path}: {reply:?}");
                assert!(!reply.text.contains("root:"), "{method} {path}");
            }
            let put = client.send("PUT", &path, r#"{"phone_number":"71004","password":"x"}"#).await;
            assert!(matches!(put.status, 400 | 404 | 405), "PUT {path}: {put:?}");
        }
    }
    assert_eq!(client.get("/api/v1/agents/main/1001").await.json()["state"], "active");
    scene.end().await;
}
