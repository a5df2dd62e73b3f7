//! Users who come for the first time: no cookie, an id of their own in `x-sid`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gossip::clock::Clock;

use crate::say;

/// One request; whether a session began with it.
fn ask(stream: &mut BufReader<TcpStream>, host: &str, id: u128) -> std::io::Result<bool> {
    write!(stream.get_mut(), "GET / HTTP/1.1\r\nhost: {host}\r\nx-sid: {id:032x}\r\n\r\n")?;
    let (mut length, mut cookie, mut line) = (0, false, String::new());
    let mut status = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end().to_ascii_lowercase();
        if status.is_none() {
            status = Some(text.contains(" 200 "));
        } else if text.is_empty() {
            break;
        } else if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        } else {
            cookie |= text.starts_with("set-cookie:");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if status != Some(true) {
        return Err(std::io::Error::other(format!("{host} answers with an error")));
    }
    Ok(cookie)
}

fn connect(to: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Two hosts in turn; the difference of their medians, and of pairs that follow each other.
pub(crate) fn compare(to: SocketAddr, hosts: &[String], requests: usize) -> anyhow::Result<()> {
    let [sticky, plain] = hosts else { anyhow::bail!("two hosts are compared") };
    let (clock, mut stream) = (Clock::system(), connect(to)?);
    let mut times: [Vec<f64>; 2] = Default::default();
    for round in 0..requests + 100 {
        for (host, times) in [sticky, plain].into_iter().zip(&mut times) {
            let begun = clock.now();
            let new = ask(&mut stream, host, rand::random())?;
            anyhow::ensure!(new == (host == sticky), "{host} begins a session, or none, against expectation");
            if round >= 100 {
                times.push((clock.now() - begun).as_secs_f64() * 1e6);
            }
        }
    }
    let mut pairs: Vec<f64> = times[0].iter().zip(&times[1]).map(|(new, plain)| new - plain).collect();
    say("median of a new session's first answer", format!("{:.0}", median(&mut times[0])), "µs");
    say("median of the same without a session", format!("{:.0}", median(&mut times[1])), "µs");
    say("added latency of a new session, median of pairs", format!("{:.0}", median(&mut pairs)), "µs");
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// New sessions until there are enough or the server is gone.
pub(crate) fn flood(
    to: SocketAddr,
    host: &str,
    connections: usize,
    sessions: usize,
    kill: Option<(usize, usize)>,
    answered: &Path,
) -> anyhow::Result<()> {
    let clock = Clock::system();
    let (begun, done, ids) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let user = || -> std::io::Result<()> {
        let mut stream = connect(to)?;
        while begun.fetch_add(1, Ordering::Relaxed) < sessions {
            let id: u128 = rand::random();
            ask(&mut stream, host, id)?;
            ids.lock().expect("no user panics").push(id);
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some((pid, after)) = kill
                && count == after
            {
                Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
            }
        }
        Ok(())
    };
    let start = clock.now();
    let failed = std::thread::scope(|scope| {
        let users: Vec<_> = (0..connections).map(|_| scope.spawn(user)).collect();
        users.into_iter().filter_map(|user| user.join().ok()?.err()).next()
    });
    let took = clock.now() - start;
    let ids = ids.into_inner()?;
    let lines: String = ids.iter().map(|id| format!("{id:032x}\n")).collect();
    std::fs::write(answered, lines)?;
    say("sessions that were answered", ids.len(), "");
    say("sessions begun at the client", format!("{:.0}", ids.len() as f64 / took.as_secs_f64()), "/s");
    match failed {
        Some(error) if kill.is_none() => Err(error.into()),
        _ => Ok(()),
    }
}
