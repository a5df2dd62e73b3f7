//! Requests and answers over a stream in memory; hyper's client is asked the same and must agree.
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// That long for the head and for each part of the body.
fn within(time: Duration) -> Timeouts {
    Timeouts { connect: time, response: time, idle: time }
}

fn request(method: Method) -> Parts {
    Request::builder().method(method).uri("/").header("host", "a").body(()).unwrap().into_parts().0
}

fn connection(room: usize) -> (Connection, DuplexStream) {
    let (near, far) = duplex(room);
    (Connection::new(Box::new(near), Clock::system()), far)
}

/// Reads a request's head.
async fn read_head(far: &mut DuplexStream) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(far.read_u8().await.unwrap());
    }
    read
}

async fn get(connection: Connection) -> Result<Response<Body>, Failure> {
    connection.exchange(&request(Method::GET), &Added::default(), b"", &within(LONG)).await
}

async fn read_all(body: &mut Body) -> io::Result<Vec<u8>> {
    Ok(BodyExt::collect(body).await?.to_bytes().to_vec())
}

#[tokio::test]
async fn a_connection_takes_one_request_after_the_other() {
    let (mut connection, mut far) = connection(1 << 16);
    let answers = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi"),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ""),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
    ];
    for (answer, expected) in answers {
        assert!(connection.is_open());
        let backend = async {
            assert!(read_head(&mut far).await.starts_with(b"GET / HTTP/1.1\r\nhost: a\r\n"));
            far.write_all(answer.as_bytes()).await.unwrap();
        };
        let (response, ()) = tokio::join!(get(connection), backend);
        let mut body = response.unwrap().into_body();
        assert_eq!(read_all(&mut body).await.unwrap(), expected.as_bytes());
        connection = body.release().unwrap();
    }
    far.write_all(b"unasked").await.unwrap();
    assert!(!connection.is_open());
}

#[tokio::test]
async fn a_connection_that_cannot_be_trusted_further_is_not_used_again() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ];
    for answer in answers {
        let (connection, mut far) = connection(1 << 16);
        far.write_all(answer.as_bytes()).await.unwrap();
        let mut body = get(connection).await.unwrap().into_body();
        assert_eq!(read_all(&mut body).await.unwrap(), b"hi");
        assert!(body.release().is_none(), "{answer}");
    }
    let (connection, mut far) = connection(1 << 16);
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi").await.unwrap();
    let mut body = get(connection).await.unwrap().into_body();
    assert!(body.release().is_none(), "half read");
    let (connection, mut far) = self::connection(1 << 16);
    let closing = async move {
        read_head(&mut far).await;
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\nhi").await.unwrap();
    };
    let (response, ()) = tokio::join!(get(connection), closing);
    let mut body = response.unwrap().into_body();
    assert_eq!(read_all(&mut body).await.unwrap(), b"hi", "the end is the body's");
    assert!(body.release().is_none());
}

#[tokio::test]
async fn a_backend_that_never_comes_to_the_point_is_given_up() {
    let (connection, mut far) = connection(1 << 16);
    let endless = async move {
        read_head(&mut far).await;
        while far.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
    };
    let (answer, ()) = tokio::join!(get(connection), endless);
    assert!(matches!(answer, Err(Failure::Broke(_))));
}

#[tokio::test]
async fn why_there_is_no_answer() {
    let (near, far) = connection(1 << 16);
    drop(far);
    assert!(matches!(get(near).await, Err(Failure::Unsent)));
    for answer in ["", "HTTP/1.1 200 O", "HTTP/1.1 100 Continue\r\n\r\n", "junk\r\n"] {
        let (near, mut far) = connection(1 << 16);
        let backend = async move {
            read_head(&mut far).await;
            far.write_all(answer.as_bytes()).await.unwrap();
        };
        let (response, ()) = tokio::join!(get(near), backend);
        assert!(matches!(response, Err(Failure::Broke(_))), "{answer:?}");
    }
    let (near, _far) = connection(1 << 16);
    let response =
        near.exchange(&request(Method::GET), &Added::default(), b"", &within(Duration::from_millis(1))).await;
    assert!(matches!(response, Err(Failure::TimedOut)));
}

#[tokio::test]
async fn what_a_stream_holds_back_is_flushed() {
    let (near, mut far) = duplex(1 << 16);
    let near = Connection::new(Box::new(tokio::io::BufWriter::new(near)), Clock::system());
    let backend = async {
        read_head(&mut far).await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    };
    let (response, ()) = tokio::join!(get(near), backend);
    assert!(response.unwrap().body_mut().release().is_some());
}

#[tokio::test]
async fn a_body_that_ends_early_or_is_no_body_is_an_error() {
    let answers = [
        "Content-Length: 9\r\n\r\nhi",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhi!!",
    ];
    for answer in answers {
        let (near, mut far) = connection(1 << 16);
        far.write_all(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).await.unwrap();
        let reading = async move { read_all(get(near).await.unwrap().body_mut()).await };
        let closing = async move {
            read_head(&mut far).await;
        };
        let (read, ()) = tokio::join!(reading, closing);
        assert!(read.is_err(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_backend_that_falls_silent_within_its_answer_is_given_up() {
    for answer in ["Content-Length: 9\r\n\r\nhi", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "\r\nhi"] {
        let (near, mut far) = connection(1 << 16);
        far.write_all(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).await.unwrap();
        let (head, added, timeout) =
            (request(Method::GET), Added::default(), within(Duration::from_millis(200)));
        let mut body = near.exchange(&head, &added, b"", &timeout).await.unwrap().into_body();
        let error = read_all(&mut body).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{answer:?}");
        assert!(body.release().is_none());
    }
}

#[tokio::test]
async fn trailers_come_after_the_body() {
    let (near, mut far) = connection(1 << 16);
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n";
    far.write_all(answer).await.unwrap();
    let collected = BodyExt::collect(get(near).await.unwrap().into_body()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["a"], "b");
    assert_eq!(collected.to_bytes(), "hi");
}

#[tokio::test]
async fn a_backend_may_answer_before_it_has_read_all() {
    // Neither side can take all that the other sends: an echo works only when both go on.
    let (near, mut far) = connection(16);
    let sent: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
    let echo = async {
        read_head(&mut far).await;
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n").await.unwrap();
        let (mut from, mut to) = tokio::io::split(far);
        let copied = tokio::io::copy(&mut (&mut from).take(50_000), &mut to).await.unwrap();
        (copied, from.unsplit(to))
    };
    let asking = async {
        let mut body = near
            .exchange(&request(Method::PUT), &Added::default(), &sent, &within(LONG))
            .await
            .unwrap()
            .into_body();
        let read = read_all(&mut body).await.unwrap();
        (read, body.release().is_some())
    };
    let ((copied, _far), (read, reusable)) = tokio::join!(echo, asking);
    assert_eq!(copied, 50_000);
    assert!(read == sent && reusable);
}

#[tokio::test]
async fn an_answer_to_half_a_request_is_an_answer() {
    let (near, mut far) = connection(1024);
    let refusing = async move {
        read_head(&mut far).await;
        far.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    };
    let body = vec![0; 50_000];
    let (response, ()) = tokio::join!(near.exchange_owned(body), refusing);
    let (status, read, reusable) = response;
    assert_eq!((status, &read[..], reusable), (413, &b"no"[..], false));
}

impl Connection {
    async fn exchange_owned(self, sent: Vec<u8>) -> (u16, Vec<u8>, bool) {
        let response =
            self.exchange(&request(Method::PUT), &Added::default(), &sent, &within(LONG)).await.unwrap();
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let read = read_all(&mut body).await.unwrap();
        (status, read, body.release().is_some())
    }
}

#[tokio::test]
async fn reads_grow_with_what_comes_and_what_is_kept_does_not() {
    let (near, mut far) = connection(1 << 20);
    let bytes = 1 << 20;
    let backend = async {
        read_head(&mut far).await;
        far.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        far.write_all(&vec![7; bytes]).await.unwrap();
    };
    let asking = async {
        let mut body = get(near).await.unwrap().into_body();
        assert_eq!(read_all(&mut body).await.unwrap().len(), bytes);
        body.release().unwrap()
    };
    let (connection, ()) = tokio::join!(asking, backend);
    assert!(connection.0.read_bytes > READ_MIN_BYTES);
    assert!(connection.0.buf.capacity() <= READ_MAX_BYTES, "{}", connection.0.buf.capacity());
}

/// What a client made of an answer: status, body, trailers' count; `None` where it refused it.
type Made = Option<(u16, Vec<u8>, usize)>;

async fn by_us(answer: &[u8], method: &Method) -> Made {
    let (near, mut far) = connection(1 << 20);
    let backend = async {
        read_head(&mut far).await;
        let _ = far.write_all(answer).await;
        drop(far);
    };
    let (head, added, timeout) = (request(method.clone()), Added::default(), within(LONG));
    let (response, ()) = tokio::join!(near.exchange(&head, &added, b"", &timeout), backend);
    let (head, body) = response.ok()?.into_parts();
    let collected = BodyExt::collect(body).await.ok()?;
    let trailers = collected.trailers().map_or(0, http::HeaderMap::len);
    Some((head.status.as_u16(), collected.to_bytes().to_vec(), trailers))
}

async fn by_hyper(answer: &[u8], method: &Method) -> Made {
    let (near, mut far) = duplex(1 << 20);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.ok()?;
    let backend = async {
        read_head(&mut far).await;
        let _ = far.write_all(answer).await;
        drop(far);
    };
    let request = Request::from_parts(request(method.clone()), Empty::<Bytes>::new());
    let asking = async {
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let collected = BodyExt::collect(body).await.ok()?;
        let trailers = collected.trailers().map_or(0, http::HeaderMap::len);
        Some((head.status.as_u16(), collected.to_bytes().to_vec(), trailers))
    };
    tokio::join!(asking, backend, connection).0
}

fn part() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "X: y\r\n",
        "Broken\r\n",
        ": no name\r\n",
        "\r\n",
        "hello",
        "5\r\nhello\r\n",
        "3;a=b\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nT: u\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "\n",
        "\0",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_we_take_hyper_takes_alike(
        status in prop::sample::select(vec!["200 OK", "204 No Content", "404 Not Found", "304 Not Modified"]),
        parts in prop::collection::vec(part(), 0..8),
        head in any::<bool>(),
    ) {
        let answer = format!("HTTP/1.1 {status}\r\n{}", parts.concat());
        let method = if head { Method::HEAD } else { Method::GET };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (ours, hypers) = runtime.block_on(async {
            tokio::join!(by_us(answer.as_bytes(), &method), by_hyper(answer.as_bytes(), &method))
        });
        // We may refuse more, never take it otherwise.
        if ours.is_some() {
            prop_assert_eq!(ours, hypers, "{}", answer);
        }
    }
}
