//! Validators' addresses, and the node ids that follow from them.
//!
//! A node's id is the first 8 bytes of its address as a big-endian number, which is also its *origin* in
//! CITA-Cloud's network service, so that every node can compute everybody's id. Two validators whose
//! addresses begin alike would be one node to both services: such a list is refused, by name.

use std::collections::BTreeMap;
use std::fmt;

use consensus_core::ids::NodeId;
use thiserror::Error;

/// Fewest bytes of an address: those that make the id.
pub const ADDRESS_BYTES_MIN: usize = 8;
/// Most bytes of an address: a BLS key.
pub const ADDRESS_BYTES_MAX: usize = 48;

/// An address, or a list of them, that cannot be used. Addresses are in hex.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AddressError {
    /// Too short or too long.
    #[error(
        "an address has {bytes} bytes, must have between {ADDRESS_BYTES_MIN} and {ADDRESS_BYTES_MAX} (usually 20)"
    )]
    Length {
        /// What it has.
        bytes: usize,
    },
    /// Not pairs of hexadecimal digits. The text is not told: it may be anything, a private key as well.
    #[error("{what}, must be an address in hexadecimal digits, usually 40 of them")]
    Hex {
        /// What is wrong, without the text itself.
        what: String,
    },
    /// The id would be 0, which means nobody.
    #[error("address {address} begins with 8 zero bytes, which leaves no id for the node")]
    Zero {
        /// The address.
        address: String,
    },
    /// Two addresses give the same id.
    #[error(
        "addresses {first} and {second} have the same first 8 bytes, so neither the network service nor consensus can \
         tell their nodes apart"
    )]
    Collision {
        /// The one that came first.
        first: String,
        /// The other.
        second: String,
    },
}

/// An address from hexadecimal digits, with or without `0x`, white space around it tolerated.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Vec<u8>, AddressError> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let hex_error = |what| AddressError::Hex { what };
    if digits.is_empty() {
        return Err(hex_error("is empty".to_owned()));
    }
    if let Some(position) = digits.chars().position(|digit| !digit.is_ascii_hexdigit()) {
        return Err(hex_error(format!("has no hexadecimal digit at position {}", position + 1)));
    }
    let address = hex::decode(digits)
        .map_err(|_| hex_error(format!("has an odd number of digits ({})", digits.len())))?;
    check_length(&address)?;
    Ok(address)
}

/// The id of the node with this address.
///
/// # Errors
/// The address is too short or too long, or begins with 8 zero bytes.
pub fn peer_id(address: &[u8]) -> Result<NodeId, AddressError> {
    check_length(address)?;
    let mut first = [0; ADDRESS_BYTES_MIN];
    first.copy_from_slice(&address[..ADDRESS_BYTES_MIN]);
    NodeId::new(u64::from_be_bytes(first)).ok_or_else(|| AddressError::Zero { address: hex::encode(address) })
}

/// The ids of these validators, in the order given. An address that is there twice gives its id twice.
///
/// # Errors
/// The first address that has no id, or the first two different ones that have the same.
pub fn peer_ids<A: AsRef<[u8]>>(validators: &[A]) -> Result<Vec<NodeId>, AddressError> {
    let mut seen: BTreeMap<NodeId, &[u8]> = BTreeMap::new();
    let mut ids = Vec::with_capacity(validators.len());
    for validator in validators {
        let address = validator.as_ref();
        let id = peer_id(address)?;
        let first = *seen.entry(id).or_insert(address);
        if first != address {
            return Err(AddressError::Collision { first: hex::encode(first), second: hex::encode(address) });
        }
        ids.push(id);
    }
    Ok(ids)
}

/// A node's id as people know it: the first 8 bytes of its address, in hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Short(pub NodeId);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.get())
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The same of several.
pub fn short<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> Vec<Short> {
    ids.into_iter().copied().map(Short).collect()
}

fn check_length(address: &[u8]) -> Result<(), AddressError> {
    let bytes = address.len();
    if (ADDRESS_BYTES_MIN..=ADDRESS_BYTES_MAX).contains(&bytes) {
        Ok(())
    } else {
        Err(AddressError::Length { bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "c1bcd410636e5ece8699d44ec1b47996d7895ebe";

    #[test]
    fn an_address_is_read_with_or_without_prefix_and_newline() {
        let bare = parse(ADDRESS).expect("an address");
        assert_eq!(bare.len(), 20);
        for text in [format!("0x{ADDRESS}"), format!("{ADDRESS}\n"), format!(" 0X{ADDRESS}\r\n")] {
            assert_eq!(parse(&text).as_ref(), Ok(&bare), "{text:?}");
        }
        assert_eq!(peer_id(&bare).map(NodeId::get), Ok(0xc1bc_d410_636e_5ece));
    }

    #[test]
    fn an_id_is_shown_as_the_beginning_of_its_address() {
        let (one, other) = (parse(ADDRESS).expect("an address"), [0, 0, 0, 0, 0, 0, 0, 0x1f]);
        let ids = [peer_id(&one).expect("an id"), peer_id(&other).expect("an id")];
        assert_eq!(Short(ids[0]).to_string(), ADDRESS[..16]);
        assert_eq!(format!("{:?}", short(&ids)), "[c1bcd410636e5ece, 000000000000001f]");
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        let (short, long) = ("c1".repeat(7), "c1".repeat(49));
        for (text, expected) in [
            ("", "is empty, must be"),
            ("0x", "is empty, must be"),
            ("c1b", "has an odd number of digits (3), must be"),
            ("c1bcd410636e5eceQ6", "has no hexadecimal digit at position 17, must be"),
            (&short, "has 7 bytes, must have between 8 and 48"),
            (&long, "has 49 bytes, must have between 8 and 48"),
        ] {
            let said = parse(text).expect_err(text).to_string();
            assert!(said.contains(expected), "{text:?}: {said}");
            assert!(text.len() < 10 || !said.contains(text), "{said}");
        }
        let said = peer_id(&[0; 20]).expect_err("no id").to_string();
        assert!(said.starts_with("address 0000") && said.contains("8 zero bytes"), "{said}");
    }

    #[test]
    fn addresses_that_begin_alike_are_refused_by_name() {
        let validators = [vec![1; 20], vec![2; 20], [vec![1; 8], vec![3; 12]].concat()];
        let ids = peer_ids(&validators[..2]).expect("different");
        assert_eq!(
            ids.iter().map(|id| id.get()).collect::<Vec<_>>(),
            [0x0101010101010101, 0x0202020202020202]
        );
        let said = peer_ids(&validators).expect_err("alike").to_string();
        assert!(said.contains(&"01".repeat(20)), "{said}");
        assert!(said.contains(&("01".repeat(8) + &"03".repeat(12))), "{said}");
    }
}
