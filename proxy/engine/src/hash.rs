//! A cheap hash for keys that no stranger chooses, or whose matches are compared in full; never for tables that a caller can fill.

use std::hash::{BuildHasherDefault, Hasher};

const MULTIPLIER: u64 = 0x517c_c1b7_2722_0a95;

/// The multiply-and-rotate hash of Firefox and rustc.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fast(u64);

pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Fast>>;

impl Fast {
    #[inline]
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for Fast {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(*chunk.first_chunk().expect("chunks of 8")));
        }
        let mut last = [0; 8];
        let rest = chunks.remainder();
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }

    /// The table takes its index from the top bits as well as from the low ones.
    #[inline]
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// The hash of a few texts, told apart by their lengths.
#[inline]
pub(crate) fn of_texts(texts: &[&str]) -> u64 {
    let mut hash = Fast::default();
    for text in texts {
        hash.write(text.as_bytes());
    }
    hash.finish()
}
