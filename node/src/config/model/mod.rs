//! The validated configuration: immutable, all names checked, all references resolved, all defaults filled in.
//!
//! Strings end here. How files become it is in [`super::services`] and [`super::node_file`].

mod discovery;
mod node;
mod pool;
mod services;

pub use discovery::*;
pub use node::*;
pub use pool::*;
pub use services::*;
