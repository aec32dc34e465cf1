//! Links between two nodes, as those who use them see them.

mod calls;
mod failures;
mod hostile;
mod logs;
mod model;
mod support;
mod windows;
