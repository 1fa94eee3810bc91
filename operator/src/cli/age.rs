//! Ages as kubectl prints them: two units at most, the second only where it still says something.

use k8s_openapi::jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The time from `then` to `now`; `<unknown>` without a `then`, as kubectl says for objects that were never stored.
pub fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then else { return "<unknown>".to_owned() };
    let seconds = (now.as_second() - then.as_second()).max(0);
    let two = |big: (i64, &str), small: (i64, &str)| {
        let rest = seconds % big.0 / small.0;
        let head = format!("{}{}", seconds / big.0, big.1);
        if rest == 0 { head } else { format!("{head}{rest}{}", small.1) }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two((MINUTE, "m"), (1, "s")),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two((HOUR, "h"), (MINUTE, "m")),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two((DAY, "d"), (HOUR, "h")),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two((YEAR, "y"), (DAY, "d")),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let then = Timestamp::UNIX_EPOCH;
        let table = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (47 * 3600, "47h"),
            (2 * 86_400 + 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (3 * 31_536_000 + 86_400, "3y1d"),
            (9 * 31_536_000, "9y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(age(Some(then), Timestamp::from_second(seconds).unwrap()), expected);
        }
        assert_eq!(age(Some(Timestamp::from_second(5).unwrap()), then), "0s", "clocks differ");
        assert_eq!(age(None, then), "<unknown>");
    }
}
