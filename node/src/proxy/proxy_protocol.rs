//! The PROXY protocol, version 1, as it is sent to backends ("The PROXY protocol", HAProxy Technologies, §2.1).
use std::net::SocketAddr;

/// The line that tells a backend who the client is; at most 107 bytes.
pub(super) fn v1(client: SocketAddr, local: SocketAddr) -> String {
    let family = match (client, local) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
        (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
        _ => return "PROXY UNKNOWN\r\n".into(),
    };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), local.ip(), client.port(), local.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_each_family() {
        let v4 = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(
            v1(v4("192.0.2.1:5000"), v4("198.51.100.2:443")),
            "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n"
        );
        assert_eq!(
            v1(v4("[2001:db8::1]:5000"), v4("[2001:db8::2]:443")),
            "PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n"
        );
        assert_eq!(v1(v4("192.0.2.1:5000"), v4("[::1]:443")), "PROXY UNKNOWN\r\n");
    }
}
