//! Kubernetes and Istio object types and the manifest reader; no client.
