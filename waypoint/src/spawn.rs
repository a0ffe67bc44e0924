//! HTTP/2 engines spawn tasks: here they get an owner.

use ambit_runtime::Scope;
use hyper::rt::Executor;

/// Runs what is given on the current runtime, as a task of the scope.
#[derive(Clone)]
pub(crate) struct OnScope(pub(crate) Scope);

impl<F> Executor<F> for OnScope
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("http2", future);
    }
}
