//! Which bytes tokens, field values and targets are made of; the only tables of such kind, for both wires.

/// Letters, digits and ``!#$%&'*+-.^_`|~`` (RFC 9110 §5.6.2).
/// 0 for these, 1 for all others.
static NO_TOKEN: [u8; 256] = {
    let mut table = [1; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = 0;
        i += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = 0;
        }
        byte += 1;
    }
    table
};

/// How many bytes at the start are token bytes. Eight at a time without a branch for each, since where a name ends is not to be predicted.
#[inline]
pub(crate) fn token_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some((chunk, _)) = bytes[at..].split_first_chunk::<8>() {
        let mut ends = 0;
        for (i, byte) in chunk.iter().enumerate() {
            ends |= NO_TOKEN[usize::from(*byte)] << i;
        }
        if ends != 0 {
            return at + ends.trailing_zeros() as usize;
        }
        at += 8;
    }
    bytes[at..].iter().position(|&b| NO_TOKEN[usize::from(b)] != 0).map_or(bytes.len(), |found| at + found)
}

/// Whether it is a token: not empty, token bytes only.
#[inline]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token_len(bytes) == bytes.len()
}

/// How many bytes at the start a field value may have: all but control characters other than the tab. Eight bytes at a time.
#[inline]
pub(crate) fn text_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some((chunk, _)) = bytes[at..].split_first_chunk::<8>() {
        let hits = control_bytes(u64::from_le_bytes(*chunk));
        if hits == 0 {
            at += 8;
            continue;
        }
        at += (hits.trailing_zeros() / 8) as usize;
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    bytes[at..]
        .iter()
        .position(|&b| b != b'\t' && b.is_ascii_control())
        .map_or(bytes.len(), |found| at + found)
}

/// The top bit of every byte that is below 0x20 or 0x7f. Right up to the lowest hit, which is all that is asked.
#[inline]
fn control_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let below_blank = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let is_delete = delete.wrapping_sub(ONES) & !delete;
    (below_blank | is_delete) & TOPS
}

/// Whether it can be a field value or a reason phrase.
#[inline]
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    text_len(bytes) == bytes.len()
}

/// How many bytes at the start a request target may have: visible ASCII without `#`, which would begin a fragment.
#[inline]
pub(crate) fn target_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !b.is_ascii_graphic() || b == b'#').unwrap_or(bytes.len())
}

/// Whether `path` can stand as the target of a request of that method, which is not CONNECT.
#[inline]
pub(crate) fn is_path(method: &str, path: &str) -> bool {
    (path.starts_with('/') || (path == "*" && method == "OPTIONS"))
        && target_len(path.as_bytes()) == path.len()
}

/// Without the blanks and tabs around it (RFC 9110 OWS, narrower than Rust's notion of white space).
#[inline]
pub(crate) fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_alike_at_every_place_of_a_word() {
        for byte in 0..=u8::MAX {
            let allowed = byte == b'\t' || !byte.is_ascii_control();
            for at in 0..20 {
                let mut bytes = [b'a'; 20];
                bytes[at] = byte;
                assert_eq!(text_len(&bytes), if allowed { 20 } else { at }, "byte {byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn tokens_end_at_the_same_byte_at_every_place_of_a_word() {
        for byte in 0..=u8::MAX {
            let allowed = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            for at in 0..20 {
                let mut bytes = [b'a'; 20];
                bytes[at] = byte;
                assert_eq!(token_len(&bytes), if allowed { 20 } else { at }, "byte {byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn the_lowest_of_several_control_bytes_is_found() {
        assert_eq!(text_len(b"ab\x7f\x01\x00\x00\x00\x00"), 2);
        assert_eq!(text_len(b"\xff\x80\t\x1f\x7f\x00\x00\x00"), 3);
        assert_eq!(text_len(b"\t\t\t\t\t\t\t\t\t\n"), 9);
    }
}
