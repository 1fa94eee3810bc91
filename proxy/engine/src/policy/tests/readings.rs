//! The readings of a path, written otherwise: depth first, each step as text is edited; shares nothing with what it is compared with but the limits.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::readings::{READINGS_MAX, Readings, STATES_MAX};

/// Every reading of a path without query; None when it is not read.
pub(super) fn read(path: &str) -> Option<BTreeSet<String>> {
    let is_written_well = path.split('%').skip(1).all(|piece| code(piece).is_some());
    if !is_written_well || !path.is_ascii() {
        return None;
    }
    let mut seen = BTreeSet::new();
    follow(unescaped(path, |c| is_letter(c) && c != '.'), &mut seen)?;
    let is_spelled = |text: &String| *text == unescaped(text, is_letter);
    let readings: BTreeSet<_> = seen.into_iter().filter(is_spelled).collect();
    (readings.len() <= READINGS_MAX).then_some(readings)
}

/// Goes from one text to all that an application may make of it.
fn follow(text: String, seen: &mut BTreeSet<String>) -> Option<()> {
    if seen.contains(&text) {
        return Some(());
    }
    if seen.len() >= STATES_MAX || !is_text(&text) {
        return None;
    }
    seen.insert(text.clone());
    follow(unescaped(&text, |c| c.is_ascii_graphic()), seen)?;
    follow(unescaped(&text, is_letter), seen)?;
    follow(without_dots(&text), seen)?;
    follow(without_parameters(text.clone()), seen)?;
    follow(text.replace('\\', "/"), seen)?;
    follow(merged(text), seen)
}

fn is_letter(c: char) -> bool {
    matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~')
}

/// What the two digits say that a piece after a percent sign begins with.
fn code(piece: &str) -> Option<u8> {
    let digits = piece.get(..2)?;
    digits.chars().all(|c| c.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn unescaped(text: &str, is_meant: fn(char) -> bool) -> String {
    let mut pieces = text.split('%');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |before, piece| match code(piece).map(char::from) {
        Some(c) if is_meant(c) => format!("{before}{c}{}", &piece[2..]),
        Some(_) => format!("{before}%{}{}", piece[..2].to_uppercase(), &piece[2..]),
        None => format!("{before}%{piece}"),
    })
}

/// Whether all that is encoded is text without control characters.
fn is_text(text: &str) -> bool {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match code(piece) {
            Some(byte) => bytes.extend([&[byte], &piece.as_bytes()[2..]].concat()),
            None => bytes.extend(["%", piece].concat().bytes()),
        }
    }
    String::from_utf8(bytes).is_ok_and(|text| !text.contains(|c: char| c.is_ascii_control()))
}

fn merged(mut text: String) -> String {
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    text
}

fn without_parameters(mut text: String) -> String {
    while let Some(start) = text.find(';') {
        let end = text[start..].find('/').map_or(text.len(), |length| start + length);
        text.replace_range(start..end, "");
    }
    text
}

/// The letter of RFC 3986 §5.2.4, for a path that begins with a slash.
fn without_dots(text: &str) -> String {
    let (mut input, mut output) = (text.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("/./") || input == "/." {
            input = format!("/{}", input.get(3..).unwrap_or_default());
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or_default());
        } else {
            let end = input[1..].find('/').map_or(input.len(), |length| 1 + length);
            output.extend(input.drain(..end));
        }
    }
    output
}

proptest! {
    #[test]
    fn readings_are_those_that_are_found_otherwise(
        path in "/([ab./;%\\\\]|%2e|%2E|%2f|%5c|%3b|%25|%61|%00|%c3|%a9|\\.\\.){0,10}",
    ) {
        let found: Option<BTreeSet<_>> = Readings::of(&path).iter().map(|one| one.map(str::to_owned)).collect();
        prop_assert_eq!(found, read(&path), "{}", path);
    }
}
