//! The store holds the contract.

use std::sync::Arc;

use async_trait::async_trait;
use audit_core::store::Store;
use audit_testkit::conformance::{self, Backend};

use crate::support::{Place, place};

#[async_trait]
impl Backend for Place {
    async fn fresh(&self) -> Arc<dyn Store> {
        self.next();
        Arc::new(self.store())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }
}

/// Each property on a prefix of its own, or, without a server, not at all.
macro_rules! properties {
    ($($property:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $property() {
                if let Some(place) = place().await {
                    conformance::$property(&place).await;
                }
            }
        )*
    };
}

properties! {
    a_log_is_created_once
    an_empty_log_answers_with_nothing
    what_was_appended_is_read_back
    a_range_is_read_from_its_start_without_a_gap
    large_parts_survive_and_are_read_in_pieces
    every_search_finds_what_a_scan_finds
    token_rows_are_walked_once_each
    tiles_are_those_of_the_tree
    a_narrow_tile_is_cut_from_a_wide_one
    build_sees_the_head_it_appends_to
    a_build_that_fails_writes_nothing
    a_batch_that_does_not_fit_is_refused
    a_known_event_is_refused
    a_data_key_is_stored_once
    concurrent_appends_lose_and_fork_nothing
    readers_beside_a_writer_see_whole_batches
    another_handle_reads_the_same
    a_checkpoint_is_never_replaced
    checkpoints_are_paged_by_size
    keys_are_found_by_id_and_by_scope
    rewrapping_is_all_or_nothing
    erasing_takes_content_and_leaves_proof
    one_holds_the_publisher_lease
    waiting_ends_when_the_log_grows
}
