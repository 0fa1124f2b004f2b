//! Random gateways: whatever they do, the protocol is kept, and once they are well everybody is in or waits for a
//! person with a reason.

use bytes::Bytes;
use http::Method;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::fake::{Scene, Script, agent, main_gateway, view};
use crate::session::call::Ticket;
use crate::session::config::{AfterSignIn, AgentConfig, AgentState, PasswordSource, Skills};
use crate::session::forward::ForwardRequest;
use crate::session::retcode::{Operation, codes};

/// One turn of fortune.
#[derive(Debug, Clone)]
enum Turn {
    Once(Operation, Script),
    Always(Operation, Script),
    Heal,
    ThrowOut {
        announced: bool,
    },
    Restart,
    SignIn,
    SignOut,
    TakeOver,
    /// Somebody else signs in as the agent.
    Occupy,
    /// Another program signs in as the agent and leaves the session to us.
    Adopt,
    /// A call is passed on, and ends like this.
    Forward(Option<Script>),
    /// The configuration changes.
    Configure {
        takeover: bool,
        skills: bool,
        password: bool,
        state: AgentState,
    },
    /// The agent leaves the roster and comes back.
    LeaveAndReturn,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{AutoAnswer, ForceLogin, Handshake, Login, Logout, ResetSkill, SayBusy, SayFree, Work};
    let often = vec![Login, ForceLogin, ResetSkill, Handshake, Handshake, Handshake, Logout];
    prop::sample::select([often, vec![AutoAnswer, SayFree, SayBusy, Work]].concat())
}

fn script() -> impl Strategy<Value = Script> {
    // Every code of the table, those that matter to sessions more often, and some that no table has.
    let often =
        ["000-003", "000-004", "000-007", "100-002", "100-004", "100-006", "100-021", "105-002", "gibberish"];
    prop_oneof![
        2 => prop::sample::select(codes().collect::<Vec<_>>()).prop_map(Script::Code),
        2 => prop::sample::select(often.to_vec()).prop_map(Script::Code),
        1 => Just(Script::AnswerLost),
        1 => Just(Script::RequestLost),
        1 => Just(Script::Unreachable),
        1 => Just(Script::Slow),
    ]
}

fn agent_state() -> impl Strategy<Value = AgentState> {
    prop::sample::select(vec![AgentState::Ready, AgentState::Busy, AgentState::Work])
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
        1 => Just(Turn::TakeOver),
        1 => Just(Turn::Occupy),
        1 => Just(Turn::Adopt),
        3 => prop::option::of(script()).prop_map(Turn::Forward),
        1 => (any::<(bool, bool, bool)>(), agent_state()).prop_map(|((takeover, skills, password), state)| {
            Turn::Configure { takeover, skills, password, state }
        }),
        1 => Just(Turn::LeaveAndReturn),
    ]
}

async fn live(takeover: bool, turns: Vec<(Turn, u64)>) -> Result<(), TestCaseError> {
    let scene = Scene::with(&["291"], |_, agent| {
        agent.takeover = takeover;
        agent.after_sign_in =
            AfterSignIn { autoanswer: Some(true), state: Some(AgentState::Ready), busy_reason: None };
    });
    let mut config = AgentConfig::clone(&scene.config.agents[0]);
    let (mut adoptions, mut forwards) = (0, Vec::new());
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
                // The new daemon reads the roster that the old one had.
                sessions.put(config.clone()).unwrap();
            }
            Turn::SignIn => prop_assert!(sessions.sign_in(&main_gateway(), &agent("291"))),
            Turn::SignOut => prop_assert!(sessions.sign_out(&main_gateway(), &agent("291"))),
            Turn::TakeOver => prop_assert!(sessions.take_over(&main_gateway(), &agent("291"))),
            Turn::Occupy => scene.gateway.occupy("291"),
            Turn::Adopt => {
                adoptions += 1;
                let guid = format!("theirs-{adoptions}");
                scene.gateway.sign_in_elsewhere("291", &guid);
                let ticket = Ticket::new(guid.into(), Vec::new());
                sessions.adopt(&main_gateway(), &agent("291"), ticket, "theirToken".into()).unwrap();
            }
            Turn::Forward(script) => {
                if let Some(script) = script {
                    scene.gateway.forward_once(script);
                }
                let path = "/x/291";
                let request = ForwardRequest::new(Method::GET, path, None, Bytes::new()).unwrap();
                let sessions = sessions.clone();
                forwards.push(tokio::spawn(async move {
                    let patient = CancellationToken::new();
                    drop(sessions.forward(&main_gateway(), &agent("291"), request, &patient).await);
                }));
            }
            Turn::Configure { takeover, skills, password, state } => {
                config.after_sign_in.state = Some(state);
                config.takeover = takeover;
                config.skills = if skills { Skills::All } else { Skills::Ids(vec![7]) };
                let word = if password { "another" } else { "pass" };
                config.password = PasswordSource::Fixed(word.into());
                sessions.put(config.clone()).unwrap();
            }
            Turn::LeaveAndReturn => {
                prop_assert!(sessions.remove(&main_gateway(), &agent("291")));
                sessions.put(config.clone()).unwrap();
            }
        }
        scene.pass(secs).await;
    }
    scene.gateway.heal();
    scene.pass(200).await;
    let end = view(&sessions);
    match end.state {
        "active" => {
            prop_assert!(scene.gateway.is_signed_in("291"));
            let refused = scene.reasons().contains(&"settings_refused");
            if let Some(made) = scene.gateway.set_up("291").filter(|_| !refused) {
                let asks_for_state = |operation: &Operation| {
                    matches!(operation, Operation::SayFree | Operation::SayBusy | Operation::Work)
                };
                prop_assert!(made.contains(&Operation::AutoAnswer), "{:?}", made);
                prop_assert!(made.iter().any(asks_for_state), "{:?}", made);
            }
        }
        "suspended" => prop_assert!(end.reason.is_some()),
        "signed_out" => {}
        other => prop_assert!(false, "ended {other}: {end:?}"),
    }
    let gauges: i64 = crate::metrics::SESSION_STATES
        .iter()
        .map(|state| scene.metrics.sessions.with_label_values(&["main", *state]).get())
        .sum();
    prop_assert_eq!(gauges, 1);
    for forward in forwards {
        prop_assert!(forward.is_finished(), "a call that was passed on was never answered");
    }
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
