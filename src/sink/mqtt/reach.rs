//! From a name to TCP. A name server that is silent costs time and no connection, and an address that swallows what is sent to it,
//! such as one of a network without a route, keeps nobody from the others.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::net::TcpStream;

use super::CONNECT_TIMEOUT;
use crate::sink::DeliveryError;

/// The lookup of a name: the system's resolver asks the next name server after 5 s, and two of them may be silent.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);
/// An address that has not answered by then is left to answer late, and the next one is tried beside it.
const NEXT_ADDRESS: Duration = Duration::from_millis(500);
/// Addresses of a name that are tried; with more, the last would be tried when the first are given up.
const ADDRESSES: usize = 8;

/// Connects to the first address of this host that answers.
pub(super) async fn reach(host: &str, port: u16) -> Result<TcpStream, DeliveryError> {
    let lookup = async { Ok(tokio::net::lookup_host((host, port)).await?.collect()) };
    reach_one(host, lookup, TcpStream::connect).await
}

async fn reach_one<T, C: Future<Output = io::Result<T>>>(
    host: &str,
    lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
    connect: impl Fn(SocketAddr) -> C,
) -> Result<T, DeliveryError> {
    let error = |detail| DeliveryError::retry("connection", detail);
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await.map_err(|_| {
        let secs = LOOKUP_TIMEOUT.as_secs();
        error(format!("the lookup of {host} had no answer within {secs} s"))
    })?;
    let found = found.map_err(|cause| error(format!("the lookup of {host} failed: {cause}")))?;
    let late = |_| Err(io::Error::other(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())));
    let one = |address| {
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, connect(address));
        answer.map(move |answer| answer.unwrap_or_else(late).map_err(|cause| format!("{address}: {cause}")))
    };
    let mut left = by_turns(found).into_iter().take(ADDRESSES);
    let (mut tries, mut failures) = (FuturesUnordered::new(), Vec::new());
    loop {
        tries.extend(left.next().map(one));
        tokio::select! {
            biased;
            ended = tries.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(failure)) => failures.push(failure),
                None if failures.is_empty() => return Err(error(format!("{host} has no address"))),
                None => return Err(error(failures.join("; "))),
            },
            () = tokio::time::sleep(NEXT_ADDRESS), if left.len() > 0 => {}
        }
    }
}

/// The addresses in the order of the system, which knows best, but families by turns: all of one are often silent together.
fn by_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_family = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_family);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        mixed.extend(first.next());
        mixed.extend(other.next());
        if mixed.len() == before {
            return mixed;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        format!("{text}:1883").parse().unwrap()
    }

    async fn found(after: Duration, addresses: &[&str]) -> io::Result<Vec<SocketAddr>> {
        tokio::time::sleep(after).await;
        Ok(addresses.iter().map(|text| address(text)).collect())
    }

    /// Addresses of 10.0.0.0/8 swallow everything, those of 127.0.0.0/8 refuse.
    async fn connect(address: SocketAddr) -> io::Result<SocketAddr> {
        match address {
            SocketAddr::V4(v4) if v4.ip().octets()[0] == 10 => std::future::pending().await,
            SocketAddr::V4(v4) if v4.ip().is_loopback() => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(address),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_silent_name_server_nor_a_silent_address_keeps_from_one_that_answers() {
        let began = Instant::now();
        let lookup = found(Duration::from_secs(6), &["10.0.0.1", "192.0.2.1"]);
        let reached = reach_one("broker", lookup, connect).await.unwrap();
        assert_eq!(reached, address("192.0.2.1"));
        assert_eq!(began.elapsed(), Duration::from_secs(6) + NEXT_ADDRESS);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_is_passed_over_at_once() {
        let began = Instant::now();
        let lookup = found(Duration::ZERO, &["127.0.0.1", "127.0.0.2", "192.0.2.1"]);
        assert_eq!(reach_one("broker", lookup, connect).await.unwrap(), address("192.0.2.1"));
        assert!(began.elapsed() < NEXT_ADDRESS);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_reached_is_told_apart_by_what_was_silent() {
        let began = Instant::now();
        let error = reach_one("broker", found(Duration::from_secs(60), &[]), connect).await.unwrap_err();
        assert_eq!(error.detail, "the lookup of broker had no answer within 15 s");
        assert_eq!(began.elapsed(), LOOKUP_TIMEOUT);
        let failed = async { Err(io::Error::other("no such name")) };
        let error = reach_one("broker", failed, connect).await.unwrap_err();
        assert_eq!(error.detail, "the lookup of broker failed: no such name");
        let began = Instant::now();
        let lookup = found(Duration::ZERO, &["10.0.0.1", "127.0.0.1"]);
        let error = reach_one("broker", lookup, connect).await.unwrap_err();
        assert_eq!(error.detail, "127.0.0.1:1883: connection refused; 10.0.0.1:1883: no answer within 5 s");
        assert_eq!(began.elapsed(), CONNECT_TIMEOUT);
        let error = reach_one("broker", found(Duration::ZERO, &[]), connect).await.unwrap_err();
        assert_eq!(error.detail, "broker has no address");
    }

    #[test]
    fn families_are_tried_by_turns_in_the_order_of_the_system() {
        let given = ["[2001:db8::1]", "[2001:db8::2]", "[2001:db8::3]", "192.0.2.1", "192.0.2.2"];
        let turns = by_turns(given.iter().map(|text| address(text)).collect());
        let expected = ["[2001:db8::1]", "192.0.2.1", "[2001:db8::2]", "192.0.2.2", "[2001:db8::3]"];
        assert_eq!(turns, expected.map(address));
    }
}
