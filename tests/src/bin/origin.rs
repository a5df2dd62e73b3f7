//! A backend as a process of its own, for proofs in which processes and containers come and go: listens on `$ADDRESS`, or
//! on `0.0.0.0:$PORT`, answers after `$DELAY_MS` and calls itself `$NAME`, else by its address. SIGTERM ends it at once,
//! requests in flight included.

use std::net::SocketAddr;
use std::time::Duration;

use tests::backend::HttpBackend;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let port = variable("PORT").unwrap_or_else(|| "8080".into());
    let address: SocketAddr = variable("ADDRESS").unwrap_or_else(|| format!("0.0.0.0:{port}")).parse()?;
    let name = variable("NAME").or_else(|| variable("HOSTNAME")).unwrap_or_else(|| address.to_string());
    // The first process of a container has no default way to end by a signal.
    let mut term = signal(SignalKind::terminate())?;
    let backend = HttpBackend::start(&name, "eu", address).await?;
    backend.set_delay(Duration::from_millis(variable("DELAY_MS").unwrap_or_else(|| "0".into()).parse()?));
    term.recv().await;
    Ok(())
}
