//! The authenticated gRPC channel from a node program to the control plane, and the certificate client on it.
