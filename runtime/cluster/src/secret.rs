//! A secret that all nodes of a cluster have, and how one shows another that it has it without saying it.
//!
//! Each side sends an HMAC-SHA256 under the secret, over which side it is, and over both hellos with a nonce of each. So
//! neither side learns anything that it could use elsewhere, and what was overheard is of no use with other nonces.
//!
//! What this does not do:
//! - Bytes are in the clear after it, and nothing protects them: who can change what passes on the network can take a
//!   connection over. Only TLS helps against that.
//! - Who overhears a hello can try secrets at leisure. So a secret must be random, not a word.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The shortest secret, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = 32;

/// A cluster's secret. It is never shown.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

/// A secret that is too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret has at least {SECRET_BYTES_MIN} bytes")]
pub struct SecretTooShort;

impl Secret {
    /// A secret of these bytes, which should come from a random generator.
    ///
    /// # Errors
    /// When it has fewer than [`SECRET_BYTES_MIN`].
    pub fn new(bytes: &[u8]) -> Result<Secret, SecretTooShort> {
        if bytes.len() < SECRET_BYTES_MIN { Err(SecretTooShort) } else { Ok(Secret(bytes.into())) }
    }

    /// That `side` has the secret.
    pub(crate) fn proof(&self, side: Side, hellos: &Hellos) -> [u8; PROOF_BYTES] {
        self.mac(side, hellos).finalize().into_bytes().into()
    }

    /// Whether that is what was shown. Takes as long whatever the difference is.
    pub(crate) fn is_proved(&self, side: Side, hellos: &Hellos, proof: &[u8]) -> bool {
        self.mac(side, hellos).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: Side, hellos: &Hellos) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(b"weir link");
        mac.update(&[side as u8]);
        mac.update(hellos.dialer);
        mac.update(hellos.acceptor);
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Side {
    /// It connected.
    Dialer = 1,
    /// It was connected to.
    Acceptor = 2,
}

/// Both hellos as they were sent, nonces included. Their length is fixed.
pub(crate) struct Hellos<'a> {
    pub(crate) dialer: &'a [u8],
    pub(crate) acceptor: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_side_of_one_meeting_under_one_secret() {
        let secret = Secret::new(b"sixteen bytes or").expect("long enough");
        let other = Secret::new(b"sixteen bytes of").expect("long enough");
        let hellos = Hellos { dialer: b"one", acceptor: b"two" };
        let proof = secret.proof(Side::Dialer, &hellos);
        assert!(secret.is_proved(Side::Dialer, &hellos, &proof));
        assert!(!secret.is_proved(Side::Acceptor, &hellos, &proof), "it cannot be sent back");
        assert!(!secret.is_proved(Side::Dialer, &Hellos { acceptor: b"six", ..hellos }, &proof));
        assert!(!other.is_proved(Side::Dialer, &hellos, &proof));
        assert!(!secret.is_proved(Side::Dialer, &hellos, &proof[1..]));
        assert!(!secret.is_proved(Side::Dialer, &hellos, &[]));
    }

    #[test]
    fn a_secret_is_not_shown_and_not_short() {
        let secret = Secret::new(b"sixteen bytes or").expect("long enough");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(Secret::new(b"a word").expect_err("is refused"), SecretTooShort);
    }
}
