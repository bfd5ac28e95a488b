//! The two ports themselves: accept, one small HTTP server each connection, bounds on both.
//!
//! It never knows what is asked. `app` calls [`serve`] once a port.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{Role, State, may_ask, text};

/// Connections at a time. Probes need one, Prometheus one; the others wait.
const CONNECTIONS: usize = 128;

/// For the head of each request, and between two.
const HEAD: Duration = Duration::from_secs(10);

/// A connection ends after this, whatever it does: a reader that stopped holds a whole page of metrics.
const LIFE: Duration = Duration::from_secs(60);

/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers at a port that is bound, until the runtime ends. Returns its address.
pub fn serve(listener: TcpListener, state: State, role: Role) -> io::Result<SocketAddr> {
    let bound = listener.local_addr()?;
    #[allow(clippy::disallowed_methods, reason = "the port owns its accept loop")]
    tokio::spawn(accept(listener, bound, state, role));
    Ok(bound)
}

async fn accept(listener: TcpListener, bound: SocketAddr, state: State, role: Role) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = state.clone();
                #[allow(clippy::disallowed_methods, reason = "the port owns its connections")]
                tokio::spawn(async move {
                    let _ = timeout(LIFE, converse(stream, bound, state, role)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, %bound, "the {role:?} port could not accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, bound: SocketAddr, state: State, role: Role) {
    let service = service_fn(|request: Request<Incoming>| {
        let state = &state;
        async move {
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            // A browser says where a page that writes comes from; whoever operates us has no page.
            let from_page = request.headers().contains_key(header::ORIGIN);
            let answer = if role == Role::Admin && (from_page || !may_ask(bound, host)) {
                text(StatusCode::FORBIDDEN, "this port answers to localhost alone, and to no page\n")
            } else {
                state.answer(role, request.method(), request.uri()).await
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // Who breaks off while asking has nobody left to tell.
    let _ = connection.await;
}
