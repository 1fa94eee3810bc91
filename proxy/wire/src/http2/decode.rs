//! Bytes → frames, with what RFC 9113 §6 says of each frame by itself; the order of frames is the engine's.

use super::frame::{ErrorCode, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Fault, Frame, Settings, flag, kind};

/// A frame, or what is wrong with the one stream that it is about, and how many bytes it takes.
pub type Decoded<'a> = (Result<Frame<'a>, Fault>, usize);

/// Decodes the frame at the start of `buf`; None when more bytes are needed. An error ends the connection.
pub fn decode(buf: &[u8]) -> Result<Option<Decoded<'_>>, ErrorCode> {
    let Some((header, rest)) = buf.split_first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
    let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(ErrorCode::FrameSize);
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    // The top bit is reserved and ignored.
    let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
    let used = FRAME_HEADER_BYTES + length;
    match read(kind, flags, stream, payload) {
        Ok(frame) => Ok(Some((Ok(frame), used))),
        Err(Fault::Connection(code)) => Err(code),
        Err(fault) => Ok(Some((Err(fault), used))),
    }
}

fn read(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Frame<'_>, Fault> {
    const PROTOCOL: Fault = Fault::Connection(ErrorCode::Protocol);
    const SIZE: Fault = Fault::Connection(ErrorCode::FrameSize);
    let is_set = |flag: u8| flags & flag != 0;
    let must_have_stream = if stream == 0 { Err(PROTOCOL) } else { Ok(()) };
    let must_have_none = if stream == 0 { Ok(()) } else { Err(PROTOCOL) };
    match kind {
        kind::DATA => {
            must_have_stream?;
            let bytes = without_padding(flags, payload)?;
            Ok(Frame::Data { stream, end: is_set(flag::END_STREAM), bytes, flow: payload.len() })
        }
        kind::HEADERS => {
            must_have_stream?;
            let mut block = without_padding(flags, payload)?;
            if is_set(flag::PRIORITY) {
                let (priority, rest) = block.split_first_chunk::<5>().ok_or(SIZE)?;
                depends_on(stream, *priority)?;
                block = rest;
            }
            let is_whole = is_set(flag::END_HEADERS);
            Ok(Frame::Headers { stream, end: is_set(flag::END_STREAM), is_whole, block })
        }
        kind::CONTINUATION => {
            must_have_stream?;
            Ok(Frame::Continuation { stream, is_whole: is_set(flag::END_HEADERS), block: payload })
        }
        kind::PRIORITY => {
            must_have_stream?;
            let priority = payload.try_into().map_err(|_| Fault::Stream(stream, ErrorCode::FrameSize))?;
            depends_on(stream, priority)?;
            Ok(Frame::Skipped)
        }
        kind::RST_STREAM => {
            must_have_stream?;
            Ok(Frame::Reset { stream, code: number(payload)? })
        }
        kind::SETTINGS => {
            must_have_none?;
            match (is_set(flag::ACK), payload.len()) {
                (true, 0) => Ok(Frame::SettingsAck),
                (false, length) if length % 6 == 0 => Ok(Frame::Settings(Settings(payload))),
                _ => Err(SIZE),
            }
        }
        // Nobody was allowed to push.
        kind::PUSH_PROMISE => Err(PROTOCOL),
        kind::PING => {
            must_have_none?;
            let data = payload.try_into().map_err(|_| SIZE)?;
            Ok(if is_set(flag::ACK) { Frame::Pong } else { Frame::Ping(data) })
        }
        kind::GOAWAY => {
            must_have_none?;
            let (last, rest) = payload.split_first_chunk::<4>().ok_or(SIZE)?;
            let (code, _) = rest.split_first_chunk::<4>().ok_or(SIZE)?;
            let last_stream = u32::from_be_bytes(*last) & 0x7fff_ffff;
            Ok(Frame::GoAway { last_stream, code: u32::from_be_bytes(*code) })
        }
        kind::WINDOW_UPDATE => match (number(payload)? & 0x7fff_ffff, stream) {
            (0, 0) => Err(PROTOCOL),
            (0, stream) => Err(Fault::Stream(stream, ErrorCode::Protocol)),
            (credit, stream) => Ok(Frame::Window { stream, credit }),
        },
        _ => Ok(Frame::Skipped),
    }
}

/// RFC 9113 §6.1.
fn without_padding(flags: u8, payload: &[u8]) -> Result<&[u8], Fault> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(Fault::Connection(ErrorCode::FrameSize))?;
    let length = rest.len().checked_sub(usize::from(*padding));
    length.map(|length| &rest[..length]).ok_or(Fault::Connection(ErrorCode::Protocol))
}

/// A stream cannot depend on itself (RFC 7540 §5.3.1; RFC 9113 lets that be, and nobody means it).
fn depends_on(stream: u32, priority: [u8; 5]) -> Result<(), Fault> {
    let other = u32::from_be_bytes([priority[0] & 0x7f, priority[1], priority[2], priority[3]]);
    if other == stream { Err(Fault::Stream(stream, ErrorCode::Protocol)) } else { Ok(()) }
}

fn number(payload: &[u8]) -> Result<u32, Fault> {
    let bytes = payload.try_into().map_err(|_| Fault::Connection(ErrorCode::FrameSize))?;
    Ok(u32::from_be_bytes(bytes))
}
