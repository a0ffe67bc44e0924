//! The node agent: enrolment, redirection, ZDS.
