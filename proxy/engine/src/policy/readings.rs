//! The ways in which an application may read a path; it compares none of them with anything.
//!
//! RFC 3986 §6.2.2 says when two paths are the same, and applications go further, each in its own way: they decode `%2F`
//! before or after they split, or twice; they merge slashes, before or after they resolve `..`; they cut `;parameters`
//! off; they take a backslash for a slash. Whoever guesses one way leaves the others to an attacker, so all
//! that these steps lead to, in every order, is taken.
//!
//! A path without `%`, `;`, `\\`, `//` and `/.` has one reading, itself; nearly all have. In readings, letters, digits, `-`, `.`, `_`
//! and `~` are never percent-encoded, and what is no visible ASCII always is, with upper-case digits.

use std::collections::HashSet;

/// A longer path that has more than one reading is not read, in bytes.
pub const PATH_BYTES_MAX: usize = 4 * 1024;
/// A path with more readings is not read.
pub const READINGS_MAX: usize = 64;
/// What is looked at to find them, the same in several spellings; a path with more is not read.
pub(super) const STATES_MAX: usize = 128;

/// The ways to read one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readings<'a> {
    /// As it is written, and no other.
    Plain(&'a str),
    /// These, each once.
    Several(Vec<String>),
    /// It is not valid, or it is made to be misread: a percent sign without two digits, a control character, bytes that are no
    /// UTF-8, more readings than anybody has a use for, or more than [`PATH_BYTES_MAX`] of anything like it.
    Unreadable,
}

impl<'a> Readings<'a> {
    /// The readings of a path without query.
    pub fn of(path: &'a str) -> Self {
        if is_plain(path) {
            return Self::Plain(path);
        }
        if path.len() > PATH_BYTES_MAX || !path.is_ascii() || !is_sound(path, Signs::Strict) {
            return Self::Unreadable;
        }
        // A dot stays as it is written until a step decodes it: who resolves `..` before that does not see it.
        let first = decode(path, |byte| is_unreserved(byte) && byte != b'.');
        let (mut seen, mut all) = (HashSet::from([first.clone()]), vec![first]);
        let mut next = 0;
        while let Some(text) = all.get(next) {
            if !is_sound(text, Signs::Lenient) {
                return Self::Unreadable;
            }
            let further = STEPS.map(|step| step(text));
            all.extend(further.into_iter().filter(|further| seen.insert(further.clone())));
            if all.len() > STATES_MAX {
                return Self::Unreadable;
            }
            next += 1;
        }
        // Each of the others is there in this spelling, too.
        all.retain(|text| *text == spelled(text));
        if all.len() > READINGS_MAX { Self::Unreadable } else { Self::Several(all) }
    }

    /// Each reading; None for a path that is not read.
    pub fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        let (one, several) = match self {
            Self::Plain(path) => (Some(Some(*path)), &[][..]),
            Self::Several(all) => (None, &all[..]),
            Self::Unreadable => (Some(None), &[][..]),
        };
        one.into_iter().chain(several.iter().map(|text| Some(text.as_str())))
    }
}

fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let is_plain = match byte {
            b'%' | b';' | b'\\' => false,
            b'/' | b'.' => before != b'/',
            _ => true,
        };
        before = byte;
        is_plain
    })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The two digits after a percent sign.
fn digits(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (&[high, low], _) = bytes.split_first_chunk::<2>()?;
    Some(digit(high)? << 4 | digit(low)?)
}

/// How a percent sign without two digits is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signs {
    /// It is wrong.
    Strict,
    /// It is one, as it may be after a decoding.
    Lenient,
}

/// Whether what percent signs and digits say is text without control characters.
fn is_sound(path: &str, signs: Signs) -> bool {
    let bytes = path.as_bytes();
    let (mut whole, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let encoded = if byte == b'%' { digits(&bytes[at + 1..]) } else { None };
        if byte == b'%' && encoded.is_none() && signs == Signs::Strict {
            return false;
        }
        whole.push(encoded.unwrap_or(byte));
        at += if encoded.is_some() { 3 } else { 1 };
    }
    !whole.iter().any(u8::is_ascii_control) && std::str::from_utf8(&whole).is_ok()
}

/// Decodes what `is_meant`; what remains has upper-case digits, and a percent sign without digits is left alone.
fn decode(text: &str, is_meant: fn(u8) -> bool) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (String::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let encoded = if byte == b'%' { digits(&bytes[at + 1..]) } else { None };
        match encoded {
            Some(byte) if is_meant(byte) => decoded.push(char::from(byte)),
            Some(_) => decoded.extend(text[at..at + 3].chars().map(|c| c.to_ascii_uppercase())),
            None => decoded.push(char::from(byte)),
        }
        at += if encoded.is_some() { 3 } else { 1 };
    }
    decoded
}

/// What an application may do to a path, each of it at any time, and more than once.
const STEPS: [fn(&str) -> String; 6] =
    [spelled, decoded, without_parameters, without_backslashes, merged, without_dots];

/// As RFC 3986 §6.2.2 would have it: letters and the like, and dots, are not encoded.
fn spelled(text: &str) -> String {
    decode(text, is_unreserved)
}

fn decoded(text: &str) -> String {
    decode(text, |byte| byte.is_ascii_graphic())
}

fn without_backslashes(text: &str) -> String {
    text.replace('\\', "/")
}

/// Each element without what follows a semicolon.
fn without_parameters(text: &str) -> String {
    let elements: Vec<&str> = text.split('/').map(|e| e.split(';').next().unwrap_or_default()).collect();
    elements.join("/")
}

/// One slash for several.
fn merged(text: &str) -> String {
    let mut merged = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// `.` and `..` resolved (RFC 3986 §5.2.4).
fn without_dots(text: &str) -> String {
    let (mut kept, mut is_directory) = (Vec::new(), false);
    for element in text.strip_prefix('/').unwrap_or(text).split('/') {
        is_directory = matches!(element, "." | "..");
        match element {
            "." => {}
            ".." => drop(kept.pop()),
            element => kept.push(element),
        }
    }
    if is_directory {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(path: &str) -> Vec<String> {
        let readings = Readings::of(path);
        readings.iter().map(|reading| reading.unwrap_or("unreadable").to_owned()).collect()
    }

    #[test]
    fn a_path_without_tricks_is_itself() {
        for path in ["/", "/a/b.c/d", "/a/b/", "*", "/~me/x-y_z", "/a:b@c,d=e"] {
            assert_eq!(Readings::of(path), Readings::Plain(path));
        }
        assert_eq!(of("/.well-known/x"), ["/.well-known/x"]);
        assert_eq!(of("/caf%c3%a9%20x"), ["/caf%C3%A9%20x"], "spelled one way");
        assert_eq!(of("/%61%2e%7E"), ["/a.~"], "encoded without need");
    }

    #[test]
    fn every_detour_to_a_path_is_seen() {
        for detour in [
            "//admin",
            "/./admin",
            "/x/../admin",
            "/x/%2e%2e/admin",
            "/x/.%2E/admin",
            "/x%2f..%2fadmin",
            "/x/..%2fadmin",
            "/%2fadmin",
            "/%61dmin",
            "/x/..;/admin",
            "/x/..;v=1/admin",
            "/;/admin",
            "/admin;v=1",
            "/admin%3Bv=1",
            "/x\\..\\admin",
            "/x/..%5cadmin",
            "/x%252f..%252fadmin",
            "/x/%252e%252e/admin",
            "/x/%25252e%25252e/admin",
            "/%2561dmin",
            "/x//../admin",
            "/x/y/..//../admin",
        ] {
            assert!(of(detour).iter().any(|reading| reading == "/admin"), "{detour}: {:?}", of(detour));
            assert!(of(detour).len() > 1 || !detour.contains("%2f"), "{detour} has another reading, too");
        }
    }

    #[test]
    fn dots_that_are_decoded_after_others_were_resolved_are_seen() {
        for (path, reading) in [("/a/./b/%2e%2e/c", "/a/b/../c"), ("/x/../%2e/y//z", "/./y/z")] {
            assert!(of(path).iter().any(|one| one == reading), "{path}: {:?}", of(path));
        }
        for reading in ["/./a%2Fb", "/a%2Fb", "/./a/b", "/a/b"] {
            let all = of("/%2e/a%2fb");
            assert!(all.iter().any(|one| one == reading), "{reading} in {all:?}");
        }
    }

    #[test]
    fn what_is_made_to_be_misread_is_not_read() {
        let deep = format!("/%{}2e", "25".repeat(READINGS_MAX));
        let long = format!("/{}", "a;".repeat(PATH_BYTES_MAX / 2));
        for path in [
            "/100%",
            "/%zz",
            "/%2",
            "/a%00b",
            "/a%0d%0ab",
            "/%c0%af",
            "/%ff",
            "/%u002e",
            "/a%2500b",
            "/%25c0%25af",
            &deep,
            &long,
            "/é;x",
        ] {
            assert_eq!(Readings::of(path), Readings::Unreadable, "{path}");
        }
        assert!(of("/100%25").contains(&"/100%".to_owned()), "a percent sign is one");
    }

    proptest! {
        /// Readings are what they are read as: no further way to read one leads out of them.
        #[test]
        fn readings_have_no_readings_of_their_own(path in "/([ab./;%\\\\]|%2e|%2f|%5c|%3b|%25|%61){0,12}") {
            let all = of(&path);
            for reading in &all {
                if reading == "unreadable" || Readings::of(reading) == Readings::Unreadable {
                    continue;
                }
                for further in Readings::of(reading).iter() {
                    prop_assert!(
                        further.is_some_and(|further| all.iter().any(|one| one == further)),
                        "{path}: {reading} may be read as {further:?}, beside {all:?}"
                    );
                }
            }
        }
    }
}
