//! What a request leaves behind: metrics, access log, spans.
