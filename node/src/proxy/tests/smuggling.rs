//! Requests that two readers could cut differently, and answers that a client could take for two: what reaches a backend
//! is one request of one length, or nothing at all. The backend here is a listener that keeps every byte, because a
//! second parser of the same make would agree with the first.
use std::sync::Mutex as Locked;

use super::http::web;
use super::*;
use crate::proxy::End;

/// A backend that keeps what it gets, and answers every head with `answer`.
async fn recorder(answer: &'static [u8]) -> (SocketAddr, Arc<Locked<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen: Arc<Locked<Vec<Vec<u8>>>> = Arc::default();
    let record = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let record = record.clone();
            let at = record.lock().unwrap().len();
            record.lock().unwrap().push(Vec::new());
            tokio::spawn(async move {
                let mut answered = 0;
                loop {
                    let mut buffer = Vec::with_capacity(4096);
                    if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                        break;
                    }
                    let heads = {
                        let mut record = record.lock().unwrap();
                        record[at].extend_from_slice(&buffer);
                        heads(&record[at])
                    };
                    for _ in answered..heads {
                        let _ = stream.write_all(answer).await;
                    }
                    answered = heads;
                }
            });
        }
    });
    (addr, seen)
}

fn heads(bytes: &[u8]) -> usize {
    bytes.windows(9).filter(|window| window == b" HTTP/1.1").count()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Every request hides a second one behind an ambiguous end. `{S}` is the hidden one.
const AMBIGUOUS: &[&str] = &[
    // Two lengths, in both orders, spellings and disguises.
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n{S}\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    // A length that is none, or two of them.
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 50\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 50\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0 0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n{S}",
    // Chunks of a size that is none.
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n{S}",
    "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;\na\r\n0\r\n\r\n{S}",
    // Heads with more than one beginning or end.
    "GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n{S}",
    "GET / HTTP/1.1\r\nHost: x\r\nX\0: a\r\n\r\n{S}",
    "GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n{S}",
    "GET / HTTP/1.1\r\nHost: x\r\nnothing at all\r\n\r\n{S}",
    "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n{S}",
    "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n{S}",
    "GET / HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n{S}",
    "GET / HTTP/2.0\r\nHost: x\r\n\r\n{S}",
];

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";

/// Takes requests as the strictest backend would: one length each, nothing between them. Returns their targets.
fn strictly(mut bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut targets = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("a head without an end")?;
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
        bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [_, target, "HTTP/1.1"] = words[..] else { return Err(format!("no request line: {words:?}")) };
        targets.push(target.to_owned());
        let (mut length, mut chunked) = (None, false);
        for line in lines {
            if line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) {
                return Err(format!("{line:?}"));
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| format!("{line:?}"))?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" if length.is_none() && value.bytes().all(|b| b.is_ascii_digit()) => {
                    length = value.parse::<usize>().ok();
                }
                "transfer-encoding" if !chunked && value == "chunked" => chunked = true,
                "content-length" | "transfer-encoding" => return Err(format!("{line:?}")),
                _ => {}
            }
        }
        match (length, chunked) {
            (Some(_), true) => return Err("two lengths".to_owned()),
            (Some(length), false) => bytes = bytes.get(length..).unwrap_or_default(),
            (None, false) => {}
            (None, true) => loop {
                let Some(line) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(targets) };
                let size = std::str::from_utf8(&bytes[..line]).unwrap_or("?");
                let size = usize::from_str_radix(size, 16).map_err(|_| format!("a chunk of {size:?}"))?;
                bytes = bytes.get(line + 2 + size + 2..).unwrap_or_default();
                if size == 0 || bytes.is_empty() {
                    break;
                }
            },
        }
    }
    Ok(targets)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_hides_another_from_the_proxy() {
    let (backend, seen) = recorder(OK).await;
    let world = World::new();
    let node = world.node("eu-1", web(&[(backend, "eu")]));
    for (at, ambiguous) in AMBIGUOUS.iter().enumerate() {
        seen.lock().unwrap().iter_mut().for_each(Vec::clear);
        let mut stream = TcpStream::connect(node.addr("http")).await.unwrap();
        let request = ambiguous.replace("{S}", HIDDEN);
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{request:?} is never answered");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // What the client may take for answers are as many as the requests that any backend takes for requests.
        let answers = answer.matches("HTTP/1.1 ").count();
        let connections = seen.lock().unwrap().clone();
        let mut targets = Vec::new();
        for bytes in &connections {
            match strictly(bytes) {
                Ok(some) => targets.extend(some),
                Err(why) => panic!("{request:?} reaches the backend as {why}"),
            }
        }
        let refused = answer.contains("HTTP/1.1 400 ") || answer.contains("HTTP/1.1 505 ");
        if targets.iter().any(|target| target == "/hidden") {
            // Then it was a request of its own for the proxy too: the first was whole, and has its own answer.
            assert!(answers >= 2 && !refused, "case {at}: {request:?} ─▶ {targets:?}, {answer}");
        } else {
            assert!(refused || answer.is_empty(), "case {at}: {request:?} ─▶ {targets:?}, {answer}");
        }
    }
    assert_eq!(node.handle.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_extensions_are_bounded_and_go_no_further() {
    let (backend, seen) = recorder(OK).await;
    let world = World::new();
    let node = world.node("eu-1", web(&[(backend, "eu")]));
    let head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let said = raw(node.addr("http"), format!("{head}3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n").as_bytes()).await;
    assert_eq!(said.status, 200);
    let passed = |bytes: &Vec<u8>| bytes.windows(3).any(|three| three == b"a=b");
    assert!(!seen.lock().unwrap().iter().any(passed), "an extension is the hop's alone");
    // This backend waits for the whole body, so that the refusal comes before its answer.
    let node = world.node("eu-2", web(&[(http_backend("a").await, "eu")]));
    let long = "x".repeat(100_000);
    let said = raw(node.addr("http"), format!("{head}3;{long}\r\nabc\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(said.status, 400, "{said:?}");
    let many = "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(5000);
    let said = raw(node.addr("http"), format!("{head}{many}0\r\n\r\n").as_bytes()).await;
    assert_eq!(said.status, 400, "{said:?}");
    until(|| node.handle.counters().ends(End::BadRequest) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_becomes_two() {
    for split in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: a\rSet-Cookie: evil=1\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 EVIL\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\nHTTP/1.1 200 EVIL\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX\0: a\r\n\r\n",
    ] {
        let (backend, _) = recorder(split).await;
        let world = World::new();
        let node = world.node("eu-1", web(&[(backend, "eu")]));
        let said = get(node.addr("http"), "/", &[]).await;
        let shown = String::from_utf8_lossy(split);
        assert_eq!(said.status, 502, "{shown:?} ─▶ {said:?}");
        assert!(!said.head.contains("evil") && !said.body.contains("EVIL"), "{shown:?} ─▶ {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_one_length_and_is_no_shorter_for_a_second() {
    let get = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    // A body that streams is sent by another way.
    let post = get.replace("GET", "POST").replace("connection", "transfer-encoding: chunked\r\nconnection");
    let post = format!("{post}3\r\nabc\r\n0\r\n\r\n");
    for (answer, length, status) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello"[..], Some("5"), 200),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", None, 200),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n5\r\nhello\r\n0\r\n\r\n", None, 200),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", None, 502),
    ] {
        let (backend, _) = recorder(answer).await;
        let world = World::new();
        let node = world.node("eu-1", web(&[(backend, "eu")]));
        for request in [get, &post] {
            let said = raw(node.addr("http"), request.as_bytes()).await;
            let shown = String::from_utf8_lossy(answer);
            assert_eq!(said.status, status, "{request:?} {shown:?} ─▶ {said:?}");
            if status == 200 {
                assert_eq!(said.header("content-length"), length, "{request:?} {shown:?} ─▶ {said:?}");
                assert!(said.body.contains("hello"), "{request:?} {shown:?} ─▶ {said:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_says_unasked_is_nobodys_answer() {
    let poison =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
    let (backend, _) = recorder(poison).await;
    let world = World::new();
    let node = world.node("eu-1", web(&[(backend, "eu")]));
    for _ in 0..20 {
        let said = get(node.addr("http"), "/", &[]).await;
        assert!(!said.body.contains("EVIL"), "{said:?}");
        assert!(said.status == 502 || said.body == "ok", "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_request_hides_nothing_either() {
    let (backend, seen) = recorder(OK).await;
    let world = World::new();
    let node = world.node("eu-1", web(&[(backend, "eu")]));
    let second =
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let all = format!("GET /first HTTP/1.1\r\nHost: x\r\n\r\n{second}{last}");
    let mut stream = TcpStream::connect(node.addr("http")).await.unwrap();
    stream.write_all(all.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let targets: Vec<_> = seen.lock().unwrap().iter().flat_map(|bytes| strictly(bytes).unwrap()).collect();
    // As many answers as requests, whichever of the two readings the proxy took.
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), targets.len(), "{targets:?} {answer}");
    assert_eq!(targets[0], "/first");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A request of HTTP/2 with these fields, none of them compressed, and this body.
fn over_http2(fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127);
            if text == name {
                block.push(0);
            }
            block.push(length);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    [preface, frame(1, 4, &block), frame(0, 1, body.as_bytes())].concat()
}

/// Reads frames up to the first that decides on the request: an answer, a reset, a goodbye, or the end.
async fn decision(stream: &mut TcpStream) -> &'static str {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return "end";
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        let _ = stream.read_exact(&mut payload).await;
        match head[3] {
            1 => return "answer",
            3 => return "reset",
            7 => return "goodbye",
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http2_lets_a_client_say_is_no_second_request_in_http1() {
    const USUAL: [(&str, &str); 4] =
        [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/")];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut fields = USUAL.to_vec();
        for (name, value) in more {
            match fields.iter_mut().find(|(own, _)| own == name && own.starts_with(':')) {
                Some(field) => field.1 = value,
                None => fields.push((name, value)),
            }
        }
        fields
    };
    let (backend, seen) = recorder(OK).await;
    let world = World::new();
    let node = world.node("eu-1", web(&[(backend, "eu")]));
    let ended = format!("0\r\n\r\n{HIDDEN}");
    for (fields, body) in [
        (with(&[("transfer-encoding", "chunked")]), ended.as_str()),
        (with(&[("content-length", "0")]), HIDDEN),
        (with(&[("content-length", "0"), ("content-length", "33")]), HIDDEN),
        (with(&[("content-length", "33"), ("content-length", "33")]), HIDDEN),
        (with(&[("content-length", "1000")]), HIDDEN),
        (with(&[("connection", "transfer-encoding"), ("transfer-encoding", "chunked")]), &ended),
        (with(&[("x", "a\r\ntransfer-encoding: chunked")]), &ended),
        (with(&[("x", "a\ntransfer-encoding: chunked")]), &ended),
        (with(&[("x", "a\r\n\r\nGET /hidden HTTP/1.1\r\nhost: x")]), ""),
        (with(&[("x: a\r\ntransfer-encoding", "chunked")]), &ended),
        (with(&[("x ", "a")]), HIDDEN),
        (with(&[("X-Upper", "a")]), HIDDEN),
        (with(&[("x\0", "a")]), HIDDEN),
        (with(&[(":path", "/ HTTP/1.1\r\nhost: x\r\n\r\nGET /hidden")]), ""),
        (with(&[(":path", "/a HTTP/1.1")]), ""),
        (with(&[(":path", "*")]), ""),
        (with(&[(":method", "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\nGET")]), ""),
        (with(&[(":authority", "x\r\ny: z")]), ""),
        (with(&[(":authority", "x/../y")]), ""),
        (with(&[(":authority", "u@x")]), ""),
        (with(&[("host", "other")]), ""),
        (with(&[(":unknown", "a")]), ""),
        (with(&[("te", "chunked")]), ""),
        (with(&[("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")]), ""),
    ] {
        seen.lock().unwrap().iter_mut().for_each(Vec::clear);
        let mut stream = TcpStream::connect(node.addr("http")).await.unwrap();
        stream.write_all(&over_http2(&fields, body)).await.unwrap();
        let decided = tokio::time::timeout(Duration::from_secs(20), decision(&mut stream)).await;
        assert!(decided.is_ok(), "{fields:?} is never decided on");
        for bytes in seen.lock().unwrap().iter() {
            let targets = strictly(bytes);
            let text = String::from_utf8_lossy(bytes).into_owned();
            assert!(targets.is_ok(), "{fields:?} ─▶ {targets:?} {text}");
            assert!(targets.is_ok_and(|targets| targets.len() <= 1), "{fields:?} ─▶ {text}");
        }
    }
    until(|| node.handle.in_flight() == 0).await;
}
