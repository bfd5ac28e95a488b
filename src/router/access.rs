//! Which addresses are let in, compiled: a look-up is two binary searches, whatever the number of blocks.
//!
//! It never knows whose address it is. `Location` and the routes of layer 4 hold one; `proxy` asks it before anything else is done.

use std::{
    cmp::Ordering,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::model::limits;

/// The compiled form of [`limits::Access`].
#[derive(Debug, Default)]
pub struct Access {
    /// `None` is everybody.
    allow: Option<Blocks>,
    deny: Blocks,
}

/// Addresses of some blocks: ranges that neither touch nor overlap, in order.
#[derive(Debug, Default)]
struct Blocks {
    v4: Box<[(Ipv4Addr, Ipv4Addr)]>,
    v6: Box<[(Ipv6Addr, Ipv6Addr)]>,
}

impl Access {
    /// Compiles the blocks.
    pub fn compile(access: &limits::Access) -> Self {
        let allow = (!access.allow.is_empty()).then(|| Blocks::compile(&access.allow));
        Self { allow, deny: Blocks::compile(&access.deny) }
    }

    /// Whether a client is let in. An IPv4-mapped address counts as the IPv4 address that it is.
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.as_ref().is_none_or(|allow| allow.have(client)) && !self.deny.have(client)
    }
}

impl Blocks {
    fn compile(blocks: &[IpNet]) -> Self {
        let blocks = IpNet::aggregate(&blocks.to_vec());
        let mut v4: Vec<_> =
            blocks.iter().filter_map(|block| if let IpNet::V4(v4) = block { Some((v4.network(), v4.broadcast())) } else { None }).collect();
        let mut v6: Vec<_> =
            blocks.iter().filter_map(|block| if let IpNet::V6(v6) = block { Some((v6.network(), v6.broadcast())) } else { None }).collect();
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4: v4.into(), v6: v6.into() }
    }

    fn have(&self, client: IpAddr) -> bool {
        match client {
            IpAddr::V4(v4) => have(&self.v4, v4),
            IpAddr::V6(v6) => have(&self.v6, v6),
        }
    }
}

/// Whether an address lies in one of the ranges.
fn have<A: Ord + Copy>(ranges: &[(A, A)], address: A) -> bool {
    let side = |&(first, last): &(A, A)| match (address.cmp(&first), address.cmp(&last)) {
        (Ordering::Less, _) => Ordering::Greater,
        (_, Ordering::Greater) => Ordering::Less,
        _ => Ordering::Equal,
    };
    ranges.binary_search_by(side).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn access(allow: &[&str], deny: &[&str]) -> Access {
        Access::compile(&limits::Access { allow: blocks(allow), deny: blocks(deny) })
    }

    fn admits(access: &Access, client: &str) -> bool {
        access.admits(client.parse().unwrap())
    }

    #[test]
    fn without_blocks_everybody_is_let_in() {
        assert!(admits(&access(&[], &[]), "192.0.2.1") && admits(&access(&[], &[]), "2001:db8::1"));
    }

    #[test]
    fn allow_is_only_these_and_deny_wins() {
        let access = access(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.0.0/16", "2001:db8:bad::/48"]);
        assert!(admits(&access, "10.0.0.1") && admits(&access, "10.255.255.255") && admits(&access, "2001:db8::1"));
        assert!(!admits(&access, "10.1.2.3") && !admits(&access, "2001:db8:bad::1"), "denied, though allowed");
        assert!(!admits(&access, "11.0.0.0") && !admits(&access, "9.255.255.255") && !admits(&access, "2001:db9::"), "not allowed");
    }

    #[test]
    fn a_list_of_one_family_lets_none_of_the_other_in() {
        assert!(!admits(&access(&["10.0.0.0/8"], &[]), "2001:db8::1"));
        assert!(admits(&access(&[], &["10.0.0.0/8"]), "2001:db8::1"));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let access = access(&["10.0.0.0/8"], &["10.0.0.7/32"]);
        assert!(admits(&access, "::ffff:10.0.0.1") && !admits(&access, "::ffff:10.0.0.7"));
    }

    proptest! {
        #[test]
        fn it_says_what_a_look_at_each_block_would_say(
            allow in prop::collection::vec((0_u32..64, 24_u8..=32), 0..8),
            deny in prop::collection::vec((0_u32..64, 24_u8..=32), 0..8),
            client in 0_u32..80,
        ) {
            let blocks = |list: Vec<(u32, u8)>| list.into_iter().map(|(address, length)| {
                IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 64 * (address % 8) + address)), length).unwrap().trunc()
            }).collect::<Vec<_>>();
            let (allow, deny) = (blocks(allow), blocks(deny));
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 8 * client));
            let expected = (allow.is_empty() || allow.iter().any(|block| block.contains(&client))) && !deny.iter().any(|block| block.contains(&client));
            prop_assert_eq!(Access::compile(&limits::Access { allow, deny }).admits(client), expected);
        }
    }
}
