//! SPEC.md says the numbers that the code uses.

use super::{Reset, frame::kind};

const SPEC: &str = include_str!("SPEC.md");

/// The cells of the table's row that begins with `first`.
fn row(first: &str) -> Vec<&'static str> {
    let found = SPEC.lines().find(|line| line.starts_with(&format!("| {first} |")));
    let line = found.unwrap_or_else(|| panic!("SPEC.md has no row for {first}"));
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn frames_have_the_numbers_of_the_specification() {
    let types = [
        ("HELLO", kind::HELLO),
        ("REQUEST", kind::REQUEST),
        ("RESPONSE", kind::RESPONSE),
        ("DATA", kind::DATA),
        ("TRAILERS", kind::TRAILERS),
        ("RESET", kind::RESET),
        ("WINDOW", kind::WINDOW),
        ("PING", kind::PING),
        ("PONG", kind::PONG),
        ("DRAIN", kind::DRAIN),
    ];
    for (name, number) in types {
        assert_eq!(row(name)[1], format!("{number:#04x}"), "{name}");
        assert_eq!(number & super::frame::OPTIONAL, 0, "{name} is mandatory");
    }
    let documented =
        SPEC.lines().filter(|line| line.contains("| 0x0") && line.matches('|').count() == 7).count();
    assert_eq!(documented, types.len(), "frames in SPEC.md");
    let optional = [
        ("RESERVE", kind::RESERVE),
        ("GRANT", kind::GRANT),
        ("CANCEL", kind::CANCEL),
        ("WAIT", kind::WAIT),
        ("STARTED", kind::STARTED),
        ("FAILURES", kind::FAILURES),
        ("EJECTED", kind::EJECTED),
    ];
    for (name, number) in optional {
        assert_eq!(row(name)[1], format!("{number:#04x}"), "{name}");
        assert_ne!(number & super::frame::OPTIONAL, 0, "{name} is optional");
    }
    let documented =
        SPEC.lines().filter(|line| line.contains("| 0x9") && line.matches('|').count() == 7).count();
    assert_eq!(documented, optional.len(), "optional frames in SPEC.md");
}

#[test]
fn resets_mean_what_the_specification_says() {
    for reason in Reset::ALL {
        let expected = [
            reason.as_str().to_owned(),
            match reason.flags() {
                0 => reason.number().to_string(),
                flags => format!("{}, flag {flags:#04x}", reason.number()),
            },
            if reason.is_requeue_safe() { "yes" } else { "no" }.to_owned(),
            reason.status().to_string(),
        ];
        assert_eq!(row(reason.as_str()), expected);
        assert_eq!(Reset::of(reason.number(), reason.flags()), reason);
        assert_eq!(reason.flags() & super::frame::FLAG_END, 0);
        // Whoever does not know the flags may do the same.
        let without = Reset::of(reason.number(), 0);
        assert_eq!(
            (without.is_requeue_safe(), without.status()),
            (reason.is_requeue_safe(), reason.status())
        );
    }
    assert_eq!(Reset::of(Reset::Denied.number(), 0xff), Reset::Denied, "flags of others say nothing");
    for unknown in [0, 15, 16, 255] {
        assert_eq!(Reset::of(unknown, 0), Reset::Internal);
    }
}
