//! The checks of backends find every defect that they are for, and nothing
//! where there is none.

use std::sync::Arc;

use insula_config_model::Backend;
use insula_testkit::backend::{CHECKS, Defect, Gap, MemoryBackend, conforms, failures, moved_under_writes};

/// By which checks a defect is found, among others.
const FOUND_BY: &[(Defect, &str)] = &[
    (Defect::LooksThenWrites, "race"),
    (Defect::NoCondition, "conditions"),
    (Defect::RefusesRepeats, "repeated"),
    (Defect::TakesOthersForRepeats, "repeated"),
    (Defect::ForgetsRemovals, "removal_and_return"),
    (Defect::NoHistory, "versions"),
    (Defect::PagesOverlap, "history_in_pages"),
    (Defect::SortsByUtf16, "list_in_order"),
    (Defect::PrefixIsPattern, "list_by_prefix"),
    (Defect::DecodesKeys, "keys_apart"),
    (Defect::OneScope, "scopes_apart"),
    (Defect::CutsValues, "largest_value"),
    (Defect::RemembersLabels, "forgotten"),
    (Defect::LabelsNothing, "label_on_nothing"),
    (Defect::LabelsStay, "labels_move"),
    (Defect::UnlabelsFirst, "label_on_nothing"),
    (Defect::TrimsLabelled, "trimmed"),
    (Defect::LooksThenTrims, "label_or_trim"),
    (Defect::SweepsPastRemovals, "swept"),
];

#[tokio::test]
async fn a_right_backend_passes() {
    conforms(Arc::new(MemoryBackend::default()), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_backend_passes_on_several_threads() {
    conforms(Arc::new(MemoryBackend::default()), &[]).await;
}

#[tokio::test]
async fn every_defect_is_found() {
    for (defect, check) in FOUND_BY {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::with(*defect));
        let found = failures(&backend).await;
        let names: Vec<&str> = found.iter().map(|failure| failure.check).collect();
        assert!(names.contains(check), "{defect:?} is found by {names:?}, not by {check}");
    }
}

#[tokio::test]
#[should_panic(expected = "passes now")]
async fn a_gap_that_closed_is_named() {
    let gap = Gap { check: CHECKS[0].0, why: "never was one", always: true };
    conforms(Arc::new(MemoryBackend::default()), &[gap]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_move_between_backends_under_writes() {
    moved_under_writes(Arc::new(MemoryBackend::default()), Arc::new(MemoryBackend::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[should_panic(expected = "")]
async fn a_backend_that_loses_versions_loses_them_in_a_move() {
    let away = MemoryBackend::with(Defect::NoHistory);
    moved_under_writes(Arc::new(MemoryBackend::default()), Arc::new(away)).await;
}
