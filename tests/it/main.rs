//! See the modules.
mod golden;
mod mistakes;
