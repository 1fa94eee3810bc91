//! Calls with the same key go to the same pod: what the key is, and where it leads (rendezvous hashing, Thaler and Ravishankar 1998), the same on every proxy.

use std::fmt::Write as _;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use vicino_wire::head::RequestHead;

use crate::hash::Fast;
use crate::random::Random;
use crate::rules::{parameter, split_query};

/// What calls that belong together have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The first value of this field.
    Header(Box<str>),
    /// This cookie; the mesh sets it where the caller has none, if it shall.
    Cookie(Box<str>, Option<SetCookie>),
    /// The first value of this query parameter, percent-decoded.
    Query(Box<str>),
    /// The address of the caller.
    Source,
}

/// How the mesh sets a cookie (RFC 6265 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetCookie {
    /// Seconds that it lives; None: as long as the browser is open.
    pub max_age_s: Option<u32>,
}

/// A cookie for a caller that had none.
#[derive(Debug)]
pub(crate) struct NewCookie {
    /// `name=value`, as it will be in the caller's next request.
    pub(crate) pair: String,
    /// The value of `Set-Cookie`.
    pub(crate) field: String,
}

impl Affinity {
    /// The cookie for a call without a key; None where none is to be set.
    pub(crate) fn new_cookie(&self, random: &mut Random) -> Option<NewCookie> {
        let Affinity::Cookie(name, Some(set)) = self else { return None };
        let pair = format!("{name}={:016x}{:016x}", random.next(), random.next());
        let mut field = format!("{pair}; Path=/; HttpOnly");
        if let Some(seconds) = set.max_age_s {
            let _ = write!(field, "; Max-Age={seconds}");
        }
        Some(NewCookie { pair, field })
    }

    /// The key of a call; None when it has none, so that it goes wherever there is room.
    pub fn key(&self, head: &RequestHead<'_>, caller: Option<IpAddr>) -> Option<u64> {
        match self {
            Affinity::Header(name) => head.headers.get(name).map(of_bytes),
            Affinity::Cookie(name, _) => {
                let mut pairs = head.headers.get_all("cookie").flat_map(|value| value.split(|b| *b == b';'));
                let value = |pair: &'_ [u8]| -> Option<u64> {
                    let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                    Some(of_bytes(value))
                };
                pairs.find_map(value)
            }
            Affinity::Query(name) => {
                parameter(split_query(head.path).1, name).map(|value| of_bytes(value.as_bytes()))
            }
            Affinity::Source => caller.map(of_address),
        }
    }
}

fn of_bytes(bytes: &[u8]) -> u64 {
    let mut hash = Fast::default();
    hash.write(bytes);
    hash.finish()
}

fn of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => of_bytes(&v4.octets()),
        IpAddr::V6(v6) => of_bytes(&v6.octets()),
    }
}

/// What tells a pod port from others.
pub(crate) fn of_pod(address: SocketAddr) -> u64 {
    of_address(address.ip()) ^ u64::from(address.port())
}

/// A number that key and place make together.
fn mixed(key: u64, place: u64) -> u32 {
    // One step of the generator scatters neighbouring seeds.
    (Random::new(key ^ place.rotate_left(32)).next() >> 32) as u32
}

/// The place that a key leads to among those with a weight; each has a share of the keys in proportion to it, and when one goes only its own
/// keys go elsewhere.
pub(crate) fn pick(key: u64, places: impl Iterator<Item = Option<(u64, u32)>>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, place) in places.enumerate() {
        let Some((place, weight)) = place.filter(|(_, weight)| *weight > 0) else { continue };
        let uniform = (f64::from(mixed(key, place)) + 0.5) / (f64::from(u32::MAX) + 1.0);
        let score = -uniform.ln() / f64::from(weight);
        if best.is_none_or(|(_, least)| score < least) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// As [`pick`], but for places that have more than this percentage of their share of the load of all (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018). `places`
/// are hash, weight and load; with 100 and more there is always one. 0: whatever they have.
pub(crate) fn pick_bounded(
    key: u64,
    percent: u32,
    places: &(impl Iterator<Item = Option<(u64, u32, u64)>> + Clone),
) -> Option<usize> {
    let all = places.clone().map(|place| place.map(|(place, weight, _)| (place, weight)));
    if percent == 0 {
        return pick(key, all);
    }
    let weighty = places.clone().flatten().filter(|(_, weight, _)| *weight > 0);
    let (weight, load) =
        weighty.fold((0, 1), |(weight, load), of| (weight + u128::from(of.1), load + u128::from(of.2)));
    let has_room = |of: &(u64, u32, u64)| {
        // Fewer than its share of all, this one included, rounded up.
        u128::from(of.2) * weight * 100 < load * u128::from(of.1) * u128::from(percent)
    };
    let bounded =
        places.clone().map(|place| place.filter(has_room).map(|(place, weight, _)| (place, weight)));
    pick(key, bounded).or_else(|| pick(key, all))
}

#[cfg(test)]
mod tests {
    use vicino_wire::head::Header;

    use super::*;

    fn key(affinity: &Affinity, fields: &[(&str, &str)], path: &str, caller: &str) -> Option<u64> {
        let fields: Vec<_> =
            fields.iter().map(|(n, v)| Header { name: n.as_bytes(), value: v.as_bytes() }).collect();
        let head = RequestHead {
            method: "GET",
            authority: "web",
            path,
            headers: fields[..].into(),
            ..RequestHead::opaque()
        };
        affinity.key(&head, caller.parse().ok())
    }

    #[test]
    fn keys_are_of_what_the_route_says() {
        let header = Affinity::Header("X-User".into());
        let bob = key(&header, &[("x-user", "bob")], "/", "");
        assert!(
            bob.is_some()
                && bob == key(&header, &[("a", "b"), ("X-USER", "bob"), ("x-user", "eve")], "/", "")
        );
        assert_ne!(bob, key(&header, &[("x-user", "eve")], "/", ""));
        assert_eq!(key(&header, &[("x-users", "bob")], "/", ""), None);
        let cookie = Affinity::Cookie("sid".into(), None);
        let sid = key(&cookie, &[("cookie", "sid=7")], "/", "");
        assert!(sid.is_some());
        for cookies in ["a=b; sid=7", "sid=7;a=b", "xsid=8; sid=7; sid=9"] {
            assert_eq!(key(&cookie, &[("Cookie", cookies)], "/", ""), sid, "{cookies}");
        }
        assert_eq!(key(&cookie, &[("Cookie", "a=b"), ("cookie", "sid=7")], "/", ""), sid);
        assert_eq!(key(&cookie, &[("Cookie", "sid; xsid=7")], "/", ""), None);
        let query = Affinity::Query("u v".into());
        assert_eq!(key(&query, &[], "/?a=b&u+v=1&u%20v=2", ""), key(&query, &[], "/x?u%20v=%31", ""));
        assert_eq!(key(&query, &[], "/", ""), None);
        assert_eq!(
            key(&Affinity::Source, &[], "/", "10.0.0.1"),
            key(&Affinity::Source, &[], "/y", "::ffff:10.0.0.1")
        );
        assert_eq!(key(&Affinity::Source, &[], "/", ""), None);
    }

    #[test]
    fn places_get_their_share_and_a_place_that_goes_takes_only_its_own_keys() {
        let places = [1_u64, 2, 3, 4].map(|place| (of_bytes(&place.to_be_bytes()), place as u32));
        let keys = 20_000_u32;
        let lead = |without: Option<usize>| -> Vec<usize> {
            let left =
                |key| pick(key, places.iter().enumerate().map(|(i, p)| (Some(i) != without).then_some(*p)));
            (0..keys).map(|key| left(of_bytes(&key.to_be_bytes())).unwrap()).collect()
        };
        let all = lead(None);
        for (index, (_, weight)) in places.iter().enumerate() {
            let count = u32::try_from(all.iter().filter(|at| **at == index).count()).unwrap();
            let share = f64::from(count) / f64::from(keys);
            assert!((share - f64::from(*weight) / 10.0).abs() < 0.02, "{index}: {share}");
        }
        for gone in 0..4 {
            let moved = all.iter().zip(lead(Some(gone))).filter(|(before, after)| **before != *after);
            assert!(moved.clone().all(|(before, _)| *before == gone), "only those of {gone} move");
        }
        assert_eq!(pick(1, [None, Some((7, 0))].into_iter()), None);
    }

    #[test]
    fn loads_are_bounded_and_keys_that_fit_stay_at_home() {
        let places: Vec<_> = (1..=5_u64).map(|place| of_bytes(&place.to_be_bytes())).collect();
        for percent in [101, 125, 200] {
            let mut loads = [0_u64; 5];
            // One key that is asked for by everybody, and others now and then.
            for call in 0..1000_u32 {
                let key = if call % 4 == 0 { of_bytes(&call.to_be_bytes()) } else { 7 };
                let all = places.iter().zip(loads).map(|(place, load)| Some((*place, 1, load)));
                let at = pick_bounded(key, percent, &all).unwrap();
                loads[at] += 1;
                let most = (u64::from(call + 1) * u64::from(percent)).div_ceil(500);
                assert!(loads[at] <= most, "{percent} %: {loads:?} after {call}, {most} may be");
            }
            assert!(percent == 101 || loads.iter().max() > Some(&220), "{percent} %: {loads:?}");
        }
        // Alone, or with as much as others, it is where it would be anyway.
        for key in 0..100 {
            for load in [0, 3] {
                let all = places.iter().map(|place| Some((*place, 1, load)));
                let home = pick(key, places.iter().map(|place| Some((*place, 1))));
                assert_eq!(pick_bounded(key, 125, &all), home);
                assert_eq!(pick_bounded(key, 0, &all), home);
            }
        }
        assert_eq!(pick_bounded(1, 125, &[None, Some((7, 0, 3))].into_iter()), None);
    }
}
