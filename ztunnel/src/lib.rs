//! The node proxy: L4 HBONE for the pods of one node.

pub mod config;
