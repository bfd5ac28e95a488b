//! How much each client has open: entries only for those that have something, as small as their address.
//!
//! It never knows what is open. Locations limit by it, and the gate of all connections does (`--max-connections-per-client`).

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::RandomState,
    net::IpAddr,
    num::NonZeroU64,
    sync::OnceLock,
};

use parking_lot::Mutex;

/// Clients that come at the same time seldom meet at one lock.
const SHARDS: usize = 16;
/// A map of fewer places is not worth making smaller.
const SMALL: usize = 64;

/// One subscriber: an IPv4 address, or the /64 that an IPv6 host takes its addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(NonZeroU64);

/// Counts by client. Where nobody is counted it is a few words; an entry goes with the last thing that its client has open, and the room of a
/// storm is given back.
#[derive(Debug, Default)]
pub struct Clients(OnceLock<Box<[Mutex<Shard>; SHARDS]>>);

/// Keyed by addresses, which clients choose: the hash must not be guessed.
type Shard = HashMap<Client, u32, RandomState>;

impl From<IpAddr> for Client {
    /// An IPv4 address is written where no network of IPv6 is: `::/8` is reserved (RFC 4291 2.4), but for loopback, which is 1 here.
    fn from(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => 1 << 32 | u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }
}

impl Clients {
    /// Counts one more for a client, unless it has `limit` already.
    #[must_use]
    pub fn enter(&self, client: Client, limit: u32) -> bool {
        let mut shard = self.shard(client).lock();
        match shard.entry(client) {
            Entry::Occupied(mut entry) if *entry.get() < limit => *entry.get_mut() += 1,
            Entry::Vacant(entry) if limit > 0 => _ = entry.insert(1),
            _ => return false,
        }
        true
    }

    /// Counts one less.
    pub fn leave(&self, client: Client) {
        let mut shard = self.shard(client).lock();
        let Entry::Occupied(mut entry) = shard.entry(client) else { return };
        *entry.get_mut() -= 1;
        if *entry.get() > 0 {
            return;
        }
        entry.remove();
        if shard.capacity() > SMALL && shard.len() < shard.capacity() / 4 {
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
    }

    /// How many clients have something open.
    pub fn len(&self) -> usize {
        self.0.get().map_or(0, |shards| shards.iter().map(|shard| shard.lock().len()).sum())
    }

    /// Whether nobody has anything open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, client: Client) -> &Mutex<Shard> {
        let shards = self.0.get_or_init(|| {
            let hasher = RandomState::new();
            Box::new(std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))))
        });
        // Neighbouring addresses differ in their last bits; where they meet is of no harm, so that no second hash is needed.
        let mixed = client.0.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        &shards[mixed as usize % SHARDS]
    }
}

#[cfg(test)]
impl Clients {
    /// Bytes of all maps, by the layout of hashbrown: 8 places of 7 are used at most, and each has a byte of control.
    pub(super) fn bytes(&self) -> usize {
        let places = |shard: &Shard| (shard.capacity() * 8 / 7).next_power_of_two();
        let shards = self.0.get().into_iter().flat_map(|shards| shards.iter());
        shards.map(|shard| places(&shard.lock()) * (size_of::<(Client, u32)>() + 1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Client {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_one_its_ipv4_address() {
        assert_eq!(client("2001:db8:1:2:3:4:5:6"), client("2001:db8:1:2:ffff::"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_ne!(client("::1"), client("0.0.0.0"));
    }

    #[test]
    fn a_client_has_its_share_and_its_entry_goes_with_the_last() {
        let clients = Clients::default();
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!([(); 3].map(|()| clients.enter(one, 2)), [true, true, false]);
        assert!(clients.enter(other, 2), "another one is not concerned");
        clients.leave(one);
        assert!(clients.enter(one, 2) && !clients.enter(one, 2));
        [one, one, other].into_iter().for_each(|client| clients.leave(client));
        assert!(clients.is_empty());
        assert!(!clients.enter(one, 0) && clients.is_empty());
    }

    #[test]
    fn a_million_clients_take_little_and_give_it_back() {
        let clients = Clients::default();
        let all = || (0..1_000_000_u32).map(|bits| Client::from(IpAddr::V4((0x0a00_0000 + bits).into())));
        assert!(all().all(|client| clients.enter(client, 1)));
        let bytes = clients.bytes() / 1_000_000;
        assert!((17..=36).contains(&bytes), "{bytes} bytes a client");
        all().for_each(|client| clients.leave(client));
        assert!(clients.is_empty());
        assert!(clients.bytes() <= SHARDS * 4 * SMALL * 17, "{} bytes are kept", clients.bytes());
    }

    #[test]
    fn addresses_in_a_row_are_spread_over_the_shards() {
        let clients = Clients::default();
        (0..16_000_u32).for_each(|bits| assert!(clients.enter(Client::from(IpAddr::V4((0xc000_0200 + bits).into())), 1)));
        let fullest = clients.0.get().unwrap().iter().map(|shard| shard.lock().len()).max().unwrap();
        assert!(fullest < 2_000, "{fullest} of 16,000 in one of {SHARDS}");
    }
}
