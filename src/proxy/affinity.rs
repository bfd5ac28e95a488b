//! Affinity: what a request or connection says about where it belongs.
//!
//! It never knows endpoints. `tcp` asks it for a connection, `http` for a request; `balance` finds whom the key falls to.

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    balance::{Wish, affinity::key},
    model::balancing::{Affinity, Balancing},
};

/// Where a connection of layer 4 belongs: only the client's address can say.
pub fn of_connection(balancing: &Balancing, client: IpAddr) -> Wish {
    match &balancing.affinity {
        Some(Affinity::SourceIp { ipv6_prefix }) => Wish::Key(of_address(client, *ipv6_prefix)),
        _ => Wish::Anyone,
    }
}

/// The key of an address: an IPv4 one as a whole, an IPv6 one by so many bits.
fn of_address(address: IpAddr, ipv6_prefix: u8) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => key(&address.octets()),
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or_default();
            key(&Ipv6Addr::from_bits(address.to_bits() & mask).octets())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str, ipv6_prefix: u8) -> u64 {
        of_address(address.parse().unwrap(), ipv6_prefix)
    }

    #[test]
    fn an_ipv6_client_is_its_prefix() {
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:1", 64));
        assert_ne!(of("2001:db8::1", 64), of("2001:db8:0:1::1", 64));
        assert_eq!(of("2001:db8::1", 1), of("2001:db9::1", 1));
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
    }

    #[test]
    fn an_ipv4_client_is_its_whole_address_however_it_is_spelled() {
        assert_ne!(of("10.0.0.1", 64), of("10.0.0.2", 64));
        assert_eq!(of("10.0.0.1", 64), of("::ffff:10.0.0.1", 64));
    }
}
