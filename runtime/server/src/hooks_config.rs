//! `[hooks]`: which webhooks the server calls, and how long it waits for them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use weir_hooks::{Policy, PolicyError};

/// Why what is configured of webhooks is refused.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {value} cannot be used: {reason}")]
pub(crate) struct HooksConfigError {
    key: &'static str,
    value: String,
    reason: String,
}

/// `[hooks]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HooksConfig {
    /// Hosts, addresses and networks that webhooks may be at although they are not public, and without TLS; separated by commas.
    pub(crate) allow: String,
    /// How long a webhook may take to answer, in milliseconds.
    pub(crate) timeout_ms: u64,
    /// Webhooks that are called at a time.
    pub(crate) calls_max: u64,
    /// How old the key that wakes are signed with may become, in days.
    pub(crate) key_days: u64,
}

impl Default for HooksConfig {
    fn default() -> HooksConfig {
        HooksConfig { allow: String::new(), timeout_ms: 30_000, calls_max: 64, key_days: 90 }
    }
}

impl HooksConfig {
    /// Checks what needs nothing but itself.
    ///
    /// # Errors
    /// [`HooksConfigError`] names the key.
    pub(crate) fn check(&self) -> Result<(), HooksConfigError> {
        if let Err(error) = self.policy() {
            let value = format!("{:?}", self.allow);
            return Err(HooksConfigError { key: "hooks.allow", value, reason: error.to_string() });
        }
        let numbers = [
            ("hooks.timeout_ms", self.timeout_ms, 100..=600_000),
            ("hooks.calls_max", self.calls_max, 1..=4_096),
            ("hooks.key_days", self.key_days, 2..=3_650),
        ];
        for (key, value, range) in numbers {
            if !range.contains(&value) {
                let reason = format!("it must be {} to {}", range.start(), range.end());
                return Err(HooksConfigError { key, value: value.to_string(), reason });
            }
        }
        Ok(())
    }

    /// How old the key may become that wakes are signed with.
    pub(crate) fn key_age(&self) -> Duration {
        Duration::from_secs(self.key_days * 24 * 3600)
    }

    /// Which webhooks are called.
    ///
    /// # Errors
    /// [`PolicyError`], unless it has been checked.
    pub(crate) fn policy(&self) -> Result<Policy, PolicyError> {
        let allowed = self.allow.split(',').map(str::trim).filter(|text| !text.is_empty());
        Policy::new(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |change: fn(&mut HooksConfig)| {
            let mut config = HooksConfig::default();
            config.check().expect("defaults work");
            change(&mut config);
            config.check().expect_err("it cannot work").to_string()
        };
        assert!(refused(|config| config.allow = "10.0.0.0/40".to_string()).contains("hooks.allow = \"10.0.0.0/40\""));
        assert!(refused(|config| config.timeout_ms = 0).contains("hooks.timeout_ms = 0"));
        assert!(refused(|config| config.calls_max = 0).contains("hooks.calls_max = 0"));
        assert!(refused(|config| config.key_days = 1).contains("hooks.key_days = 1"));
        HooksConfig { allow: "localhost, 10.0.0.0/8,".to_string(), ..HooksConfig::default() }.check().expect("a list");
    }
}
