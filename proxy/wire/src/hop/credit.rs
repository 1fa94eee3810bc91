//! A stream's window, the sender's and the receiver's half; it counts DATA payload bytes and sends nothing itself.

use super::HopError;

/// Most credit that a stream may have outstanding: 2^31-1 bytes.
pub const CREDIT_MAX: u32 = 0x7fff_ffff;

/// What this side may still send on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendCredit {
    /// Below 0 only where a peer took credit back (HTTP/2, RFC 9113 §6.9.2).
    left: i64,
}

impl SendCredit {
    /// Begins with the peer's `initial_window` (cut at [`CREDIT_MAX`]).
    pub fn new(initial_window: u32) -> SendCredit {
        SendCredit { left: i64::from(initial_window.min(CREDIT_MAX)) }
    }

    /// How many bytes may be sent now.
    pub fn available(self) -> u32 {
        u32::try_from(self.left).unwrap_or(0)
    }

    /// Takes as much as is there of `wanted` bytes: how many of them to send now.
    pub fn take(&mut self, wanted: usize) -> usize {
        let left = self.available();
        let taken = u32::try_from(wanted).map_or(left, |wanted| wanted.min(left));
        self.left -= i64::from(taken);
        taken as usize
    }

    /// A WINDOW frame came. More than [`CREDIT_MAX`] in sum, or nothing, is a violation.
    pub fn grant(&mut self, credit: u32) -> Result<(), HopError> {
        if credit == 0 {
            return Err(HopError::FlowControl);
        }
        self.adjust(i64::from(credit))
    }

    /// HTTP/2: the window that streams begin with was changed by so much. More than [`CREDIT_MAX`] in sum is a violation.
    pub fn adjust(&mut self, change: i64) -> Result<(), HopError> {
        let sum = self.left + change;
        if sum > i64::from(CREDIT_MAX) {
            return Err(HopError::FlowControl);
        }
        self.left = sum;
        Ok(())
    }
}

/// What the peer may still send on a stream, and what it will be granted next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCredit {
    window: u32,
    left: u32,
    released: u32,
}

impl ReceiveCredit {
    /// Begins with the window that this side's HELLO said (cut at [`CREDIT_MAX`]).
    pub fn new(initial_window: u32) -> ReceiveCredit {
        let window = initial_window.min(CREDIT_MAX);
        ReceiveCredit { window, left: window, released: 0 }
    }

    /// A DATA frame of `len` payload bytes came. More than was granted is a violation.
    pub fn receive(&mut self, len: usize) -> Result<(), HopError> {
        let len = u32::try_from(len).map_err(|_| HopError::FlowControl)?;
        self.left = self.left.checked_sub(len).ok_or(HopError::FlowControl)?;
        Ok(())
    }

    /// `len` received bytes have been passed on. Some(credit) when it is time to send a WINDOW frame of it: that credit is then counted as
    /// granted. Grants are gathered until half of the window is free, so that they cost few frames.
    pub fn release(&mut self, len: usize) -> Option<u32> {
        let outstanding = self.window - self.left - self.released;
        self.released += u32::try_from(len).unwrap_or(u32::MAX).min(outstanding);
        if self.released == 0 || self.released < self.window / 2 {
            return None;
        }
        let credit = std::mem::take(&mut self.released);
        self.left += credit;
        Some(credit)
    }

    /// Bytes received and not yet released: what this stream holds of memory here.
    pub fn held(self) -> u32 {
        self.window - self.left - self.released
    }
}
