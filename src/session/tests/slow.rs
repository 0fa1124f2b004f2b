//! A gateway that is slower than calls come: they wait, and those that are sent succeed.

use super::config::GatewayConfig;
use super::fake::FakeGateway;
use super::gateway::queue::Queue;
use super::*;

fn scene(agents: u32) -> Scene {
    let ids: Vec<String> = (1001..1001 + agents).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    Scene::with(&ids, |_, _| {})
}

/// Answers 8 calls and 4 sign-ins a second.
fn slow_down(gateway: &FakeGateway, config: &GatewayConfig) {
    gateway.slow_down(Queue::with_permits(config, 4, 2), Duration::from_millis(500));
}

fn heartbeats(scene: &Scene, outcome: &str) -> u64 {
    scene.metrics.heartbeats.with_label_values(&["main", outcome]).get()
}

fn signed_in(scene: &Scene, agents: u32) -> u32 {
    (1001..1001 + agents).map(|id| u32::from(scene.gateway.is_signed_in(&id.to_string()))).sum()
}

#[tokio::test(start_paused = true)]
async fn sign_ins_wait_for_a_slow_gateway_each_is_made_once_and_heartbeats_are_late_but_in_time() {
    const AGENTS: u32 = 400;
    let scene = scene(AGENTS);
    slow_down(&scene.gateway, &scene.config.gateways[0]);
    let sessions = scene.start();
    // 20 a second are due, and 4 are answered.
    scene.pass(130).await;
    assert_eq!(scene.gateway.count(Login), AGENTS as usize);
    scene.pass(1000).await;
    // 17 heartbeats a second are due, and so is the renewal of 11 GUIDs.
    assert_eq!(signed_in(&scene, AGENTS), AGENTS);
    assert_eq!((scene.gateway.count(Login), scene.gateway.count(ForceLogin)), (AGENTS as usize, 0));
    assert_eq!(heartbeats(&scene, "timeout") + heartbeats(&scene, "transport"), 0);
    let sent = scene.gateway.seen().len();
    assert!(sent >= 1120 * 7, "{sent} calls in 1130 s");
    let lateness = scene.metrics.heartbeat_lateness.with_label_values(&["main"]);
    let mean = lateness.get_sample_sum() / lateness.get_sample_count() as f64;
    assert!(mean > 10.0, "heartbeats are {mean} s late, their wait included");
    scene.gateway.check();
    sessions.shutdown(false).await;
}

#[tokio::test(start_paused = true)]
async fn no_guid_dies_while_its_heartbeat_waits_for_a_slow_gateway() {
    const AGENTS: u32 = 600;
    let scene = scene(AGENTS);
    let sessions = scene.start();
    scene.pass(45).await;
    assert_eq!(signed_in(&scene, AGENTS), AGENTS);
    // Just within the deadline, 8 a second: each gets one through in 75 s.
    let queue = Queue::with_permits(&scene.config.gateways[0], 60, 60);
    scene.gateway.slow_down(queue, Duration::from_millis(7500));
    scene.pass(900).await;
    assert_eq!((scene.gateway.count(Login), scene.reasons().len()), (AGENTS as usize, AGENTS as usize));
    assert!(sessions.list().iter().all(|view| view.state == "active"));
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn of_more_sessions_than_a_slow_gateway_can_keep_it_keeps_as_many_as_it_can() {
    const AGENTS: u32 = 2000;
    let scene = scene(AGENTS);
    let sessions = scene.start();
    scene.pass(150).await;
    assert_eq!(signed_in(&scene, AGENTS), AGENTS);
    slow_down(&scene.gateway, &scene.config.gateways[0]);
    scene.pass(200).await;
    let (ok, calls) = (heartbeats(&scene, "ok"), scene.gateway.seen().len());
    scene.pass(600).await;
    let (ok, calls) = (heartbeats(&scene, "ok") - ok, scene.gateway.seen().len() - calls);
    // 4800 can be answered besides sign-ins.
    assert!(ok >= 2400, "{ok} heartbeats of {calls} calls succeeded in 600 s");
    assert!(heartbeats(&scene, "queue") > 0);
    // In 112 s 896 calls are answered.
    let active = sessions.list().iter().filter(|view| view.state == "active").count();
    assert!(active >= 400, "{active} agents are signed in");
    scene.gateway.check();
    sessions.shutdown(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_keeps_no_other_agents_heartbeat_waiting() {
    let scene = scene(2);
    let config = &scene.config.gateways[0];
    scene.gateway.slow_down(Queue::with_permits(config, 1, 1), Duration::from_millis(50));
    let sessions = scene.start();
    scene.pass(20).await;
    *scene.world.hangs.lock().unwrap() = Some(agent("1001"));
    let heartbeats = |id: &str| {
        scene.gateway.seen().iter().filter(|seen| seen.operation == Handshake && seen.agent == id).count()
    };
    for id in ["1001", "1002"] {
        let before = heartbeats(id);
        sessions.wake_forced_out(&main_gateway(), &agent(id));
        scene.pass(2).await;
        assert_eq!(heartbeats(id), before + 1, "{id}");
    }
    scene.gateway.check();
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_when_its_sign_in_is_sent_and_a_stop_does_not_wait_for_one_that_is_not() {
    let scene = scene(200);
    let config = &scene.config.gateways[0];
    scene.gateway.slow_down(Queue::with_permits(config, 100, 1), Duration::from_secs(10));
    let sessions = scene.start();
    scene.pass(1000).await;
    let views = sessions.list();
    let active: Vec<_> = views.iter().filter(|view| view.state == "active").collect();
    assert!((95..=100).contains(&active.len()), "{} of 100 sign-ins", active.len());
    assert_eq!(scene.metrics.session_losses.with_label_values(&["main", "timed_out"]).get(), 0);
    let least = active.iter().filter_map(|view| view.sign_out_budget_secs).fold(f64::MAX, f64::min);
    assert!(least > 60.0, "{least} s are left");
    let stopped = tokio::time::Instant::now();
    sessions.shutdown(false).await;
    assert!(stopped.elapsed() <= Duration::from_secs(10), "{:?}", stopped.elapsed());
}
