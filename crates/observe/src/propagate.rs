//! Trace context and request id (`waypoint-contract` 1.6, 6.4): what comes in,
//! what is decided, what goes on. Pure: randomness is an argument.

use std::fmt;

use ambit_proto::waypoint::Propagation as Wire;
use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
/// The request's id (1.6).
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest `tracestate` that is passed on (W3C: at least 512).
const MAX_STATE: usize = 2_048;

/// 16 bytes, never all zero. Displays as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// 8 bytes, never all zero. Displays as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the caller says of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its trace.
    pub trace: TraceId,
    /// Its span.
    pub span: SpanId,
    /// Its decision, if it made one.
    pub sampled: Option<bool>,
}

/// Which headers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// `traceparent` and `tracestate`.
    #[default]
    W3c,
    /// `x-b3-*`.
    B3,
    /// Both.
    Both,
    /// None: what came stays as it came.
    Off,
}

impl Propagation {
    /// From the configuration.
    pub fn from_wire(wire: Wire, disabled: bool) -> Self {
        match wire {
            _ if disabled => Self::Off,
            Wire::W3c => Self::W3c,
            Wire::B3 => Self::B3,
            Wire::B3AndW3c => Self::Both,
        }
    }
}

/// Reads the caller's context: W3C first, then single `b3`, then `x-b3-*`.
/// What is malformed counts as absent.
pub fn extract(headers: &HeaderMap) -> Option<Parent> {
    w3c(headers)
        .or_else(|| b3_single(headers))
        .or_else(|| b3_multi(headers))
}

/// What the caller decided without a trace: `b3: 0`, `x-b3-sampled: 1`.
pub fn decided(headers: &HeaderMap) -> Option<bool> {
    let b3 = text(headers, &B3).and_then(sampled);
    b3.or_else(|| {
        if text(headers, &B3_FLAGS) == Some("1") {
            return Some(true);
        }
        text(headers, &B3_SAMPLED).and_then(sampled)
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn hex<const N: usize>(text: &str) -> Option<u128> {
    let good = text.len() == N && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = good.then(|| u128::from_str_radix(text, 16).ok())??;
    (number != 0).then_some(number)
}

fn trace_id(text: &str) -> Option<TraceId> {
    hex::<32>(text).or_else(|| hex::<16>(text)).map(TraceId)
}

fn span_id(text: &str) -> Option<SpanId> {
    hex::<16>(text)
        .and_then(|id| u64::try_from(id).ok())
        .map(SpanId)
}

fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn w3c(headers: &HeaderMap) -> Option<Parent> {
    // More than one is an error: nothing says which is meant.
    let mut all = headers.get_all(&TRACEPARENT).iter();
    let only = all.next().filter(|_| all.next().is_none())?;
    let mut parts = only.to_str().ok()?.trim().split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower = |text: &str| !text.bytes().any(|b| b.is_ascii_uppercase());
    let byte = |text: &str| {
        let good = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    let number = byte(version).filter(|number| *number != 0xff)?;
    // Later versions may say more; version 0 may not.
    if number == 0 && parts.next().is_some() || !lower(trace) || !lower(span) {
        return None;
    }
    Some(Parent {
        trace: hex::<32>(trace).map(TraceId)?,
        span: span_id(span)?,
        sampled: Some(byte(flags)? & 1 == 1),
    })
}

fn b3_single(headers: &HeaderMap) -> Option<Parent> {
    let mut parts = text(headers, &B3)?.split('-');
    Some(Parent {
        trace: trace_id(parts.next()?)?,
        span: span_id(parts.next()?)?,
        sampled: parts.next().and_then(sampled),
    })
}

fn b3_multi(headers: &HeaderMap) -> Option<Parent> {
    Some(Parent {
        trace: trace_id(text(headers, &B3_TRACE)?)?,
        span: span_id(text(headers, &B3_SPAN)?)?,
        sampled: decided(headers),
    })
}

/// The trace of one request at this waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace: the caller's, or a new one.
    pub trace: TraceId,
    /// This waypoint's span.
    pub span: SpanId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// Whether spans are exported.
    pub sampled: bool,
}

/// How many requests are sampled where the caller says nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Percent, 0 to 100.
    pub percent: f64,
    /// Also by and into the request id (6.4, `useRequestIdForTraceSampling`).
    pub by_request_id: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            percent: 1.0,
            by_request_id: true,
        }
    }
}

/// Random numbers for one request.
#[derive(Debug, Clone, Copy)]
pub struct Chance {
    /// For the request id.
    pub id: u128,
    /// For the trace.
    pub trace: u128,
    /// For the span.
    pub span: u64,
    /// For sampling.
    pub sample: u32,
}

impl Chance {
    /// From the thread's generator.
    pub fn draw() -> Self {
        Self {
            id: rand::random(),
            trace: rand::random(),
            span: rand::random(),
            sample: rand::random(),
        }
    }
}

/// Gives a request its id if it has none, and its place in a trace. The
/// caller's decision holds; then what the id says; then the percentage.
pub fn begin(headers: &mut HeaderMap, sampling: Sampling, chance: Chance) -> TraceContext {
    let parent = extract(headers);
    let known = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let from_id = known
        .filter(|_| sampling.by_request_id)
        .and_then(decision_of);
    let drawn = || f64::from(chance.sample) / (f64::from(u32::MAX) + 1.0) * 100.0;
    let sampled = parent
        .and_then(|parent| parent.sampled)
        .or_else(|| decided(headers))
        .or(from_id)
        .unwrap_or_else(|| drawn() < sampling.percent);
    if !headers.contains_key(&REQUEST_ID) {
        let id = request_id(chance.id, sampled && sampling.by_request_id);
        put(headers, REQUEST_ID, &id);
    }
    TraceContext {
        trace: parent.map_or(TraceId(chance.trace.max(1)), |parent| parent.trace),
        span: SpanId(chance.span.max(1)),
        parent: parent.map(|parent| parent.span),
        sampled,
    }
}

/// A UUID of version 4; the digit after the version tells that the request is
/// sampled: `9` in the place of the version, as 6.4 has it (nibble 14).
fn request_id(random: u128, sampled: bool) -> [u8; 36] {
    let version: u128 = if sampled { 0x9 } else { 0x4 };
    let bits = random & !(0xf << 76) | version << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let mut digits = [0; 32];
    write_hex(&mut digits, &bits.to_be_bytes());
    let mut id = [b'-'; 36];
    for (to, from) in [
        (0..8, 0..8),
        (9..13, 8..12),
        (14..18, 12..16),
        (19..23, 16..20),
        (24..36, 20..32),
    ] {
        if let (Some(to), Some(from)) = (id.get_mut(to), digits.get(from)) {
            to.copy_from_slice(from);
        }
    }
    id
}

/// Writes bytes in lower-case digits, two for each, into the whole of a place.
fn write_hex(place: &mut [u8], bytes: &[u8]) {
    let digit = |nibble: u8| match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' - 10 + nibble,
    };
    for (pair, byte) in place.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(text) {
        headers.insert(name, value);
    }
}

/// What a request id says of sampling: `9` sampled, `a` forced by a client,
/// `b` forced by a server; nothing for another id or an ordinary one.
fn decision_of(id: &str) -> Option<bool> {
    let uuid = id.len() == 36
        && id.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    match id.as_bytes().get(14) {
        Some(b'9' | b'a' | b'b') if uuid => Some(true),
        _ => None,
    }
}

/// Writes the context of the next hop's parent. `span` is the span that the
/// next hop continues: this waypoint's, or that of one upstream try.
pub fn inject(
    headers: &mut HeaderMap,
    propagation: Propagation,
    context: &TraceContext,
    span: SpanId,
) {
    let flag = if context.sampled { b'1' } else { b'0' };
    if matches!(propagation, Propagation::W3c | Propagation::Both) {
        put(
            headers,
            TRACEPARENT,
            &traceparent(context.trace, span, flag),
        );
    }
    if matches!(propagation, Propagation::B3 | Propagation::Both) {
        put(headers, B3_TRACE, context.trace.to_string().as_bytes());
        put(headers, B3_SPAN, span.to_string().as_bytes());
        put(headers, B3_SAMPLED, &[flag]);
        if let Some(parent) = context.parent {
            put(headers, B3_PARENT, parent.to_string().as_bytes());
        } else {
            headers.remove(&B3_PARENT);
        }
        // The old form would contradict the new one.
        headers.remove(&B3);
        headers.remove(&B3_FLAGS);
    }
    if !headers.contains_key(&TRACESTATE) {
        return;
    }
    let state: usize = headers
        .get_all(&TRACESTATE)
        .iter()
        .map(HeaderValue::len)
        .sum();
    if state > MAX_STATE {
        headers.remove(&TRACESTATE);
    }
}

/// Version 00: each request has one, so without the machinery of formatting.
fn traceparent(trace: TraceId, span: SpanId, flag: u8) -> [u8; 55] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (_, rest) = text.split_at_mut(3);
    let (trace_text, rest) = rest.split_at_mut(32);
    let (_, rest) = rest.split_at_mut(1);
    let (span_text, rest) = rest.split_at_mut(16);
    write_hex(trace_text, &trace.0.to_be_bytes());
    write_hex(span_text, &span.0.to_be_bytes());
    if let Some(last) = rest.last_mut() {
        *last = flag;
    }
    text
}

#[cfg(test)]
mod tests;
