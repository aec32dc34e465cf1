//! Modules from their bytes to their answers: real guests, on a real lane.

mod cache;
mod compile;
mod contained;
mod folds;
mod inspect;
mod shared;
mod support;
mod validators;
