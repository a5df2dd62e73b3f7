//! TCP: a connection to a listener becomes one to a backend, and bytes flow both ways, each way ending by itself. TLS that
//! the backends end is the same, but that the name in its first words says which service is meant.
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use gossip::id::BackendId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::accept::{Slot, Stay};
use super::admission::admit;
use super::choose::{Hops, Place, Tried};
use super::hello;
use super::http::{admits, relayed_end};
use super::keys::Keys;
use super::outcome::End;
use super::plan::Plan;
use super::proxy_protocol::Arrival;
use super::record::Record;
use super::relay::relay;
use super::session::Session;
use super::sockets;
use super::tunnel::TunnelIo;
use super::tunnel::far::Guest;
use super::tunnel::near::{self, Connected as Far, Crossing};
use super::tunnel::preface::Kind;
use super::upstream::connect_tcp;
use super::usher::{Seat, Usher};
use super::worker::{Went, Worker};
use super::{forwarded, proxy_protocol};
use crate::backend::{Evidence, InFlight};
use crate::config::model::ListenerProtocol;

/// Serves one connection of a TCP listener to its end.
pub(super) async fn serve(worker: Rc<Worker>, slot: Rc<Slot>, stream: TcpStream, arrival: Arrival) {
    let listener = slot.listener();
    let Arrival { client, local } = arrival;
    let client = SocketAddr::new(forwarded::plain(client.ip()), client.port());
    let hello = match listener.protocol {
        ListenerProtocol::Tls => {
            let mut stay = slot.stay();
            tokio::select! {
                biased;
                hello = hello::read(&stream) => Some(hello),
                // Nothing was asked yet.
                _ = stay.wait_for(|stay| *stay == Stay::Closing) => return,
            }
        }
        _ => None,
    };
    let mut record = Record::begin(&worker, client.ip(), Some(&listener.name), None);
    let hello = match hello.transpose() {
        Ok(hello) => hello,
        Err(error) => {
            tracing::debug!(client.addr = %client, %error, "no ClientHello");
            return record.end(End::BadClientHello);
        }
    };
    let plan = worker.plan();
    let service = match &hello {
        Some(hello) => {
            record.named(hello.name.as_deref());
            plan.routes.find_by_name(&listener.name, hello.name.as_deref())
        }
        None => listener.service.as_ref().and_then(|name| plan.snapshot.services.services.get(name)),
    };
    let Some(service) = service else {
        if hello.is_some() {
            let _ = stream.try_write(&hello::UNRECOGNIZED_NAME);
        }
        return record.end(End::NoRoute);
    };
    record.routed(&plan, &service.name);
    if !admits(service, client.ip()) {
        return record.end(End::Denied);
    }
    if worker.limit(&plan, service, client.ip()).is_err() {
        return record.end(End::RateLimited);
    }
    let keys = Keys::new(&plan, service, &worker.shared.source_keys, client.ip(), None);
    let usher =
        Usher { worker: &worker, plan: &plan, service, forced: None, hops: Hops::One, bound: false, keys };
    let crossing = Crossing { kind: Kind::Tcp, client, local, request_id: None };
    let connected = match seat(&usher, client.ip()).await {
        Ok(seat) => connect(&usher, seat, &crossing).await,
        Err(end) => Err(end),
    };
    let Connected { stream: mut backend, mut seat, id, tries, in_flight } = match connected {
        Ok(connected) => connected,
        Err(end) => return record.end(end),
    };
    record.served(&seat.pool, Some(id), tries);
    if let Some(session) = &mut seat.session {
        session.settle(&worker).await;
        record.affine(session.outcome());
        session.renew(&worker, &service.name);
    }
    let idle = service.timeout.idle;
    if let Some(hello) = hello {
        let said = async {
            match &mut backend {
                Backend::Direct(backend) => backend.write_all(&hello.bytes).await,
                Backend::Tunnel(backend) => backend.write_all(&hello.bytes).await,
            }
        };
        if !matches!(tokio::time::timeout(idle, said).await, Ok(Ok(()))) {
            return record.end(End::UpstreamReset);
        }
    }
    // The relay may last for hours; it must not keep an old snapshot alive.
    drop((plan, seat, listener));
    let (end, bytes) = match backend {
        Backend::Direct(backend) => sockets::relay(stream, backend, idle, worker.clock()).await,
        Backend::Tunnel(backend) => relay(stream, backend, idle, worker.clock()).await,
    };
    drop(in_flight);
    record.sent(usize::try_from(bytes).unwrap_or(usize::MAX));
    record.end(relayed_end(&end));
}

async fn seat(usher: &Usher<'_>, client: IpAddr) -> Result<Seat, End> {
    match usher.service.sticky_source_ip {
        Some(ttl) => usher.by_source(ttl, client).await,
        None => usher.free(&Tried::default()),
    }
}

/// Nodes of another region that are tried one after the other when they go after they accepted: one that is killed, and one
/// that is killed next.
const NODES: usize = 3;

enum Backend {
    Direct(TcpStream),
    Tunnel(Box<dyn TunnelIo>),
}

struct Connected {
    stream: Backend,
    seat: Seat,
    id: BackendId,
    tries: u32,
    in_flight: Option<InFlight>,
}

/// Connects to the seat's backend or to another one; a connection that fails was never used, so any may be tried.
async fn connect(usher: &Usher<'_>, mut seat: Seat, crossing: &Crossing<'_>) -> Result<Connected, End> {
    let mut left = usher.service.retry.attempts;
    let mut tried = Tried::default();
    let mut tries = 0;
    loop {
        tries += 1;
        let connected = match &seat.place {
            Place::Direct(_) => {
                let in_flight = admit(usher, &mut seat, &tried).await?;
                direct(usher, &seat, in_flight, crossing).await
            }
            Place::Tunnel(..) => tunnel(usher, &seat, crossing).await,
        };
        if let Some((stream, id, in_flight)) = connected {
            if let Some(session) = &mut seat.session {
                session.assign(usher.worker, &seat.pool, id);
            }
            return Ok(Connected { stream, seat, id, tries, in_flight });
        }
        if matches!(seat.place, Place::Direct(_)) {
            if left == 0 {
                if seat.session.as_ref().is_some_and(Session::is_assigned) {
                    return Err(End::ConnectFailed);
                }
                tried.only_rescue = true;
            }
            left = left.saturating_sub(1);
        }
        match &seat.place {
            Place::Direct(at) | Place::Tunnel(_, Some(at)) => {
                tried.backends.push(seat.pool.backends[*at].config.id);
            }
            Place::Tunnel(region, None) => tried.regions.push(region.clone()),
        }
        match usher.another(&mut seat, &tried).await {
            Ok(()) => {}
            Err(End::NoBackend) => return Err(End::ConnectFailed),
            Err(end) => return Err(end),
        }
    }
}

async fn direct(
    usher: &Usher<'_>,
    seat: &Seat,
    in_flight: InFlight,
    crossing: &Crossing<'_>,
) -> Option<(Backend, BackendId, Option<InFlight>)> {
    let Place::Direct(at) = seat.place else { return None };
    let backend = &seat.pool.backends[at];
    let id = backend.config.id;
    let began = usher.worker.measure(&seat.pool);
    let mut stream = match connect_tcp(backend.config.address, usher.service.timeout.connect).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(pool = %seat.pool.config.name, backend = %id, error = %error.error, "no connection");
            usher.worker.measured(backend, began, Went::Wrong);
            if error.blames_backend() {
                backend.shared.erred();
                usher.worker.report(id, Evidence::ConnectFailed);
            }
            return None;
        }
    };
    backend.shared.succeeded();
    usher.worker.measured(backend, began, Went::Well);
    if let Some(version) = seat.pool.config.send_proxy {
        let header = proxy_protocol::header(version, crossing.client, crossing.local);
        if stream.write_all(&header).await.is_err() {
            usher.worker.failed(&seat.pool, backend);
            return None;
        }
    }
    Some((Backend::Direct(stream), id, Some(in_flight)))
}

async fn tunnel(
    usher: &Usher<'_>,
    seat: &Seat,
    crossing: &Crossing<'_>,
) -> Option<(Backend, BackendId, Option<InFlight>)> {
    let Place::Tunnel(region, wanted) = &seat.place else { return None };
    let wanted = wanted.map(|at| seat.pool.backends[at].config.id);
    // The far end tries as often as this one would.
    let limit = usher.service.timeout.connect * (usher.service.retry.attempts + 1) + Duration::from_secs(1);
    for _ in 0..NODES {
        let mut stream = near::open(usher, &seat.pool, region, wanted, crossing).await.ok()?;
        match near::connected(&mut stream, limit).await {
            Far::To(id) => return Some((Backend::Tunnel(stream), id, None)),
            Far::Nobody => return None,
            Far::Gone => tracing::debug!(%region, "the far end is gone after it accepted"),
        }
    }
    None
}

/// The far end of a tunnel that carries a TCP connection.
pub(super) async fn far(worker: Rc<Worker>, plan: Rc<Plan>, guest: Guest, mut stream: Box<dyn TunnelIo>) {
    let mut record = Record::far(&worker);
    let service = guest.service();
    let usher = guest.usher(&worker, &plan, &service);
    let crossing = guest.crossing();
    let connected = match connect(&usher, guest.seat(), &crossing).await {
        Ok(connected) => connected,
        Err(end) => {
            record.end(end);
            // The near end learns it from the zero, or from the end of the stream.
            let _ = stream.write_u8(0).await;
            let _ = stream.shutdown().await;
            return;
        }
    };
    let mut told = [1; 9];
    told[1..].copy_from_slice(&connected.id.0.to_le_bytes());
    if stream.write_all(&told).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    let Connected { stream: Backend::Direct(backend), in_flight, .. } = connected else { return };
    drop((plan, guest));
    relay(stream, backend, service.timeout.idle, worker.clock()).await;
    drop(in_flight);
}
