//! The recovery phrase: 160 random bits as nine groups of four characters, the last one a check sum.

use crate::clock;
use std::{fmt, str::FromStr};
use trust::sha256;

/// Crockford's base 32: no i, l, o, u; what people write instead is read as what they meant.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ENTROPY: usize = 20;
const DIGITS: usize = ENTROPY * 8 / 5;
const CHECK_DIGITS: usize = 4;
const GROUP: usize = 4;

/// Why a text is not a recovery phrase. The text itself is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Too short or too long.
    #[error("expected 9 groups of 4 characters, got {0} characters in all")]
    Length(usize),
    /// A character that no phrase has.
    #[error("the character {0:?} is in no recovery phrase; expected 0-9 and a-z without i l o u")]
    Character(char),
    /// The check sum is wrong.
    #[error("the phrase's check sum is wrong: a character was mistyped or two groups were swapped")]
    Checksum,
}

/// The phrase that opens the root key. Shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryPhrase([u8; ENTROPY]);

impl RecoveryPhrase {
    pub(crate) fn generate() -> Self {
        Self(clock::random())
    }

    pub(crate) const fn expose(&self) -> &[u8; ENTROPY] {
        &self.0
    }

    /// The text to write down.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        let mut digits: Vec<u8> = base32(&self.0);
        digits.extend(checksum(&self.0));
        let groups: Vec<String> = digits
            .chunks(GROUP)
            .map(|group| group.iter().map(|digit| char::from(ALPHABET[usize::from(*digit)])).collect())
            .collect();
        groups.join("-")
    }
}

impl fmt::Debug for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryPhrase(…)")
    }
}

impl FromStr for RecoveryPhrase {
    type Err = PhraseError;
    fn from_str(text: &str) -> Result<Self, PhraseError> {
        let characters = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
        let digits = characters
            .map(|c| {
                let read = match c.to_ascii_lowercase() {
                    'i' | 'l' => '1',
                    'o' => '0',
                    other => other,
                };
                let digit = ALPHABET.iter().position(|symbol| char::from(*symbol) == read);
                digit.and_then(|digit| u8::try_from(digit).ok()).ok_or(PhraseError::Character(c))
            })
            .collect::<Result<Vec<u8>, _>>()?;
        if digits.len() != DIGITS + CHECK_DIGITS {
            return Err(PhraseError::Length(digits.len()));
        }
        let (body, check) = digits.split_at(DIGITS);
        let mut entropy = [0; ENTROPY];
        for (chunk, bytes) in body.chunks_exact(8).zip(entropy.chunks_exact_mut(5)) {
            let bits = chunk.iter().fold(0_u64, |bits, digit| (bits << 5) | u64::from(*digit));
            bytes.copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        if checksum(&entropy) != check { Err(PhraseError::Checksum) } else { Ok(Self(entropy)) }
    }
}

fn base32(bytes: &[u8]) -> Vec<u8> {
    bytes
        .chunks_exact(5)
        .flat_map(|chunk| {
            let bits = chunk.iter().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
            (0..8_u32).rev().map(move |position| ((bits >> (position * 5)) & 31) as u8)
        })
        .collect()
}

fn checksum(entropy: &[u8; ENTROPY]) -> Vec<u8> {
    let digest = sha256(&[b"tidegate/recovery-phrase/1", entropy]);
    base32(&digest[..5])[..CHECK_DIGITS].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_survives_being_written_down_and_typed_in_capitals_with_spaces() {
        let phrase = RecoveryPhrase::generate();
        let text = phrase.to_secret_text();
        assert_eq!(text.len(), 9 * 4 + 8);
        assert_eq!(text.parse::<RecoveryPhrase>(), Ok(phrase.clone()));
        let typed = text.to_uppercase().replace('-', " ").replace('0', "O").replace('1', "l");
        assert_eq!(typed.parse::<RecoveryPhrase>(), Ok(phrase));
    }

    #[test]
    fn one_wrong_character_is_noticed_before_anything_is_tried() {
        let text = RecoveryPhrase([7; ENTROPY]).to_secret_text();
        for position in (0..text.len()).filter(|position| text.as_bytes()[*position] != b'-') {
            let mut wrong = text.clone().into_bytes();
            wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<RecoveryPhrase>(), Err(PhraseError::Checksum), "{position}");
        }
        assert_eq!("abcd".parse::<RecoveryPhrase>(), Err(PhraseError::Length(4)));
        assert_eq!("ab!d".parse::<RecoveryPhrase>(), Err(PhraseError::Character('!')));
    }
}
