//! Sockets in a pod's namespace: listeners, original destination, source preservation, dial, relay.
