//! The GUID of one session through its life: made, renewed, announced, dead. Pure; the caller brings the time.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;

/// What precedes the GUID in the `Set-GUID` header.
const PREFIX: &str = "JSESSIONID=";
/// The node's name at a GUID's end.
const SUFFIX: &str = ".AgentGateway0";

/// One GUID. Secret: it is all a caller needs to act as the agent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Guid(String);

/// The GUIDs a session accepts now.
#[derive(Debug)]
pub(super) struct Guids {
    current: Guid,
    issued: Instant,
    /// The one before, and until when it is still accepted.
    previous: Option<(Guid, Instant)>,
    /// Whether the client has not been told the current one.
    unannounced: bool,
}

impl Guid {
    /// A fresh one.
    pub(super) fn random() -> Guid {
        let mut b = [0u8; 16];
        // Without entropy GUIDs would merely repeat, which a simulator survives.
        if getrandom::fill(&mut b).is_err() {
            b = [0x55; 16];
        }
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36 + SUFFIX.len());
        for (i, byte) in b.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        Guid(text + SUFFIX)
    }

    /// The GUID as it stands in the header `Guid`.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// The value of `Set-GUID`.
    pub(super) fn announcement(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guid(..)")
    }
}

impl Guids {
    /// The first GUID of a session, announced by the answer of its login.
    pub(super) fn new(now: Instant) -> Guids {
        Guids { current: Guid::random(), issued: now, previous: None, unannounced: false }
    }

    /// The newest.
    pub(super) fn current(&self) -> &Guid {
        &self.current
    }

    /// Whether a caller may use `offered` now.
    pub(super) fn accept(&self, offered: &str, now: Instant, settings: &Settings) -> bool {
        if self.current.0 == offered {
            return settings.auth_mode == 1 || now < self.issued + millis(settings.guid_timeout_ms);
        }
        self.previous.as_ref().is_some_and(|(guid, until)| guid.0 == offered && now < *until)
    }

    /// Renews the GUID when it is old enough.
    pub(super) fn renew_if_due(&mut self, now: Instant, settings: &Settings) {
        if settings.auth_mode == 2 && now >= self.issued + millis(settings.guid_interval_ms) {
            self.renew(now, settings);
        }
    }

    /// Renews it now. The old one lives on for GUIDTIMEOUT - GUIDINTERVAL.
    pub(super) fn renew(&mut self, now: Instant, settings: &Settings) {
        let overlap = settings.guid_timeout_ms.saturating_sub(settings.guid_interval_ms);
        let old = std::mem::replace(&mut self.current, Guid::random());
        self.previous = Some((old, now + millis(overlap)));
        self.issued = now;
        self.unannounced = true;
    }

    /// The value of `Set-GUID` for this answer; none when the client has been told already.
    pub(super) fn announce(&mut self) -> Option<String> {
        std::mem::take(&mut self.unannounced).then(|| self.current.announcement())
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(guids: &mut Guids, at: Instant, settings: &Settings) -> Option<String> {
        guids.renew_if_due(at, settings);
        guids.announce()
    }

    #[test]
    fn a_guid_is_renewed_at_sixty_seconds_and_its_predecessor_lives_sixty_more() {
        let (settings, start) = (Settings::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut guids = Guids::new(start);
        let first = guids.current().clone();
        assert_eq!(minute(&mut guids, at(59), &settings), None);
        let told = minute(&mut guids, at(60), &settings).unwrap();
        assert_eq!(told, format!("JSESSIONID={}", guids.current().expose()));
        assert_eq!(minute(&mut guids, at(61), &settings), None);
        assert!(guids.accept(first.expose(), at(119), &settings));
        assert!(!guids.accept(first.expose(), at(120), &settings));
        assert!(guids.accept(guids.current().expose(), at(179), &settings));
        assert!(!guids.accept(guids.current().expose(), at(180), &settings));
    }

    #[test]
    fn a_static_guid_lives_for_ever_and_nothing_else_is_accepted() {
        let settings = Settings { auth_mode: 1, ..Settings::default() };
        let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(100_000));
        let mut guids = Guids::new(start);
        assert_eq!(minute(&mut guids, later, &settings), None);
        assert!(guids.accept(guids.current().expose(), later, &settings));
        assert!(!guids.accept("", later, &settings));
        assert!(!guids.accept(Guid::random().expose(), later, &settings));
    }

    #[test]
    fn a_guid_is_a_uuid_with_the_nodes_name_and_does_not_print() {
        let guid = Guid::random();
        assert_eq!(guid.expose().len(), 36 + SUFFIX.len());
        assert!(guid.expose()[..36].bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()));
        assert_eq!(format!("{guid:?}"), "Guid(..)");
    }
}
