//! A compiled module, linked with what guests get, ready to be instantiated.

use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};
use weir_types::Role;

use crate::cache::Artifact;
use crate::contract::summary;
use crate::contract::summary::SummaryModulePre;
use crate::contract::validator::{ValidatorModule, ValidatorModulePre};
use crate::guest::Guest;
use crate::inspect::check_import;
use crate::load::load;
use crate::standins;

/// A module in its roles; instances share its code.
pub(crate) struct Module {
    pub(crate) validator: Option<ValidatorModulePre<Guest>>,
    pub(crate) summary: Option<SummaryModulePre<Guest>>,
}

/// All that any module may be linked with.
///
/// # Errors
/// When the contract and the stand-ins collide, which is a mistake in this crate.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    ValidatorModule::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    standins::define(&mut linker)?;
    Ok(linker)
}

impl Module {
    /// Loads and links a module.
    ///
    /// # Errors
    /// What of it does not fit: another engine's code, an unknown import, a function of a role that is missing or has
    /// another type.
    pub(crate) fn load(engine: &Engine, linker: &Linker<Guest>, artifact: &Artifact) -> Result<Module, String> {
        let sentence = |error: wasmtime::Error| format!("{error:#}");
        let component = load(engine, artifact).map_err(sentence)?;
        let mut linker = linker.clone();
        // Asked here again: what makes every unknown import a trap must only see those of `wasi:*`.
        for (name, _) in component.component_type().imports(engine) {
            check_import(name).map_err(|refusal| refusal.to_string())?;
        }
        linker.define_unknown_imports_as_traps(&component).map_err(sentence)?;
        let pre = linker.instantiate_pre(&component).map_err(sentence)?;
        let exports = |role: Role| exports(engine, &component, role);
        let validator = exports(Role::Validator).then(|| ValidatorModulePre::new(pre.clone()));
        let summary = exports(Role::Summary).then(|| summary::SummaryModulePre::new(pre.clone()));
        Ok(Module {
            validator: validator.transpose().map_err(sentence)?,
            summary: summary.transpose().map_err(sentence)?,
        })
    }

    /// Whether the module can be used as `role`.
    pub(crate) fn has(&self, role: Role) -> bool {
        match role {
            Role::Validator => self.validator.is_some(),
            Role::Summary => self.summary.is_some(),
        }
    }
}

/// Whether a component exports the interface of a role, in whatever version.
fn exports(engine: &Engine, component: &Component, role: Role) -> bool {
    let prefix = format!("{}{}@", crate::contract::PACKAGE, role.as_str());
    component.component_type().exports(engine).any(|(name, _)| name.starts_with(&prefix))
}
