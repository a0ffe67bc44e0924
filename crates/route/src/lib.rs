//! Which route a request takes and what becomes of it: matching, filters, retries; pure.
