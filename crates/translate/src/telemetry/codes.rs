//! The codes of telemetry, from the list of security's.

pub(super) use crate::security::codes::{
    BAD_EXPRESSION, BAD_TARGET, BAD_TELEMETRY, MESH_UNUSED, NO_PROVIDER, NO_TARGET,
    TELEMETRY_UNUSED, UNSUPPORTED_PROVIDER,
};
