//! SIGHUP: what of `node.toml` can change while the node runs, does; what cannot is named.
//!
//! Reloaded: the log's level, the access log (opened anew, here or elsewhere), the admin token, the public addresses, the
//! drain time, who may transfer zones and the response rate limit. Certificates and GeoIP files are followed by themselves;
//! services come with `apply`.

use std::path::Path;
use std::sync::Arc;

use gossip::keyring::Keyring;

use crate::config::model::{AdminConfig, NodeConfig, others_reach};

use super::{App, keyring, logging, name_server};
use crate::admin::Token;

impl App {
    /// Takes over what can be of a new configuration. What could not, in words; nothing of it has changed.
    pub(crate) fn reload(&mut self, new: NodeConfig) -> Vec<String> {
        let mut refused: Vec<String> = fixed(&self.config, &new).into_iter().map(needs_a_start).collect();
        if new.log.level != self.config.log.level {
            match logging::set_level(&new.log.level) {
                Ok(()) => self.config.log.level.clone_from(&new.log.level),
                Err(error) => refused.push(error.to_string()),
            }
        }
        match self.proxy.reopen_log(&new.log.access, new.log.access_format) {
            Ok(true) => {
                self.config.log.access = new.log.access;
                self.config.log.access_format = new.log.access_format;
            }
            Ok(false) => refused.push(needs_a_start("[log] access (to or from off)")),
            Err(error) => refused.push(format!("[log] access: {error}; lines go where they went")),
        }
        match new_token(&self.config.admin, new.admin.token_file.as_deref()) {
            Ok(token) => {
                self.token.store(token.map(Arc::new));
                self.config.admin.token_file = new.admin.token_file;
            }
            Err(error) => refused.push(format!("[admin] token_file: {error}; the old token stays")),
        }
        // Without an explicit list the addresses are the machine's, looked up once at the start.
        if new.public != self.config.public && !new.public.is_empty() {
            self.gossip.set_public(new.public.clone());
            self.config.public = new.public;
        }
        self.config.dns_transfer = new.dns_transfer;
        self.config.dns_rate = new.dns_rate;
        self.config.drain = new.drain;
        self.shared_config.store(Arc::new(self.config.clone()));
        // The file of keys is what the mesh's keys are, also when they changed since the start.
        match (&self.responder, Keyring::load(&keyring::path(&self.config))) {
            (Some(responder), Ok(ring)) => responder.set_terms(name_server::dns_terms(&self.config, &ring)),
            (Some(_), Err(error)) => refused.push(format!("[dns] transfer and rate_limit: {error}")),
            (None, _) => {}
        }
        refused
    }
}

/// The token of a new file, for the socket that stays as it is: the file was checked with an address of its own.
fn new_token(running: &AdminConfig, file: Option<&Path>) -> Result<Option<Token>, String> {
    let token = file.map(Token::load).transpose().map_err(|error| error.to_string())?;
    if token.is_none() && others_reach(running.listen) {
        return Err(format!("{} is open until a new start, and no loopback address", running.listen));
    }
    Ok(token)
}

fn needs_a_start(what: &str) -> String {
    format!("{what} needs a new start: meridian upgrade does it without losing a request")
}

/// What differs and is fixed for the life of a process.
fn fixed(old: &NodeConfig, new: &NodeConfig) -> Vec<&'static str> {
    let differs = [
        ("[node] name", old.name != new.name),
        ("[node] region", old.region != new.region),
        ("[node] zone", old.zone != new.zone),
        ("[node] data", old.data != new.data),
        ("[mesh] listen", old.mesh.listen != new.mesh.listen),
        ("[mesh] advertise", old.mesh.advertise != new.mesh.advertise),
        ("[mesh] seeds", old.mesh.seeds != new.mesh.seeds),
        ("[mesh] key_file", old.mesh.key_file != new.mesh.key_file),
        ("[proxy] listen", old.proxy_listen != new.proxy_listen),
        ("[proxy] workers", old.workers != new.workers),
        ("[dns] listen", old.dns_listen != new.dns_listen),
        ("[dns] tls", old.dns_tls != new.dns_tls),
        ("[dns] geoip", old.geoip != new.geoip),
        ("[admin] listen", old.admin.listen != new.admin.listen),
        ("[node] scale_exec", old.scale_exec != new.scale_exec),
        ("[log] format", old.log.format != new.log.format),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::node_file::{Machine, NodeOverrides, parse};

    fn config(text: &str) -> NodeConfig {
        let machine = Machine { host_name: "n".into(), data: "/var/lib/meridian".into() };
        let text = format!("{text}\n[admin]\nlisten = \"127.0.0.1:7900\"");
        parse("node.toml", &text, &NodeOverrides::default(), &machine)
            .unwrap_or_else(|error| panic!("{error}"))
            .node
    }

    #[test]
    fn a_socket_that_others_reach_keeps_its_token() {
        let admin = |listen: &str| AdminConfig { listen: listen.parse().unwrap(), token_file: None };
        for listen in ["0.0.0.0:7900", "192.0.2.1:7900", "[::]:7900"] {
            assert!(new_token(&admin(listen), None).is_err(), "{listen}");
        }
        for listen in ["127.0.0.1:7900", "127.9.9.9:7900", "[::1]:7900", "[::ffff:127.0.0.1]:7900"] {
            assert!(new_token(&admin(listen), None).unwrap().is_none(), "{listen}");
        }
        let missing = new_token(&admin("127.0.0.1:7900"), Some(Path::new("/no/such/token")));
        assert!(missing.unwrap_err().contains("No such file"));
    }

    #[test]
    fn what_needs_a_new_start_is_named() {
        let old = config("");
        assert!(fixed(&old, &config("")).is_empty());
        let new =
            config("[node]\nregion = \"eu\"\ndrain = \"5s\"\n[proxy]\nworkers = 3\n[log]\nlevel = \"debug\"");
        assert_eq!(fixed(&old, &new), ["[node] region", "[proxy] workers"]);
    }
}
