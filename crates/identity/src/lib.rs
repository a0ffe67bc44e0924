//! Our SVIDs, peer verification, rotation and the one crypto provider.
