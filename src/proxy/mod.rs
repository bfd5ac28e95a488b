//! The data side: from an accepted connection to its answer.
//!
//! It never knows Kubernetes, nor how a configuration came to be. `app` starts it.

pub mod body;
pub mod files;
pub mod headers;
pub mod refuse;
