//! Who may connect: a list of networks. The address is that of the TCP connection; what a proxy in front of the listener
//! would have to say about its own clients is not believed, because anybody could say it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;

/// A list that can be replaced while the listener runs.
pub type SharedAllowList = Arc<ArcSwap<AllowList>>;

/// Networks whose hosts may connect. An empty list lets everybody in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(Vec<Network>);

impl AllowList {
    /// A list of these networks.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> AllowList {
        AllowList(networks)
    }

    /// Whether this address may connect.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        // A socket of both families gives IPv4 clients addresses of IPv6.
        let address = address.to_canonical();
        self.0.is_empty() || self.0.iter().any(|network| network.contains(address))
    }
}

/// Addresses with the same beginning: `10.1.0.0/16`, `2001:db8::/32`, or one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix: u32,
}

/// A text that is no network.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NetworkError {
    /// Neither an address nor one with a length.
    #[error("{0:?} is not an address or a network such as 10.1.0.0/16, 192.0.2.7 or 2001:db8::/32")]
    Malformed(String),
    /// An address inside the network instead of the network.
    #[error("{0:?} has bits behind its prefix: is {1} meant, or an address alone?")]
    Inside(String, Network),
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.prefix) == Some(self.first)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let malformed = || NetworkError::Malformed(text.chars().take(64).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
                (address, Some(prefix.parse().ok().filter(|_| plain).ok_or_else(malformed)?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_invalid| malformed())?;
        let prefix = prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
        let first = masked(address, prefix).ok_or_else(malformed)?;
        let network = Network { first, prefix };
        if first == address { Ok(network) } else { Err(NetworkError::Inside(text.to_owned(), network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// The address with zeros behind its first `prefix` bits; none when it has fewer bits.
fn masked(address: IpAddr, prefix: u32) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix)?).unwrap_or(0);
            Some(Ipv4Addr::from_bits(address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(prefix)?).unwrap_or(0);
            Some(Ipv6Addr::from_bits(address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(networks: &[&str]) -> AllowList {
        AllowList::new(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn admits(list: &AllowList, address: &str) -> bool {
        list.admits(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_the_networks_are_let_in_and_no_others() {
        let list = list(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/33", "::1"]);
        for address in ["10.1.0.0", "10.1.255.255", "192.0.2.7", "2001:db8:7fff::1", "::1", "::ffff:10.1.2.3"]
        {
            assert!(admits(&list, address), "{address}");
        }
        for address in ["10.0.255.255", "10.2.0.0", "192.0.2.8", "2001:db8:8000::", "::2", "::10.1.2.3"] {
            assert!(!admits(&list, address), "{address}");
        }
    }

    #[test]
    fn an_empty_list_and_a_network_of_everything_let_everybody_in() {
        assert!(admits(&list(&[]), "203.0.113.9") && admits(&list(&[]), "::9"));
        assert!(admits(&list(&["0.0.0.0/0"]), "203.0.113.9") && !admits(&list(&["0.0.0.0/0"]), "::9"));
        assert!(admits(&list(&["::/0"]), "2001:db8::9"));
    }

    #[test]
    fn what_is_no_network_is_refused_with_a_hint() {
        for text in
            ["", "10.1.0.0/", "10.1.0.0/33", "::/129", "10.1/16", "host", "10.1.0.0/+8", "10.0.0.0/8/8", "/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Malformed(text.to_owned())));
        }
        let said = "10.1.2.3/16".parse::<Network>().unwrap_err().to_string();
        assert!(said.contains("is 10.1.0.0/16 meant"), "{said}");
    }
}
