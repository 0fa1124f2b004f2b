//! What a process uses, from `/proc`: for the benches that measure one.

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
    pub(crate) fn of(pid: u32) -> Usage {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = read("stat");
        // After the name in parentheses, which may hold blanks; the 12th and 13th are user and system time in ticks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        let line = |text: &str, name: &str| -> u64 {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found.and_then(|rest| rest.trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
        };
        Usage {
            // A tick is 10 ms on every Linux of today.
            processor: Duration::from_millis((ticks(11) + ticks(12)) * 10),
            written: line(&read("io"), "write_bytes:"),
            resident_mib: line(&read("status"), "VmRSS:") as f64 / 1024.0,
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
