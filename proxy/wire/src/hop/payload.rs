//! Reads a payload field by field and never past its end; what a field may be is `decode`'s.

use std::net::IpAddr;

use super::{HopError, frame::HOP_HEADERS_MAX};
use crate::head::{Headers, split_hop_field};

/// What is left of a payload.
pub(super) struct Payload<'a>(pub(super) &'a [u8]);

impl<'a> Payload<'a> {
    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], HopError> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(HopError::BadLength)?;
        self.0 = rest;
        Ok(*array)
    }

    #[inline]
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], HopError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(HopError::BadLength)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, HopError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, HopError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, HopError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, HopError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Length u8, bytes.
    pub(super) fn short(&mut self) -> Result<&'a [u8], HopError> {
        let len = self.u8()?;
        self.bytes(usize::from(len))
    }

    /// Length u16, bytes.
    pub(super) fn long(&mut self) -> Result<&'a [u8], HopError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// Length u8 (0, 4 or 16), address.
    pub(super) fn address(&mut self) -> Result<Option<IpAddr>, HopError> {
        match self.u8()? {
            0 => Ok(None),
            4 => Ok(Some(IpAddr::from(self.array::<4>()?))),
            16 => Ok(Some(IpAddr::from(self.array::<16>()?))),
            _ => Err(HopError::BadLength),
        }
    }

    /// Count u8, then so many fields, each of which `check` lets pass; they are the rest of the payload.
    pub(super) fn fields(
        &mut self,
        check: impl Fn(&[u8], &[u8]) -> Result<(), HopError>,
    ) -> Result<Headers<'a>, HopError> {
        let count = usize::from(self.u8()?);
        if count > HOP_HEADERS_MAX {
            return Err(HopError::TooManyHeaders);
        }
        let bytes = self.0;
        for _ in 0..count {
            let (header, rest) = split_hop_field(self.0).ok_or(HopError::BadLength)?;
            check(header.name, header.value)?;
            self.0 = rest;
        }
        self.end()?;
        Ok(Headers::of_hop(bytes, count))
    }

    /// Whether nothing is left, as it must be.
    pub(super) fn end(&self) -> Result<(), HopError> {
        if self.0.is_empty() { Ok(()) } else { Err(HopError::BadLength) }
    }
}
