//! Who calls the control plane: service-account tokens and client certificates.
