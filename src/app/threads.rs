//! A runtime on threads of its own, so that the two halves never wait for each other.
//!
//! It never knows what runs on it. `server` starts one for each half.

use std::{io, sync::mpsc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Work on the blocking pool that is still under way at the end is left behind after this.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// A running runtime; dropping it ends its tasks and joins its threads.
pub struct Threads {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Threads {
    /// Starts one of `workers` threads; one worker is a current_thread runtime, which wakes nobody across threads.
    pub fn start(name: &'static str, workers: usize) -> io::Result<Self> {
        let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        let runtime = builder.worker_threads(workers).thread_name(name).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            // An error is a sender that was dropped, which ends it as well.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(LEFT_BEHIND);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// To start tasks there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs something there and blocks this thread until it is done.
    ///
    /// # Panics
    ///
    /// If what runs there panics.
    pub fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (send, result) = mpsc::sync_channel(1);
        self.handle.spawn(async move { send.send(work.await) });
        result.recv().expect("the work panicked")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a runtime panicked at its end");
        }
    }
}
