//! Who a request's token says it is for: RequestAuthentication, keys and their cache; pure.
