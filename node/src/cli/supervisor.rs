//! What a supervisor is told (sd_notify(3)): that the node is up, reads its file again, or leaves. Without one nothing happens.
//! The only file that names sd-notify.

use sd_notify::NotifyState;

/// All sockets are bound and the node serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The file is read again; [`ready`] follows.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// The node leaves: out of DNS first, then it serves what it has.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("leaving: serving what is in flight")]);
}

/// Another process of this node serves now.
pub(super) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid), NotifyState::Ready]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the supervisor cannot be told");
    }
}
