//! How full the admin API itself is.

use super::family::Family;
use crate::admin::Context;
use crate::admin::doorkeeper::{CONNECTIONS_MAX, OPERATORS_MAX, Taken};
use crate::admin::events::STREAMS_MAX;

pub(super) fn families(context: &Context) -> Vec<Family> {
    let doors = context.doors.taken();
    let socket = |taken: &Taken| vec![("socket", taken.socket.to_owned())];
    let connections = Family::bounded(
        [
            ("admin_connections", "Connections at an admin socket"),
            (
                "admin_connections_limit",
                "Connections that an admin socket takes; strangers give way to who comes",
            ),
        ],
        doors.each_ref().map(|taken| (socket(taken), taken.connections as f64, CONNECTIONS_MAX as f64)),
    );
    let operators = Family::bounded(
        [
            ("admin_operators", "Connections at an admin socket that showed a right to be there"),
            (
                "admin_operators_limit",
                "Such connections that an admin socket takes; more are told to come again",
            ),
        ],
        doors.each_ref().map(|taken| (socket(taken), taken.operators as f64, OPERATORS_MAX as f64)),
    );
    let streams = Family::bounded(
        [
            ("event_streams", "Streams of events that are followed"),
            ("event_streams_limit", "Streams of events that may be followed at once"),
        ],
        [(vec![], context.events.streaming() as f64, STREAMS_MAX as f64)],
    );
    let ended = context.ended.list().len() as f64;
    let ended =
        Family::gauge("control_tasks_ended", "Control tasks that ended though they should not", ended);
    connections.into_iter().chain(operators).chain(streams).chain([ended]).collect()
}
