//! Any bytes as a path, and what an application does to it, in any order: reading the path ends, is bounded, and what the application ends up with is among the readings
//! that policies judge, or the path is not read at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vicino_engine::policy::{PATH_BYTES_MAX, READINGS_MAX, Readings};

/// Things that an application does to one path.
const DONE_MAX: usize = 6;

// The first byte says how many of the next ones say what the application does; the rest is the path.
fuzz_target!(|bytes: &[u8]| {
    let Some((count, rest)) = bytes.split_first() else { return };
    let Some((done, path)) = rest.split_at_checked(usize::from(*count) % (DONE_MAX + 1)) else { return };
    let Ok(path) = std::str::from_utf8(path) else { return };
    let readings = Readings::of(path);
    match &readings {
        Readings::Plain(same) => assert_eq!(*same, path),
        Readings::Several(all) => {
            assert!((1..=READINGS_MAX).contains(&all.len()), "{} readings", all.len());
            assert!(path.len() <= PATH_BYTES_MAX && all.iter().all(|one| one.len() <= path.len() + 1));
        }
        Readings::Unreadable => return,
    }
    if !path.starts_with('/') {
        return;
    }
    let mut seen = path.as_bytes().to_vec();
    for what in done {
        seen = match what % 5 {
            0 => decoded(&seen),
            1 => seen.into_iter().map(|byte| if byte == b'\\' { b'/' } else { byte }).collect(),
            2 => merged(seen),
            3 => cut(&seen),
            _ => resolved(&seen),
        };
    }
    let seen = spelled(&seen);
    let is_among = readings.iter().flatten().any(|reading| spelled(reading.as_bytes()) == seen);
    assert!(is_among, "{path:?} is read as {seen:?} after {done:?}, which is none of {readings:?}");
});

fn hex(bytes: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(bytes.get(1..3)?).ok()?;
    let is_hex = bytes[0] == b'%' && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

/// Percent-encoding, once, all of it.
fn decoded(path: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        let encoded = hex(rest);
        out.push(encoded.unwrap_or(rest[0]));
        rest = &rest[if encoded.is_some() { 3 } else { 1 }..];
    }
    out
}

fn merged(mut path: Vec<u8>) -> Vec<u8> {
    path.dedup_by(|next, before| *next == b'/' && *before == b'/');
    path
}

/// Without the parameters of any element.
fn cut(path: &[u8]) -> Vec<u8> {
    let mut is_in = false;
    let is_kept = |byte: &u8| {
        is_in = *byte != b'/' && (is_in || *byte == b';');
        !is_in
    };
    path.iter().copied().filter(is_kept).collect()
}

/// RFC 3986 §5.2.4, as it is written there.
fn resolved(path: &[u8]) -> Vec<u8> {
    let (mut input, mut output) = (path.to_vec(), Vec::new());
    while !input.is_empty() {
        if input.starts_with(b"/./") {
            input.drain(..2);
        } else if input == b"/." {
            input.truncate(1);
        } else if input.starts_with(b"/../") || input == b"/.." {
            input.drain(1..input.len().min(4));
            let last = output.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            output.truncate(last);
        } else {
            let end = input[1..].iter().position(|byte| *byte == b'/').map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

/// One spelling: letters and the like as they are, everything that is not visible encoded, digits in upper case.
fn spelled(path: &[u8]) -> String {
    let (mut out, mut rest) = (String::new(), path);
    while let Some(&byte) = rest.first() {
        let encoded = hex(rest);
        match encoded {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(byte.into()),
            Some(byte) => out.push_str(&format!("%{byte:02X}")),
            None if byte.is_ascii_graphic() => out.push(byte.into()),
            None => out.push_str(&format!("%{byte:02X}")),
        }
        rest = &rest[if encoded.is_some() { 3 } else { 1 }..];
    }
    out
}
