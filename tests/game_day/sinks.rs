//! Brokers, and the spool that fills up behind them.

use ccrelay::simulate::{SignOut, Simulator};

use crate::MACHINE;
use crate::scene::{Plan, Scene, agent};
use crate::support::mosquitto::Mosquitto;
use crate::support::proxy::Proxy;

pub(crate) const ALERTS: &[&str] = &[
    "CcrelayDeadLetters",
    "CcrelaySinkStopped",
    "CcrelaySinkFallingBehind",
    "CcrelaySinkStuck",
    "CcrelaySpoolFilling",
    "CcrelaySpoolAlmostFull",
    "CcrelaySpoolRefusesPushes",
    "CcrelaySessionEventsLost",
    "CcrelayShedding",
];

const AGENTS: u32 = 60;
/// So that it is full some time after the wall is 10,000 records behind.
const SPOOL_BYTES: u32 = 14_000_000;
/// So little that of what is in it then there is no room for the ends of sessions either.
const TOO_FEW: u32 = SPOOL_BYTES / 2;
/// Far less than what comes.
const TRICKLE: u32 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_goes_wrong_behind_the_spool_is_told_and_its_cause_is_shown() {
    let _alone = MACHINE.write().await;
    let mut scene = Scene::prepare(AGENTS).await;
    let bytes = |most: u32| format!("max_bytes = {most}\n");
    let mut mosquitto = Mosquitto::start().await;
    mosquitto.stop().await;
    mosquitto.write_file("acl", "topic readwrite ccrelay/#\n");
    mosquitto.configure("allow_anonymous true\nmax_inflight_messages 0\nacl_file {folder}/acl\n");
    mosquitto.start_again().await;
    let path = Proxy::start(&format!("127.0.0.1:{}", mosquitto.port())).await;
    let broker = path.port();
    // Nobody may publish below `forbidden`.
    let forbidden = format!(
        "[sinks.letters]\ntopic = \"forbidden/letters\"\n[sinks.letters.mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
         [sinks.halted]\ntopic = \"forbidden/halted\"\n[sinks.halted.mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
         [sinks.halted.mqtt.on_error]\nnot_authorised = \"stop\"\n"
    );
    scene.configure(&Plan {
        agents: 1001..=1000 + AGENTS,
        gateway_port: None,
        tables: &format!("[sinks.wall.mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n{forbidden}"),
    });
    scene.start().await;
    scene.all_signed_in(AGENTS as usize).await;
    scene.simulator.play(1.0);
    scene.fires("CcrelayDeadLetters", &["letters", "not_authorised"]).await;
    scene.fires("CcrelaySinkStopped", &["sink has stopped", "halted"]).await;

    scene.relay.stop().await;
    scene.relay.edit(&forbidden, "");
    scene.relay.edit("[spool]\n", &format!("[spool]\n{}", bytes(SPOOL_BYTES)));
    scene.relay.start().await;
    scene.simulator.play(20.0);
    path.slow(TRICKLE);
    scene.fires("CcrelaySinkFallingBehind", &["ccrelay_sink_in_flight{sink=\"wall\"} 1000"]).await;
    path.refuse();
    path.cut();
    scene.fires("CcrelaySinkStuck", &["wall", "retrying"]).await;
    scene.fires("CcrelaySpoolFilling", &["wall", "retrying"]).await;
    scene.fires("CcrelaySpoolAlmostFull", &["wall", "retrying"]).await;
    scene.fires("CcrelaySpoolRefusesPushes", &["wall", "retrying"]).await;

    scene.relay.stop().await;
    scene.relay.edit(&bytes(SPOOL_BYTES), &bytes(TOO_FEW));
    scene.relay.start().await;
    // Again and again, as the first may be lost before anybody has looked at this start.
    let force_out = |simulator: &Simulator| drop(simulator.force_out(&agent(1001)));
    scene.fires_while("CcrelaySessionEventsLost", &["reason=\"spool_full\""], force_out).await;

    scene.relay.stop().await;
    scene.relay.edit(&bytes(TOO_FEW), &bytes(SPOOL_BYTES));
    scene.relay.edit("[sinks.wall.mqtt]\n", "[sinks.wall]\nwhen_full = \"shed\"\n[sinks.wall.mqtt]\n");
    scene.relay.start().await;
    scene.fires("CcrelayShedding", &["wall", "retrying"]).await;
    scene.assert_all_fired(ALERTS);
    let sign_outs = scene.simulator.statistics().total.sign_outs;
    assert!(sign_outs.keys().eq([&SignOut::Inspector]), "nobody else was signed out: {sign_outs:?}");
}
