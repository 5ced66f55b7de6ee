//! `host:port` as it is written in a configuration: what another node is reached at.
//!
//! Only what is connected to as it is read passes: a host with a `?` in it would be another host with a query.
//! Whether anybody listens there is not known here.

use std::net::SocketAddr;

/// Longest host name, as in the domain name system.
const HOST_BYTES_MAX: usize = 253;

/// Whether this is a host name, an IPv4 address or an IPv6 address in brackets, with a port other than 0.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return false;
    }
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let name = (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(of_name);
    // With a zone, as in `[fe80::1%2]`, it is good on one machine only, and in no address of a service.
    let bracketed = text.parse::<SocketAddr>().is_ok() && !host.contains('%');
    name || bracketed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_connected_to_as_it_is_read_passes() {
        for right in
            ["a:1", "node-1.example_x.org:65535", "10.0.0.1:80", "[::1]:7400", "xn--bcher-kva.org:80"]
        {
            assert!(is_host_and_port(right), "{right}");
        }
        for wrong in [
            "",
            ":",
            "a",
            "a:",
            ":80",
            "a:0",
            "a:65536",
            "a:+80",
            "a:-1",
            "a: 80",
            "a b:80",
            "a?b:80",
            "a#b:80",
            "a/b:80",
            "user@a:80",
            "b\u{fc}cher:80",
            "a\nb:80",
            "\u{1b}:80",
            "::1:80",
            "[::1:80",
            "[a]:80",
            "[fe80::1%2]:80",
            "a\\b:80",
        ] {
            assert!(!is_host_and_port(wrong), "{wrong:?}");
        }
        assert!(!is_host_and_port(&format!("{}:80", "a".repeat(254))));
    }
}
