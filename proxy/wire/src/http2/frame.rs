//! Frames as plain data and their numbers; how they lie in bytes is `encode` and `decode`.

/// What a client says first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of the header before each payload: length u24, type u8, flags u8, stream u31.
pub const FRAME_HEADER_BYTES: usize = 9;
/// Longest payload that is taken, and the longest that may be sent before the peer allows longer ones (RFC 9113 §4.2).
pub const FRAME_BYTES_MAX: usize = 16_384;
/// Window that connections and streams begin with (RFC 9113 §6.9.2).
pub const WINDOW_DEFAULT: u32 = 65_535;
/// Largest window.
pub const WINDOW_MAX: u32 = 0x7fff_ffff;

/// Frame types.
pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0;
    pub(in crate::http2) const HEADERS: u8 = 1;
    pub(in crate::http2) const PRIORITY: u8 = 2;
    pub(in crate::http2) const RST_STREAM: u8 = 3;
    pub(in crate::http2) const SETTINGS: u8 = 4;
    pub(in crate::http2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::http2) const PING: u8 = 6;
    pub(in crate::http2) const GOAWAY: u8 = 7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::http2) const CONTINUATION: u8 = 9;
}

/// Flags.
pub(super) mod flag {
    pub(in crate::http2) const END_STREAM: u8 = 0x1;
    pub(in crate::http2) const ACK: u8 = 0x1;
    pub(in crate::http2) const END_HEADERS: u8 = 0x4;
    pub(in crate::http2) const PADDED: u8 = 0x8;
    pub(in crate::http2) const PRIORITY: u8 = 0x20;
}

/// RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// Nothing went wrong.
    NoError = 0,
    /// The protocol was broken.
    Protocol = 1,
    /// Something of the sender's went wrong.
    Internal = 2,
    /// More was sent than allowed.
    FlowControl = 3,
    /// SETTINGS were not acknowledged.
    SettingsTimeout = 4,
    /// A frame for a stream that is closed.
    StreamClosed = 5,
    /// A frame of a wrong size.
    FrameSize = 6,
    /// Nothing was done for this stream: it may be tried again.
    RefusedStream = 7,
    /// Nobody needs the stream any more.
    Cancel = 8,
    /// HPACK's state is lost.
    Compression = 9,
    /// A tunnel broke.
    Connect = 10,
    /// The peer overdoes it.
    EnhanceYourCalm = 11,
}

/// What a peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends with GOAWAY.
    Connection(ErrorCode),
    /// One stream ends with RST_STREAM.
    Stream(u32, ErrorCode),
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A part of a body.
    Data {
        /// Not 0.
        stream: u32,
        /// Last part.
        end: bool,
        /// Without padding.
        bytes: &'a [u8],
        /// What counts against the windows, padding included.
        flow: usize,
    },
    /// Begins a field block.
    Headers {
        /// Not 0.
        stream: u32,
        /// No body follows.
        end: bool,
        /// The block is complete.
        is_whole: bool,
        /// The block, or its beginning.
        block: &'a [u8],
    },
    /// Goes on with a field block.
    Continuation {
        /// Not 0.
        stream: u32,
        /// The block is complete.
        is_whole: bool,
        /// The next part.
        block: &'a [u8],
    },
    /// Gives a stream up.
    Reset {
        /// Not 0.
        stream: u32,
        /// See [`ErrorCode`].
        code: u32,
    },
    /// What the peer wants.
    Settings(Settings<'a>),
    /// Our settings hold.
    SettingsAck,
    /// Asks for the same with the flag ACK.
    Ping([u8; 8]),
    /// Answers a PING.
    Pong,
    /// No streams above the last one will be looked at.
    GoAway {
        /// The last one.
        last_stream: u32,
        /// See [`ErrorCode`].
        code: u32,
    },
    /// So many more bytes may be sent.
    Window {
        /// 0: on the connection.
        stream: u32,
        /// Not 0.
        credit: u32,
    },
    /// PRIORITY, which RFC 9113 §5.3.2 took out of use, or a type that is not known.
    Skipped,
}

/// The list of a SETTINGS frame; its length was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings<'a>(pub(super) &'a [u8]);

/// One setting that is known, with a value that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Bytes of the table that the sender's decoder keeps.
    HeaderTableSize(u32),
    /// Whether pushes are taken.
    EnablePush(bool),
    /// Streams that the receiver may have open.
    MaxConcurrentStreams(u32),
    /// Window that streams begin with.
    InitialWindowSize(u32),
    /// Longest payload, 16,384 to 16,777,215.
    MaxFrameSize(u32),
    /// Longest list of fields.
    MaxHeaderListSize(u32),
}

impl Setting {
    pub(super) fn number_and_value(self) -> (u16, u32) {
        match self {
            Setting::HeaderTableSize(value) => (1, value),
            Setting::EnablePush(value) => (2, u32::from(value)),
            Setting::MaxConcurrentStreams(value) => (3, value),
            Setting::InitialWindowSize(value) => (4, value),
            Setting::MaxFrameSize(value) => (5, value),
            Setting::MaxHeaderListSize(value) => (6, value),
        }
    }
}

impl Settings<'_> {
    /// How many there are, those that are not known included.
    pub fn count(&self) -> usize {
        self.0.len() / 6
    }

    /// The settings in order, those that are not known left out; what a value breaks (RFC 9113 §6.5.2).
    pub fn iter(&self) -> impl Iterator<Item = Result<Setting, Fault>> {
        const FRAME_SIZE_MAX: u32 = (1 << 24) - 1;
        self.0.chunks_exact(6).filter_map(|entry| {
            let number = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            let protocol = Err(Fault::Connection(ErrorCode::Protocol));
            Some(match number {
                1 => Ok(Setting::HeaderTableSize(value)),
                2 if value > 1 => protocol,
                2 => Ok(Setting::EnablePush(value == 1)),
                3 => Ok(Setting::MaxConcurrentStreams(value)),
                4 if value > WINDOW_MAX => Err(Fault::Connection(ErrorCode::FlowControl)),
                4 => Ok(Setting::InitialWindowSize(value)),
                5 if !(FRAME_BYTES_MAX as u32..=FRAME_SIZE_MAX).contains(&value) => protocol,
                5 => Ok(Setting::MaxFrameSize(value)),
                6 => Ok(Setting::MaxHeaderListSize(value)),
                _ => return None,
            })
        })
    }
}
