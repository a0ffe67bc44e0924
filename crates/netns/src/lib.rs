//! Linux network namespaces: open, enter, create; links, addresses, routes and rules over netlink.
