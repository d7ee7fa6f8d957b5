//! Messages of in-band authentication, DH-HMAC-CHAP (base 2.1 §8.3.4). Values of variable length follow headers.

use crate::macros::{codes, layout};
use zerocopy::little_endian::{U16, U32};

codes! {
    /// Authentication type, byte 0 of a message.
    pub struct AuthType(u8) {
        COMMON = 0x00 => "Common messages";
        DH_HMAC_CHAP = 0x01 => "DH-HMAC-CHAP";
    }

    /// Message identifier, byte 1.
    pub struct AuthMessage(u8) {
        NEGOTIATE = 0x00 => "AUTH_Negotiate";
        CHALLENGE = 0x01 => "DH-HMAC-CHAP_Challenge";
        REPLY = 0x02 => "DH-HMAC-CHAP_Reply";
        SUCCESS1 = 0x03 => "DH-HMAC-CHAP_Success1";
        SUCCESS2 = 0x04 => "DH-HMAC-CHAP_Success2";
        FAILURE2 = 0xF0 => "AUTH_Failure2";
        FAILURE1 = 0xF1 => "AUTH_Failure1";
    }

    /// Hash function of the HMAC.
    pub struct HashId(u8) {
        SHA_256 = 0x01 => "SHA-256";
        SHA_384 = 0x02 => "SHA-384";
        SHA_512 = 0x03 => "SHA-512";
    }

    /// Diffie-Hellman group.
    pub struct DhGroupId(u8) {
        NULL = 0x00 => "NULL";
        FFDHE_2048 = 0x01 => "2048-bit";
        FFDHE_3072 = 0x02 => "3072-bit";
        FFDHE_4096 = 0x03 => "4096-bit";
        FFDHE_6144 = 0x04 => "6144-bit";
        FFDHE_8192 = 0x05 => "8192-bit";
    }

    /// Secure channel concatenation wanted, SC_C.
    pub struct SecureChannel(u8) {
        NONE = 0x00 => "No secure channel concatenation";
        NEW_TLS_PSK = 0x01 => "New TLS PSK";
        REPLACE_TLS_PSK = 0x02 => "Replace TLS PSK";
    }

    /// Why an authentication failed, the explanation of reason code 1.
    pub struct AuthFailureExplanation(u8) {
        FAILED = 0x01 => "Authentication failed";
        PROTOCOL_NOT_USABLE = 0x02 => "Authentication protocol not usable";
        SECURE_CHANNEL_MISMATCH = 0x03 => "Secure channel concatenation mismatch";
        HASH_NOT_USABLE = 0x04 => "Hash function not usable";
        DH_GROUP_NOT_USABLE = 0x05 => "DH group not usable";
        INCORRECT_PAYLOAD = 0x06 => "Incorrect payload";
        INCORRECT_MESSAGE = 0x07 => "Incorrect protocol message";
    }
}

impl HashId {
    /// Digest length in bytes; `None` for an unknown hash.
    pub const fn digest_bytes(self) -> Option<usize> {
        match self {
            Self::SHA_256 => Some(32),
            Self::SHA_384 => Some(48),
            Self::SHA_512 => Some(64),
            _ => None,
        }
    }
}

/// Reason code of every AUTH_Failure message: authentication failure.
pub const REASON_AUTHENTICATION_FAILURE: u8 = 0x01;

/// Protocol identifier of DH-HMAC-CHAP in an [`AuthProtocol`].
pub const PROTOCOL_DH_HMAC_CHAP: u8 = 0x01;

/// Hash and group identifiers an [`AuthProtocol`] has room for, each.
pub const PROTOCOL_IDS_MAX: usize = 30;

layout! {
    /// What every message starts with.
    pub struct AuthHeader: 6 {
        /// [`AuthType`].
        0 => auth_type: u8,
        /// [`AuthMessage`].
        1 => auth_id: u8,
        #[doc(hidden)]
        2 => rsvd2: [u8; 2],
        /// Transaction identifier.
        4 => t_id: U16,
    }

    /// AUTH_Negotiate, host to controller; `napd` entries of [`AuthProtocol`] follow.
    pub struct AuthNegotiate: 8 {
        /// Header.
        0 => header: AuthHeader,
        /// [`SecureChannel`].
        6 => sc_c: u8,
        /// Number of protocol descriptors.
        7 => napd: u8,
    }

    /// Protocol descriptor of an AUTH_Negotiate, for DH-HMAC-CHAP.
    pub struct AuthProtocol: 64 {
        /// [`PROTOCOL_DH_HMAC_CHAP`].
        0 => auth_id: u8,
        #[doc(hidden)]
        1 => rsvd1: u8,
        /// Number of hash identifiers.
        2 => halen: u8,
        /// Number of group identifiers.
        3 => dhlen: u8,
        /// [`HashId`]s, in order of preference.
        4 => hash_ids: [u8; 30],
        /// [`DhGroupId`]s, in order of preference.
        34 => dh_group_ids: [u8; 30],
    }

    /// DH-HMAC-CHAP_Challenge, controller to host; `hl` bytes of challenge and `dhvlen` of exponential follow.
    pub struct Challenge: 16 {
        /// Header.
        0 => header: AuthHeader,
        /// Hash length in bytes.
        6 => hl: u8,
        #[doc(hidden)]
        7 => rsvd7: u8,
        /// [`HashId`].
        8 => hash_id: u8,
        /// [`DhGroupId`].
        9 => dh_group_id: u8,
        /// Length of the exponential in bytes; zero for the NULL group.
        10 => dhvlen: U16,
        /// Sequence number.
        12 => seqnum: U32,
    }

    /// DH-HMAC-CHAP_Reply, host to controller; `hl` bytes of response, `hl` of challenge and `dhvlen` follow.
    pub struct Reply: 16 {
        /// Header.
        0 => header: AuthHeader,
        /// Hash length in bytes.
        6 => hl: u8,
        #[doc(hidden)]
        7 => rsvd7: u8,
        /// 1 when the challenge is valid: the host authenticates the controller too.
        8 => cvalid: u8,
        #[doc(hidden)]
        9 => rsvd9: u8,
        /// Length of the exponential in bytes; zero for the NULL group.
        10 => dhvlen: U16,
        /// Sequence number; zero when `cvalid` is zero.
        12 => seqnum: U32,
    }

    /// DH-HMAC-CHAP_Success1, controller to host; `hl` bytes of response follow.
    pub struct Success1: 16 {
        /// Header.
        0 => header: AuthHeader,
        /// Hash length in bytes.
        6 => hl: u8,
        #[doc(hidden)]
        7 => rsvd7: u8,
        /// 1 when the response is valid.
        8 => rvalid: u8,
        #[doc(hidden)]
        9 => rsvd9: [u8; 7],
    }

    /// DH-HMAC-CHAP_Success2, host to controller.
    pub struct Success2: 16 {
        /// Header.
        0 => header: AuthHeader,
        #[doc(hidden)]
        6 => rsvd6: [u8; 10],
    }

    /// AUTH_Failure1 (controller) or AUTH_Failure2 (host).
    pub struct AuthFailure: 8 {
        /// Header.
        0 => header: AuthHeader,
        /// [`REASON_AUTHENTICATION_FAILURE`].
        6 => reason: u8,
        /// [`AuthFailureExplanation`].
        7 => explanation: u8,
    }
}

impl AuthProtocol {
    /// Hash identifiers offered; those beyond the room of the descriptor do not count.
    pub fn hashes(&self) -> impl Iterator<Item = HashId> + '_ {
        self.hash_ids.iter().take(usize::from(self.halen)).map(|id| HashId(*id))
    }

    /// Groups offered; those beyond the room of the descriptor do not count.
    pub fn dh_groups(&self) -> impl Iterator<Item = DhGroupId> + '_ {
        self.dh_group_ids.iter().take(usize::from(self.dhlen)).map(|id| DhGroupId(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_claims_more_than_it_holds_gives_what_it_holds() {
        let hostile = AuthProtocol { halen: 255, dhlen: 255, ..AuthProtocol::default() };
        assert_eq!(hostile.hashes().count(), PROTOCOL_IDS_MAX);
        assert_eq!(hostile.dh_groups().count(), PROTOCOL_IDS_MAX);
    }
}
