//! The server half: what there is, who wants it, and what goes out next.

mod audience;
mod body;
mod bundle;
mod interest;
mod peer;
mod publish;
mod resource;
mod service;
mod status;
mod stream;

pub use audience::Admitted;
pub use peer::{Admission, NoObserver, NodeInfo, NodeKind, ServerObserver};
pub use publish::{Batch, Published, Publisher, TypeDelta, TypeSize};
pub use resource::Update;
pub use service::AdsServer;
pub use status::{ConnectionStatus, TypeStatus, TypeSync};
