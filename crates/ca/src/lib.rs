//! The certificate authority: roots, CSR checks, signing.
