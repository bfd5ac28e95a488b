//! The `carrick` binary: picks the allocator and the crypto provider, parses the command line, and hands over to `carrick::app`.

use std::process::ExitCode;

use carrick::{app, cli};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The first thing: rustls panics where it has to guess a provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match app::run(cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Commands that do not serve keep no log.
            if tracing::dispatcher::has_been_set() {
                tracing::error!("{error:#}");
            } else {
                eprintln!("carrick: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
