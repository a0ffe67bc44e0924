//! Test support: namespace sandbox, tokens, echo services, scripted peers.
