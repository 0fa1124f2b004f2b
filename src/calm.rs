//! Repeated log lines at a calm rate: the first at once, then one an interval that says how many were left out. Where a line names
//! somebody, each network has its own: who is loud must not hide who is not.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One line of a kind in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Networks that are told apart at a time; what others do is told of together.
const NETWORKS: usize = 1024;

/// Whose line it is; none where it is about nobody, or somebody beyond [`NETWORKS`].
type About = (&'static str, Option<IpAddr>);

/// Decides whether a line of a kind is due. Kinds are static names, so their number is bounded.
#[derive(Debug, Default)]
pub struct Calm {
    kinds: Mutex<HashMap<About, Told>>,
}

#[derive(Debug)]
struct Told {
    last: Instant,
    left_out: u64,
}

impl Calm {
    /// `Some(left_out)` when a line of this kind is due; the number is how many were left out since the last one.
    pub fn due(&self, kind: &'static str) -> Option<u64> {
        due(&mut self.kinds(), (kind, None), Instant::now())
    }

    /// The same for a line of this kind about who is at this address.
    pub fn due_about(&self, kind: &'static str, address: IpAddr) -> Option<u64> {
        let (about, now) = ((kind, Some(network(address))), Instant::now());
        let mut kinds = self.kinds();
        if kinds.len() >= NETWORKS && !kinds.contains_key(&about) {
            make_room(&mut kinds, now);
            if kinds.len() >= NETWORKS {
                return due(&mut kinds, (kind, None), now);
            }
        }
        due(&mut kinds, about, now)
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<About, Told>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets networks whose interval is over. What was left out of theirs is told of together.
fn make_room(kinds: &mut HashMap<About, Told>, now: Instant) {
    let is_over = |told: &Told| now.duration_since(told.last) >= INTERVAL;
    let over: Vec<_> = kinds.extract_if(|(_, network), told| network.is_some() && is_over(told)).collect();
    for ((kind, _), Told { last, left_out }) in over.into_iter().filter(|(_, told)| told.left_out > 0) {
        kinds.entry((kind, None)).or_insert(Told { last, left_out: 0 }).left_out += left_out;
    }
}

fn due(kinds: &mut HashMap<About, Told>, about: About, now: Instant) -> Option<u64> {
    match kinds.get_mut(&about) {
        Some(told) if now.duration_since(told.last) < INTERVAL => {
            told.left_out += 1;
            None
        }
        Some(told) => {
            told.last = now;
            Some(std::mem::take(&mut told.left_out))
        }
        None => {
            kinds.insert(about, Told { last: now, left_out: 0 });
            Some(0)
        }
    }
}

/// What one host has to itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_each_kind_is_due_and_an_immediate_second_is_not() {
        let calm = Calm::default();
        assert_eq!(calm.due("a"), Some(0));
        assert_eq!(calm.due("a"), None);
        assert_eq!(calm.due("b"), Some(0));
    }

    #[test]
    fn each_network_has_its_own_line_and_beyond_so_many_they_share_one() {
        let calm = Calm::default();
        let of = |n: usize| IpAddr::from(Ipv6Addr::from_bits(((n as u128) << 64) | 7));
        assert_eq!(calm.due_about("a", "192.0.2.1".parse().unwrap()), Some(0));
        assert_eq!(calm.due_about("a", "::ffff:192.0.2.1".parse().unwrap()), None);
        assert_eq!(calm.due_about("a", "192.0.2.2".parse().unwrap()), Some(0));
        assert_eq!(calm.due_about("b", "192.0.2.1".parse().unwrap()), Some(0));
        let told = (1..=10 * NETWORKS).filter(|n| calm.due_about("a", of(*n)).is_some()).count();
        assert!((NETWORKS - 10..=NETWORKS).contains(&told), "{told}");
        assert!(calm.kinds().len() <= NETWORKS + 1);
        // An interval later there is room again, and nothing that was left out is forgotten.
        let later = Instant::now() + INTERVAL;
        make_room(&mut calm.kinds(), later);
        assert!(calm.kinds().keys().all(|(_, network)| network.is_none()));
        let left_out = due(&mut calm.kinds(), ("a", None), later + INTERVAL);
        assert_eq!(left_out, Some(10 * NETWORKS as u64 - told as u64 + 1));
    }

    #[test]
    fn hosts_of_one_small_network_are_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
