//! See the modules.
mod mistakes;
