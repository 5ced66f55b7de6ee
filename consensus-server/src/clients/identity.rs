//! Who one client is: whoever has the private key, and without certificates whoever is at the address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::Pin;
use crate::security::Certificate;

/// Who has one network of IPv6 has all of its addresses.
const NETWORK_BITS: u32 = 64;

/// One client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// Has the private key for this public one: a renewed certificate makes no second client.
    Key(Pin),
    /// Is at this address; of IPv6, in this network of 64 bits.
    Address(IpAddr),
}

impl Identity {
    /// Of whoever is at the other end of a connection.
    pub fn of(certificate: Option<&Certificate>, remote: SocketAddr) -> Self {
        match (certificate, remote.ip().to_canonical()) {
            (Some(certificate), _) => Self::Key(certificate.pin),
            (None, IpAddr::V6(address)) => {
                let network = address.to_bits() & (u128::MAX << NETWORK_BITS);
                Self::Address(Ipv6Addr::from_bits(network).into())
            }
            (None, address) => Self::Address(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_certificates_a_client_is_an_address_or_a_network() {
        let of = |remote: &str| Identity::of(None, remote.parse().expect("an address"));
        assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"), "whatever the port");
        assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:1"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:1]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
    }
}
