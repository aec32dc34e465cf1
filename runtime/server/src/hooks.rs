//! What calls webhooks: a thread of its own, so that no shard waits for a name or an address.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use weir_hooks::{Hooks, HooksConfig as Calls};

use crate::exit::Exit;
use crate::hooks_config::HooksConfig;

/// The thread that calls webhooks. It ends with this.
pub(crate) struct HooksRuntime(Option<Runtime>);

impl HooksRuntime {
    /// Starts it.
    pub(crate) fn start() -> io::Result<HooksRuntime> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("hooks").enable_all().build()?;
        Ok(HooksRuntime(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it runs until it is dropped").handle()
    }
}

impl Drop for HooksRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // What was called and has not answered is called again after the next start.
            runtime.shutdown_background();
        }
    }
}

/// What calls webhooks as it is configured.
///
/// # Errors
/// [`Exit::System`] when this machine's certificates cannot be used.
pub(crate) fn open(config: &HooksConfig, runtime: &HooksRuntime) -> Result<Hooks, Exit> {
    let calls = Calls {
        policy: config.policy().expect("the configuration has been checked"),
        timeout: Duration::from_millis(config.timeout_ms),
        calls_max: config.calls_max as usize,
    };
    let failed = |reason: String| Exit::System { doing: "prepare to call webhooks", source: io::Error::other(reason) };
    Hooks::new(runtime.handle().clone(), calls).map_err(failed)
}
