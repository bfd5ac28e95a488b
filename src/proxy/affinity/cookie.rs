//! The cookie that pins an endpoint: what is in it, how it is encrypted, how it is set.
//!
//! It never knows endpoints or requests. `affinity` opens what a client sends and seals what it gets; `keys` makes the sealer.

use std::fmt::Write as _;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header::COOKIE};

use crate::{
    balance::Pin,
    model::{
        balancing::{Cookie, SameSite},
        keys::{Seed, Seeds},
    },
    proxy::keys::derive,
};

/// Three numbers.
const PLAIN: usize = 24;
/// The authentication tag of AES-GCM-SIV.
const TAG: usize = 16;
const SEALED: usize = NONCE_LEN + PLAIN + TAG;
/// Its spelling in base64.
const SPELLED: usize = (SEALED * 4).div_ceil(3);
/// What else may be encrypted with the same key is told apart by this.
const USE: &[u8] = b"cookie.1";

/// Encrypts and decrypts cookies.
pub struct Sealer {
    current: LessSafeKey,
    previous: Option<LessSafeKey>,
}

/// Which key a cookie was encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The one in force.
    Current,
    /// The one before: it is to be sealed anew.
    Previous,
}

impl Sealer {
    /// The keys for cookies.
    pub fn new(seeds: &Seeds) -> Self {
        Self { current: key(&seeds.current), previous: seeds.previous.as_ref().map(key) }
    }

    /// A value that tells a client nothing, and that it can't make. Nonces are random: AES-GCM-SIV (RFC 8452) bears replicas that draw the
    /// same one.
    fn seal(&self, pin: &Pin) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(SEALED);
        for number in [pin.endpoint, pin.pool, pin.client] {
            sealed.extend_from_slice(&number.to_le_bytes());
        }
        self.current.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(USE), &mut sealed).ok()?;
        sealed.splice(..0, nonce);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What we sealed, if it is that.
    fn open(&self, value: &[u8]) -> Option<(Pin, Age)> {
        if value.len() != SPELLED {
            return None;
        }
        let mut sealed = [0; SEALED];
        URL_SAFE_NO_PAD.decode_slice(value, &mut sealed).ok().filter(|length| *length == SEALED)?;
        let previous = || Some((unseal(self.previous.as_ref()?, sealed)?, Age::Previous));
        unseal(&self.current, sealed).map(|pin| (pin, Age::Current)).or_else(previous)
    }

    /// The pins that a client brings in cookies of this name, that of the longest path first (RFC 6265 5.4). At most four are looked at: each
    /// costs a decryption.
    pub fn pins<'a>(&'a self, headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = (Pin, Age)> + 'a {
        values(headers, name).take(4).filter_map(|value| self.open(value))
    }

    /// The field that pins an endpoint. `secure` is whether the client came by https.
    pub fn set_cookie(&self, cookie: &Cookie, pin: &Pin, secure: bool) -> Option<HeaderValue> {
        let mut field = format!("{}={}; Path={}; HttpOnly", cookie.name, self.seal(pin)?, cookie.path);
        field += match cookie.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        };
        if cookie.secure.unwrap_or(secure) {
            field += "; Secure";
        }
        if let Some(age) = cookie.max_age {
            let _ = write!(field, "; Max-Age={}", age.as_secs().max(1));
        }
        HeaderValue::try_from(field).ok()
    }
}

fn key(seed: &Seed) -> LessSafeKey {
    match UnboundKey::new(&AES_256_GCM_SIV, &derive::<32>(seed, &[b"cookie"])) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("32 bytes are a key of AES-256"),
    }
}

fn unseal(key: &LessSafeKey, mut sealed: [u8; SEALED]) -> Option<Pin> {
    let (nonce, sealed) = sealed.split_at_mut(NONCE_LEN);
    let plain = key.open_in_place(Nonce::try_assume_unique_for_key(nonce).ok()?, Aad::from(USE), sealed).ok()?;
    let mut numbers = plain.chunks_exact(8).map(|bytes| bytes.try_into().map(u64::from_le_bytes));
    let mut number = || numbers.next()?.ok();
    Some(Pin { endpoint: number()?, pool: number()?, client: number()? })
}

/// The values of all cookies of a name.
fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const PIN: Pin = Pin { endpoint: 1, pool: 2, client: 3 };

    fn sealer(current: u8, previous: Option<u8>) -> Sealer {
        Sealer::new(&Seeds { current: Seed([current; 32]), previous: previous.map(|byte| Seed([byte; 32])) })
    }

    fn cookie() -> Cookie {
        Cookie { name: "carrick".into(), max_age: None, path: "/chat".into(), same_site: SameSite::Lax, secure: None }
    }

    /// The pins in a Cookie field.
    fn pins(sealer: &Sealer, field: &str) -> Vec<(Pin, Age)> {
        let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(field).unwrap())]);
        sealer.pins(&headers, "carrick").collect()
    }

    #[test]
    fn replicas_with_one_seed_read_each_other_s_cookies_and_no_two_are_alike() {
        let (one, other) = (sealer(1, None), sealer(1, None));
        let value = one.seal(&PIN).unwrap();
        assert_eq!(value.len(), SPELLED);
        assert_eq!(pins(&other, &format!("a=b; carrick={value};c=d")), [(PIN, Age::Current)]);
        assert_ne!(value, one.seal(&PIN).unwrap());
    }

    #[test]
    fn after_a_rotation_the_cookies_of_before_are_read_and_those_of_long_before_are_not() {
        let value = format!("carrick={}", sealer(1, None).seal(&PIN).unwrap());
        assert_eq!(pins(&sealer(2, Some(1)), &value), [(PIN, Age::Previous)]);
        assert_eq!(pins(&sealer(3, Some(2)), &value), []);
    }

    #[test]
    fn of_several_cookies_each_that_is_ours_counts_and_no_more_than_four_are_tried() {
        let sealer = sealer(1, None);
        let other = Pin { endpoint: 9, ..PIN };
        let (first, second) = (sealer.seal(&PIN).unwrap(), sealer.seal(&other).unwrap());
        let field = format!("carrick=rubbish; carrick={first}; notcarrick={first}; carrick={second}");
        assert_eq!(pins(&sealer, &field), [(PIN, Age::Current), (other, Age::Current)]);
        assert_eq!(pins(&sealer, &format!("{}carrick={first}", "carrick=x; ".repeat(4))), []);
    }

    #[test]
    fn a_cookie_has_the_attributes_that_the_route_gives_it() {
        let sealer = sealer(1, None);
        let attributes = |cookie: &Cookie, secure| {
            let field = sealer.set_cookie(cookie, &PIN, secure).unwrap();
            field.to_str().unwrap().split_once("; ").unwrap().1.to_owned()
        };
        assert_eq!(attributes(&cookie(), false), "Path=/chat; HttpOnly; SameSite=Lax");
        assert_eq!(attributes(&cookie(), true), "Path=/chat; HttpOnly; SameSite=Lax; Secure");
        let other = Cookie { max_age: Some(Duration::from_hours(1)), same_site: SameSite::None, secure: Some(true), ..cookie() };
        assert_eq!(attributes(&other, false), "Path=/chat; HttpOnly; SameSite=None; Secure; Max-Age=3600");
        assert_eq!(attributes(&Cookie { secure: Some(false), ..cookie() }, true), "Path=/chat; HttpOnly; SameSite=Lax");
    }

    proptest! {
        #[test]
        fn what_was_changed_or_made_up_is_no_pin(at in 0usize..SPELLED, to in "[A-Za-z0-9_-]", made_up in "[ -~]{0,80}") {
            let sealer = sealer(1, None);
            let mut value = sealer.seal(&PIN).unwrap();
            let was = value[at..=at].to_owned();
            value.replace_range(at..=at, &to);
            // The last digit has two bits that mean nothing, and must be zero.
            prop_assert_eq!(sealer.open(value.as_bytes()).is_some(), was == to);
            prop_assert_eq!(sealer.open(made_up.as_bytes()), None);
        }
    }
}
