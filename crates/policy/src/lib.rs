//! L4 authorization: decode and evaluate, pure.
