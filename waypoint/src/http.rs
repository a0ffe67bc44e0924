//! HTTP on an inner connection: the server, one module for each step of a
//! request, and the client half that forwards it.
//!
//! `server` → `head` (limits, smuggling, sanitising) → `request` (the steps in
//! the order of `waypoint-contract` 1.11) → `forward` (attempts) → `exchange`
//! (streams the response, leaves one record).

mod activity;
mod affinity;
mod body;
mod choose;
mod exchange;
mod ext_authz;
mod failure;
mod forward;
mod guard;
mod head;
mod messages;
mod mirror;
mod outbound;
mod parting;
mod reach;
mod reply;
mod request;
mod respond;
mod server;
mod subject;
mod upgrade;
mod web;

pub(crate) use body::UpBody;
pub(crate) use exchange::{Exchange, Try};
pub(crate) use ext_authz::ask_tcp;
pub(crate) use head::{Checked, check};
pub(crate) use reach::{hop_to, keepalive, plain_endpoint};
pub(crate) use reply::Flag;
pub(crate) use server::{Inner, serve};
