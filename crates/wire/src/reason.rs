//! Why something was refused: one closed list for the wire, the flow log, metrics and people.

use std::fmt;

/// Whose refusal it is and whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalClass {
    /// Policy or keys say no; the same request will be refused again.
    Denied,
    /// Something is missing right now; the refusal says when to come back.
    Later,
    /// The request itself was wrong.
    Malformed,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $class:ident, $text:literal;)*) => {
        /// A refusal. The number travels, the label is for metrics and `--json`, the sentence
        /// is for people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
            /// A code of a newer version.
            Unknown(u16),
        }

        impl Refusal {
            /// Every refusal this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* Self::Unknown(code) => code }
            }

            /// From the wire; a code of a newer version is kept as a number.
            #[must_use]
            pub const fn from_code(code: u16) -> Self {
                match code { $($code => Self::$name,)* other => Self::Unknown(other) }
            }

            /// The metric label and the word in `--json`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* Self::Unknown(_) => "unknown" }
            }

            /// What kind of refusal this is.
            #[must_use]
            pub const fn class(self) -> RefusalClass {
                match self { $(Self::$name => RefusalClass::$class,)* Self::Unknown(_) => RefusalClass::Denied }
            }
        }

        impl fmt::Display for Refusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Unknown(code) => write!(f, "refused with code {code}, which this version does not know; update this agent"),
                }
            }
        }
    };
}

refusals! {
    /// The target connector has no session at this PoP.
    NotAttached = 1, "not_attached", Later, "no connector of the site is attached to this PoP";
    /// The caller used its budget.
    Budget = 2, "budget", Later, "the budget of this session is used up for now";
    /// The target belongs to another organization.
    OtherOrganization = 3, "other_organization", Denied, "the connector belongs to another organization";
    /// A frame that does not parse.
    Malformed = 4, "malformed", Malformed, "the request does not parse";
    /// The grant does not verify.
    GrantInvalid = 5, "grant_invalid", Denied, "the grant was not signed by a key this connector trusts for grants";
    /// The grant is past its hard expiry.
    GrantExpired = 6, "grant_expired", Denied, "the grant has expired; it is renewed when a controller can be reached";
    /// The grant is not valid yet.
    GrantNotYetValid = 7, "grant_not_yet_valid", Denied, "the grant is not valid yet: a clock is off";
    /// Struck by a revocation.
    Struck = 8, "struck", Denied, "access of this subject was revoked";
    /// The key in the request was not proven to be the grant's.
    KeyNotProven = 9, "key_not_proven", Denied, "the device key of the grant did not sign this request";
    /// The connector holds no valid slice.
    NoSlice = 10, "no_slice", Later, "the connector holds no valid policy yet";
    /// No policy gives any of the groups access.
    NoPolicy = 11, "no_policy", Denied, "no policy gives a group of this device access to the resource";
    /// The destination is no resource of the site.
    NoResource = 12, "no_resource", Denied, "the destination is not a resource of this site";
    /// The port or protocol is not part of the resource.
    PortNotAllowed = 13, "port_not_allowed", Denied, "the resource does not include this port";
    /// The name resolved outside the site's prefixes.
    OutsideSite = 14, "outside_site", Denied, "the name resolves to an address outside the site's prefixes";
    /// An address that is never forwarded unless named literally.
    RefusedRange = 15, "refused_range", Denied, "the address is loopback, link-local, multicast or cloud metadata";
    /// The name does not resolve in the site.
    NameNotResolved = 16, "name_not_resolved", Later, "the name does not resolve in the site";
    /// The target refused the connection.
    TargetRefused = 17, "target_refused", Later, "the target refused the connection";
    /// The target did not answer.
    TargetUnreachable = 18, "target_unreachable", Later, "the target does not answer";
    /// A table is full.
    Full = 19, "full", Later, "a table is full; try again shortly";
    /// Another installation's documents.
    OtherInstallation = 20, "other_installation", Denied, "the document belongs to another installation";
    /// No controller is attached.
    NoController = 21, "no_controller", Later, "no controller is attached to this PoP right now";
    /// The peer speaks no common version.
    Version = 22, "version", Malformed, "no common protocol version";
    /// The session ended while the request was open.
    SessionLost = 23, "session_lost", Later, "the session to the PoP was lost";
    /// Nothing answered in time.
    Timeout = 24, "timeout", Later, "no answer in time";
    /// The source address inside the tunnel is not the one that was assigned.
    WrongSource = 25, "wrong_source", Denied, "the packet's source address is not the one assigned to this device";
    /// The process is shutting down.
    ShuttingDown = 26, "shutting_down", Later, "the other side is shutting down";
    /// A protocol that is not forwarded yet.
    ProtocolNotForwarded = 27, "protocol_not_forwarded", Denied, "this protocol is not forwarded";
    /// The certificate's role may not do this.
    WrongRole = 28, "wrong_role", Denied, "this role may not send this message";
    /// The WireGuard initiation does not verify.
    HandshakeInvalid = 29, "handshake_invalid", Denied, "the WireGuard initiation does not verify";
    /// A strict resource and no fresh word of a controller.
    Isolated = 30, "isolated", Later, "the resource is strict and the connector has not heard a controller for a minute";
    /// The connector has just started, and what time it is has not been signed for it yet.
    Settling = 31, "settling", Later, "the connector has just started and is asking for the time";
}

impl<C> minicbor::Encode<C> for Refusal {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u16(self.code())?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Refusal {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Self::from_code(d.u16()?))
    }
}

impl serde::Serialize for Refusal {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.label())
    }
}

impl<'de> serde::Deserialize<'de> for Refusal {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let label = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        // A newer agent's label must not make an older reader lose the whole record.
        Ok(Self::ALL.iter().copied().find(|known| known.label() == label).unwrap_or(Self::Unknown(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_labels_are_unique_and_round_trip() {
        let mut codes = std::collections::BTreeSet::new();
        let mut labels = std::collections::BTreeSet::new();
        for refusal in Refusal::ALL {
            assert!(codes.insert(refusal.code()) && labels.insert(refusal.label()), "{refusal:?}");
            assert_eq!(Refusal::from_code(refusal.code()), *refusal);
        }
        assert_eq!(Refusal::from_code(60_000), Refusal::Unknown(60_000));
    }
}
