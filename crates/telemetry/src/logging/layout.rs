//! The two layouts of a log line.
//!
//! Text: timestamp, level, target with its spans, message, fields, with TABs
//! between. JSON: level, time, scope, message, fields, one object per span.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Which layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Plain,
    /// For machines.
    Json,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Plain => plain(ctx, writer, event),
            Self::Json => json_line(ctx, writer, event),
        }
    }
}

fn plain<S, N>(ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let meta = event.metadata();
    let level = meta.level().as_str().to_ascii_lowercase();
    write!(
        writer,
        "{}\t{level}\t{}",
        timestamp(SystemTime::now()),
        scope(meta.target())
    )?;
    for span in ctx
        .event_scope()
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        write!(writer, ":{}", span.name())?;
        let extensions = span.extensions();
        match extensions.get::<FormattedFields<N>>() {
            Some(fields) if !fields.is_empty() => write!(writer, "{{{}}}", fields.fields)?,
            _ => {}
        }
    }
    let mut visit = PlainVisit::default();
    event.record(&mut visit);
    writeln!(writer, "\t{}\t{}", visit.message, visit.fields)
}

fn json_line<S, N>(
    ctx: &FmtContext<'_, S, N>,
    mut writer: Writer<'_>,
    event: &Event<'_>,
) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let meta = event.metadata();
    let mut visit = JsonVisit::default();
    event.record(&mut visit);
    // Written by hand to keep the order that readers of the contract expect.
    let level = meta.level().as_str().to_ascii_lowercase();
    write!(writer, "{{\"level\":{}", json!(level))?;
    write!(writer, ",\"time\":{}", json!(timestamp(SystemTime::now())))?;
    write!(writer, ",\"scope\":{}", json!(scope(meta.target())))?;
    if let Some(message) = visit.message {
        write!(writer, ",\"message\":{}", json!(message))?;
    }
    for (key, value) in &visit.fields {
        write!(writer, ",{}:{value}", json!(key))?;
    }
    for span in ctx.event_scope().into_iter().flatten() {
        let extensions = span.extensions();
        let fields = extensions
            .get::<FormattedFields<N>>()
            .map_or("", |f| f.fields.as_str());
        write!(writer, ",{}:{}", json!(span.name()), span_object(fields))?;
    }
    writeln!(writer, "}}")
}

/// Span fields are kept as text, `k=v` with strings quoted.
fn span_object(fields: &str) -> Value {
    let pairs = fields
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='));
    Value::Object(
        pairs
            .map(|(k, v)| (k.to_owned(), json!(v.trim_matches('"'))))
            .collect::<Map<_, _>>(),
    )
}

/// Crate prefixes of ours say nothing to a reader.
fn scope(target: &str) -> &str {
    let target = target.strip_prefix("ztunnel::").unwrap_or(target);
    target.strip_prefix("ambit_").unwrap_or(target)
}

/// Fields of spans, formatted once when a span is made.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visit = PlainVisit::default();
        fields.record(&mut visit);
        writer.write_str(&visit.fields)
    }
}

#[derive(Default)]
struct PlainVisit {
    message: String,
    fields: String,
}

impl PlainVisit {
    fn push(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let space = if self.fields.is_empty() { "" } else { " " };
        // Writing to a String can't fail.
        let _ = write!(self.fields, "{space}{}={value}", field.name());
    }
}

impl Visit for PlainVisit {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.push(field, format_args!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.push(field, format_args!("{value:?}"));
        }
    }
}

#[derive(Default)]
struct JsonVisit {
    message: Option<String>,
    fields: Vec<(&'static str, Value)>,
}

impl Visit for JsonVisit {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), json!(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), json!(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), json!(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), json!(value)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = Some(value.to_owned());
        } else {
            self.fields.push((field.name(), json!(value)));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Proleptic Gregorian date of a day counted from 1970-01-01, by eras of 400
/// years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(format: Format, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(format)
            .fmt_fields(Fields)
            .with_writer(sink.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(sink.0.lock().clone()).unwrap()
    }

    #[test]
    fn text_lines_have_tabs_quotes_and_no_empty_fields() {
        let line = logged(Format::Plain, || {
            let addr: std::net::SocketAddr = "10.0.0.1:80".parse().unwrap();
            let none: Option<&str> = None;
            tracing::info!(target: "access", { src.addr = %addr, src.workload = "web", dst.service = none, bytes_sent = 3u64 }, "connection complete");
        });
        let parts: Vec<_> = line.trim_end_matches('\n').split('\t').collect();
        assert_eq!(
            parts[1..],
            [
                "info",
                "access",
                "connection complete",
                "src.addr=10.0.0.1:80 src.workload=\"web\" bytes_sent=3"
            ]
        );
        assert!(
            parts[0].ends_with('Z') && parts[0].len() == 27,
            "{}",
            parts[0]
        );
    }

    #[test]
    fn the_tab_after_the_message_is_there_without_fields() {
        let line = logged(
            Format::Plain,
            || tracing::warn!(target: "ztunnel::inpod", "hello"),
        );
        assert!(line.ends_with("\twarn\tinpod\thello\t\n"), "{line:?}");
    }

    #[test]
    fn json_lines_parse_and_carry_spans() {
        let line = logged(Format::Json, || {
            let _span = tracing::info_span!("outbound", id = 7).entered();
            tracing::error!(target: "access", error = "a \"quoted\" text", duration = "5ms", "done");
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["scope"], "access");
        assert_eq!(value["message"], "done");
        assert_eq!(value["error"], "a \"quoted\" text");
        assert_eq!(value["outbound"]["id"], "7");
    }

    #[test]
    fn timestamps_are_utc() {
        let at = UNIX_EPOCH + Duration::from_micros(1_709_210_096_000_042);
        assert_eq!(timestamp(at), "2024-02-29T12:34:56.000042Z");
        assert_eq!(timestamp(UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
    }
}
