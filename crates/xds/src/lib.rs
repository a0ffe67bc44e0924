//! Delta ADS sessions, client and server half.
