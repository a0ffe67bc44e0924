//! The validation webhook (`control-plane-contract` 8.3): `/validate` on 15017.
//!
//! An object is refused for what is wrong with it by itself; that needs no state
//! and no other task, so that every replica says the same at any time. What the
//! compiler would say of it among all other objects is added as warnings, where
//! the configuration task answers in time.

mod review;
mod serve;
mod verdict;

pub(crate) use serve::{Webhook, serve};

use ambit_compile::Diagnostic;
use ambit_kube::{Located, Object};
use tokio::sync::{mpsc, oneshot};

/// A question to the configuration task: what would be said of this object?
pub(crate) struct Preview {
    /// The object, not in force.
    pub(crate) object: Located<Object>,
    /// Gets the answer.
    pub(crate) said: oneshot::Sender<Vec<Diagnostic>>,
}

/// Where such questions go.
pub(crate) type Previews = mpsc::Sender<Preview>;
