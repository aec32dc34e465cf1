//! Machine code kept across restarts, in the store of the modules themselves.
//!
//! Compiling takes about a second per megabyte, loading takes microseconds. But machine code runs as it is, so whoever
//! can write a cache file could run anything. Each file therefore begins with a MAC under a key that only this node has
//! (`cache.key`), over the file's name and the code. The name says which module and which engine, so that one module's
//! file cannot stand in for another's. Whatever does not match is compiled again.
//!
//! This does not protect from someone who can read the key; such a one can write the server's binary as well.

use std::hash::{Hash, Hasher};
use std::io;

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use weir_types::Digest;

use crate::store::ModuleStore;

/// The file that holds the key.
const KEY_NAME: &str = "cache.key";
const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
/// What the names of cached code end with.
const SUFFIX: &str = ".cwasm";

/// Machine code that may be loaded: see [`load`](crate::load) for why only two functions may make one.
pub(crate) struct Artifact {
    /// As in a file: the MAC, then the code.
    sealed: Vec<u8>,
}

impl Artifact {
    /// The code.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.sealed[MAC_BYTES..]
    }

    /// What its file holds.
    pub(crate) fn sealed(&self) -> &[u8] {
        &self.sealed
    }
}

/// How cached code is named and authenticated on this node.
pub(crate) struct Cache {
    key: [u8; KEY_BYTES],
    /// Ends the names of what this engine has compiled.
    suffix: String,
}

impl Cache {
    /// Reads the node's key, or makes one, and removes what another engine has left.
    pub(crate) fn open(store: &dyn ModuleStore, engine: &Engine) -> io::Result<Cache> {
        let cache = Cache { key: key(store)?, suffix: format!("-{:016x}{SUFFIX}", compatibility(engine)) };
        for name in store.list()? {
            if name.ends_with(SUFFIX) && !name.ends_with(&cache.suffix) {
                store.remove(&name)?;
            }
        }
        Ok(cache)
    }

    /// The file for a module's code.
    pub(crate) fn name(&self, digest: Digest) -> String {
        format!("{digest}{}", self.suffix)
    }

    /// Wraps what the compiler has just made.
    pub(crate) fn seal(&self, digest: Digest, compiled: &[u8]) -> Artifact {
        let mac = self.mac(digest, compiled).finalize().into_bytes();
        Artifact { sealed: [&mac[..], compiled].concat() }
    }

    /// Code that was kept, if it is what was kept.
    pub(crate) fn read(&self, store: &dyn ModuleStore, digest: Digest) -> Option<Artifact> {
        let name = self.name(digest);
        let sealed = match store.read(&name) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%name, %error, "cannot read compiled code; compiling again");
                return None;
            }
        };
        let is_ours = sealed
            .split_at_checked(MAC_BYTES)
            .is_some_and(|(mac, compiled)| self.mac(digest, compiled).verify_slice(mac).is_ok());
        if !is_ours {
            tracing::warn!(%name, "compiled code is not what this node has kept; compiling again");
            return None;
        }
        Some(Artifact { sealed })
    }

    fn mac(&self, digest: Digest, compiled: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("an HMAC takes keys of any length");
        // Names have one length, so name and code cannot be divided in two ways.
        mac.update(self.name(digest).as_bytes());
        mac.update(compiled);
        mac
    }
}

/// The node's key. One that is damaged is replaced: all that it costs is compiling again.
fn key(store: &dyn ModuleStore) -> io::Result<[u8; KEY_BYTES]> {
    match store.read(KEY_NAME) {
        Ok(bytes) => match bytes.try_into() {
            Ok(key) => return Ok(key),
            Err(_) => tracing::warn!("the key of compiled code is damaged; making another"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    store.write_atomic(KEY_NAME, &key)?;
    Ok(key)
}

/// A number that differs where compiled code cannot be exchanged: other engine, other settings, other machine.
fn compatibility(engine: &Engine) -> u64 {
    /// The standard library's hashers may change with its version; this one does not.
    struct ShaHasher(Sha256);
    impl Hasher for ShaHasher {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let hash: [u8; 32] = self.0.clone().finalize().into();
            u64::from_le_bytes(hash[..8].try_into().expect("eight bytes are eight bytes"))
        }
    }
    let mut hasher = ShaHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}
