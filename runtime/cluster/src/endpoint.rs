//! What a node is to the others: who it is, how it is reached and reaches them, and whom it lets in.

use std::sync::Arc;

use crate::config::LinkConfig;
use crate::hello::{Greeting, NONCE_BYTES};
use crate::identity::{Admission, Hello, Identity, Lane, NodeId};
use crate::network::Network;
use crate::secret::Secret;
use crate::tls::Tls;

/// Unpredictable numbers.
pub type Entropy = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How nodes know each other.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all: whoever reaches the node is believed. For a network that nobody else can reach.
    None,
    /// By certificates of the cluster's own authority; nobody else can read or change what passes.
    Tls(Tls),
    /// By a secret. What follows the hello is neither encrypted nor protected: see [`crate::secret`].
    Secret(Secret),
}

/// A node as it meets others. Every thread has a copy.
#[derive(Clone)]
pub struct Endpoint {
    /// Who it is.
    pub identity: Identity,
    /// The format level that this version knows.
    pub level: u16,
    /// How it knows others, and they it.
    pub security: Security,
    /// How it connects to others.
    pub network: Arc<dyn Network>,
    /// What nonces are made of, and how long a link waits until it is tried again.
    pub entropy: Entropy,
    /// Whom it lets in, and to whom it goes.
    pub admission: Arc<dyn Admission>,
    /// How much and how long.
    pub config: LinkConfig,
}

impl Endpoint {
    /// What it says first, with a new nonce.
    pub(crate) fn greeting(&self, meant: impl Into<Option<NodeId>>, lane: Lane) -> Greeting {
        let meant = meant.into();
        let mut nonce = [0; NONCE_BYTES];
        for part in nonce.chunks_exact_mut(8) {
            part.copy_from_slice(&(self.entropy)().to_le_bytes());
        }
        let hello = Hello { identity: self.identity, meant, lane, level: self.level };
        Greeting { hello, wants_secret: self.secret().is_some(), nonce }
    }

    /// The secret, where there is one.
    pub(crate) fn secret(&self) -> Option<&Secret> {
        match &self.security {
            Security::Secret(secret) => Some(secret),
            Security::None | Security::Tls(_) => None,
        }
    }
}
