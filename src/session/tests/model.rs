//! Random gateways: whatever they do, the protocol is kept, and once they are well everybody is in or waits for a
//! person with a reason.

use proptest::prelude::*;

use super::fake::{Scene, Script, agent, main_gateway, view};
use crate::session::retcode::Operation;

/// One turn of fortune.
#[derive(Debug, Clone)]
enum Turn {
    Once(Operation, Script),
    Always(Operation, Script),
    Heal,
    ThrowOut { announced: bool },
    Restart,
    SignIn,
    SignOut,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{ForceLogin, Handshake, Login, Logout, ResetSkill};
    prop::sample::select(vec![Login, ForceLogin, ResetSkill, Handshake, Handshake, Handshake, Logout])
}

fn script() -> impl Strategy<Value = Script> {
    let codes = [
        "000-002",
        "000-003",
        "000-004",
        "000-007",
        "100-001",
        "100-002",
        "100-003",
        "100-004",
        "100-006",
        "100-007",
        "100-008",
        "100-010",
        "100-021",
        "105-001",
        "105-002",
        "105-005",
        "999-001",
        "gibberish",
    ];
    prop_oneof![
        4 => prop::sample::select(codes.to_vec()).prop_map(Script::Code),
        1 => Just(Script::AnswerLost),
        1 => Just(Script::RequestLost),
        1 => Just(Script::Unreachable),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        6 => (operation(), script()).prop_map(|(operation, script)| Turn::Once(operation, script)),
        3 => (operation(), script()).prop_map(|(operation, script)| Turn::Always(operation, script)),
        3 => Just(Turn::Heal),
        2 => any::<bool>().prop_map(|announced| Turn::ThrowOut { announced }),
        1 => Just(Turn::Restart),
        1 => Just(Turn::SignIn),
        1 => Just(Turn::SignOut),
    ]
}

async fn live(takeover: bool, turns: Vec<(Turn, u64)>) -> Result<(), TestCaseError> {
    let scene = Scene::with(&["291"], |_, agent| agent.takeover = takeover);
    let mut sessions = scene.start();
    for (turn, secs) in turns {
        match turn {
            Turn::Once(operation, script) => scene.gateway.once(operation, script),
            Turn::Always(operation, script) => scene.gateway.always(operation, script),
            Turn::Heal => scene.gateway.heal(),
            Turn::ThrowOut { announced } => {
                scene.gateway.throw_out("291");
                if announced {
                    sessions.wake_forced_out(&main_gateway(), &agent("291"));
                }
            }
            Turn::Restart => {
                sessions.shutdown(false).await;
                sessions = scene.start();
            }
            Turn::SignIn => prop_assert!(sessions.sign_in(&main_gateway(), &agent("291"))),
            Turn::SignOut => prop_assert!(sessions.sign_out(&main_gateway(), &agent("291"))),
        }
        scene.pass(secs).await;
    }
    scene.gateway.heal();
    scene.pass(200).await;
    let end = view(&sessions);
    match end.state {
        "active" => prop_assert!(scene.gateway.is_signed_in("291")),
        "suspended" => prop_assert!(end.reason.is_some()),
        "signed_out" => {}
        other => prop_assert!(false, "ended {other}: {end:?}"),
    }
    let gauges: i64 = crate::metrics::SESSION_STATES
        .iter()
        .map(|state| scene.metrics.sessions.with_label_values(&["main", *state]).get())
        .sum();
    prop_assert_eq!(gauges, 1);
    prop_assert!(!sessions.failed().is_cancelled());
    scene.gateway.check();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_gateway_leaves_the_agent_active_or_suspended_with_a_reason(
        takeover: bool,
        turns in prop::collection::vec((turn(), 0u64..100), 0..25),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(live(takeover, turns))?;
    }
}
