//! Task scopes, drain, readiness, backoff, the environment.
