//! Frames on a session's stream: `length (u32) ‖ type (u16) ‖ body`, big-endian; the length counts
//! type and body.

/// Longest frame a PoP takes from an agent: one sealed request and its envelope.
pub const MAX_AGENT_MESSAGE: usize = 64 * 1024;
/// Longest frame from a controller or to an agent: one sealed reply and its envelope, or a welcome
/// with the revocations a PoP holds.
pub const MAX_CONTROLLER_MESSAGE: usize = 4 * 1024 * 1024;

const LENGTH_LEN: usize = 4;
const TYPE_LEN: usize = 2;

/// Why a stream cannot be read on. Doubles as a metric label; the session is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum FrameError {
    /// The length field is below the type's own length.
    #[error("a frame shorter than its type field")]
    TooShort,
    /// The length field is above the bound of this reader.
    #[error("a frame longer than this side takes")]
    TooLong,
}

/// One frame as bytes.
#[must_use]
pub fn encode_frame(frame_type: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + TYPE_LEN).expect("messages are bounded far below 4 GiB");
    let mut frame = Vec::with_capacity(LENGTH_LEN + TYPE_LEN + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&frame_type.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Cuts a byte stream into frames. Holds at most one frame of `max` bytes and one chunk.
#[derive(Debug)]
pub struct FrameReader {
    max: usize,
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// A reader that refuses frames of more than `max` bytes (type and body).
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, buffer: Vec::new(), start: 0 }
    }

    /// Appends what the stream gave.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(chunk);
        // An idle session keeps no buffer from its largest message.
        if self.buffer.is_empty() && self.buffer.capacity() > 4096 {
            self.buffer = Vec::new();
        }
    }

    /// The next whole frame as (type, body), or `None` until more bytes come.
    ///
    /// # Errors
    /// The stream cannot be read on after an error.
    pub fn next_frame(&mut self) -> Result<Option<(u16, Vec<u8>)>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length < TYPE_LEN {
            return Err(FrameError::TooShort);
        }
        if length > self.max {
            return Err(FrameError::TooLong);
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let (kind, body) = frame.split_at(TYPE_LEN);
        let kind = u16::from_be_bytes([kind[0], kind[1]]);
        let body = body.to_vec();
        self.start += LENGTH_LEN + length;
        if self.start == self.buffer.len() {
            self.buffer = Vec::new();
            self.start = 0;
        }
        Ok(Some((kind, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_out_whole_however_the_stream_is_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..8),
            cut in 1_usize..20,
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| encode_frame(7, body)).collect();
            let mut reader = FrameReader::new(64);
            let mut seen = Vec::new();
            for chunk in stream.chunks(cut) {
                reader.push(chunk);
                while let Some((kind, body)) = reader.next_frame().expect("valid stream") {
                    prop_assert_eq!(kind, 7);
                    seen.push(body);
                }
            }
            prop_assert_eq!(seen, bodies);
        }
    }

    #[test]
    fn a_frame_above_the_bound_is_refused_at_its_length_field() {
        let mut reader = FrameReader::new(64);
        reader.push(&65_u32.to_be_bytes());
        assert_eq!(reader.next_frame(), Err(FrameError::TooLong));
        let mut reader = FrameReader::new(64);
        reader.push(&1_u32.to_be_bytes());
        assert_eq!(reader.next_frame(), Err(FrameError::TooShort));
    }
}
