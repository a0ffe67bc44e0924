//! The demo itself, as a test.

use ambit_netns::require_privilege;

#[tokio::test]
async fn every_claim_of_the_demo_holds() {
    if !require_privilege("the demo") {
        return;
    }
    let good = ambit_e2e::demo::run(false).await;
    assert!(good.is_ok_and(|good| good), "see the claims above");
}
