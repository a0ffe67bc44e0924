//! Both halves against each other, over links that break.

mod harness;
mod on_demand;
mod property;
mod wildcard;
