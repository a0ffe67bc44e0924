//! The control plane: objects to configuration, certificates, delta xDS.
