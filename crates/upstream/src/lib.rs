//! Which endpoint gets a request, and whether it may: balancing, ejection, limits, budgets; pure.
