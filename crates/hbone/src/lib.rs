//! HBONE: CONNECT over mutually authenticated HTTP/2; pool, dialer, acceptor, baggage.
