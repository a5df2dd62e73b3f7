//! What is kept of a request while it runs, and settled exactly once when it ends, however it ends.
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gossip::id::{BackendId, ListenerName, ServiceName};
use http::header::{REFERER, USER_AGENT};
use http::{HeaderValue, Request, Version};

use super::activity::Activity;
use super::log::Line;
use super::outcome::{Affinity, End};
use super::plan::{Plan, position};
use super::tally::Tally;
use super::trace::Trace;
use super::worker::{Busy, Worker};
use crate::backend::PoolView;

/// A request in flight. Dropping it counts and logs it; unless an end was named before, the client went away, or was
/// cut for taking too little.
pub(super) struct Record {
    worker: Rc<Worker>,
    /// The client connection that becomes idle with the end.
    activity: Option<Arc<Activity>>,
    began: Instant,
    line: Option<Box<Line>>,
    client: IpAddr,
    tally: Option<Arc<Tally>>,
    status: Option<u16>,
    affinity: Option<Affinity>,
    sent_bytes: u64,
    end: Option<End>,
    ended: Option<Instant>,
    /// A frame was given to an HTTP/2 connection, and the next not yet asked for.
    owes: bool,
    /// The near end of a tunnel counts and logs, the far end does not.
    far: bool,
    _busy: Busy,
}

impl Record {
    /// A request or a connection begins.
    pub(super) fn begin(
        worker: &Rc<Worker>,
        client: IpAddr,
        listener: Option<&ListenerName>,
        activity: Option<Arc<Activity>>,
    ) -> Self {
        let line = || Box::new(Line::new(worker.clock().wall(), client, listener.cloned()));
        let line = worker.shared.log.is_some().then(line);
        Self::new(worker, client, activity, line, false)
    }

    /// A request that another node sent here begins: in flight like all, but neither counted nor logged again.
    pub(super) fn far(worker: &Rc<Worker>) -> Self {
        Self::new(worker, IpAddr::V4(Ipv4Addr::UNSPECIFIED), None, None, true)
    }

    fn new(
        worker: &Rc<Worker>,
        client: IpAddr,
        activity: Option<Arc<Activity>>,
        line: Option<Box<Line>>,
        far: bool,
    ) -> Self {
        Self {
            worker: worker.clone(),
            activity,
            began: worker.clock().now(),
            line,
            client,
            tally: None,
            status: None,
            affinity: None,
            sent_bytes: 0,
            end: None,
            ended: None,
            owes: false,
            far,
            _busy: worker.enter(),
        }
    }

    /// The answer gave a frame to the client's connection.
    pub(super) fn owes(&mut self) {
        if let Some(windows) = self.activity.as_deref().and_then(Activity::windows) {
            windows.owes();
            self.owes = true;
        }
    }

    /// The connection asks for the next, or gives up.
    pub(super) fn taken(&mut self) {
        if std::mem::take(&mut self.owes)
            && let Some(windows) = self.activity.as_deref().and_then(Activity::windows)
        {
            windows.taken();
        }
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// What was asked.
    pub(super) fn asked<B>(&mut self, request: &Request<B>, host: Option<&HeaderValue>) {
        if let Some(line) = &mut self.line {
            line.method = Some(request.method().clone());
            line.host = host.cloned();
            line.target = Some(request.uri().clone());
            line.version = Some(if request.version() == Version::HTTP_2 { "2" } else { "1.1" });
            line.referer = request.headers().get(REFERER).cloned();
            line.agent = request.headers().get(USER_AGENT).cloned();
        }
    }

    /// The name that a TLS connection asked for.
    pub(super) fn named(&mut self, name: Option<&str>) {
        if let Some(line) = &mut self.line {
            line.host = name.and_then(|name| HeaderValue::from_str(name).ok());
        }
    }

    /// Who asked, and under which id.
    pub(super) fn known_as(&mut self, client: IpAddr, trace: &Trace) {
        self.client = client;
        if let Some(line) = &mut self.line {
            line.client = client;
            line.request_id = Some(trace.to_value());
        }
    }

    /// For which service of the plan that the request goes by.
    pub(super) fn routed(&mut self, plan: &Plan, service: &ServiceName) {
        self.tally = plan.tallies.get(service).cloned();
        if let Some(line) = &mut self.line {
            line.service = Some(service.clone());
        }
    }

    /// Who answered, after how many tries.
    pub(super) fn served(&mut self, pool: &PoolView, backend: Option<BackendId>, tries: u32) {
        if let Some(line) = &mut self.line {
            line.pool = Some(pool.config.name.clone());
            let at = backend.and_then(|backend| position(pool, backend));
            line.backend = at.map(|at| pool.backends[at].config.address);
            line.tries = tries;
        }
    }

    pub(super) fn status(&mut self, status: u16) {
        self.status = Some(status);
        if let Some(line) = &mut self.line {
            line.status = Some(status);
        }
    }

    pub(super) fn affine(&mut self, affinity: Affinity) {
        self.affinity = Some(affinity);
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// The last byte of the answer has come: names the end, and says when that was.
    pub(super) fn complete(&mut self) -> Instant {
        self.end(End::Ok);
        *self.ended.get_or_insert_with(|| self.worker.clock().now())
    }

    /// Names the end; the first one named counts.
    pub(super) fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let owes = self.owes;
        self.taken();
        let shared = &self.worker.shared;
        if self.far {
            return;
        }
        let slow = self.activity.as_ref().is_some_and(|activity| activity.is_too_slow());
        let end = match self.end {
            // What was given to the connection never left it.
            Some(End::Ok) if slow && owes => End::SlowClient,
            Some(end) => end,
            None if slow => End::SlowClient,
            None => End::ClientGone,
        };
        shared.counters.ended(end);
        if let Some(affinity) = self.affinity {
            shared.counters.affine(affinity);
        }
        let now = self.ended.unwrap_or_else(|| shared.clock.now());
        if let Some(activity) = &self.activity {
            activity.ended(end == End::ClientGone, now);
        }
        let took = now.saturating_duration_since(self.began);
        if let Some(tally) = &self.tally {
            tally.ended(end, self.status, self.sent_bytes, took);
        }
        let failed = end.is_failure() || end.is_refusal() || self.status.is_some_and(|status| status >= 400);
        self.worker.met(self.client, now, failed, self.sent_bytes);
        if let (Some(log), Some(mut line)) = (&shared.log, self.line.take()) {
            line.took = took;
            line.sent_bytes = self.sent_bytes;
            line.affinity = self.affinity;
            line.end = end;
            log.log(line);
        }
    }
}
