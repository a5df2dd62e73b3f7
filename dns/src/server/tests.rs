//! Real sockets on loopback: both transports, the bounds of TCP, ports in use, stopping.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::fixtures::{QueryBytes, Read, responder, start};
use crate::moment::Clock;
use crate::wire::Rcode;

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Running {
    pub(super) server: DnsServer,
    pub(super) responder: Arc<Responder>,
}

fn config(listen: &[&str]) -> ServerConfig {
    ServerConfig {
        listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
        udp_threads: 2,
        tcp: TcpLimits::default(),
        tls: None,
        clock: Clock::new(|| start().monotonic, || start().unix),
        inherited: Vec::new(),
    }
}

pub(super) fn serve(listen: &[&str], change: impl FnOnce(&mut ServerConfig)) -> Running {
    let responder = Arc::new(responder());
    let mut config = config(listen);
    change(&mut config);
    let server = DnsServer::bind(config, Arc::clone(&responder)).unwrap();
    Running { server, responder }
}

pub(super) fn query() -> Vec<u8> {
    QueryBytes::new("www.lb.example.com", "A").subnet("10.1.0.0/16").bytes()
}

pub(super) fn ask_udp(from: IpAddr, server: SocketAddr, query: &[u8]) -> io::Result<Read> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Connected: an answer from another address than the one asked would not be received.
    socket.connect(server)?;
    socket.send(query)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    Ok(Read::new(buffer[..length].to_vec()))
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn frame(query: &[u8]) -> Vec<u8> {
    [&(query.len() as u16).to_be_bytes(), query].concat()
}

fn read_framed(stream: &mut TcpStream) -> io::Result<Read> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(Read::new(message))
}

#[test]
fn both_transports_answer_on_one_port() {
    let running = serve(&["127.0.0.1:0", "[::1]:0"], |_| {});
    for address in running.server.local_addrs() {
        for _ in 0..8 {
            let read = ask_udp(address.ip(), *address, &query()).unwrap();
            assert_eq!((read.rcode(), read.addresses().len()), (Rcode::NOERROR, 2));
        }
        let mut stream = connect(*address);
        stream.write_all(&frame(&query())).unwrap();
        assert_eq!(read_framed(&mut stream).unwrap().addresses().len(), 2);
    }
    let counted = running.responder.counters().snapshot();
    assert_eq!((counted.queries_udp, counted.queries_tcp), (16, 2));
}

#[test]
fn answers_leave_from_the_address_asked() {
    let running = serve(&["0.0.0.0:0"], |_| {});
    let port = running.server.local_addrs()[0].port();
    for last in 1..6 {
        // Not the address that the route back would choose.
        let server = SocketAddr::from(([127, 0, 77, last], port));
        let read = ask_udp(Ipv4Addr::LOCALHOST.into(), server, &query()).unwrap();
        assert_eq!(read.rcode(), Rcode::NOERROR);
    }
}

#[test]
fn rubbish_does_not_stop_the_threads() {
    let running = serve(&["127.0.0.1:0"], |config| config.udp_threads = 1);
    let server = running.server.local_addrs()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 11, 12, 512, 65_000] {
        socket.send_to(&vec![0x5a; length], server).unwrap();
    }
    let mut stream = connect(server);
    stream.write_all(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "what is no message ends the connection");
    assert_eq!(ask_udp(server.ip(), server, &query()).unwrap().rcode(), Rcode::NOERROR);
}

#[test]
fn queries_may_be_sent_ahead_and_in_pieces() {
    let running = serve(&["127.0.0.1:0"], |_| {});
    let mut stream = connect(running.server.local_addrs()[0]);
    let ahead: Vec<u8> = (0..50u8)
        .flat_map(|id| {
            let mut query = query();
            query[1] = id;
            frame(&query)
        })
        .collect();
    for piece in ahead.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    for id in 0..50u8 {
        assert_eq!(read_framed(&mut stream).unwrap().bytes[1], id);
    }
}

#[test]
fn a_zone_is_transferred_over_tcp_alone() {
    let running = serve(&["127.0.0.1:0"], |_| {});
    let server = running.server.local_addrs()[0];
    let mut query = QueryBytes::new("lb.example.com", "A");
    query.kind = 252;
    let refused = |read: Read| read.rcode() == Rcode::REFUSED;
    let mut stream = connect(server);
    stream.write_all(&frame(&query.bytes())).unwrap();
    assert!(refused(read_framed(&mut stream).unwrap()));
    let transfer = vec!["127.0.0.0/8".parse().unwrap()];
    running.responder.set_terms(crate::terms::Terms { transfer, ..Default::default() });
    // On the same connection, which goes on afterwards.
    stream.write_all(&[frame(&query.bytes()), frame(&self::query())].concat()).unwrap();
    let zone = read_framed(&mut stream).unwrap();
    assert!(zone.answers().len() > 20);
    assert_eq!(read_framed(&mut stream).unwrap().addresses().len(), 2);
    assert!(refused(ask_udp(server.ip(), server, &query.bytes()).unwrap()));
}

/// True when the server closes the connection without a word, before the test's patience ends.
fn closes(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn idle_and_slow_connections_are_closed() {
    let running = serve(&["127.0.0.1:0"], |config| {
        config.tcp.idle = Duration::from_millis(300);
        config.tcp.transfer = Duration::from_millis(100);
    });
    let server = running.server.local_addrs()[0];
    let mut slow = connect(server);
    slow.write_all(&frame(&query())[..9]).unwrap();
    assert!(closes(&mut slow), "a query that does not go on");
    let mut idle = connect(server);
    assert!(closes(&mut idle), "a client that asks nothing");
}

fn connect_from(client: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(&frame(&query())).and_then(|()| read_framed(stream)).is_ok()
}

#[test]
fn who_holds_all_connections_keeps_nobody_out() {
    let running = serve(&["127.0.0.1:0"], |config| {
        config.tcp.connections = 4;
        // Each look at the clock takes a millisecond, so that nobody stalls however slow the machine is.
        let (begin, looks) = (start(), AtomicU64::new(0));
        let look = move || begin.monotonic + Duration::from_millis(looks.fetch_add(1, Ordering::Relaxed));
        config.clock = Clock::new(look, move || begin.unix);
    });
    let server = running.server.local_addrs()[0];
    let mut held: Vec<TcpStream> =
        (1..=4).map(|network| connect_from([127, 0, network, 1], server)).collect();
    assert!(held.iter_mut().all(answers));
    let mut user = connect_from([127, 0, 9, 1], server);
    assert!(answers(&mut user), "one who asks gets the place of one who does not");
    assert!(closes(&mut held[0]), "of the one that had been idle longest");
    assert!(held[1..].iter_mut().all(answers) && answers(&mut user));
    // One in the middle of a message is not idle; the user is, now.
    for stream in &mut held[1..] {
        stream.write_all(&frame(&query())[..9]).unwrap();
    }
    // What was sent before this question has been read when it is answered.
    assert!(answers(&mut user) && answers(&mut connect_from([127, 0, 10, 1], server)) && closes(&mut user));
    for stream in &mut held[1..] {
        stream.write_all(&frame(&query())[9..]).unwrap();
        assert_eq!(read_framed(stream).unwrap().addresses().len(), 2);
    }
    assert_eq!(running.responder.counters().snapshot().tcp_refused, 0);
}

#[test]
fn one_client_or_network_cannot_hold_all_connections() {
    let running = serve(&["127.0.0.1:0"], |config| {
        config.tcp.per_client = 2;
        config.tcp.per_network = 3;
    });
    let server = running.server.local_addrs()[0];
    let mut held: Vec<TcpStream> = (0..2).map(|_| connect_from([127, 0, 0, 2], server)).collect();
    assert!(held.iter_mut().all(answers));
    held.push(connect_from([127, 0, 0, 2], server));
    assert!(answers(&mut held[2]), "a third of the same client takes the place of its first");
    assert!(closes(&mut held[0]) && answers(&mut held[1]) && answers(&mut held[2]));
    let mut others = [connect_from([127, 0, 0, 3], server), connect_from([127, 0, 0, 4], server)];
    assert!(others.iter_mut().all(answers));
    assert!(closes(&mut held[1]), "the third of its network was one too many");
    assert!(answers(&mut connect_from([127, 0, 1, 2], server)), "another network");
    assert_eq!(running.responder.counters().snapshot().tcp_evicted, 2);
}

#[test]
fn a_port_in_use_is_named() {
    let try_bind = |address: SocketAddr| {
        DnsServer::bind(config(&[&address.to_string()]), Arc::new(responder())).unwrap_err().to_string()
    };
    // Even when the other one would share it.
    let other = udp_socket("127.0.0.1:0".parse().unwrap(), true).unwrap().local_addr().unwrap();
    let held = udp_socket(other, true).unwrap();
    assert!(try_bind(other).starts_with(&format!("UDP {other} is in use")));
    drop(held);
    let running = serve(&["127.0.0.1:0"], |_| {});
    let address = running.server.local_addrs()[0];
    assert!(try_bind(address).starts_with(&format!("UDP {address} is in use")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert!(try_bind(address).starts_with(&format!("TCP {address} is in use")));
    let foreign = try_bind("192.0.2.1:5353".parse().unwrap());
    assert!(foreign.starts_with("cannot listen on UDP 192.0.2.1:5353"), "{foreign}");
}

#[test]
fn it_stops_at_once_and_frees_its_port() {
    let mut running = serve(&["127.0.0.1:0"], |_| {});
    let address = running.server.local_addrs()[0];
    let mut open = connect(address);
    running.server.shutdown();
    running.server.shutdown();
    assert!(closes(&mut open), "connections end with the server");
    drop(udp_socket(address, false).expect("the port is free"));
}

#[test]
fn a_server_that_is_replaced_answers_who_is_connected_and_tells_them_to_go() {
    let Running { mut server, .. } = serve(&["127.0.0.1:0"], |_| {});
    let address = server.local_addrs()[0];
    let (mut asks, mut idles) = (connect(address), connect(address));
    for stream in [&mut asks, &mut idles] {
        stream.write_all(&frame(&query())).unwrap();
        assert_eq!(read_framed(stream).unwrap().rcode(), Rcode::NOERROR);
    }
    assert_eq!(server.connections(), 2);
    let inherited = server.hand_over().unwrap();
    server.retire();
    asks.write_all(&frame(&query())).unwrap();
    assert_eq!(read_framed(&mut asks).unwrap().rcode(), Rcode::NOERROR, "who asks is answered");
    for stream in [&mut asks, &mut idles] {
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "who asks nothing is told to go");
    }
    // Whoever comes now waits for the next process, by either transport.
    let mut early = connect(address);
    early.write_all(&frame(&query())).unwrap();
    let next = serve(&[], |config| {
        config.listen = vec![address];
        config.inherited = inherited.into_iter().map(|one| Inherited { listen: address, ..one }).collect();
    });
    assert_eq!(read_framed(&mut early).unwrap().rcode(), Rcode::NOERROR);
    assert_eq!(ask_udp(address.ip(), address, &query()).unwrap().rcode(), Rcode::NOERROR);
    server.shutdown();
    drop(next);
}
