//! A router on a listener of its own, beside the public one: for operators, who ask little and seldom.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time. Further ones are accepted when others have ended.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection lasts, whatever its client does with it; unless its response is [`Unhurried`].
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an error that the next `accept` would meet again, such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// An extension of a response that may take as long as it needs: the router sees to it that there are few.
#[derive(Clone, Copy, Debug)]
pub struct Unhurried;

/// Serves `router` for as long as the process runs: one request per connection, 64 connections at a time, 5 s each.
pub async fn serve_router(listener: TcpListener, router: Router) {
    let service = TowerToHyperService::new(router);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a listener cannot accept; trying again");
                tokio::time::sleep(BACK_OFF).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            serve(stream, service).await;
            drop(place);
        });
    }
}

/// Serves one request. How it ends is its client's affair.
async fn serve(stream: TcpStream, service: TowerToHyperService<Router>) {
    let is_unhurried = AtomicBool::new(false);
    let answer = service_fn(|request| {
        let (answer, is_unhurried) = (service.call(request), &is_unhurried);
        async move {
            let answer = answer.await?;
            is_unhurried.store(answer.extensions().get::<Unhurried>().is_some(), Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer);
    let mut served = pin!(served);
    if tokio::time::timeout(CONNECTION_TIMEOUT, &mut served).await.is_err() && is_unhurried.load(Ordering::Relaxed) {
        let _ = served.await;
    }
}
