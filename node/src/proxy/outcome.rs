//! How requests end: exactly one reason each, counted.
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use gossip::id::ServiceName;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// As logs and metrics spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// Why a request (or a TCP connection) ended.
    End {
        /// It was answered by a backend, to the last byte.
        Ok = "ok",
        /// The client went away before the end.
        ClientGone = "client_gone",
        /// The client sent its request, or took its answer, more slowly than it is waited for.
        SlowClient = "slow_client",
        /// An allow or deny list refused the client.
        Denied = "denied",
        /// The client asked more often than the service's rate limit allows.
        RateLimited = "rate_limited",
        /// No service answers for this host and path.
        NoRoute = "no_route",
        /// The request goes in a circle: a backend leads back here (RFC 8586).
        Loop = "loop",
        /// No backend of the pool can be used, here or elsewhere.
        NoBackend = "no_backend",
        /// All backends that could serve are at `max_connections`, and the wait for one was too long.
        QueueFull = "queue_full",
        /// Every backend that was tried refused the connection.
        ConnectFailed = "connect_failed",
        /// The backend broke the connection before its answer was complete.
        UpstreamReset = "upstream_reset",
        /// What the backend answered cannot be understood.
        UpstreamMalformed = "upstream_malformed",
        /// The backend did not begin its answer in time, or fell silent within it.
        UpstreamTimeout = "upstream_timeout",
        /// The caller's own deadline (grpc-timeout) passed before the backend began its answer.
        Deadline = "deadline",
        /// The backend speaks HTTP/2 and takes no WebSocket over it (RFC 8441).
        NoWebSocket = "no_websocket",
        /// The session's backend is gone and the service refuses others.
        SessionRefused = "session_refused",
        /// The request is malformed or asks for what no proxy does.
        BadRequest = "bad_request",
        /// A source that must begin with a PROXY header did not, or not in time.
        BadProxyHeader = "bad_proxy_header",
        /// A connection to a tls listener did not begin with a TLS ClientHello, or not in time.
        BadClientHello = "bad_client_hello",
        /// A relay was silent for too long.
        Idle = "idle",
        /// The client was sent to the https listener.
        Redirected = "redirected",
        /// It asked something of the node itself, which answered.
        Answered = "answered",
    }
}

impl End {
    /// Whether a user was not served though nothing was wrong with the request.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::NoBackend
                | Self::Loop
                | Self::QueueFull
                | Self::ConnectFailed
                | Self::UpstreamReset
                | Self::UpstreamMalformed
                | Self::UpstreamTimeout
                | Self::SessionRefused
        )
    }

    /// Whether the client got nothing by its own doing, or by a rule.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::RateLimited
                | Self::NoRoute
                | Self::BadRequest
                | Self::BadProxyHeader
                | Self::BadClientHello
                | Self::SlowClient
        )
    }

    /// When the backend's answer ended in an error.
    pub(super) fn of_broken(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::UpstreamMalformed,
            io::ErrorKind::TimedOut => Self::UpstreamTimeout,
            _ => Self::UpstreamReset,
        }
    }
}

reasons! {
    /// What became of a request's session.
    Affinity {
        /// There was none; one was made.
        New = "new",
        /// Its backend served.
        Kept = "kept",
        /// It went to another backend than before.
        Moved = "moved",
        /// The cookie was too old; a new session was made.
        Expired = "expired",
        /// The cookie was none of this mesh; a new session was made.
        Invalid = "invalid",
    }
}

reasons! {
    /// Why a client's connection was cut for what the client did.
    Cut {
        /// No request began in time.
        Silent = "silent",
        /// A request's head was not complete in time.
        SlowHead = "slow_head",
        /// What it sent is no HTTP: the connection cannot be understood any further.
        Malformed = "malformed",
        /// It gave up its own requests, or sent frames that cost more than they bring, far too often.
        Flood = "flood",
        /// It took nothing, or next to nothing, of an answer that was ready for it.
        Unread = "unread",
        /// Nothing moved in the middle of a request.
        Stalled = "stalled",
        /// It reset the connection, or ended its half and did not come back for the answer.
        Gone = "gone",
    }
}

/// What the proxy of this node has done since its start.
#[derive(Debug)]
pub struct Counters {
    ends: [AtomicU64; End::ALL.len()],
    affinity: [AtomicU64; Affinity::ALL.len()],
    cuts: [AtomicU64; Cut::ALL.len()],
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Cookies of the sessions' own name that backends tried to set.
    pub cookies_dropped: AtomicU64,
    /// Times an accept waited because a listener had all its connections.
    pub connections_held: AtomicU64,
    /// Times an idle connection gave its buffers back.
    pub rested: AtomicU64,
    /// Connections of clients that had as many as one may have.
    pub connections_refused: AtomicU64,
    /// TLS handshakes done ...
    pub tls_handshakes: AtomicU64,
    /// ... those among them that resumed a session ...
    pub tls_resumed: AtomicU64,
    /// ... and those that failed.
    pub tls_failed: AtomicU64,
    /// Second and further tries.
    pub retries: AtomicU64,
    /// Tries that were not made because the service's budget was empty.
    pub retries_refused: AtomicU64,
    /// Requests and connections that crossed to another region from here.
    pub tunnels_out: AtomicU64,
    /// Requests and connections that other nodes sent here.
    pub tunnels_in: AtomicU64,
    /// Inbound tunnels dropped because the workers' queues were full.
    pub tunnels_dropped: AtomicU64,
    /// Pins answered to the client without another node's word (I3).
    pub degraded: AtomicU64,
    /// Lines the access log dropped.
    pub log_dropped: AtomicU64,
    /// Evidence dropped because health's queue was full.
    pub evidence_dropped: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            ends: Default::default(),
            affinity: Default::default(),
            cuts: Default::default(),
            connections: AtomicU64::new(0),
            cookies_dropped: AtomicU64::new(0),
            connections_held: AtomicU64::new(0),
            rested: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            tls_handshakes: AtomicU64::new(0),
            tls_resumed: AtomicU64::new(0),
            tls_failed: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            retries_refused: AtomicU64::new(0),
            tunnels_out: AtomicU64::new(0),
            tunnels_in: AtomicU64::new(0),
            tunnels_dropped: AtomicU64::new(0),
            degraded: AtomicU64::new(0),
            log_dropped: AtomicU64::new(0),
            evidence_dropped: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Counts one end.
    pub(super) fn ended(&self, end: End) {
        self.ends[end as usize].fetch_add(1, Ordering::Relaxed);
    }
    /// Counts one connection that is cut.
    pub(super) fn was_cut(&self, why: Cut) {
        self.cuts[why as usize].fetch_add(1, Ordering::Relaxed);
    }
    /// How many connections were cut so.
    pub fn cut(&self, why: Cut) -> u64 {
        self.cuts[why as usize].load(Ordering::Relaxed)
    }
    /// Counts one affinity outcome.
    pub(super) fn affine(&self, affinity: Affinity) {
        self.affinity[affinity as usize].fetch_add(1, Ordering::Relaxed);
    }
    /// Counts cookies that were dropped because they have the name of the session's own, and says so once.
    pub(super) fn dropped_cookies(&self, cookies: usize, service: &ServiceName) {
        if self.cookies_dropped.fetch_add(cookies as u64, Ordering::Relaxed) == 0 {
            tracing::warn!(
                %service,
                "a backend sets a cookie of the session's own name: it is dropped, now and from now on; give one of them another name"
            );
        }
    }
    /// How many requests ended so.
    pub fn ends(&self, end: End) -> u64 {
        self.ends[end as usize].load(Ordering::Relaxed)
    }
    /// How many requests had this affinity outcome.
    pub fn affinity(&self, affinity: Affinity) -> u64 {
        self.affinity[affinity as usize].load(Ordering::Relaxed)
    }
}
