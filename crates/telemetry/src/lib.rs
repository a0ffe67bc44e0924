//! Flow records, metrics, access log, admin endpoints.
