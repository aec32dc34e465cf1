//! A compiled module, linked with what guests get, ready to be instantiated.

use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use weir_types::Role;

use crate::cache::Artifact;
use crate::contract::summary;
use crate::contract::summary::SummaryModulePre;
use crate::contract::validator::{self, ValidatorModule, ValidatorModulePre};
use crate::guest::Guest;
use crate::inspect::check_import;
use crate::load::load;
use crate::standins::{self, Surroundings};

/// A module in its roles; instances share its code. `T` is the data of their stores.
pub(crate) struct Module<T: 'static = Guest> {
    pub(crate) validator: Option<ValidatorModulePre<T>>,
    pub(crate) summary: Option<SummaryModulePre<T>>,
    pre: InstancePre<T>,
}

/// All that any module may be linked with, but for the stand-ins, which are named as each module names them.
///
/// # Errors
/// When the contract collides with itself, which is a mistake in this crate.
pub(crate) fn linker<T>(engine: &Engine) -> wasmtime::Result<Linker<T>>
where
    T: Surroundings + validator::weir::module::types::Host + summary::weir::module::types::Host,
{
    let mut linker = Linker::new(engine);
    ValidatorModule::add_to_linker::<_, HasSelf<T>>(&mut linker, |guest| guest)?;
    Ok(linker)
}

/// Links a module.
///
/// # Errors
/// A sentence that says what of it does not fit: an unknown import, a function of a role that is missing or has another type.
pub(crate) fn link<T: Surroundings>(
    engine: &Engine,
    linker: &Linker<T>,
    component: &Component,
) -> Result<Module<T>, String> {
    let sentence = |error: wasmtime::Error| format!("the module does not fit the contract: {error:#}");
    let mut linker = linker.clone();
    for (name, item) in component.component_type().imports(engine) {
        // Asked here again: stand-ins are made only for names that have been looked at.
        check_import(name).map_err(|refusal| refusal.to_string())?;
        if name.starts_with(standins::NAMESPACE) {
            standins::define(engine, &mut linker, name, &item.ty)?;
        }
    }
    let pre = linker.instantiate_pre(component).map_err(sentence)?;
    let exports = |role: Role| exports(engine, component, role);
    let validator = exports(Role::Validator).then(|| ValidatorModulePre::new(pre.clone()));
    let summary = exports(Role::Summary).then(|| SummaryModulePre::new(pre.clone()));
    Ok(Module {
        validator: validator.transpose().map_err(sentence)?,
        summary: summary.transpose().map_err(sentence)?,
        pre,
    })
}

impl Module {
    /// Loads and links a module.
    ///
    /// # Errors
    /// As for [`link`]; and when it is another engine's code.
    pub(crate) fn load(engine: &Engine, linker: &Linker<Guest>, artifact: &Artifact) -> Result<Module, String> {
        let component = load(engine, artifact).map_err(|error| format!("{error:#}"))?;
        link(engine, linker, &component)
    }
}

impl<T> Module<T> {
    /// Whether the module can be used as `role`.
    pub(crate) fn has(&self, role: Role) -> bool {
        match role {
            Role::Validator => self.validator.is_some(),
            Role::Summary => self.summary.is_some(),
        }
    }

    /// What is instantiated, whatever the role.
    pub(crate) fn pre(&self) -> &InstancePre<T> {
        &self.pre
    }
}

/// Whether a component exports the interface of a role, in whatever version.
fn exports(engine: &Engine, component: &Component, role: Role) -> bool {
    let prefix = format!("{}{}@", crate::contract::PACKAGE, role.as_str());
    component.component_type().exports(engine).any(|(name, _)| name.starts_with(&prefix))
}
