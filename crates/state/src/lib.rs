//! The node's immutable view: workloads, services, policies, and the routing decisions on them.
