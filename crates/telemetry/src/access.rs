//! The access log (`ztunnel-contract` 9.4): one line a connection, target
//! `access`, field names and order fixed.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use ambit_types::{Direction, SpiffeId};

/// One end of a connection; what is absent leaves its key out.
#[derive(Debug, Clone, Copy, Default)]
pub struct End<'a> {
    /// Pod name, else canonical service.
    pub workload: Option<&'a str>,
    /// Kubernetes namespace.
    pub namespace: Option<&'a str>,
    /// Only where mutual TLS proved it.
    pub identity: Option<&'a SpiffeId>,
    /// Cluster id.
    pub cluster: Option<&'a str>,
}

/// What a line says of a connection whose two ends are known.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Client as TCP sees it.
    pub src_addr: SocketAddr,
    /// Client.
    pub src: End<'a>,
    /// Next hop (outbound), local IP and 15008 (HBONE), original destination (passthrough).
    pub dst_addr: SocketAddr,
    /// Authority of the CONNECT.
    pub hbone_addr: Option<&'a str>,
    /// Host name of the intended service.
    pub dst_service: Option<&'a str>,
    /// Next hop.
    pub dst: End<'a>,
    /// Which side logs.
    pub direction: Direction,
}

/// How a connection ended.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    /// From the logging pod's point of view.
    pub bytes_sent: u64,
    /// From the logging pod's point of view.
    pub bytes_recv: u64,
    /// From accept to end.
    pub duration: Duration,
    /// Why it was refused or cut.
    pub error: Option<&'a dyn Display>,
}

macro_rules! line {
    ($level:ident, $access:expr, $message:literal $(, $name:ident = $value:expr)*) => {{
        let a: &Access<'_> = $access;
        tracing::$level!(
            target: "access", {
                src.addr = %a.src_addr,
                src.workload = a.src.workload,
                src.namespace = a.src.namespace,
                src.identity = a.src.identity.map(ToString::to_string).as_deref(),
                src.cluster = a.src.cluster,
                dst.addr = %a.dst_addr,
                dst.hbone_addr = a.hbone_addr.map(tracing::field::display),
                dst.service = a.dst_service,
                dst.workload = a.dst.workload,
                dst.namespace = a.dst.namespace,
                dst.identity = a.dst.identity.map(ToString::to_string).as_deref(),
                dst.cluster = a.dst.cluster,
                direction = a.direction.as_str(),
                $($name = $value,)*
            },
            $message
        )
    }};
}

/// "connection opened", at debug.
pub fn opened(access: &Access<'_>) {
    line!(debug, access, "connection opened");
}

/// "connection complete": info, or error with its text.
pub fn complete(access: &Access<'_>, outcome: &Outcome<'_>) {
    let (sent, recv) = (outcome.bytes_sent, outcome.bytes_recv);
    let duration = format!("{}ms", outcome.duration.as_millis());
    macro_rules! end {
        ($level:ident $(, $name:ident = $value:expr)?) => {
            line!(
                $level,
                access,
                "connection complete",
                bytes_sent = sent,
                bytes_recv = recv,
                duration = duration.as_str()
                $(, $name = $value)?
            )
        };
    }
    match outcome.error {
        None => end!(info),
        Some(error) => end!(error, error = error.to_string().as_str()),
    }
}

/// "connection failed", at warn: refused before its two ends were known.
pub fn failed(src: SocketAddr, dst: SocketAddr, direction: Direction, error: &dyn Display) {
    tracing::warn!(
        target: "access", {
        src.addr = %src,
        dst.addr = %dst,
        direction = direction.as_str(),
        error = error.to_string().as_str() },
        "connection failed"
    );
}
