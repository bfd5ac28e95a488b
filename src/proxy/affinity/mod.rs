//! Affinity: what a request or connection says about where it belongs, and what its answer is to say.
//!
//! It never knows endpoints but by their numbers. `tcp` asks it for a connection, `http` for a request; `balance` finds whom the key falls to.

pub mod cookie;
pub mod learn;
pub mod sessions;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue, Method, Response, header::ACCEPT_ENCODING};
use smallvec::SmallVec;
use tokio::time::Instant;

use self::{cookie::Age, learn::Told, sessions::Sessions};
use super::{body::Body, keys::Keyring};
use crate::{
    balance::{Endpoint, Pin, Purpose, Target, Wish, affinity::key},
    model::balancing::{Affinity, Balancing, Cookie},
    router::{self, NormalPath},
};

/// What of a request can decide.
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a NormalPath<'a>,
    /// Its query.
    pub query: Option<&'a str>,
    /// Its header section, as the client sent it.
    pub headers: &'a HeaderMap,
    /// The client's address, as far as trusted proxies tell.
    pub client: IpAddr,
    /// When it came.
    pub now: Instant,
}

/// Where a request belongs, and what follows from that for its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Belonging {
    /// What is asked of the target.
    pub wish: Wish,
    /// What it is asked for, where it is no handshake.
    pub purpose: Purpose,
    answer: Answer,
}

/// What is to be done about an answer.
#[derive(Clone, Copy, Debug, Default)]
enum Answer {
    #[default]
    Nothing,
    /// It pins the endpoint, unless the client has brought this pin and it holds.
    Pins(Option<(Pin, Age)>),
    /// It may tell the name of a session.
    Tells(Told),
}

/// Where a connection of layer 4 belongs: only the client's address can say.
pub fn of_connection(balancing: &Balancing, client: IpAddr) -> Wish {
    match &balancing.affinity {
        Some(Affinity::SourceIp { ipv6_prefix }) => Wish::Key(of_address(client, *ipv6_prefix)),
        _ => Wish::Anyone,
    }
}

/// Where a request belongs. One that says nothing belongs anywhere.
pub fn of_request(balancing: &Balancing, target: &Target, request: &Request<'_>, keys: &Keyring, sessions: &Sessions) -> Belonging {
    let by = |bytes: Option<&[u8]>| Belonging::of(bytes.map_or(Wish::Anyone, |bytes| Wish::Key(key(bytes))));
    match &balancing.affinity {
        None => Belonging::default(),
        Some(Affinity::Header(name)) => by(request.headers.get(&**name).map(HeaderValue::as_bytes).filter(|value| !value.is_empty())),
        Some(Affinity::Query(name)) => by_query(name, request, sessions),
        Some(Affinity::SourceIp { ipv6_prefix }) => Belonging::of(Wish::Key(of_address(request.client, *ipv6_prefix))),
        Some(Affinity::Cookie(cookie)) => {
            // A cookie of another location may have the same name.
            let keys = keys.load();
            let pin = keys.cookies.pins(request.headers, &cookie.name).find(|(pin, _)| target.lists(pin));
            // Where nobody else is ready, a session that ends soon is better than none.
            let lasts = pin.is_some() && target.is_ready() && learn::begins_session(request);
            Belonging {
                wish: pin.map_or(Wish::Anyone, |(pin, _)| Wish::Pin(pin)),
                purpose: if lasts { Purpose::Lasting } else { Purpose::Request },
                answer: Answer::Pins(pin),
            }
        }
    }
}

/// A session's name was told by its server, and is where that is; any other value falls to somebody by its hash.
fn by_query(name: &str, request: &Request<'_>, sessions: &Sessions) -> Belonging {
    let told = Told::by(name);
    let value: Option<SmallVec<[u8; 64]>> = request.query.and_then(|query| router::parameter(query, name));
    match value.filter(|value| !value.is_empty()) {
        None => Belonging { answer: told.map_or(Answer::Nothing, Answer::Tells), ..Belonging::default() },
        Some(value) => {
            let session = key(&value);
            let learned = told.and_then(|_| sessions.find(session, request.now));
            Belonging::of(learned.map_or(Wish::Key(session), Wish::Pin))
        }
    }
}

impl Belonging {
    /// Of one whose answer says nothing more about it.
    fn of(wish: Wish) -> Self {
        Self { wish, ..Self::default() }
    }

    /// Changes what goes to the backend: an answer that is to be understood must not be compressed.
    pub fn prepare(&self, headers: &mut HeaderMap) {
        if matches!(self.answer, Answer::Tells(_)) {
            headers.remove(ACCEPT_ENCODING);
        }
    }

    /// The answer of an endpoint, with what it says of sessions learned.
    pub fn learn(&self, answer: Response<Body>, endpoint: &Endpoint, sessions: &Arc<Sessions>) -> Response<Body> {
        match self.answer {
            Answer::Tells(told) => learn::learn(answer, told, sessions, Pin::to(endpoint, fastrand::u64(..))),
            Answer::Nothing | Answer::Pins(_) => answer,
        }
    }

    /// The cookie that an answer of an endpoint sets, if any: where the client brought none, or one whose endpoint is gone.
    pub fn set_cookie(&self, cookie: &Cookie, target: &Target, answered: Answered<'_>, keys: &Keyring) -> Option<HeaderValue> {
        let Answer::Pins(brought) = self.answer else { return None };
        let Answered { endpoint, refused, secure } = answered;
        let pin = match brought {
            None => Pin::to(endpoint, fastrand::u64(..)),
            Some((pin, age)) if pin.endpoint == endpoint.identity => (age == Age::Previous).then_some(pin)?,
            // It was full, or could not be connected to. It may be again; a session that has begun elsewhere must not come back then.
            Some((pin, _)) if target.keeps(&pin) && (refused || self.purpose == Purpose::Request) => return None,
            // What it has at the old one goes on there.
            Some((pin, _)) if target.still_serves(&pin) && refused => return None,
            // Whatever was begun here is here, though the old one may answer once more.
            Some((pin, _)) => Pin::to(endpoint, pin.client),
        };
        keys.load().cookies.set_cookie(cookie, &pin, secure)
    }
}

/// What is known of an answer.
pub struct Answered<'a> {
    /// Whose it is.
    pub endpoint: &'a Endpoint,
    /// Whether it refuses a handshake.
    pub refused: bool,
    /// Whether the client came by https.
    pub secure: bool,
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
