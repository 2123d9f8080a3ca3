//! Typed identifiers: 16 bytes, shown as a prefix and 26 characters of Crockford base 32.

use std::{fmt, str::FromStr};

/// Why a text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an id like \"{prefix}-\" followed by 26 characters of 0-9 a-z without i l o u, got {got:?}"
)]
pub struct IdError {
    prefix: &'static str,
    got: String,
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

fn write_base32(bytes: u128, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for position in (0..TEXT_LEN).rev() {
        let digit = (bytes >> (position * 5)) & 31;
        let symbol = ALPHABET[usize::try_from(digit).expect("five bits fit usize")];
        fmt::Write::write_char(out, char::from(symbol))?;
    }
    Ok(())
}

fn read_base32(text: &str) -> Option<u128> {
    // 26 digits hold 130 bits: the first digit may only carry the top three of 128.
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut value: u128 = 0;
    for (index, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|symbol| *symbol == byte)?;
        if index == 0 && digit > 7 {
            return None;
        }
        value = (value << 5) | u128::try_from(digit).ok()?;
    }
    Some(value)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The text prefix of this kind of id, without the dash.
            pub const PREFIX: &'static str = $prefix;

            /// Takes 16 bytes as they are. Fresh ids are made by whoever owns a clock and a
            /// random source (UUID version 7 layout, RFC 9562 section 5.7).
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// A fresh id in the layout of a version 7 UUID (RFC 9562 section 5.7): 48 bits of
            /// Unix milliseconds, then randomness, so that ids sort by the time they were made.
            #[must_use]
            pub const fn from_time_and_random(unix_ms: u64, random: [u8; 10]) -> Self {
                let t = unix_ms.to_be_bytes();
                let r = random;
                Self([
                    t[2], t[3], t[4], t[5], t[6], t[7],
                    0x70 | (r[0] & 0x0F), r[1],
                    0x80 | (r[2] & 0x3F), r[3], r[4], r[5], r[6], r[7], r[8], r[9],
                ])
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "-"))?;
                write_base32(u128::from_be_bytes(self.0), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "-"))
                    .and_then(read_base32)
                    .map(|value| Self(value.to_be_bytes()))
                    .ok_or_else(|| IdError {
                        prefix: $prefix,
                        got: text.chars().take(64).collect(),
                    })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(
                d: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| {
                    minicbor::decode::Error::message("an id has 16 bytes")
                })
            }
        }
    )*};
}

ids! {
    /// One Tidegate installation: everything under one root key.
    InstallationId = "ins";
    /// A tenant. Nothing crosses organizations.
    OrganizationId = "org";
    /// A private network with connectors.
    SiteId = "site";
    /// An agent in a site: the policy enforcement point.
    ConnectorId = "con";
    /// Something that policies give access to.
    ResourceId = "res";
    /// An enrolled machine of a user or service account.
    DeviceId = "dev";
    /// A person.
    UserId = "usr";
    /// A set of users and service accounts.
    GroupId = "grp";
    /// A headless subject.
    ServiceAccountId = "svc";
    /// A rule: these groups reach these resources.
    PolicyId = "pol";
    /// A point of presence.
    PopId = "pop";
    /// A controller.
    ControllerId = "ctl";
    /// An enrolment key or one-time link.
    EnrolmentKeyId = "key";
    /// An API token.
    TokenId = "tok";
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text_form(bytes: [u8; 16]) {
            let id = DeviceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<DeviceId>().expect("own text"), id);
        }

        #[test]
        fn a_text_that_parses_is_the_only_text_of_that_id(text in "dev-[0-9a-z]{26}") {
            if let Ok(id) = text.parse::<DeviceId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn an_id_of_another_kind_is_refused_with_the_expected_prefix() {
        let device = DeviceId::from_bytes([7; 16]).to_string();
        let refusal = device.parse::<SiteId>().expect_err("wrong prefix");
        assert!(refusal.to_string().contains("site-"), "{refusal}");
    }

    #[test]
    fn later_ids_sort_behind_earlier_ones() {
        let early = SiteId::from_time_and_random(1_000, [0xFF; 10]);
        let late = SiteId::from_time_and_random(1_001, [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
    }
}
