//! Roster files on disk: what is read, what is refused, and what is done when they change.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::wish::Asked;
use super::*;
use crate::event::GatewayName;
use crate::metrics::Metrics;
use crate::session::config::{PasswordSource, RawGateway, SessionsConfig, Skills, validate_all};

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A roster of this file with passwords from a folder, one file for each of these agents.
    fn roster(&self, name: &str, text: &str, ids: std::ops::Range<u32>) -> RawRoster {
        for id in ids {
            self.write(&id.to_string(), "hush-hush\n");
        }
        self.write(name, text);
        let defaults = format!("password_file = '{}'", self.path("{id}").display());
        RawRoster {
            file: self.path(name),
            gateway: Some("main".to_owned()),
            allow_empty: false,
            defaults: toml::from_str(&defaults).unwrap(),
        }
    }
}

fn gateway(name: &str) -> RawGateway {
    serde_json::from_value(serde_json::json!({
        "name": name, "base_url": "https://gw.example/", "ca_file": crate::session::TEST_CA,
        "callback_uri": "https://relay.example/push/main",
        "agent_defaults": {"status": 3, "autoanswer": true},
    }))
    .unwrap()
}

fn load(rosters: Vec<RawRoster>) -> (SessionsConfig, Vec<String>) {
    let inline: RawAgent = serde_json::from_value(serde_json::json!({
        "gateway": "main", "id": "500", "phone_number": "1", "password_env": "CARGO_PKG_NAME", "status": 5,
    }))
    .unwrap();
    let mut problems = Problems::default();
    let config = validate_all(vec![gateway("main"), gateway("other")], vec![inline], rosters, &mut problems);
    let problems = problems.found().iter().map(|problem| format!("{}: {}", problem.key, problem.message));
    (config, problems.collect())
}

/// Rosters without a mistake.
fn rosters(raw: Vec<RawRoster>) -> Rosters {
    let (config, problems) = load(raw);
    assert_eq!(problems, Vec::<String>::new());
    config.rosters
}

fn ids(changes: &Changes) -> (Vec<&str>, Vec<&str>) {
    let put = changes.put.iter().map(|agent| agent.id.as_str());
    (put.collect(), changes.remove.iter().map(|(_, id)| id.as_str()).collect())
}

fn lines(ids: impl IntoIterator<Item = u32>) -> String {
    let rows = ids.into_iter().map(|id| format!("{id},7{id}\n"));
    format!("id,phone_number\n{}", rows.collect::<String>())
}

/// Looks at the files twice, as the watcher does a few seconds apart.
fn look(rosters: &mut Rosters, metrics: &Metrics) -> Changes {
    let mut changes = poll(rosters, None, Asked::Not, metrics);
    changes.extend(poll(rosters, None, Asked::Not, metrics));
    changes
}

fn poll(rosters: &mut Rosters, inline: Option<Inline>, asked: Asked, metrics: &Metrics) -> Changes {
    rosters.poll(Instant::now(), inline, asked, metrics).changes
}

fn metrics() -> Metrics {
    Metrics::new(["main", "other"], []).unwrap()
}

#[test]
fn agents_take_what_they_leave_out_from_the_roster_then_from_the_gateway() {
    let folder = Folder::new();
    let text = "gateway,id,phone_number,skills,takeover,status\n\
        ,1001,7001,1;2,true,\nother,1002,\"7002\",none,,4\nmain,1003,7003,all,,\n";
    let mut roster = folder.roster("agents.csv", text, 1001..1004);
    roster.defaults.takeover = Some(false);
    roster.defaults.autoanswer = Some(false);
    let (config, problems) = load(vec![roster]);
    assert_eq!(problems, Vec::<String>::new());
    let agents = &config.agents;
    let seen: Vec<_> = agents.iter().map(|a| (a.gateway.as_str(), a.id.as_str(), a.takeover)).collect();
    let expected =
        [("main", "500", false), ("main", "1001", true), ("other", "1002", false), ("main", "1003", false)];
    assert_eq!(seen, expected);
    let options = |at: usize| (agents[at].options.status, agents[at].options.autoanswer);
    let expected =
        [(Some(5), Some(true)), (Some(3), Some(false)), (Some(4), Some(false)), (Some(3), Some(false))];
    assert_eq!([0, 1, 2, 3].map(options), expected);
    assert_eq!(agents[1].skills, Skills::Ids(vec![1, 2]));
    assert_eq!(agents[2].skills, Skills::Ids(Vec::new()));
    assert_eq!(agents[1].password, PasswordSource::File(folder.path("1001")));
}

#[test]
fn a_password_of_the_agents_own_counts_more_than_any_default() {
    let folder = Folder::new();
    let text = "[[agents]]\nid = '1001'\nphone_number = '1'\npassword_env = 'CARGO_PKG_NAME'\n";
    let (config, problems) = load(vec![folder.roster("agents.toml", text, 0..0)]);
    assert_eq!(problems, Vec::<String>::new());
    assert!(matches!(config.agents[1].password, PasswordSource::Fixed(_)));
}

#[test]
fn every_mistake_of_every_file_is_reported_at_once_with_line_and_column_and_no_value() {
    let folder = Folder::new();
    let csv = "id,phone_number,takeover,gateway\n01,7001,,\n1002,,maybe,\n1003,7003,,hush-gateway\n1004,7004\n\
        1005,7005,,\n1005,7005,,\n500,7005,,\n../../hush,1,,\n";
    let toml = "[[agents]]\nid = '1005'\nphone_number = '1'\n\n[[agents]]\nid = '2001'\nphone_number = '1'\nstatus = 9\n";
    let rosters = vec![
        folder.roster("a.csv", csv, 1001..1006),
        folder.roster("b.toml", toml, 0..0),
        folder.roster("c.csv", "id,phone_number\n", 0..0),
        folder.roster("d.txt", "", 0..0),
    ];
    folder.write("500", "hush-hush");
    let (_, problems) = load(rosters);
    let path = |name| folder.path(name).display().to_string();
    let expected = [
        "rosters[3].file: must end in .csv or .toml".to_owned(),
        format!("rosters[0].file: {}: line 2, id: an agent id is", path("a.csv")),
        format!("rosters[0].file: {}: line 3, takeover: expected true or false", path("a.csv")),
        format!("rosters[0].file: {}: line 3, phone_number: is required", path("a.csv")),
        format!("rosters[0].file: {}: line 4, gateway: no gateway has this name", path("a.csv")),
        format!("rosters[0].file: {}: line 5: has 2 fields, the header has 4", path("a.csv")),
        format!(
            "rosters[0].file: {}: line 7, id: this agent of the same gateway stands in line 6 too",
            path("a.csv")
        ),
        format!("rosters[0].file: {}: line 9, id: an agent id is", path("a.csv")),
        format!("rosters[1].file: {}: line 5, password_file: cannot read the password", path("b.toml")),
        format!("rosters[1].file: {}: line 5, status: must be 3", path("b.toml")),
        format!("rosters[2].file: {}: has no agents, which allow_empty = true would allow", path("c.csv")),
    ];
    for (found, expected) in problems.iter().zip(&expected) {
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    assert!(!problems.concat().contains("hush"), "{problems:#?}");
}

#[test]
fn an_agent_stands_in_one_place() {
    let folder = Folder::new();
    let one = folder.roster("one.csv", &lines([1001, 1002]), 1001..1004);
    let two = folder.roster("two.csv", &lines([1003, 1002]), 0..0);
    let (_, problems) = load(vec![one.clone(), two]);
    let expected = format!(
        "rosters[1].file: {}: line 3, id: this agent of the same gateway stands in {} line 3 too",
        folder.path("two.csv").display(),
        folder.path("one.csv").display()
    );
    assert_eq!(problems, [expected]);
    folder.write("500", "hush-hush");
    folder.write("one.csv", &lines([500]));
    let (_, problems) = load(vec![one]);
    assert!(problems[0].ends_with("stands in [[agents]] too"), "{problems:?}");
}

#[test]
fn a_changed_file_adds_changes_and_removes_agents_and_touches_no_others() {
    let (folder, metrics) = (Folder::new(), metrics());
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines([1001, 1002, 1003]), 1001..1010)]);
    assert!(look(&mut rosters, &metrics).is_empty());
    folder.write("agents.csv", &lines([1001, 1003, 1004]).replace("71003", "8"));
    // While it may still be written to nothing is done.
    assert!(poll(&mut rosters, None, Asked::Not, &metrics).is_empty());
    let changes = poll(&mut rosters, None, Asked::Not, &metrics);
    assert_eq!(ids(&changes), (vec!["1003", "1004"], vec!["1002"]));
    assert!(look(&mut rosters, &metrics).is_empty());
    assert_eq!(metrics.roster_agents.with_label_values(&["main"]).get(), 4);
}

#[test]
fn a_broken_file_keeps_what_was_there_is_counted_once_and_mends_itself() {
    let (folder, metrics) = (Folder::new(), metrics());
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines([1001]), 1001..1002)]);
    // An agent whose password comes later than the roster.
    folder.write("agents.csv", &lines([1002]));
    assert!(look(&mut rosters, &metrics).is_empty());
    let counted = || (metrics.roster_reload_failures.get(), metrics.rosters_stale.get());
    assert_eq!(counted(), (1, 1));
    let later = Instant::now() + Duration::from_secs(60);
    assert!(rosters.poll(later, None, Asked::Not, &metrics).changes.is_empty());
    assert_eq!(counted(), (1, 1));
    folder.write("1002", "hush-hush");
    let changes = rosters.poll(later + Duration::from_secs(60), None, Asked::Not, &metrics).changes;
    assert_eq!(ids(&changes), (vec!["1002"], vec!["1001"]));
    assert_eq!(counted(), (1, 0));

    folder.write("agents.csv", "id,phone_number\n");
    assert!(look(&mut rosters, &metrics).is_empty());
    std::fs::remove_file(folder.path("agents.csv")).unwrap();
    assert!(look(&mut rosters, &metrics).is_empty());
    assert_eq!(counted(), (3, 1));
    assert_eq!(rosters.agents().count(), 1);
}

#[test]
fn more_than_half_of_a_roster_is_lost_only_when_a_person_confirms_it() {
    let (folder, metrics) = (Folder::new(), metrics());
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines(1000..1020), 1000..1021)]);
    folder.write("agents.csv", &lines((1000..1009).chain([1020])));
    let changes = look(&mut rosters, &metrics);
    assert_eq!(ids(&changes), (vec!["1020"], vec![]));
    assert_eq!((metrics.roster_reload_failures.get(), metrics.rosters_stale.get()), (1, 1));
    let held = Standing { file: folder.path("agents.csv"), held: 11, ..Standing::default() };
    assert_eq!(rosters.stale().load_full().as_slice(), std::slice::from_ref(&held));
    // Whoever has all files read for another reason, such as a certificate, has said nothing of agents.
    let polled = rosters.poll(Instant::now(), None, Asked::Reading, &metrics);
    assert!(polled.changes.is_empty(), "{:?}", polled.changes);
    assert_eq!(polled.standings, std::slice::from_ref(&held));
    let polled = rosters.poll(Instant::now(), None, Asked::Removals, &metrics);
    assert_eq!(polled.changes.remove.len(), 11);
    assert_eq!(polled.standings, [Standing { held: 0, removed: 11, ..held }]);
    assert!(metrics.rosters_stale.get() == 0 && rosters.stale().load().is_empty());
    // Half or less goes at once.
    folder.write("agents.csv", &lines(1000..1005));
    assert_eq!(look(&mut rosters, &metrics).remove.len(), 5);
}

#[test]
fn a_file_that_is_being_written_is_not_read_for_a_wish_either() {
    let (folder, metrics) = (Folder::new(), metrics());
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines(1000..1012), 1000..1012)]);
    folder.write("agents.csv", &lines(1000..1008));
    assert!(!rosters.have_settled());
    folder.write("agents.csv", &lines(1000..1009));
    let polled = rosters.poll(Instant::now(), None, Asked::Removals, &metrics);
    assert!(polled.changes.is_empty(), "{:?}", polled.changes);
    let being_written =
        Standing { file: folder.path("agents.csv"), being_written: true, ..Standing::default() };
    assert_eq!(polled.standings, [being_written]);
    let polled = rosters.poll(Instant::now(), None, Asked::Reading, &metrics);
    assert_eq!((polled.changes.remove.len(), polled.standings[0].removed), (3, 3));
    assert!(rosters.have_settled());
}

#[tokio::test(start_paused = true)]
async fn a_wish_waits_for_a_file_that_has_just_changed() {
    let folder = Folder::new();
    let rosters = rosters(vec![folder.roster("agents.csv", &lines(1000..1004), 1000..1004)]);
    let ((desk, wishes), (roll, called)) = (Desk::new(), tokio::sync::watch::channel(rosters.inline()));
    let stop = tokio_util::sync::CancellationToken::new();
    let watcher = tokio::spawn(watch(rosters, |_| (), metrics(), called, wishes, stop.clone()));
    assert_eq!(desk.read(false).await, Some(Vec::new()));
    folder.write("agents.csv", &lines(1000..1003));
    let removed = Standing { file: folder.path("agents.csv"), removed: 1, ..Standing::default() };
    assert_eq!(desk.read(false).await, Some(vec![removed]));
    stop.cancel();
    watcher.await.unwrap();
    assert_eq!(desk.read(false).await, None);
    drop(roll);
}

#[test]
fn an_empty_file_is_taken_where_that_is_allowed() {
    let (folder, metrics) = (Folder::new(), metrics());
    let mut roster = folder.roster("agents.csv", &lines([1001]), 1001..1002);
    roster.allow_empty = true;
    let mut rosters = rosters(vec![roster]);
    folder.write("agents.csv", "");
    assert_eq!(ids(&look(&mut rosters, &metrics)), (vec![], vec!["1001"]));
}

#[test]
fn an_agent_that_moves_to_another_file_is_not_touched() {
    let (folder, metrics) = (Folder::new(), metrics());
    let one = folder.roster("one.csv", &lines([1001, 1002]), 1001..1005);
    let two = folder.roster("two.csv", &lines([1003]), 0..0);
    let mut rosters = rosters(vec![one, two]);
    folder.write("one.csv", &lines([1001]));
    folder.write("two.csv", &lines([1003, 1002, 1004]));
    assert_eq!(ids(&look(&mut rosters, &metrics)), (vec!["1004"], vec![]));
    // One that stands in both for good is refused where it came last.
    folder.write("one.csv", &lines([1001, 1004]));
    assert!(look(&mut rosters, &metrics).is_empty());
    assert_eq!(metrics.rosters_stale.get(), 1);
    assert!(rosters.agents().any(|agent| agent.gateway == GatewayName::parse("main").unwrap()));
}

/// An agent as `[[agents]]` has it, with what it takes from its gateway.
fn inline(raw: &serde_json::Value) -> Inline {
    all_inline(std::slice::from_ref(raw))
}

fn all_inline(raw: &[serde_json::Value]) -> Inline {
    let raw = raw.iter().map(|raw| serde_json::from_value(raw.clone()).unwrap()).collect();
    let mut problems = Problems::default();
    let config = validate_all(vec![gateway("main"), gateway("other")], raw, Vec::new(), &mut problems);
    assert!(problems.found().is_empty());
    config.rosters.inline()
}

#[test]
fn an_agent_that_moves_between_configuration_and_roster_is_not_touched() {
    let folder = Folder::new();
    let agent = serde_json::json!({
        "gateway": "main", "id": "1003", "phone_number": "71003", "password_file": folder.path("1003"),
    });
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines(1001..1004), 1001..1004)]);
    let metrics = metrics();
    // From the roster into the configuration, where agent 500 stood until now.
    folder.write("agents.csv", &lines(1001..1003));
    let changes = poll(&mut rosters, Some(inline(&agent)), Asked::Reading, &metrics);
    assert_eq!(ids(&changes), (vec![], vec!["500"]));
    assert_eq!(metrics.roster_agents.with_label_values(&["main"]).get(), 3);
    // And back.
    folder.write("agents.csv", &lines(1001..1004));
    let changes = poll(&mut rosters, Some(Inline::default()), Asked::Not, &metrics);
    assert_eq!(ids(&changes), (vec![], vec![]));
    assert_eq!(metrics.roster_agents.with_label_values(&["main"]).get(), 3);
    assert_eq!(metrics.rosters_stale.get(), 0);
}

#[test]
fn who_moves_from_a_roster_into_the_configuration_is_not_lost_however_many_they_are() {
    let folder = Folder::new();
    let agent = |id: u32| {
        serde_json::json!({
            "gateway": "main", "id": id.to_string(), "phone_number": format!("7{id}"),
            "password_file": folder.path(&id.to_string()),
        })
    };
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines(1001..1013), 1001..1013)]);
    let metrics = metrics();
    folder.write("agents.csv", &lines(1001..1005));
    let moved: Vec<_> = (1005..1013).map(agent).collect();
    let changes = poll(&mut rosters, Some(all_inline(&moved)), Asked::Reading, &metrics);
    assert_eq!(ids(&changes), (vec![], vec!["500"]), "500 stood in the configuration before");
    assert_eq!(metrics.rosters_stale.get(), 0);
}

#[test]
fn an_agent_that_stands_in_the_configuration_and_in_a_roster_that_is_not_read_yet_is_as_the_configuration_says()
 {
    let folder = Folder::new();
    let agent = serde_json::json!({
        "gateway": "main", "id": "1001", "phone_number": "9", "password_file": folder.path("1001"),
    });
    let mut rosters = rosters(vec![folder.roster("agents.csv", &lines(1001..1003), 1001..1003)]);
    let metrics = metrics();
    let changes = poll(&mut rosters, Some(inline(&agent)), Asked::Not, &metrics);
    assert_eq!(ids(&changes), (vec!["1001"], vec!["500"]));
    assert_eq!(changes.put[0].options.phone_number, "9");
    assert_eq!(metrics.rosters_stale.get(), 1, "the roster has it too");
    folder.write("agents.csv", &lines(1002..1003));
    assert!(look(&mut rosters, &metrics).is_empty());
    assert_eq!(metrics.rosters_stale.get(), 0);
}
