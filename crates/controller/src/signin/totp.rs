//! Codes of an authenticator app (RFC 6238), and the recovery codes for who lost it.

use super::percent::percent;
use crate::clock;
use std::{collections::BTreeMap, sync::Mutex};
use store::SecretHash;
use totp_rs::{Algorithm, Builder, Secret, Totp};
use trust::{UnixMs, sha256};
use wire::UserId;

/// RFC 4226 section 4, R6: 160 bits.
pub(super) const SECRET_LEN: usize = 20;
/// Every app has it; RFC 6238 section 4.
const STEP_SECONDS: u64 = 30;
/// One step before and after: RFC 6238 section 5.2 recommends at most one for the network, and clocks differ.
const SKEW: u16 = 1;
/// Codes of one account that are remembered as used; beyond it the account that used one longest ago makes room.
const MAX_USED: usize = 16 * 1024;
/// How many recovery codes an account has.
pub(super) const RECOVERY_CODES: usize = 10;

/// The secret of one account.
#[derive(Clone)]
pub(crate) struct TotpSecret([u8; SECRET_LEN]);

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TotpSecret(…)")
    }
}

impl TotpSecret {
    pub(super) fn generate() -> Self {
        Self(clock::random())
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    fn totp(&self) -> Totp {
        Builder::new()
            .with_algorithm(Algorithm::SHA1)
            .with_digits(6)
            .with_skew(SKEW)
            .with_step_duration(STEP_SECONDS)
            .with_secret(Secret::new_stack(self.0))
            .build()
            .expect("six digits, 160 bits and 30 seconds are what RFC 6238 asks for")
    }

    /// The step whose code this is, if it is one of those around now. Whoever types spaces means the digits.
    pub(crate) fn step_of(&self, code: &str, now: UnixMs) -> Option<u64> {
        let digits: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        if digits.len() != 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.totp().check(&digits, now.as_secs())
    }

    #[cfg(test)]
    pub(crate) fn code_at(&self, now: UnixMs) -> String {
        self.totp().generate(now.as_secs()).to_string()
    }

    /// As people type it: base 32 (RFC 4648 section 6) in groups of four.
    pub(super) fn shown(&self) -> String {
        let text = base32(&self.0);
        let groups: Vec<&str> =
            (0..text.len()).step_by(4).map(|at| &text[at..(at + 4).min(text.len())]).collect();
        groups.join(" ")
    }

    /// What the picture says: the key URI that every authenticator app reads.
    pub(super) fn uri(&self, account: &str, issuer: &str) -> String {
        let (account, issuer) = (percent(account), percent(issuer));
        let secret = base32(&self.0);
        format!(
            "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits=6&period={STEP_SECONDS}"
        )
    }
}

fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[usize::try_from((held >> bits) & 31).expect("five bits")]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[usize::try_from((held << (5 - bits)) & 31).expect("five bits")]));
    }
    text
}

/// Which codes were used: each works once (RFC 6238 section 5.2), and none before the last that was used.
#[derive(Debug, Default)]
pub(super) struct UsedSteps(Mutex<BTreeMap<UserId, u64>>);

impl UsedSteps {
    /// Uses a step up. `false`: it, or a later one, was used already.
    pub(super) fn take(&self, account: UserId, step: u64) -> bool {
        let mut used = self.0.lock().expect("nothing panics while it holds the steps");
        if used.get(&account).is_some_and(|last| *last >= step) && !planted::is("codes-work-twice") {
            return false;
        }
        if used.len() >= MAX_USED
            && !used.contains_key(&account)
            && let Some(oldest) = used.iter().min_by_key(|(_, step)| **step).map(|(account, _)| *account)
        {
            used.remove(&oldest);
        }
        used.insert(account, step);
        true
    }
}

/// Letters and digits that nobody takes for one another.
const RECOVERY_ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789_";

/// A fresh recovery code: 75 bits as `xxxxx-xxxxx-xxxxx`.
fn recovery_code() -> String {
    let mut text = String::with_capacity(17);
    while text.len() < 17 {
        let [byte] = clock::random::<1>();
        let symbol = RECOVERY_ALPHABET[usize::from(byte & 31)];
        // 31 symbols: the 32nd is drawn again.
        if symbol == b'_' {
            continue;
        }
        text.push(char::from(symbol));
        if text.len() == 5 || text.len() == 11 {
            text.push('-');
        }
    }
    text
}

/// Fresh codes: for the person, once, and as they are kept.
pub(super) fn recovery_codes() -> (Vec<String>, Vec<SecretHash>) {
    let codes: Vec<String> = (0..RECOVERY_CODES).map(|_| recovery_code()).collect();
    let hashes = codes.iter().map(|code| recovery_hash(code)).collect();
    (codes, hashes)
}

/// What is kept of a code. 74 random bits need no stretching.
pub(super) fn recovery_hash(code: &str) -> SecretHash {
    let plain: String =
        code.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
    SecretHash::from_digest(sha256(&[b"tidegate/recovery-code/1", plain.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rfc_6238_appendix_b() {
        // The appendix's SHA-1 secret, and the last six of its eight digits.
        let secret = TotpSecret::from_bytes(b"12345678901234567890").unwrap();
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let now = UnixMs::from_millis(seconds * 1000);
            assert_eq!(secret.code_at(now), code, "{seconds}");
            assert_eq!(secret.step_of(code, now), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_is_taken_one_step_around_its_own_and_no_further() {
        let secret = TotpSecret::from_bytes(b"12345678901234567890").unwrap();
        let at = |seconds: u64| UnixMs::from_millis(seconds * 1000);
        let code = secret.code_at(at(1_111_111_109));
        let step = 1_111_111_109 / 30;
        for (seconds, expected) in [
            ((step - 2) * 30, None),
            ((step - 1) * 30, Some(step)),
            ((step + 2) * 30 - 1, Some(step)),
            ((step + 2) * 30, None),
        ] {
            assert_eq!(secret.step_of(&code, at(seconds)), expected, "{seconds}");
        }
        let now = at(1_111_111_109);
        for wrong in ["", "81804", "0081804", "08180x", "０８１８０４", "-81804"] {
            assert_eq!(secret.step_of(wrong, now), None, "{wrong}");
        }
        assert_eq!(secret.step_of(" 081 804 ", now), Some(step));
    }

    #[test]
    fn a_code_works_once_and_none_before_it_afterwards() {
        let used = UsedSteps::default();
        let (lena, ada) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        assert!(used.take(lena, 10));
        assert!(!used.take(lena, 10) && !used.take(lena, 9));
        assert!(used.take(ada, 10) && used.take(lena, 11));
    }

    #[test]
    fn the_secret_is_written_as_rfc_4648_writes_it() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "MY"), (b"fo", "MZXQ"), (b"foo", "MZXW6"), (b"foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes), text);
        }
        let secret = TotpSecret::from_bytes(b"12345678901234567890").unwrap();
        assert_eq!(secret.shown(), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ");
        assert_eq!(
            secret.uri("lena@example.com", "Example & Söhne"),
            "otpauth://totp/Example%20%26%20S%C3%B6hne:lena%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Example%20%26%20S%C3%B6hne&algorithm=SHA1&digits=6&period=30"
        );
        assert!(!format!("{secret:?}").contains("1234"));
    }

    #[test]
    fn recovery_codes_are_read_however_they_are_typed() {
        let (codes, hashes) = recovery_codes();
        assert_eq!((codes.len(), hashes.len()), (RECOVERY_CODES, RECOVERY_CODES));
        let typed = format!(" {} ", codes[3].to_uppercase().replace('-', " "));
        assert_eq!(recovery_hash(&typed), hashes[3]);
        assert_ne!(recovery_hash(&codes[2]), hashes[3]);
        assert!(
            codes.iter().all(|code| code.len() == 17 && code.bytes().filter(|b| *b == b'-').count() == 2)
        );
    }
}
