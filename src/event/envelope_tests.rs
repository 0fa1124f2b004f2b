use super::*;

fn parsed(body: &str) -> Envelope<'_> {
    parse(body.as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn types(body: &str) -> Vec<String> {
    parsed(body).events.iter().map(|event| event.event_type.to_string()).collect()
}

#[test]
fn a_push_lists_events_with_their_content_verbatim() {
    let envelope = parsed(
        r#"{"workNo":"291","eventList":[{"eventType":"AgentOther_InService","workNo":"291","content":""},
            {"content": {"a" : 1.50e+2} ,"eventType":"AgentState_Ready","eventGenTime":1784529722590}]}"#,
    );
    assert_eq!(envelope.work_no.as_deref(), Some("291"));
    assert_eq!(envelope.events[0].event_type, "AgentOther_InService");
    assert_eq!(envelope.events[0].content.unwrap().get(), "\"\"");
    assert_eq!(envelope.events[1].content.unwrap().get(), r#"{"a" : 1.50e+2}"#);
    assert_eq!(envelope.events[1].gen_time, Some(Timestamp(1_784_529_722_590)));
    assert!(envelope.events[1].raw.get().starts_with(r#"{"content": {"#));
    assert!(matches!(envelope.events[0].event_type, Cow::Borrowed(_)));
}

#[test]
fn a_poll_answer_has_one_event_or_none() {
    let body = r#"{"message":"","retcode":"0","event":{"eventType":"AgentState_Ready","workNo":"291","content":null}}"#;
    assert_eq!(parsed(body).work_no.as_deref(), Some("291"));
    assert_eq!(types(body), ["AgentState_Ready"]);
    assert_eq!(types(r#"{"retcode":"0","event":null,"workNo":"5"}"#), [""; 0]);
    for nobody in [r#"{"message":"","retcode":"0"}"#, r#"{"retcode":"0","event":null}"#] {
        assert!(parsed(nobody).events.is_empty() && parsed(nobody).work_no.is_none(), "{nobody}");
    }
}

#[test]
fn an_event_may_name_nobody() {
    let begun = r#"{"eventType":"AgentOther_BeQcStart","content":{"qcType":8,"qcAgentId":30169}}"#;
    for body in [begun, &format!(r#"{{"message":"","retcode":"0","event":{begun}}}"#)] {
        assert_eq!(types(body), ["AgentOther_BeQcStart"]);
        assert!(parsed(body).names_nobody(), "{body}");
    }
    let another = format!(r#"{{"eventList":[{begun},{{"workNo":"291"}}]}}"#);
    assert_eq!(parsed(&another).work_no.as_deref(), Some("291"));
    assert!(!parsed(&another).names_nobody());
}

#[test]
fn an_event_without_an_envelope_is_one_event() {
    let body =
        " {\"eventType\":\"AgentOther_PhoneRelease\",\"workNo\":\"20012\",\"content\":{\"phoneState\":3}}\n";
    assert_eq!(types(body), ["AgentOther_PhoneRelease"]);
    assert_eq!(parsed(body).events[0].raw.get(), body.trim());
}

#[test]
fn odd_shapes_are_taken_for_what_they_mean() {
    for (body, expected) in [
        (r#"{"workNo":291,"eventList":null}"#, vec![]),
        (r#"{"workNo":"291","eventList":{"eventType":"A"}}"#, vec!["A"]),
        (r#"{"workNo":"291","eventList":[{"eventType":"A","eventType":"B"}]}"#, vec!["B"]),
        (r#"{"workNo":"1","workNo":"291","eventList":[],"eventList":[{"eventType":"C"}]}"#, vec!["C"]),
        (
            r#"{"eventList":[{"eventType":"A","workNo":"291"},{"eventType":"B","workNo":291}]}"#,
            vec!["A", "B"],
        ),
        (r#"{"workNo":"","event":[{"eventType":"A","workNo":"291"}]}"#, vec!["A"]),
        (r#"{"workNo":"291","eventList":["x",7,null,[{}]]}"#, vec!["", "", "", ""]),
        (r#"{"workNo":"291","eventList":[{"eventType":5},{},{"eventType":"\u0041"}]}"#, vec!["", "", "A"]),
        ("\u{feff}{\"workNo\":\"291\",\"new\":{\"x\":[1]}}", vec![]),
    ] {
        assert_eq!(types(body), expected, "{body}");
        assert_eq!(parsed(body).work_no.as_deref(), Some("291"), "{body}");
    }
}

#[test]
fn whatever_an_element_is_it_is_kept_whole() {
    let envelope =
        parsed(r#"{"workNo":"1","eventList":["x\u0000",{"eventType":"A","seq":1},{"eventType":"B"}]}"#);
    assert_eq!(envelope.events[0].raw.get(), r#""x\u0000""#);
    assert_eq!(envelope.events.iter().map(|e| e.says_more).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn content_may_be_anything_or_nothing() {
    for content in
        ["null", "\"\"", "\"1-2\"", "12", "[1,[2]]", "{}", "1e999", "true", r#"{"\ud800":"\udfff"}"#]
    {
        let body = format!(r#"{{"workNo":"1","eventList":[{{"eventType":"A","content":{content}}}]}}"#);
        assert_eq!(parsed(&body).events[0].content.unwrap().get(), content);
    }
    assert!(parsed(r#"{"workNo":"1","eventList":[{"eventType":"A"}]}"#).events[0].content.is_none());
}

#[test]
fn event_times_are_read_from_numbers_and_strings_and_absurd_ones_are_not() {
    for (written, read) in [
        ("1784529722590", Some(1_784_529_722_590)),
        ("\"1784529722590\"", Some(1_784_529_722_590)),
        ("1784529722", None),
        ("-1784529722590", None),
        ("99999999999999999999999", None),
        ("1784529722590.5", None),
        ("\"soon\"", None),
        ("null", None),
        ("{}", None),
    ] {
        let body = format!(r#"{{"workNo":"1","event":{{"eventType":"A","eventGenTime":{written}}}}}"#);
        let envelope = parsed(&body);
        assert_eq!(envelope.events[0].gen_time, read.map(Timestamp), "{written}");
        assert_eq!(envelope.events[0].raw_gen_time.unwrap().get(), written);
        assert_eq!(envelope.events[0].time(Timestamp(9)), Timestamp(read.unwrap_or(9)));
    }
}

#[test]
fn the_whole_body_must_be_json() {
    for (body, problem, line, column) in [
        (&b""[..], "the text ends too early", 1, 0),
        (b"{\"workNo\":\"1\"", "the text ends too early", 1, 13),
        (b"{\"workNo\":\"1\"}\n x", "the syntax is wrong", 2, 2),
        (b"{\"workNo\":\"1\",\n\"a\":tru}", "the syntax is wrong", 2, 8),
        (b"{\"workNo\":\"1\",\"a\":\"\xff\"}", "the text is not UTF-8", 1, 20),
        (b"{\"workNo\":\"1\",\"a\":\"\n\"}", "the syntax is wrong", 1, 19),
        (b"{\"workNo\":\"1\",\"eventList\":[{\"content\":01}]}", "the syntax is wrong", 1, 40),
        (b"[1,]", "the syntax is wrong", 1, 4),
    ] {
        let expected = EnvelopeError::NotJson { problem, line, column };
        assert_eq!(parse(body).unwrap_err(), expected, "{}", String::from_utf8_lossy(body));
    }
    for control in ["{\"a\u{18}\":1}", "{\"a\n\":1}", "{\"a\":\"\t\"}", r#"{"a":1} x"#] {
        let body = format!(r#"{{"workNo":"1","eventList":[{control}]}}"#);
        for text in [control, &body] {
            let refused = matches!(parse(text.as_bytes()), Err(EnvelopeError::NotJson { .. }));
            assert!(refused, "{text:?}");
        }
    }
    assert_eq!(parse(b"[]").unwrap_err().to_string(), "no workNo");
    let error = parse(b"{\"secret\" 1}").unwrap_err().to_string();
    assert_eq!(error, "not JSON: the syntax is wrong at line 1 column 11");
}

#[test]
fn a_nesting_bomb_is_an_error() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let body =
            |depth| format!(r#"{{"workNo":"1","x":"[[[[","eventList":[{{"content":{}}}]}}"#, nested(depth));
        assert!(parse(body(MAX_DEPTH - 3).as_bytes()).is_ok());
        let error = parse(body(MAX_DEPTH - 2).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("nested too deeply"), "{error}");
        assert!(parse(body(1_000_000).as_bytes()).is_err());
        assert!(parse(open.repeat(1_000_000).as_bytes()).is_err());
    }
    let wide = format!(r#"{{"workNo":"1","eventList":[{}{{}}]}}"#, "{},".repeat(1000));
    assert_eq!(parsed(&wide).events.len(), 1001);
}

#[test]
fn a_push_of_too_many_events_is_an_error_and_what_is_stored_is_none() {
    let body = |count: usize| format!(r#"{{"workNo":"1","eventList":[0{}]}}"#, ",0".repeat(count - 1));
    assert_eq!(parse_push(body(MAX_PUSHED_EVENTS).as_bytes()).unwrap().events.len(), MAX_PUSHED_EVENTS);
    let more = body(MAX_PUSHED_EVENTS + 1);
    assert_eq!(parse_push(more.as_bytes()).unwrap_err(), EnvelopeError::TooManyEvents);
    assert_eq!(parsed(&more).events.len(), MAX_PUSHED_EVENTS + 1);
}

#[test]
fn events_of_different_agents_name_no_agent() {
    for (body, nobody) in [
        (r#"{"eventList":[{"workNo":"1"},{"workNo":"2"}]}"#, false),
        (r#"{"eventList":[]}"#, false),
        (r#"{"workNo":null,"eventList":["1"]}"#, true),
        (r#"{"workNo":{"a":1}}"#, false),
    ] {
        assert_eq!((parsed(body).work_no, parsed(body).names_nobody()), (None, nobody), "{body}");
    }
    assert_eq!(parse(b"7").unwrap_err(), EnvelopeError::NoObject);
}
