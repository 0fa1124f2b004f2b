//! Brokers to begin with, as librdkafka reads them: `host:port`, with or without the port, or with the protocol before it. What it
//! does not understand it takes for something else: it cuts a port down to 16 bits and takes a word for port 0.

use std::net::Ipv6Addr;

use crate::sink::is_here;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Broker<'a> {
    host: &'a str,
    /// As it goes to librdkafka.
    whole: &'a str,
}

const EXPECTED: &str = "expected host:port, with an IPv6 address in brackets";

/// The list as it goes to librdkafka.
///
/// # Errors
/// What is wrong with which item of it; never the item, which may be something else in the wrong place.
pub(super) fn parse(text: &str, protocol: &str) -> Result<String, String> {
    let brokers = split(text, protocol)?;
    Ok(brokers.iter().map(|broker| broker.whole).collect::<Vec<_>>().join(","))
}

/// Whether all of them are on this machine.
pub(super) fn are_here(brokers: &str, protocol: &str) -> bool {
    split(brokers, protocol).is_ok_and(|brokers| brokers.iter().all(|broker| is_here(broker.host)))
}

fn split<'a>(text: &'a str, protocol: &str) -> Result<Vec<Broker<'a>>, String> {
    let items = text.split(',').map(str::trim).enumerate().filter(|(_, item)| !item.is_empty());
    let brokers =
        items.map(|(at, item)| broker(item, protocol).map_err(|why| format!("item {}: {why}", at + 1)));
    let brokers = brokers.collect::<Result<Vec<_>, _>>()?;
    if brokers.is_empty() {
        return Err("is required: brokers as host:port,host:port".to_owned());
    }
    Ok(brokers)
}

fn broker<'a>(item: &'a str, protocol: &str) -> Result<Broker<'a>, String> {
    let address = match item.split_once("://") {
        Some((own, address)) if own.eq_ignore_ascii_case(protocol) => address,
        Some(_) => {
            return Err(format!("its protocol is another than security.protocol, which is {protocol}"));
        }
        None => item,
    };
    let (host, port) = match address.rsplit_once(':') {
        // All of it is an address without a port.
        Some(_) if address.parse::<Ipv6Addr>().is_ok() => (address, None),
        Some((host, port)) if !address.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|n: u16| n > 0);
    if port.is_some_and(|port| !is_port(port)) {
        return Err("the port is a number from 1 to 65535".to_owned());
    }
    let is_address = host.parse::<Ipv6Addr>().is_ok() && port.is_none();
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_bracketed = in_brackets.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    if !is_address && !is_bracketed && !is_name {
        return Err(EXPECTED.to_owned());
    }
    Ok(Broker { host, whole: item })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_librdkafka_understands_is_taken() {
        for (text, taken) in [
            ("k1:9092,k2:9092", "k1:9092,k2:9092"),
            (" k1:9092 , k2 ,", "k1:9092,k2"),
            ("192.0.2.1:9092", "192.0.2.1:9092"),
            ("[2001:db8::1]:9092,[::1],2001:db8::2", "[2001:db8::1]:9092,[::1],2001:db8::2"),
            ("SSL://kafka_1.example:9093,ssl://k2", "SSL://kafka_1.example:9093,ssl://k2"),
        ] {
            assert_eq!(parse(text, "ssl").as_deref(), Ok(taken), "{text}");
        }
    }

    #[test]
    fn what_it_would_take_for_something_else_is_refused_and_not_quoted() {
        for (text, fault) in [
            ("k1:9092,k2:909200", "item 2: the port is"),
            ("k1:-5", "item 1: the port is"),
            ("k1:abc", "item 1: the port is"),
            ("k1:+9", "item 1: the port is"),
            ("k1:0", "item 1: the port is"),
            ("k1:", "item 1: the port is"),
            (":9092", "item 1: expected host:port"),
            ("k1 9092; k2", "item 1: expected host:port"),
            ("k1:9092;k2:9092", "item 1: expected host:port"),
            ("user:hush-hush@k1:9092", "item 1: expected host:port"),
            ("[k1]:9092", "item 1: expected host:port"),
            ("ssl://k1:9092/path", "item 1: the port is"),
            ("plaintext://k1:9092", "item 1: its protocol is another"),
            (",", "is required"),
            ("", "is required"),
        ] {
            let said = parse(text, "ssl").unwrap_err();
            assert!(said.starts_with(fault) && !said.contains("hush"), "{text}: {said}");
        }
    }

    #[test]
    fn this_machine_is_known() {
        assert!(are_here("localhost:9092,127.0.0.2:1,[::1]:9092,::1", "plaintext"));
        assert!(!are_here("localhost:9092,k1:9092", "plaintext") && !are_here("192.0.2.1", "plaintext"));
    }
}
