//! HPACK (RFC 7541): a field block → fields. Every index, length and size is looked at; a block that breaks a rule loses the connection's state, so the
//! connection ends.

use super::huffman;
use super::table::Table;

/// Size of the table that a peer may fill: what it may assume without being told (RFC 9113 §6.5.2).
const TABLE_BYTES_MAX: usize = 4096;

/// The state of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Name and value of the field at hand.
    field: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { table: Table::new(TABLE_BYTES_MAX), field: Vec::new() }
    }
}

/// The block is no HPACK: the connection's state is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field block that breaks RFC 7541")]
pub struct BadBlock;

impl Decoder {
    /// Tells the fields of a whole block, in order, as they were sent: nothing is left out, and nothing was looked at.
    pub fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), BadBlock> {
        let mut may_resize = true;
        while let Some(first) = block.first().copied() {
            match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    let (name, value) = self.table.get(index).ok_or(BadBlock)?;
                    each(name, value);
                }
                0x40.. => {
                    let name_len = self.literal(&mut block, 6)?;
                    self.table.add(&self.field, name_len);
                    let (name, value) = self.field.split_at(name_len);
                    each(name, value);
                }
                0x20.. => {
                    let size = integer(&mut block, 5)?;
                    if !may_resize || size > TABLE_BYTES_MAX {
                        return Err(BadBlock);
                    }
                    self.table.resize(size);
                    continue;
                }
                // Without indexing, and never indexed.
                _ => {
                    let name_len = self.literal(&mut block, 4)?;
                    let (name, value) = self.field.split_at(name_len);
                    each(name, value);
                }
            }
            may_resize = false;
        }
        self.field.clear();
        Ok(())
    }

    /// Reads a literal field into `field`; the length of its name.
    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Result<usize, BadBlock> {
        let Decoder { table, field } = self;
        field.clear();
        match integer(block, prefix)? {
            0 => string(block, field)?,
            index => field.extend_from_slice(table.get(index).ok_or(BadBlock)?.0),
        }
        let name_len = field.len();
        string(block, field)?;
        Ok(name_len)
    }
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1), below 2^24: nothing that is counted here is more.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, BadBlock> {
    const SHIFT_MAX: u32 = 14;
    let (first, rest) = block.split_first().ok_or(BadBlock)?;
    *block = rest;
    let full = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & full;
    if value < full {
        return Ok(value);
    }
    for shift in (0..=SHIFT_MAX).step_by(7) {
        let (next, rest) = block.split_first().ok_or(BadBlock)?;
        *block = rest;
        value += usize::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadBlock)
}

fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), BadBlock> {
    let is_huffman = block.first().ok_or(BadBlock)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(BadBlock)?;
    *block = rest;
    if !is_huffman {
        out.extend_from_slice(text);
    } else if !huffman::decode(text, out) {
        return Err(BadBlock);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, hex: &str) -> Result<String, BadBlock> {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let block: Vec<u8> = digits.chunks(2).map(byte).collect();
        let mut said = Vec::new();
        decoder.decode(&block, |name, value| {
            said.push(format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
        })?;
        Ok(said.join(", "))
    }

    /// RFC 7541 appendix C.4 and C.6: the same connection goes on, so that later blocks point into the table.
    #[test]
    fn blocks_of_the_rfc() {
        let mut decoder = Decoder::default();
        for (block, said) in [
            (
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                ":method: GET, :scheme: http, :path: /, :authority: www.example.com",
            ),
            (
                "8286 84be 5886 a8eb 1064 9cbf",
                ":method: GET, :scheme: http, :path: /, :authority: www.example.com, cache-control: no-cache",
            ),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                ":method: GET, :scheme: https, :path: /index.html, :authority: www.example.com, custom-key: custom-value",
            ),
        ] {
            assert_eq!(fields(&mut decoder, block).as_deref(), Ok(said));
        }
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let mut decoder = Decoder::default();
        // A table of 64 bytes has room for one entry of 32 + 2 + 2.
        assert_eq!(fields(&mut decoder, "3f21 4002 6161 0131").as_deref(), Ok("aa: 1"));
        assert_eq!(fields(&mut decoder, "be").as_deref(), Ok("aa: 1"));
        assert_eq!(fields(&mut decoder, "4002 6262 0132 be").as_deref(), Ok("bb: 2, bb: 2"));
        assert_eq!(fields(&mut decoder, "bf"), Err(BadBlock), "the older one is gone");
    }

    #[test]
    fn what_is_no_block() {
        for (block, why) in [
            ("80", "index 0"),
            ("be", "an index into an empty table"),
            ("ffff ffff ffff ff0f", "an integer without end"),
            ("ff80 8080 8080 00", "an integer that is longer than it need be"),
            ("4003 6161", "a string that is cut short"),
            ("4081 00 00", "a Huffman string filled with zeros"),
            ("8220", "a size that does not come first"),
            ("3fe2 1f", "a table beyond what was allowed"),
            ("40", "no name"),
            ("4001 61", "no value"),
        ] {
            assert_eq!(fields(&mut Decoder::default(), block), Err(BadBlock), "{why}");
        }
    }
}
