//! What a process uses, from `/proc`.
#![allow(dead_code, reason = "taken in by its path: not every tool is in use in every binary")]

use std::fmt::Display;
use std::time::Duration;

/// Processor time, bytes written to the disk's queue, and memory.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) processor: Duration,
    pub(crate) written: u64,
    pub(crate) resident_mib: f64,
}

impl Usage {
    /// Of the process `pid`.
    pub(crate) fn of(pid: impl Display + Copy) -> Usage {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = read("stat");
        // After the name in parentheses, which may hold blanks; the 12th and 13th are user and system time in ticks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        Usage {
            // A tick is 10 ms on every Linux of today.
            processor: Duration::from_millis((ticks(11) + ticks(12)) * 10),
            written: value(&read("io"), "write_bytes:").unwrap_or_default(),
            resident_mib: resident_kib(pid).unwrap_or_default() as f64 / 1024.0,
        }
    }

    /// From `before` to this; memory as it is now.
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            processor: self.processor.saturating_sub(before.processor),
            written: self.written.saturating_sub(before.written),
            resident_mib: self.resident_mib,
        }
    }
}

/// The memory that the process has.
pub(crate) fn resident_kib(pid: impl Display) -> Option<u64> {
    value(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// The most memory that this process has had.
pub(crate) fn own_peak_kib() -> Option<u64> {
    value(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The number in the line of that name.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
