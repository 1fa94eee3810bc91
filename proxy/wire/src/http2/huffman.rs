//! HPACK's Huffman code (RFC 7541 §5.2, appendix B), read four bits at a time.

use std::sync::LazyLock;

/// How many bits each byte's code has. The codes follow from these: shorter ones first, bytes of the same length in order, each code one more than
/// the one before. The end of a string is filled with the first bits of thirty ones, the code of its end, which itself may not occur.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// What four more bits lead to.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The state after them; None when no string has them.
    next: Option<u16>,
    /// The byte that they complete. A code has five bits at least, so there is one at most.
    byte: Option<u8>,
}

/// The states between bytes: one for each inner node of the code's tree.
#[derive(Debug)]
struct Machine {
    steps: Vec<[Step; 16]>,
    /// Whether a string may end there: after fewer than eight ones.
    may_end: Vec<bool>,
}

static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::new);

#[derive(Clone, Copy, Debug)]
enum Child {
    None,
    Node(u16),
    Byte(u8),
}

impl Machine {
    fn new() -> Machine {
        let tree = tree();
        let step = |node: u16, nibble: u16| {
            let (mut at, mut byte) = (node, None);
            for bit in (0..4).rev() {
                match tree[usize::from(at)][usize::from(nibble >> bit & 1)] {
                    Child::None => return Step { next: None, byte: None },
                    Child::Node(next) => at = next,
                    Child::Byte(found) => (at, byte) = (0, Some(found)),
                }
            }
            Step { next: Some(at), byte }
        };
        let nodes = 0..tree.len() as u16;
        let steps = nodes.map(|node| std::array::from_fn(|nibble| step(node, nibble as u16))).collect();
        let mut may_end = vec![false; tree.len()];
        let mut at = 0;
        for _ in 0..8 {
            may_end[usize::from(at)] = true;
            let Child::Node(next) = tree[usize::from(at)][1] else { break };
            at = next;
        }
        Machine { steps, may_end }
    }
}

fn tree() -> Vec<[Child; 2]> {
    let mut order: Vec<u8> = (0..=u8::MAX).collect();
    order.sort_by_key(|byte| LENGTHS[usize::from(*byte)]);
    let mut tree = vec![[Child::None; 2]];
    let (mut code, mut length) = (0_u32, 0_u8);
    for byte in order {
        code <<= LENGTHS[usize::from(byte)] - length;
        length = LENGTHS[usize::from(byte)];
        let mut at = 0;
        for bit in (0..length).rev() {
            let side = (code >> bit & 1) as usize;
            at = match (bit, tree[at][side]) {
                (0, _) => {
                    tree[at][side] = Child::Byte(byte);
                    break;
                }
                (_, Child::Node(next)) => usize::from(next),
                _ => {
                    let next = tree.len();
                    tree[at][side] = Child::Node(next as u16);
                    tree.push([Child::None; 2]);
                    next
                }
            };
        }
        code += 1;
    }
    tree
}

/// Appends what the code says. False when it is no Huffman string.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> bool {
    let machine = &*MACHINE;
    let mut at = 0_u16;
    for nibble in code.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        let Step { next, byte } = machine.steps[usize::from(at)][usize::from(nibble)];
        let Some(next) = next else { return false };
        out.extend(byte);
        at = next;
    }
    machine.may_end[usize::from(at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(code: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(code, &mut out).then_some(out)
    }

    #[test]
    fn strings_of_the_rfc() {
        for (code, text) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf", "custom-value"),
            (b"\x64\x02", "302"),
            (b"", ""),
        ] {
            assert_eq!(decoded(code).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_string_ends_in_fewer_than_eight_ones() {
        // `0` is 00000.
        assert_eq!(decoded(b"\x07"), Some(b"0".into()));
        assert_eq!(decoded(b"\x00"), None, "filled with zeros");
        assert_eq!(decoded(b"\x07\xff"), None, "eleven ones");
        assert_eq!(decoded(b"\xff\xff\xff\xff"), None, "the end itself");
    }
}
