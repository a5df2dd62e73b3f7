//! `meridian events [--follow]`

use std::time::Duration;

use clap::Args;
use http::Method;

use super::client::Client;
use super::escape::Cell;
use super::exit::CliError;
use super::output::{aside, json_line, line, table};
use super::{Format, Global};
use crate::admin::Event;

/// How long a stream that broke rests before it is taken up again.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Go on telling what happens, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// So many of the last ones.
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    last: usize,
}

pub(super) async fn run(global: &Global, args: EventsArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let client = if args.follow { client.watching() } else { client };
    let answer = client.send(Method::GET, "/v1/events", None, &[]).await?.success()?;
    let events: Vec<Event> = answer.parse()?;
    let last = &events[events.len().saturating_sub(args.last)..];
    if let Some(silent) = answer.header("meridian-silent") {
        aside(format_args!("{silent} did not answer: what was seen there last may be missing"));
    }
    if !args.follow {
        return match global.output {
            Format::Json => super::output::json(&last),
            Format::Table => {
                match events.is_empty() {
                    true => line("nothing has happened yet"),
                    false => print(last),
                }
                Ok(())
            }
        };
    }
    last.iter().for_each(|event| tell(global, event));
    follow(global, &client, events.iter().map(|event| event.seq).max().unwrap_or(0)).await
}

fn print(events: &[Event]) {
    table(
        &["time", "seen by", "kind", "subject", "what"],
        events.iter().map(|event| {
            let subject = if event.subject.is_empty() { "-".into() } else { event.subject.clone() };
            vec![time(event), seen_by(event), event.kind.clone(), subject, event.text.clone()]
        }),
    );
}

fn tell(global: &Global, event: &Event) {
    match global.output {
        Format::Json => json_line(event),
        Format::Table => line(Cell(told(event))),
    }
}

/// One line of a stream: the columns of the table, as wide as most are.
fn told(event: &Event) -> String {
    let subject = if event.subject.is_empty() { "-" } else { &event.subject };
    format!("{}  {:<10}  {:<10}  {subject:<24}  {}", time(event), event.node, event.kind, event.text)
}

/// The node that saw it first, and how many more did.
fn seen_by(event: &Event) -> String {
    match event.seen_by {
        0 | 1 => event.node.clone(),
        nodes => format!("{} +{}", event.node, nodes - 1),
    }
}

fn time(event: &Event) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(event.at_ms.min(253_402_300_799_000));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Tells every event after this one. A stream that breaks is taken up where it was.
async fn follow(global: &Global, client: &Client, after: u64) -> Result<(), CliError> {
    let mut last_id: Option<String> = None;
    loop {
        let path = format!("/v1/events?after={after}");
        let ended = client
            .stream(&path, last_id.clone().as_deref(), |id, data| {
                last_id = Some(id.to_owned());
                if let Ok(event) = serde_json::from_str::<Event>(data) {
                    tell(global, &event);
                }
            })
            .await;
        if let Err(error) = ended {
            if last_id.is_none() {
                return Err(error);
            }
            aside(format_args!("the stream broke ({error}); trying again"));
        }
        tokio::time::sleep(REST).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_stream_says_whom_it_is_about() {
        let event = |subject: &str| Event {
            seq: 1,
            at_ms: 0,
            node: "eu-1".into(),
            seen_by: 3,
            kind: "order".into(),
            subject: subject.into(),
            text: "an operator orders maintenance".into(),
        };
        assert_eq!(
            told(&event("pool web-v2")),
            "1970-01-01T00:00:00Z  eu-1        order       pool web-v2               an operator orders maintenance"
        );
        assert!(told(&event("")).contains(" -  "));
        assert_eq!(seen_by(&event("")), "eu-1 +2");
    }
}
