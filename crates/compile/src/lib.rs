//! The config compiler: objects in, data-plane resources, statuses and diagnostics out; incremental and pure.
