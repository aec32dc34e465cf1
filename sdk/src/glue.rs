//! The exports of a module, on wasm only: they connect the generated bindings of `weir:module` to the traits of this
//! crate.
//!
//! Nothing here decides anything, so the server runs exactly what the native tests have tested.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use crate::batch::Batch;
use crate::log::Level;
use crate::summary::{Query, Summary, View};
use crate::validator::{BatchVerdict, Context, Validator};

/// The bindings of the world `validator-module`, and of what both worlds share.
#[expect(missing_docs, reason = "generated from wit/")]
pub mod validator_module {
    wit_bindgen::generate!({
        path: "../wit/0.1.0",
        world: "weir:module/validator-module",
        pub_export_macro: true,
        export_macro_name: "export_validator",
        generate_all,
    });
}

/// The bindings of the world `summary-module`.
#[expect(missing_docs, reason = "generated from wit/")]
pub mod summary_module {
    wit_bindgen::generate!({
        path: "../wit/0.1.0",
        world: "weir:module/summary-module",
        pub_export_macro: true,
        export_macro_name: "export_summary",
        with: {
            "weir:module/types@0.1.0": crate::glue::validator_module::weir::module::types,
            "weir:module/log@0.1.0": crate::glue::validator_module::weir::module::log,
        },
    });
}

use summary_module::exports::weir::module::summary as wit_summary;
use validator_module::exports::weir::module::validator as wit_validator;
use validator_module::weir::module::{log as wit_log, types};

/// What `configure` leaves for later calls.
#[derive(Clone, Copy)]
struct Configured {
    bucket: &'static str,
    config: &'static dyn Any,
}

thread_local! {
    // One for each role: a module that has both is configured twice.
    static VALIDATOR: Cell<Option<Configured>> = const { Cell::new(None) };
    static SUMMARY: Cell<Option<Configured>> = const { Cell::new(None) };
}

impl Configured {
    fn new<C: serde::de::DeserializeOwned + 'static>(bucket: String, config: &str) -> Result<Configured, String> {
        // A trap tells the server only that there was one; the log line says what happened and where.
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        // Leaked, because both stay in use as long as the instance lives.
        let config: &'static C = Box::leak(Box::new(crate::config::read(config)?));
        Ok(Configured { bucket: bucket.leak(), config })
    }

    fn config<C: 'static>(self) -> &'static C {
        self.config.downcast_ref().expect("an instance has one module and so one config type")
    }
}

fn configured(role: &'static std::thread::LocalKey<Cell<Option<Configured>>>) -> Configured {
    role.get().expect("the server configures an instance before it uses it")
}

/// Sends one line to the import.
pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => wit_log::Level::Trace,
        Level::Debug => wit_log::Level::Debug,
        Level::Info => wit_log::Level::Info,
        Level::Warn => wit_log::Level::Warn,
        Level::Error => wit_log::Level::Error,
    };
    wit_log::log(level, message);
}

fn batch(input: &types::Batch) -> Batch<'_> {
    Batch::new(input.first_offset, &input.ends, &input.times, &input.data)
}

/// The interface `validator`, implemented by a [`Validator`].
pub struct ValidatorExport<V>(PhantomData<V>);

impl<V: Validator> wit_validator::Guest for ValidatorExport<V> {
    fn configure(bucket: String, config: String) -> Result<(), String> {
        VALIDATOR.set(Some(Configured::new::<V::Config>(bucket, &config)?));
        Ok(())
    }

    fn validate(context: wit_validator::AppendContext, input: types::Batch) -> wit_validator::Verdict {
        let configured = configured(&VALIDATOR);
        let context = Context {
            bucket: configured.bucket,
            stream: &context.stream,
            content_type: &context.content_type,
            next_offset: context.next_offset,
            timestamp_ms: context.timestamp_ms,
        };
        match V::validate(batch(&input), &context, configured.config()) {
            BatchVerdict::Accept => wit_validator::Verdict::Accept,
            BatchVerdict::Replace(records) => {
                let (ends, data) = records.into_parts();
                let times = vec![context.timestamp_ms];
                wit_validator::Verdict::Replace(types::Batch { first_offset: input.first_offset, ends, times, data })
            }
            BatchVerdict::Reject { index, rejection } => wit_validator::Verdict::Reject(wit_validator::Rejection {
                index,
                code: rejection.code.into_owned(),
                message: rejection.message,
            }),
        }
    }
}

/// The interface `summary`, implemented by a [`Summary`].
pub struct SummaryExport<S>(PhantomData<S>);

impl<S: Summary> wit_summary::Guest for SummaryExport<S> {
    type Fold = FoldExport<S>;

    fn configure(bucket: String, config: String) -> Result<(), String> {
        SUMMARY.set(Some(Configured::new::<S::Config>(bucket, &config)?));
        Ok(())
    }
}

/// The resource `fold`.
pub struct FoldExport<S>(RefCell<S>);

impl<S: Summary> wit_summary::GuestFold for FoldExport<S> {
    fn new() -> Self {
        FoldExport(RefCell::new(S::new(configured(&SUMMARY).config())))
    }

    fn apply(&self, input: types::Batch) -> Result<(), String> {
        let mut fold = self.0.borrow_mut();
        batch(&input).records().for_each(|record| fold.apply(record));
        Ok(())
    }

    fn query(&self, path: String, params: Vec<(String, String)>) -> Result<wit_summary::View, String> {
        match self.0.borrow().query(Query { path: &path, params: &params }) {
            View::Body { content_type, body } => Ok(wit_summary::View { content_type, body }),
            View::Refused(message) => Err(message),
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        crate::summary::snapshot(&*self.0.borrow())
    }

    fn restore(snapshot: Vec<u8>) -> Result<wit_summary::Fold, String> {
        let fold: S = crate::summary::restore(&snapshot, configured(&SUMMARY).config())?;
        Ok(wit_summary::Fold::new(FoldExport(RefCell::new(fold))))
    }
}

/// Exports a [`Validator`] from the crate that calls this. The attribute `#[validator]` does so.
#[macro_export]
#[doc(hidden)]
macro_rules! __export_validator {
    ($validator:ty) => {
        const _: () = {
            type Export = $crate::glue::ValidatorExport<$validator>;
    $crate::glue::validator_module::export_validator!(Export with_types_in $crate::glue::validator_module);
        };
    };
}

/// Exports a [`Summary`] from the crate that calls this. The attribute `#[summary]` does so.
#[macro_export]
#[doc(hidden)]
macro_rules! __export_summary {
    ($summary:ty) => {
        const _: () = {
            type Export = $crate::glue::SummaryExport<$summary>;
    $crate::glue::summary_module::export_summary!(Export with_types_in $crate::glue::summary_module);
        };
    };
}
