//! Signatures over wakes: Ed25519 over `<timestamp>.<body>`, with a key whose public half is served as a JWK.
//!
//! Source: Durable Streams Protocol, sections 6.5 and 7.1; RFC 7638 for the key's id.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// The public half of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// `ds_` and the key's thumbprint.
    pub kid: String,
    /// The key, as base64url.
    pub x: String,
}

fn pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a key")
}

/// The public half of the key that is made of `seed`.
pub fn public_key(seed: &[u8; 32]) -> PublicKey {
    let x = URL_SAFE_NO_PAD.encode(pair(seed).public_key().as_ref());
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let kid = format!("ds_{}", URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes())));
    PublicKey { kid, x }
}

/// The value of `Webhook-Signature` for a body that is sent at `time_s`, in seconds since 1970.
pub(crate) fn sign(seed: &[u8; 32], time_s: u64, body: &[u8]) -> String {
    let signed = [time_s.to_string().as_bytes(), b".", body].concat();
    let signature = URL_SAFE_NO_PAD.encode(pair(seed).sign(&signed).as_ref());
    format!("t={time_s},kid={},ed25519={signature}", public_key(seed).kid)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_signature_is_of_the_time_and_the_body_and_fits_the_key() {
        let header = sign(&[7; 32], 1_700_000_000, b"{}");
        let rest = header.strip_prefix("t=1700000000,kid=").expect("the time comes first");
        let (kid, signature) = rest.split_once(",ed25519=").expect("then the key, then the signature");
        let key = public_key(&[7; 32]);
        assert_eq!(kid, key.kid);
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).expect("base64url");
        let (public, signature) = (decode(&key.x), decode(signature));
        let verify = |text: &[u8]| UnparsedPublicKey::new(&ED25519, &public).verify(text, &signature).is_ok();
        assert!(verify(b"1700000000.{}"));
        assert!(!verify(b"1700000001.{}") && !verify(b"1700000000.{ }"));
        assert_ne!(public_key(&[8; 32]).kid, key.kid);
    }

    #[test]
    fn a_key_has_the_thumbprint_of_the_standards_example() {
        // RFC 8037, appendix A.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").expect("base64url");
        let key = public_key(&seed.try_into().expect("32 bytes"));
        assert_eq!(key.x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.kid, "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
