//! The status page in a browser, of a running relay.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ccrelay::simulate::{Fault, FaultKind, Operation};
use nix::sys::signal::Signal;

use super::scene::{READ, Scene, agent};
use crate::support::browser::Browser;

/// Agents on one page of the list.
const PAGE: usize = 50;

fn url(scene: &Scene) -> String {
    format!("http://{}/", scene.relay.operations())
}

/// Opens the page and signs in as people do.
async fn signed_in(scene: &Scene) -> Browser {
    let mut browser = Browser::start().await;
    browser.go(&url(scene)).await;
    assert_eq!(browser.focus().await, "token", "the field is ready to be typed into");
    browser.write(READ).await;
    browser.press("Enter").await;
    browser.until("!document.getElementById('page').hidden").await;
    browser.shows("#link", "live").await;
    browser
}

async fn agents(browser: &mut Browser) -> Vec<String> {
    let ids =
        browser.value("[...document.querySelectorAll('#agents tr')].map((row) => row.dataset.key)").await;
    serde_json::from_value(ids).expect("a list")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_a_relay_that_is_well_and_its_events_without_numbers() {
    let scene = Scene::start().await;
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    let mut browser = signed_in(&scene).await;
    browser.shows("#verdict-text", "All is well").await;
    browser.shows("#sinks", "delivering").await;
    browser.until("document.querySelectorAll('#agents tr').length === 3").await;
    assert_eq!(agents(&mut browser).await.iter().collect::<BTreeSet<_>>().len(), 3);
    browser.shows("#who", env!("CARGO_PKG_VERSION")).await;
    browser.shows("#gateways", "3 active").await;

    // A row appears for each event, and nothing in it that is somebody's.
    browser.value("document.getElementById('tail-agent').value = '1002'").await;
    browser.value("document.getElementById('tail-start').click()").await;
    browser.shows("#tail-state", "listening").await;
    let call = scene.simulator.ring(&agent("1002")).expect("it rings");
    scene.simulator.ring(&agent("1001")).expect("it rings");
    browser.shows("#tail-rows", "call.ringing").await;
    browser.shows("#tail-rows", &call).await;
    assert!(!browser.text("#tail-rows").await.contains("1001"), "only agent 1002 was asked for");
    browser.shows("#received", "/s").await;
    browser.shows("#answers", "answered within").await;
    browser.shows("#agents", "call.").await;

    // The search is the server's.
    browser.value("document.getElementById('search').focus()").await;
    browser.write("002").await;
    browser.press("Enter").await;
    browser.until("document.querySelectorAll('#agents tr').length === 1").await;
    assert_eq!(agents(&mut browser).await, ["main/1002"]);
    browser.shows("#agents-count", "of 1").await;
    browser.value("document.getElementById('search').value = ''; document.getElementById('agents-form').requestSubmit()").await;
    browser.until("document.querySelectorAll('#agents tr').length === 3").await;

    let mut grounds = BTreeSet::new();
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await;
        let colours = browser.value("(({ backgroundColor, color }) => backgroundColor + ' ' + color)(getComputedStyle(document.body))").await;
        assert!(
            grounds.insert(colours.as_str().expect("a text").to_owned()),
            "{scheme} looks like the other"
        );
        browser.picture(&format!("well-{scheme}")).await;
    }
    browser.window(390, 844).await;
    let wide = browser.value("document.documentElement.scrollWidth > window.innerWidth").await;
    assert_eq!(wide, false, "a narrow window needs no scrolling to the side");
    browser.picture("narrow").await;
    let token = browser
        .value(&format!("location.href.includes({READ:?}) || document.body.outerHTML.includes({READ:?})"))
        .await;
    assert_eq!(token, false, "the token is in the page or its address");
    browser.is_content().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_stands_first_with_what_is_at_stake_and_what_to_do() {
    let scene = Scene::with(|relay| {
        let sink = "[sinks.broker.mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n";
        relay.edit("[sinks.file.jsonl]", &format!("{sink}[sinks.file.jsonl]"));
    })
    .await;
    // Agents whom the gateway does not know: enough of them for three pages.
    let admin = scene.admin();
    let body = format!(r#"{{"phone_number":"7","password_file":"{}"}}"#, scene.password_file());
    for id in 2001..2001 + 2 * PAGE {
        let reply = admin.call("PUT", &format!("/api/v1/agents/main/{id}"), &body).await;
        assert!(reply.status < 300, "{reply:?}");
    }
    let mut browser = signed_in(&scene).await;
    browser.shows("#concerns", "CcrelaySinkStuck").await;
    browser.shows("#concerns", "broker does not deliver").await;
    browser.until("document.getElementById('verdict').className.includes('warn')").await;
    browser.shows("#sinks", "retrying").await;
    browser
        .until("!document.querySelector('#sinks tr[data-key=broker]').lastChild.innerText.includes('none')")
        .await;
    browser.shows("#problems", "delivery failed").await;
    browser.shows("#concerns", "CcrelayAgentsSuspended").await;

    // What to do stands in the page itself.
    browser.value("[...document.querySelectorAll('#concerns summary')].find((s) => s.innerText.includes('CcrelaySinkStuck')).focus()").await;
    browser.press("Enter").await;
    browser.shows("#concerns details[open] .entry", "bring the broker back").await;

    // Pages of agents are the server's too.
    browser.value("(document.getElementById('order').value = 'id', document.getElementById('agents-form').requestSubmit())").await;
    browser.until("!document.getElementById('next').disabled").await;
    browser.shows("#agents-count", "Agents 1 to 50 of 103").await;
    let mut seen = BTreeSet::new();
    for from in [1, 51, 101] {
        browser.shows("#agents-count", &format!("Agents {from} to")).await;
        seen.extend(agents(&mut browser).await);
        if from < 101 {
            browser.until("!document.getElementById('next').disabled").await;
            browser.value("document.getElementById('next').click()").await;
        }
    }
    assert_eq!(seen.len(), 103);
    assert_eq!(browser.value("document.getElementById('next').disabled").await, true);
    browser.value("document.getElementById('previous').click()").await;
    browser.shows("#agents-count", "Agents 51 to").await;
    browser.value("(document.getElementById('state').value = 'active', document.getElementById('agents-form').requestSubmit())").await;
    browser.shows("#agents-count", "of 3").await;
    browser.picture("broken-light").await;
    browser.scheme("dark").await;
    browser.picture("broken-dark").await;
    browser.is_content().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_about_to_be_signed_out_are_what_is_seen_first() {
    let scene = Scene::start().await;
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    let mut browser = signed_in(&scene).await;
    browser.shows("#verdict-text", "All is well").await;
    // The gateway hangs up on every heartbeat of one agent: half of its time goes by, and then it is critical.
    scene.simulator.inject(Fault::next(Operation::Handshake, 1_000, FaultKind::Drop).of("1002"));
    browser.shows("#concerns", "CcrelayAgentsAboutToBeSignedOut").await;
    browser.until("document.getElementById('verdict').className.includes('bad')").await;
    browser.shows("#gateways", "1 about to be signed out").await;
    browser.until("document.querySelector('#agents tr').dataset.key === 'main/1002'").await;
    browser.picture("about-to-be-signed-out").await;
    scene.simulator.clear_faults();
    browser.shows("#verdict-text", "All is well").await;
    browser.is_content().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_hangs_is_not_said_to_be_well() {
    let scene = Scene::start().await;
    for id in ["1001", "1002", "1003"] {
        scene.agent_in(id, "active").await;
    }
    let mut browser = signed_in(&scene).await;
    browser.shows("#verdict-text", "All is well").await;
    scene.relay.running().signal(Signal::SIGSTOP);
    let begin = Instant::now();
    // Its connections stay open and nothing comes any more.
    browser.shows("#verdict-text", "Nothing is heard of ccrelay").await;
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    browser.until("document.getElementById('verdict').className.includes('bad')").await;
    browser.shows("#link", "not live").await;
    browser.shows("#agents-count", "cannot be read").await;
    scene.relay.running().signal(Signal::SIGCONT);
    browser.shows("#link", "live").await;
    browser.until("!document.getElementById('link').innerText.includes('not')").await;
    browser.shows("#agents-count", "of 3").await;
    browser.is_content().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_opens_nothing_and_one_that_is_taken_away_closes_the_page() {
    let scene = Scene::start().await;
    let mut browser = Browser::start().await;
    browser.go(&url(&scene)).await;
    browser.write("wrong-token-canary-0123456789").await;
    browser.press("Enter").await;
    browser.shows("#signin-fault", "not known").await;
    assert_eq!(browser.value("document.getElementById('page').hidden").await, true);
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    browser.picture("wrong-token").await;
    browser.write(READ).await;
    browser.press("Enter").await;
    browser.shows("#link", "live").await;
    browser.until("document.querySelectorAll('#agents tr').length === 3").await;
    // The tab keeps the token over a reload, and only the tab.
    browser.go(&url(&scene)).await;
    browser.shows("#link", "live").await;
    let file = scene.relay.folder().join("tokens");
    std::fs::write(&file, "read new another-canary-of-a-token\n").expect("the folder can be written");
    browser.until("!document.getElementById('signin').hidden").await;
    assert_eq!(browser.value("sessionStorage.length").await, 0);
    assert_eq!(browser.text("#agents").await, "", "what was shown is gone");
    browser.is_content().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_the_keyboard_and_has_a_name() {
    let scene = Scene::start().await;
    let mut browser = signed_in(&scene).await;
    browser.until("document.querySelectorAll('#agents tr').length === 3").await;
    let wanted: BTreeSet<String> = serde_json::from_value(
        browser.value("[...document.querySelectorAll('a, input, select, button, summary, [tabindex=\"0\"]')].filter((e) => !e.disabled && e.offsetParent).map((e) => e.id || e.className || e.tagName)").await,
    )
    .expect("a list");
    assert!(wanted.len() > 8, "{wanted:?}");
    browser.value("document.activeElement.blur()").await;
    let mut reached = BTreeSet::new();
    for _ in 0..40 {
        browser.press("Tab").await;
        reached.insert(browser.focus().await);
    }
    let missed: Vec<_> = wanted.difference(&reached).collect();
    assert!(missed.is_empty(), "not reached: {missed:?}; reached: {reached:?}");
    let nameless = browser
        .value("[...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length + [...document.querySelectorAll('section')].filter((e) => !e.getAttribute('aria-labelledby')).length")
        .await;
    assert_eq!(nameless, 0);
    // The keyboard alone starts and stops the events.
    browser.value("document.getElementById('tail-start').focus()").await;
    browser.press(" ").await;
    browser.shows("#tail-state", "listening").await;
    assert_eq!(browser.focus().await, "tail-stop");
    browser.press("Enter").await;
    browser.shows("#tail-state", "stopped").await;
    browser.is_content().await;
    scene.end().await;
}
