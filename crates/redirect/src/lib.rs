//! In-pod redirection rules and ZDS enrolment; Linux only.
