//! Bytes with an upper length that the parser enforces.

/// The input was longer than its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{got} bytes where at most {max} are allowed")]
pub struct TooLong {
    /// The bound.
    pub max: usize,
    /// What came.
    pub got: usize,
}

/// At most `MAX` opaque bytes. The decoder refuses more before it allocates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounded<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Bounded<MAX> {
    /// Takes bytes that fit.
    ///
    /// # Errors
    /// [`TooLong`] when they do not.
    pub fn new(bytes: Vec<u8>) -> Result<Self, TooLong> {
        if bytes.len() > MAX {
            return Err(TooLong { max: MAX, got: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, owned.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: usize> TryFrom<Vec<u8>> for Bounded<MAX> {
    type Error = TooLong;
    fn try_from(bytes: Vec<u8>) -> Result<Self, TooLong> {
        Self::new(bytes)
    }
}

impl<C, const MAX: usize> minicbor::Encode<C> for Bounded<MAX> {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C, const MAX: usize> minicbor::Decode<'b, C> for Bounded<MAX> {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = d.bytes()?;
        if bytes.len() > MAX {
            return Err(minicbor::decode::Error::message("a field is longer than its bound"));
        }
        Ok(Self(bytes.to_vec()))
    }
}
