//! `meridian events [--follow]`

use std::time::Duration;

use clap::Args;
use http::Method;

use super::client::Client;
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
    let events: Vec<Event> = client.json(Method::GET, "/v1/events").await?;
    let last = &events[events.len().saturating_sub(args.last)..];
    if !args.follow {
        return match global.output {
            Format::Json => super::output::json(&last),
            Format::Table => {
                print(last);
                Ok(())
            }
        };
    }
    last.iter().for_each(|event| tell(global, event));
    follow(global, &client, last.last().map_or(0, |event| event.seq)).await
}

fn print(events: &[Event]) {
    if events.is_empty() {
        return line("nothing has happened yet");
    }
    table(
        &["time", "kind", "subject", "what"],
        events.iter().map(|event| {
            let subject = if event.subject.is_empty() { "-".into() } else { event.subject.clone() };
            vec![time(event), event.kind.clone(), subject, event.text.clone()]
        }),
    );
}

fn tell(global: &Global, event: &Event) {
    match global.output {
        Format::Json => json_line(event),
        Format::Table => line(format_args!("{}  {:<10}  {}", time(event), event.kind, event.text)),
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
