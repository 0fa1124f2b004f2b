//! Mistakes are all found, each under its key.

use super::*;

fn gateway(toml: &str) -> Result<RawGateway, toml::de::Error> {
    let base = "name = \"main\"\nbase_url = \"https://gw.example:8043/agentgateway/resource\"\n\
        callback_uri = \"https://relay.example/push/main\"\n";
    let mut table: toml::Table = toml::from_str(base)?;
    table.insert("ca_file".into(), crate::session::TEST_CA.into());
    table.extend(toml::from_str::<toml::Table>(toml)?);
    table.try_into()
}

fn agent(toml: &str) -> Result<RawAgent, toml::de::Error> {
    let base = "gateway = \"main\"\nid = \"291\"\nphone_number = \"70004\"\npassword_env = \"CARGO_PKG_DESCRIPTION\"\n";
    let mut table: toml::Table = toml::from_str(base)?;
    table.extend(toml::from_str::<toml::Table>(toml)?);
    table.try_into()
}

fn keys(gateways: Vec<RawGateway>, agents: Vec<RawAgent>) -> Vec<String> {
    let mut problems = Problems::default();
    let _config = validate(gateways, agents, &mut problems);
    problems.found().iter().map(|problem| problem.key.clone()).collect()
}

#[test]
fn the_shortest_configuration_has_the_documented_defaults() {
    let mut problems = Problems::default();
    let config = validate(vec![gateway("").unwrap()], vec![agent("").unwrap()], &mut problems);
    assert!(problems.found().is_empty(), "{:?}", problems.found());
    let gateway = &config.gateways[0];
    assert_eq!(gateway.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(gateway.sign_out_limit, Duration::from_secs(120));
    assert!(!gateway.sign_out_on_stop && !gateway.dangerously_trust_all);
    let agent = &config.agents[0];
    assert_eq!(agent.skills, Skills::All);
    assert!(agent.options.releasephone && !agent.takeover);
    assert!(!format!("{config:?}").contains(env!("CARGO_PKG_DESCRIPTION")), "the password shows");
}

#[test]
fn each_mistake_of_a_gateway_is_found_under_its_key() {
    let long = format!("callback_uri = \"https://relay.example/{}\"", "x".repeat(200));
    for (toml, key) in [
        ("name = \"Main\"", "gateways[0].name"),
        ("base_url = \"http://gw.example/x\"", "gateways[0].base_url"),
        ("base_url = \"https://user@gw.example/x\"", "gateways[0].base_url"),
        ("base_url = \"nonsense\"", "gateways[0].base_url"),
        ("base_url = \"https://gw.example/x#part\"", "gateways[0].base_url"),
        ("callback_uri = \"https://relay.example/push/main#part\"", "gateways[0].callback_uri"),
        ("callback_uri = \"https://relay.example/push/main#x\"", "gateways[0].callback_uri"),
        ("callback_uri = \"https://user:hush@relay.example/push/main\"", "gateways[0].callback_uri"),
        ("callback_uri = \"https://0.0.0.0:8443/push/main\"", "gateways[0].callback_uri"),
        ("callback_uri = \"https://[::]:8443/push/main\"", "gateways[0].callback_uri"),
        ("backup_base_urls = [\"http://gw.example/x\"]", "gateways[0].backup_base_urls[0]"),
        (
            "backup_base_urls = [\"https://gw.example:8043/agentgateway/resource/\"]",
            "gateways[0].backup_base_urls[0]",
        ),
        ("client_cert_file = \"client.pem\"", "gateways[0].client_key_file"),
        ("client_key_file = \"client.key\"", "gateways[0].client_cert_file"),
        ("tls_server_name = \"not a name\"", "gateways[0].tls_server_name"),
        ("callback_uri = \"http://relay.example/\"", "gateways[0].callback_uri"),
        (long.as_str(), "gateways[0].callback_uri"),
        ("heartbeat_interval_secs = 0", "gateways[0].heartbeat_interval_secs"),
        ("heartbeat_interval_secs = 61", "gateways[0].heartbeat_interval_secs"),
        ("call_deadline_secs = 50", "gateways[0].call_deadline_secs"),
        ("poll_deadline_secs = 0", "gateways[0].poll_deadline_secs"),
        ("poll_deadline_secs = 120", "gateways[0].poll_deadline_secs"),
        ("guid_timeout_secs = 60", "gateways[0].guid_timeout_secs"),
        ("guid_timeout_secs = 7201", "gateways[0].guid_timeout_secs"),
        ("sign_in_rate_per_sec = 0", "gateways[0].sign_in_rate_per_sec"),
    ] {
        assert_eq!(keys(vec![gateway(toml).unwrap()], Vec::new()), [key], "{toml}");
    }
    let mut without_ca = gateway("").unwrap();
    without_ca.ca_file = None;
    assert_eq!(keys(vec![without_ca.clone()], Vec::new()), ["gateways[0].ca_file"]);
    without_ca.dangerously_trust_all = true;
    without_ca.base_url = "http://127.0.0.1:8000/agentgateway/resource".into();
    assert!(keys(vec![without_ca], Vec::new()).is_empty());
}

#[test]
fn a_guid_lives_for_twice_its_interval_unless_it_is_said_otherwise() {
    for (toml, secs) in [
        ("", 120),
        ("guid_interval_secs = 20", 40),
        ("guid_interval_secs = 20\nguid_timeout_secs = 300", 300),
    ] {
        let mut problems = Problems::default();
        let config = validate(vec![gateway(toml).unwrap()], Vec::new(), &mut problems);
        assert_eq!(config.gateways[0].guid_timeout, Duration::from_secs(secs), "{toml}");
    }
}

#[test]
fn ids_that_no_gateway_has_are_doubted_in_one_line() {
    let doubts = |ids: &[&str]| {
        let agents = ids.iter().map(|id| agent(&format!("id = \"{id}\"")).unwrap()).collect();
        id_doubts(&validate(vec![gateway("").unwrap()], agents, &mut Problems::default()))
    };
    assert!(doubts(&["101", "59999", "999999"]).is_empty());
    let odd = doubts(&["100", "101", "1000000"]);
    assert_eq!(odd.len(), 1, "{odd:?}");
    assert!(odd[0].starts_with("agent 100 and 1 more of the gateway main: "), "{odd:?}");
}

#[test]
fn each_mistake_of_an_agent_is_found_under_its_key() {
    for (toml, key) in [
        ("gateway = \"other\"", "agents[0].gateway"),
        ("id = \"0291\"", "agents[0].id"),
        ("phone_number = \"\"", "agents[0].phone_number"),
        ("vc_phone_number = \"0123456789012345678901234\"", "agents[0].vc_phone_number"),
        ("status = 2", "agents[0].status"),
        ("skills = \"some\"", "agents[0].skills"),
        ("after_sign_in_busy_reason = 1", "agents[0].after_sign_in_busy_reason"),
        ("after_sign_in_busy_reason = 251", "agents[0].after_sign_in_busy_reason"),
        ("password_file = \"both.txt\"", "agents[0]"),
        ("password_env = \"CCRELAY_TEST_NOT_SET\"", "agents[0].password_env"),
    ] {
        assert_eq!(keys(vec![gateway("").unwrap()], vec![agent(toml).unwrap()]), [key], "{toml}");
    }
    let mut missing = agent("password_file = \"not/there\"").unwrap();
    missing.password_env = None;
    assert_eq!(keys(vec![gateway("").unwrap()], vec![missing]), ["agents[0].password_file"]);
}

#[test]
fn who_may_give_a_password_beside_is_told_so() {
    let said = |validate: fn(RawAgent, &mut Problems) -> Option<AgentConfig>| {
        let mut bare = agent("").unwrap();
        bare.password_env = None;
        let mut problems = Problems::default();
        validate(bare, &mut problems);
        problems.found()[0].message.clone()
    };
    let in_a_file = said(|agent, problems| agent.validate("agent", problems));
    assert_eq!(in_a_file, "needs one of password_file and password_env");
    let beside = said(|agent, problems| agent.validate_with(None, "agent", problems));
    assert_eq!(beside, "needs one of password, password_file and password_env");
}

#[test]
fn all_mistakes_come_at_once_and_names_may_not_repeat() {
    let gateways = vec![gateway("").unwrap(), gateway("sign_in_rate_per_sec = 0").unwrap()];
    let agents = vec![agent("").unwrap(), agent("status = 9").unwrap()];
    let expected =
        ["gateways[1].name", "gateways[1].sign_in_rate_per_sec", "agents[1].id", "agents[1].status"];
    assert_eq!(keys(gateways, agents), expected);
}

#[test]
fn unknown_keys_are_refused() {
    assert!(gateway("heartbeat_interval = 30").is_err());
    assert!(agent("takover = true").is_err());
    assert!(agent("skills = [1, 2]").is_ok());
}

#[test]
fn a_password_file_ends_before_its_line_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), " pass word \r\n").unwrap();
    let source = PasswordSource::File(file.path().to_owned());
    assert_eq!(source.read().unwrap().expose_secret(), " pass word ");
    std::fs::write(file.path(), "x".repeat(PASSWORD_LENGTH + 1)).unwrap();
    assert!(matches!(source.read(), Err(PasswordError::TooLong)));
}

#[test]
fn an_empty_password_file_holds_no_password() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for text in ["", "\n", "\r\n"] {
        std::fs::write(file.path(), text).unwrap();
        let source = PasswordSource::File(file.path().to_owned());
        assert!(matches!(source.read(), Err(PasswordError::Empty)), "{text:?}");
        let mut agent = agent("").unwrap();
        (agent.password_env, agent.password_file) = (None, Some(file.path().to_owned()));
        assert_eq!(keys(vec![gateway("").unwrap()], vec![agent]), ["agents[0].password_file"]);
    }
    assert!(PasswordSource::Fixed("".into()).read().is_ok(), "where it is said in so many words");
}

#[test]
fn a_password_is_read_from_regular_files_only_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    // Somebody would have to write to it before it can be opened in the usual way.
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe, "/dev/zero".into(), folder.path().to_owned()] {
        let read = PasswordSource::File(path.clone()).read();
        assert!(matches!(read, Err(PasswordError::NotAFile)), "{}: {read:?}", path.display());
    }
    let large = folder.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(PasswordSource::File(large).read(), Err(PasswordError::TooLong)));
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "word").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert_eq!(PasswordSource::File(link).read().unwrap().expose_secret(), "word");
}

#[test]
fn what_is_set_after_a_sign_in_is_calls_in_their_order() {
    let operations = |toml: &str| {
        let mut problems = Problems::default();
        let config = validate(vec![gateway("").unwrap()], vec![agent(toml).unwrap()], &mut problems);
        assert!(problems.found().is_empty(), "{:?}", problems.found());
        config.agents[0].after_sign_in.operations()
    };
    assert_eq!(operations(""), [None, None]);
    assert_eq!(operations("after_sign_in_autoanswer = false"), [Some(Operation::AutoAnswer), None]);
    for (state, call) in
        [("ready", Operation::SayFree), ("busy", Operation::SayBusy), ("work", Operation::Work)]
    {
        let toml = format!("after_sign_in_state = \"{state}\"\nafter_sign_in_busy_reason = 250");
        assert_eq!(operations(&toml), [None, Some(call)]);
    }
    assert!(agent("after_sign_in_state = \"rest\"").is_err());
}
