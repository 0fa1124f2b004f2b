//! Conservation by force: the real binary between a strict gateway and real brokers, under load, while everything is
//! killed, frozen, cut and slowed down by a schedule that a seed determines.
//!
//! `cargo test` runs all of it in short. `scripts/chaos` runs one scenario for as long as it is told, in release mode;
//! `options` says by which variables.

#[path = "../it/support/mod.rs"]
mod support;

mod faults;
mod lanes;
mod options;
mod outage;
mod report;
mod scene;
mod soak;
mod usage;

use options::Options;
use scene::Scene;

/// One scenario at a time has the machine.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_unknown_or_out_of_order_and_nobody_signed_out_under_faults_of_all_kinds() {
    let _alone = ALONE.lock().await;
    let options = Options::of_environment(50, 40, 4.0);
    options.check_faults();
    let mut scene = Scene::start(&options).await;
    let faults = lanes::run(&mut scene, &options).await;
    let report = scene.finish(Some(faults)).await;
    report.print(&options);
    scene.assert_flawless(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_push_fails_and_mqtt_does_not_wait_while_kafka_is_away_under_load() {
    let _alone = ALONE.lock().await;
    let options = Options::of_environment(8, 40, 4.0);
    let mut scene = Scene::start(&options).await;
    let outage = outage::run(&mut scene, &options).await;
    let report = scene.finish(None).await;
    report.print(&options);
    outage.print();
    scene.assert_flawless(&report);
    outage.assert_harmless();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_files_and_spool_stay_level_under_steady_load() {
    let _alone = ALONE.lock().await;
    let options = Options::of_environment(15, 40, 4.0);
    let mut scene = Scene::start(&options).await;
    let soak = soak::run(&mut scene, &options).await;
    let report = scene.finish(None).await;
    report.print(&options);
    soak.print();
    scene.assert_flawless(&report);
    soak.assert_level();
}
