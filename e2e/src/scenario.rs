//! Runs one end-to-end test on a mesh of its own, and shows the programs' logs
//! if it fails.

use ambit_netns::require_privilege;
use anyhow::Result;

use crate::{Cluster, Options};

/// Runs a test on the shop.
///
/// # Panics
/// If the test fails, after its logs.
pub fn on_shop(name: &str, test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    on(name, Options::shop(), test);
}

/// Runs a test on a mesh. Skipped, and said so, where namespaces can't be made.
///
/// # Panics
/// If the test fails, after its logs.
#[allow(clippy::panic, clippy::print_stderr, reason = "test support")]
pub fn on(name: &str, options: Options, test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    if !require_privilege(name) {
        return;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    runtime.block_on(async {
        let mut cluster = match Cluster::bare(options).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("{name}: {error:#}"),
        };
        let result = async {
            cluster.start_programs().await?;
            cluster.start_scenario().await?;
            test(&mut cluster).await
        }
        .await;
        if let Err(error) = result {
            eprintln!("{}", cluster.logs());
            panic!("{name}: {error:#}");
        }
    });
}
