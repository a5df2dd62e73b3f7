//! Which services stand behind listeners that open no request, so that HTTP's keys mean nothing to them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draft, Section, listener};
use crate::config::model::ListenerProtocol;

/// The listeners as services see them.
pub(super) struct Behind<'a> {
    /// By service, a listener that names it.
    tcp: BTreeMap<&'a str, &'a str>,
    tls: BTreeMap<&'a str, &'a str>,
    /// What each tls listener lists.
    lists: Vec<BTreeSet<&'a str>>,
    /// A tls listener that lists nothing: it serves all that nobody names.
    open_tls: Option<&'a str>,
    /// A listener that opens requests, or one that may be meant to.
    pub(super) any_http: bool,
}

impl<'a> Behind<'a> {
    pub(super) fn of(draft: &'a Draft<'_>) -> Self {
        let mut behind = Self {
            tcp: BTreeMap::new(),
            tls: BTreeMap::new(),
            lists: Vec::new(),
            open_tls: None,
            any_http: false,
        };
        for section in &draft.listeners {
            let Some(body) = &section.body else {
                behind.any_http = true;
                continue;
            };
            behind.add(section, body);
        }
        behind
    }

    fn add<N>(&mut self, section: &Section<'a, N, listener::Draft>, body: &'a listener::Draft) {
        let (name, own) = (section.key.value, body.service.as_ref().map(|own| own.as_str()));
        match body.listener.protocol {
            ListenerProtocol::Tcp => self.tcp.extend(own.map(|own| (own, name))),
            ListenerProtocol::Tls => {
                let listed: BTreeSet<&str> = body.services.iter().map(|service| service.as_str()).collect();
                if listed.is_empty() {
                    self.open_tls.get_or_insert(name);
                }
                self.tls.extend(listed.iter().copied().chain(own).map(|service| (service, name)));
                self.lists.push(listed);
            }
            _ => self.any_http = true,
        }
    }

    /// The protocol and the name of a listener that a service stands behind when no HTTP listener serves it.
    pub(super) fn unopened(&self, service: &str) -> Option<(&'static str, &'a str)> {
        let tls = || self.tls.get(service).copied().or_else(|| self.open_tls.filter(|_| !self.any_http));
        let tcp = self.tcp.get(service).map(|listener| ("tcp", *listener));
        tcp.or_else(|| Some(("tls", tls()?)))
    }

    /// The tls listener that serves a service beside HTTP listeners.
    pub(super) fn by_any_tls(&self, service: &str) -> Option<&'a str> {
        self.tls.get(service).copied().or(self.open_tls)
    }

    /// Whether a listener names the service: hosts do not tell it from others.
    pub(super) fn is_named(&self, service: &str) -> bool {
        self.tcp.contains_key(service) || self.tls.contains_key(service)
    }

    /// What each tls listener lists, where it does.
    pub(super) fn tls_lists(&self) -> impl Iterator<Item = &BTreeSet<&'a str>> {
        self.lists.iter().filter(|list| !list.is_empty())
    }
}
